"""A prepared data set: slices of both domains on disk, ready for the networks.

```
manifest.json      task, and for each domain: preprocessing, volumes and their slices
source_slices.npy  (n, size, size) int16, [-1, 1] times 32767
source_labels.npy  (n, size, size) uint8
target_slices.npy
target_labels.npy  only where the data set was prepared for the supervised bound
monitor_slices.npy, monitor_labels.npy  only where there are references to monitor a training with
```

Arrays are opened memory-mapped. Training reads the target's slices but never its labels, unless the method is
`supervised`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from SIFASegmentationLib.errors import InputError, first_fault
from SIFASegmentationLib.files import sha256
from SIFASegmentationLib.positions import PositionRange
from SIFASegmentationLib.preprocessing import Preprocessing
from SIFASegmentationLib.schema import Frozen
from SIFASegmentationLib.segmentation_options import Domain
from SIFASegmentationLib.structures import Task
from SIFASegmentationLib.usual import MillilitreRange

FULL_SCALE = 32767

DOMAINS: tuple[Domain, ...] = ("source", "target")
SetName = Literal["source", "target", "monitor"]


def domain_of(name: SetName) -> Domain:
    """Domain to which the volumes of a set belong."""
    return "source" if name == "source" else "target"


class VolumeEntry(Frozen):
    """One volume of a set: its patient, its name (`Case.shown`), and its slices `start` to `stop` (exclusive)."""

    patient: str
    image: str
    start: int
    stop: int


class DomainEntry(Frozen):
    """One domain of a prepared data set, or the monitor set.

    Attributes:
        preprocessing: How its volumes were preprocessed.
        volumes: Its volumes, in the order of their slices.
        labelled: Whether its labels are stored.
        structures_ml: Usual range of each structure's volume in the labelled volumes, in ml (`usual`).
        positions_mm: Usual range of each structure's position relative to the others (`positions.py`), in mm, LPS.
    """

    preprocessing: Preprocessing
    volumes: tuple[VolumeEntry, ...]
    labelled: bool
    structures_ml: dict[str, MillilitreRange] = Field(default_factory=dict)
    positions_mm: dict[str, PositionRange] = Field(default_factory=dict)

    @property
    def slices(self) -> int:
        """Number of slices."""
        return self.volumes[-1].stop


class PreparedManifest(Frozen):
    """manifest.json of a prepared data set."""

    schema_version: Literal[1] = 1
    task: Task
    source: DomainEntry
    target: DomainEntry
    monitor: DomainEntry | None = None


class PreparedDataset:
    """An opened prepared data set."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that `prepare` wrote.

        Raises:
            InputError: The folder is not a prepared data set, or its manifest is damaged.
        """
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        try:
            self.manifest = PreparedManifest.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{folder} is not a prepared data set (it has no manifest.json)", "give one that `sifa prepare` made"
            ) from None
        except ValidationError as error:
            field, _ = first_fault(error)
            raise InputError(f"{path} is damaged (at '{field}')", "run `sifa prepare` again") from None
        self.fingerprint = sha256(path)

    @property
    def classes(self) -> int:
        """K, the number of the task's structures plus the background."""
        return self.manifest.task.classes

    def entry(self, name: SetName) -> DomainEntry:
        """Return the manifest's entry of a set.

        Raises:
            InputError: It is the monitor set, and the data set was prepared without one.
        """
        entry: DomainEntry | None = getattr(self.manifest, name)
        if entry is None:
            raise InputError(f"{self.folder} holds no {name} volumes", f"prepare it with --{name}")
        return entry

    def slices(self, name: SetName) -> NDArray[np.int16]:
        """Return the slices (n, size, size) of a set, in [-1, 1] times 32767, memory-mapped.

        Raises:
            InputError: The set is not there, its file is missing or damaged, or does not match the manifest.
        """
        return self._open(name, "slices", np.dtype(np.int16))

    def labels(self, name: SetName) -> NDArray[np.uint8]:
        """Return the labels (n, size, size) of a set, memory-mapped.

        Raises:
            InputError: The data set was prepared without these labels, or as for `slices`.
        """
        if not self.entry(name).labelled:
            raise InputError(
                f"{self.folder} holds no labels of its {name} volumes",
                "prepare it with --target-labels for this method",
            )
        return self._open(name, "labels", np.dtype(np.uint8))

    def _open(self, name: SetName, kind: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        path = self.folder / f"{name}_{kind}.npy"
        entry = self.entry(name)
        expected = (entry.slices, entry.preprocessing.size, entry.preprocessing.size)
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path} is missing or damaged", "run `sifa prepare` again") from error
        if array.shape != expected or array.dtype != dtype:
            raise InputError(
                f"{path} holds {array.dtype} {array.shape}, not {dtype} {expected} as its manifest says",
                "run `sifa prepare` again",
            )
        return array
