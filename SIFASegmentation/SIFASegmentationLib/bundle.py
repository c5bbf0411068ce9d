"""A trained model on disk: a folder, or a zip file of it, that can be passed on to others.

```
manifest.json        structures, preprocessing of both domains, what it was trained on, SHA-256 of the files
model.onnx           E and C1: slices (b, 1, size, size) in [-1, 1] -> class probabilities (b, K, size, size);
                     or the mean of the probabilities of several trained models
weights.safetensors  all networks, to fine-tune from; not needed to segment
baseline.onnx        like model.onnx but trained without adaptation, to compare with; optional
```

Reading a bundle executes no code from it: there is only JSON, and an ONNX graph of standard operators without external
data.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator

from . import __version__
from .bundle_files import ARCHIVE_SUFFIX, MANIFEST_FILE, portions_of, read_bundle_file, write_archive_in_pieces
from .calibration import QualityCalibration
from .contrasts import ContrastRanges
from .doubts import Usual
from .errors import InputError, first_fault
from .positions import PositionRange
from .preprocessing import Preprocessing
from .schema import Frozen
from .segmentation_options import Domain
from .structures import Task
from .usual import MillilitreRange
from .work import Work, at_once

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.safetensors"
BASELINE_FILE = "baseline.onnx"


class TrainingSummary(Frozen):
    """How a model was trained, for its model card.

    Attributes:
        method: Name of the method: sifa, without_adaptation, ...
        iterations: Iterations done.
        source_volumes: Names of the labelled volumes.
        target_volumes: Names of the unlabelled volumes.
        losses: Last reported losses by name.
        settings: All settings of the training.
        initial: Name of the model that the training started from; None if it started from random weights.
    """

    method: str
    iterations: int
    source_volumes: tuple[str, ...]
    target_volumes: tuple[str, ...]
    losses: dict[str, float]
    settings: dict[str, Any]
    initial: str | None = None


class Verification(Frozen):
    """Comparison of the ONNX model with the trained networks.

    Attributes:
        slices: Number of slices of the training set that were compared.
        largest_difference: Largest absolute difference of any class probability in any pixel.
    """

    slices: int
    largest_difference: float


class BaselineSummary(Frozen):
    """The model without adaptation, trained on the same labelled volumes, to compare with.

    Attributes:
        iterations: Iterations done.
        losses: Last reported losses by name.
        verification: Check of its export.
        quality: Calibration of its estimated Dice, as in the manifest.
    """

    iterations: int
    losses: dict[str, float]
    verification: Verification
    quality: QualityCalibration | None = None


class BundleManifest(Frozen):
    """Content of manifest.json.

    Attributes:
        schema_version: Version of the file's format.
        name: Name of the model in lists.
        created: Time of the export, ISO 8601.
        sifa_version: Version of SIFA that wrote the bundle.
        task: The structures.
        domain: Domain of the volumes that the model is meant for: the target.
        preprocessing: Preprocessing of each domain; the networks' grid is the same for both.
        training: How the model was trained; for a mean of several, how the first of them was.
        members: Number of trained models that `model.onnx` averages; older bundles do not have it and are single.
        verification: Check of the export.
        quality: Calibration that turns the model's probabilities into an estimated Dice; None in older bundles.
        structures_ml: For each structure, the range of its size in most labelled volumes, in ml, wider if few have it
            (`usual`); empty in older bundles.
        positions_mm: For each structure, the range of its position relative to the others in most labelled volumes, in
            mm, if enough volumes have it; empty in older bundles.
        contrasts: For each pair of structures, the range of their difference in brightness, in the networks' unit, in
            most of the model's segmentations of the unlabelled training volumes, if enough have both; empty in older
            bundles.
        baseline: The model without adaptation, if the bundle has one.
        files: SHA-256 by file name.
    """

    schema_version: Literal[1] = 1
    name: str
    created: str
    sifa_version: str
    task: Task
    domain: Domain
    preprocessing: dict[Domain, Preprocessing]
    training: TrainingSummary
    members: int = 1
    verification: Verification
    quality: QualityCalibration | None = None
    structures_ml: dict[str, MillilitreRange] = Field(default_factory=dict)
    positions_mm: dict[str, PositionRange] = Field(default_factory=dict)
    contrasts: ContrastRanges = Field(default_factory=dict)
    baseline: BaselineSummary | None = None
    files: dict[str, str]

    @field_validator("preprocessing")
    @classmethod
    def _of_both(cls, preprocessing: dict[Domain, Preprocessing]) -> dict[Domain, Preprocessing]:
        if missing := set(get_args(Domain)) - preprocessing.keys():
            raise ValueError(f"there is none of the {missing.pop()}")
        return preprocessing

    @property
    def classes(self) -> int:
        """Number of classes K: the structures and the background."""
        return self.task.classes

    @property
    def usual(self) -> Usual:
        """Usual volumes, positions and contrasts of the structures, to check segmentations against."""
        return Usual(self.structures_ml, self.positions_mm, self.contrasts)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, whose files are checked as they are read.

    Attributes:
        path: Folder or zip file of the bundle.
        manifest: The validated manifest.
    """

    path: Path
    manifest: BundleManifest

    def read(self, name: str) -> bytes:
        """Read one of the bundle's files.

        Raises:
            InputError: The file is missing, unreadable or not the one that was exported.
        """
        try:
            content = read_bundle_file(self.path, name)
        except OSError as error:
            raise self._missing(name) from error
        self._check_digest(name, hashlib.sha256(content).hexdigest())
        return content

    def check_in_pieces(self, name: str) -> Work[None]:
        """Check one of the files of a bundle that is a folder, yielding after each portion.

        Raises:
            InputError: The file is missing, unreadable or not the one that was exported.
        """
        digest = hashlib.sha256()
        try:
            for portion in portions_of(self.path / name):
                digest.update(portion)
                yield
        except OSError as error:
            raise self._missing(name) from error
        self._check_digest(name, digest.hexdigest())

    def _missing(self, name: str) -> InputError:
        return InputError(f"{self.path / name} is missing or unreadable", "copy the whole bundle again")

    def _check_digest(self, name: str, digest: str) -> None:
        if digest != self.manifest.files.get(name):
            problem = f"{self.path / name} is not the file that was exported (its SHA-256 differs)"
            raise InputError(problem, "copy the bundle again")


