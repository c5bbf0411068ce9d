"""A trained model on disk: a folder, or a zip file of it, that a stranger can be sent.

```
manifest.json        structures, preprocessing of both domains, what it was trained on, SHA-256 of the files
model.onnx           E and C1: slices (b, 1, size, size) in [-1, 1] -> class probabilities (b, K, size, size);
                     or the mean of what several trainings came to
weights.safetensors  all networks, to fine-tune from; not needed to segment
baseline.onnx        the same as model.onnx, trained without adaptation, to compare with; not always there
```

Reading one executes nothing from it: JSON, and an ONNX graph of standard operators without external data.
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
from .doubts import MillilitreRange, Usual
from .errors import InputError, first_fault
from .positions import PositionRange
from .preprocessing import Preprocessing
from .schema import Frozen
from .segmentation_options import Domain
from .structures import Task
from .work import Work, at_once

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.safetensors"
BASELINE_FILE = "baseline.onnx"


class TrainingSummary(Frozen):
    """What a model was trained on, for its card.

    Attributes:
        method: sifa, without_adaptation, ...
        iterations: Iterations done.
        source_volumes: Names of the labelled volumes.
        target_volumes: Names of the unlabelled volumes.
        losses: Last reported losses by name.
        settings: Every setting of the training.
        initial: Name of the model that it started from; None where it started from random weights.
    """

    method: str
    iterations: int
    source_volumes: tuple[str, ...]
    target_volumes: tuple[str, ...]
    losses: dict[str, float]
    settings: dict[str, Any]
    initial: str | None = None


class Verification(Frozen):
    """How the ONNX model was compared with the networks that trained.

    Attributes:
        slices: Number of slices compared, of the training set.
        largest_difference: Of any class probability in any pixel.
    """

    slices: int
    largest_difference: float


class BaselineSummary(Frozen):
    """The model without adaptation, trained on the same labelled volumes, that is there to compare with.

    Attributes:
        iterations: Iterations done.
        losses: Last reported losses by name.
        verification: Of its export.
        quality: As of the manifest.
    """

    iterations: int
    losses: dict[str, float]
    verification: Verification
    quality: QualityCalibration | None = None


class BundleManifest(Frozen):
    """manifest.json.

    Attributes:
        schema_version: Of this file.
        name: What a list of models shows.
        created: ISO 8601.
        sifa_version: That wrote it.
        task: The structures.
        domain: Of which domain volumes are expected: the target's.
        preprocessing: For each domain; the grid is the same.
        training: The card; of the first of several trainings.
        members: Number of trainings whose mean the model is; 1 in bundles of before.
        verification: Of the export.
        quality: What its probabilities are worth as a judge of its segmentations; not in bundles of before.
        structures_ml: Of each structure, the range that most labelled volumes had; empty in bundles of before.
        positions_mm: The same of the way from the other structures; empty in bundles of before.
        contrasts: The same of how bright they are beside one another, in the unit of the networks, in what the model
            finds in the unlabelled volumes that it is for; empty in bundles of before.
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
        """K: the structures and the background."""
        return self.task.classes

    @property
    def usual(self) -> Usual:
        """What structures are like that the model is right about."""
        return Usual(self.structures_ml, self.positions_mm, self.contrasts)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; its files are checked as they are read.

    Attributes:
        path: A folder or a zip file.
        manifest: Checked.
    """

    path: Path
    manifest: BundleManifest

    def read(self, name: str) -> bytes:
        """The content of one of its files.

        Raises:
            InputError: The file is missing or is not the one that was exported.
        """
        try:
            content = read_bundle_file(self.path, name)
        except OSError as error:
            raise self._missing(name) from error
        self._check_digest(name, hashlib.sha256(content).hexdigest())
        return content

    def check_in_pieces(self, name: str) -> Work[None]:
        """Whether one of the files of a bundle that is a folder is whole, a portion a piece.

        Raises:
            InputError: As `read`.
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
    """Make one zip file of a bundle's folder, to send it; a portion of a file a piece.

    Args:
        folder: Of the bundle.
        out: To make or replace, `NAME.zip`.

    Raises:
        InputError: The bundle is not whole, or `out` is not named as a zip file.
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
    """The text of manifest.json: the manifest and the checksum of its content."""
    content = manifest.model_dump(mode="json")
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n"


def read_bundle(path: str | Path) -> Bundle:
    """Open a bundle, a folder or a zip file of one.

    Raises:
        InputError: Not a bundle, unreadable, of another version, damaged, or changed since it was exported.
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
        # The checksum has passed, so it is as it was written.
        written = content.get("sifa_version")
        problem = f"{manifest} was written by SIFA {written} and can't be read by SIFA {__version__} (at '{field}')"
        raise InputError(problem, f"install SIFA {written} or a later one") from error


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
