"""Write the outputs of a volume that was segmented."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InputError
from .examination import Examination
from .files import file_names, write_atomically
from .image_files import write_volume
from .output_names import labelmap_path
from .quality import Estimate
from .segmentation import Segmentation
from .slicer_segmentations import write_slicer_segmentation
from .structures import Task
from .volume_names import MAP_INFIX
from .volumes import Volume

FORMATS = (".nii.gz", ".nrrd", ".mha", ".seg.nrrd")


@dataclass(frozen=True)
class OutputOptions:
    """What to write for each volume besides its labelmap and the probabilities that `SegmentationOptions` keep.

    Attributes:
        confidence: Also write the confidence of each slice.
        suffix: Suffix of labelmaps, one of `FORMATS`.
        baseline: Also write the labelmap of the bundle's model without adaptation, into the folder `baseline`; unless
            given, this depends on whether the bundle has such a model.

    Raises:
        InputError: The format is unknown.
    """

    confidence: bool = False
    suffix: str = ".nii.gz"
    baseline: bool | None = None

    def __post_init__(self) -> None:
        if self.suffix not in FORMATS:
            raise InputError(f"The format '{self.suffix}' can't be written", f"choose {', '.join(FORMATS)}")


@dataclass(frozen=True)
class Outputs:
    """What was written and estimated for one volume.

    Attributes:
        image: The volume's file or folder.
        name: Start of its outputs' names, by which the table of estimates and `sifa evaluate` call the volume.
        labelmap: Labelmap file.
        probabilities: Files of the probability maps, if requested.
        confidence: File of each slice's confidence, if requested.
        baseline: Labelmap of the model without adaptation, if requested.
        estimates: Estimated Dice by structure.
        warnings: Reasons to doubt the result: how the volume and its structures differ from those of the training, and
            whether the model without adaptation seems to be better for it.
        doubtful: Structures that a warning is about.
    """

    image: Path
    name: str
    labelmap: Path
    probabilities: tuple[Path, ...]
    confidence: Path | None
    baseline: Path | None
    estimates: dict[str, Estimate]
    warnings: tuple[str, ...]
    doubtful: frozenset[str]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that were written for this volume alone, the labelmap first."""
        others = [path for path in (self.confidence, self.baseline) if path is not None]
        return (self.labelmap, *self.probabilities, *others)


@dataclass(frozen=True)
class OutputWriter:
    """Writes the results for volumes into a folder.

    Attributes:
        out: The folder.
        task: Task of the model.
        options: What to write; their `baseline` has no effect, since that labelmap is written whenever it was made.
    """

    out: Path
    task: Task
    options: OutputOptions

    def write(self, made: Examination, image: Path, name: str, warnings: Sequence[str]) -> Outputs:
        """Write the results for one volume, to files of that name.

        Raises:
            InputError: The folder can't be written to.
        """
        segmentation = made.segmentation
        return Outputs(
            image=image,
            name=name,
            labelmap=self._labelmap(segmentation, self.out, name),
            probabilities=self._probabilities(segmentation, name),
            confidence=self._confidence(segmentation, name) if self.options.confidence else None,
            baseline=None if made.baseline is None else self._labelmap(made.baseline, self.out / "baseline", name),
            estimates=segmentation.estimates,
            warnings=tuple(warnings),
            doubtful=frozenset(made.doubts),
        )

    def _labelmap(self, segmentation: Segmentation, folder: Path, name: str) -> Path:
        path = labelmap_path(folder, name, self.options.suffix)
        if self.options.suffix == ".seg.nrrd":
            write_slicer_segmentation(segmentation.labelmap, self.task, path)
        else:
            write_volume(segmentation.labelmap, path)
        return path

    def _probabilities(self, segmentation: Segmentation, name: str) -> tuple[Path, ...]:
        """Write a map for each structure, and one of the highest probability."""
        paths = []
        # A model may come from anyone: the names of its structures must not lead out of the folder.
        for part, map_ in zip(file_names(segmentation.probabilities), segmentation.probabilities.values(), strict=True):
            path = self.out / f"{name}{MAP_INFIX}{part}.nii.gz"
            write_volume(Volume(map_.array / np.float32(255), map_.geometry, map_.name), path)
            paths.append(path)
        return tuple(paths)

    def _confidence(self, segmentation: Segmentation, name: str) -> Path:
        """Write a row for each slice: its index along the axis (i, j or k) of the model's plane, and its confidence.

        The confidence is empty outside of the field of view.
        """
        path = self.out / f"{name}_confidence.csv"
        axis = "kji"[segmentation.slice_axis]
        with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([f"slice_{axis}", "confidence"])
            for index, value in enumerate(segmentation.confidence):
                writer.writerow((index, "" if np.isnan(value) else f"{value:.4f}"))
        return path