def pack_bundle_in_pieces(folder: str | Path, out: str | Path) -> Work[Bundle]:
    """Pack a bundle into one zip file that can be passed on, yielding after each portion of a file.

    Args:
        folder: Folder of the bundle.
        out: Path of the zip file to make or replace, `NAME.zip`.

    Raises:
        InputError: The bundle is incomplete or damaged, or `out` does not end in `.zip` or can't be written.
    """
    out = Path(out)
    if out.suffix.lower() != ARCHIVE_SUFFIX:
        raise InputError(f"{out} is no name for a bundle in one file", f"let it end with {ARCHIVE_SUFFIX}")
    bundle = read_bundle(folder)
    for name in bundle.manifest.files:
        yield from bundle.check_in_pieces(name)
    yield from write_archive_in_pieces(bundle.path, [MANIFEST_FILE, *bundle.manifest.files], out)
    return read_bundle(out)


pack_bundle = at_once(pack_bundle_in_pieces)


def manifest_json(manifest: BundleManifest) -> str:
    """Text of manifest.json: the manifest and a checksum of its content."""
    content = manifest.model_dump(mode="json")
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n"


def read_bundle(path: str | Path) -> Bundle:
    """Open a bundle: a folder, or a zip file of one.

    Raises:
        InputError: It is not a bundle, unreadable, of another version, damaged, or changed since it was exported.
    """
    path = Path(path)
    manifest = path / MANIFEST_FILE
    try:
        content = json.loads(read_bundle_file(path, MANIFEST_FILE))
        checksum, found = content.pop("checksum"), _checksum(content)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path} is not a bundle (it has no {MANIFEST_FILE})", "give a folder or a zip file that `sifa export` made"
        ) from None
    except OSError as error:
        raise InputError(
            f"{manifest} can't be read ({error.strerror or error})",
            "check the path and its permissions, or copy the bundle again",
        ) from error
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{manifest} is not the manifest of a bundle, or damaged", "copy the bundle again") from error
    version = content.get("schema_version")
    if version != 1:
        raise InputError(f"{manifest} has schema version {version}, this program reads version 1", "update the program")
    if checksum != found:
        raise InputError(f"{manifest} was changed since the export (its checksum differs)", "copy the bundle again")
    try:
        return Bundle(path, BundleManifest.model_validate(content))
    except ValidationError as error:
        field, _ = first_fault(error)
        # The checksum is right, so this is what another version of SIFA wrote, not damage.
        written = content.get("sifa_version")
        problem = f"{manifest} was written by SIFA {written} and can't be read by SIFA {__version__} (at '{field}')"
        raise InputError(problem, f"install SIFA {written} or a later one") from error


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
