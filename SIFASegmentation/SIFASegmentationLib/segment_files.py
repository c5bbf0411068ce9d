"""Volumes on disk through a model, to labelmaps on disk."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from .bundle import read_bundle
from .cohorts import CHANNEL_SUFFIX, MAP_INFIX, find_cases, holds_channels, image_subject, is_volume_file
from .dicom_files import dicom_series
from .errors import InputError
from .examination import Examination, Models, examine
from .field_of_view import BoxMM
from .files import check_can_write, file_names, write_atomically
from .image_files import read_volume, write_volume
from .quality import Estimate
from .segmentation import Segmentation
from .segmentation_options import DEFAULTS, SegmentationOptions
from .slicer_segmentations import write_slicer_segmentation
from .structures import Task
from .volumes import Volume, volume_name

ESTIMATES_FILE = "estimated_dice.csv"
_ESTIMATES_HEAD = ["volume", "structure", "estimated_dice", "low", "high", "doubtful"]
FORMATS = (".nii.gz", ".nrrd", ".mha", ".seg.nrrd")

Report = Callable[[str, int, int], None]
"""Gets what the volume is called, the number of slices done and in all, of both models where there is a baseline."""


@dataclass(frozen=True)
class Request:
    """A volume to segment.

    Attributes:
        image: Its file, or the folder of its DICOM series.
        name: What its outputs are called; after the file unless given, and its folder where several are called alike.
        region: Its field of view, mm, LPS; that of all volumes unless given.
    """

    image: Path
    name: str | None = None
    region: BoxMM | None = None


@dataclass(frozen=True)
class Outputs:
    """What was written for one volume, and what is estimated of it.

    Attributes:
        image: The volume's file.
        name: What its outputs start with; the table of estimates calls it so, and so does `sifa evaluate`.
        labelmap: Its file.
        probabilities: Files of the probability of each structure, where asked for.
        confidence: File of each slice's confidence, where asked for.
        baseline: Labelmap of the model without adaptation, where asked for.
        estimates: Estimated Dice by structure.
        warnings: What makes the result doubtful: how the volume and the structures in it are unlike those of the
            training, and where the model without adaptation seems to be the better one for it.
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


class SomeRefusedError(InputError):
    """Some volumes could not be segmented; `outputs` are those of the others."""

    def __init__(self, refused: dict[Path, InputError], outputs: list[Outputs]) -> None:
        self.outputs = outputs
        count = len(refused) + len(outputs)
        reasons = "\n".join(str(error) for error in refused.values())
        super().__init__(f"{len(refused)} of {count} volumes could not be segmented:\n{reasons}")


def segment_files(
    bundle: str | Path,
    volumes: Sequence[str | Path | Request],
    out: str | Path,
    options: SegmentationOptions = DEFAULTS,
    *,
    device: str = "auto",
    threads: int = 0,
    region: BoxMM | None = None,
    confidence: bool = False,
    suffix: str = ".nii.gz",
    task: Task | None = None,
    baseline: bool | None = None,
    report: Report | None = None,
    on_outputs: Callable[[Outputs], None] = lambda _outputs: None,
) -> list[Outputs]:
    """Segment volumes with a bundle; one after the other, each file whole or not there.

    One that can't be used does not end those after it.

    Args:
        bundle: From `sifa export`.
        volumes: Files, DICOM series folders, folders of such, or CSV files that name some, with their regions
            (`cohorts.find_cases`); or requests.
        out: Folder for `NAME_segmentation.nii.gz` and `estimated_dice.csv` (volume, structure, estimate, band,
            whether a warning is about it), and on request `NAME_probability_STRUCTURE.nii.gz` (float32, in steps of
            1/255) and `NAME_confidence.csv` (slice, confidence).
        options: How; whether the probability of each structure is written as well.
        device: auto, cpu or cuda.
        threads: Of the CPU; 0 for all cores.
        region: Field of view of every volume without one of its own, mm, LPS; found automatically unless given.
        confidence: Write the confidence of each slice.
        suffix: One of `FORMATS`.
        task: The structures that the bundle must have; not checked unless given.
        baseline: Also segment with the bundle's model without adaptation, into the folder `baseline` in `out`; unless
            given, where it has one.
        report: Called after each batch of slices.
        on_outputs: Called with what was written for a volume, as soon as it is.

    Raises:
        SomeRefusedError: Volumes among others can't be used; told when the others are done.
        InputError: The bundle, the folder or the only volume can't be used, or the bundle is for other structures.
    """
    if suffix not in FORMATS:
        raise InputError(f"The format '{suffix}' can't be written", f"choose {', '.join(FORMATS)}")
    opened = read_bundle(bundle)
    own = opened.manifest.task
    if task is not None and task.names != own.names:
        raise InputError(
            f"The bundle {bundle} segments {', '.join(own.names)}, not the structures of the task {task.name}",
            "choose another bundle",
        )
    requests = [one for given in volumes for one in ([given] if isinstance(given, Request) else _expand(Path(given)))]
    called, shown_as = _names_of(requests)
    # Before the first volume is segmented.
    check_can_write(Path(out))
    _lines_of(Path(out) / ESTIMATES_FILE)
    compares = opened.manifest.baseline is not None if baseline is None else baseline
    models = Models.load(opened, device, threads, baseline=compares)
    writer = _Writer(Path(out), own, suffix, confidence)
    outputs: list[Outputs] = []
    refused: dict[Path, InputError] = {}
    for name, shown, request in zip(called, shown_as, requests, strict=True):
        warnings: list[str] = []
        try:
            examination = examine(
                models,
                replace(read_volume(request.image), name=shown),
                options,
                region=request.region or region,
                warn=warnings.append,
                progress=None if report is None else partial(report, shown),
            )
        except InputError as error:
            if len(requests) == 1:
                raise
            refused[request.image] = error
            continue
        # Where the folder can't be written to, no volume need be tried any more.
        outputs.append(writer.write(examination, request.image, name, warnings))
        _write_estimates(outputs, Path(out) / ESTIMATES_FILE)
        on_outputs(outputs[-1])
    if refused:
        raise SomeRefusedError(refused, outputs)
    return outputs


@dataclass(frozen=True)
class _Writer:
    """Where and how what comes of volumes is written; see `segment_files`."""

    out: Path
    task: Task
    suffix: str
    confidence: bool

    def write(self, made: Examination, image: Path, name: str, warnings: Sequence[str]) -> Outputs:
        """What comes of one volume, into files of that name."""
        segmentation = made.segmentation
        labelmap = self._labelmap(segmentation, name, self.out)
        maps = []
        # A model may come from anybody: what its structures are called must not lead out of the folder.
        for part, map_ in zip(file_names(segmentation.probabilities), segmentation.probabilities.values(), strict=True):
            path = self.out / f"{name}{MAP_INFIX}{part}.nii.gz"
            write_volume(Volume(map_.array / np.float32(255), map_.geometry, map_.name), path)
            maps.append(path)
        table = self.out / f"{name}_confidence.csv" if self.confidence else None
        if table is not None:
            _write_confidence(segmentation, table)
        return Outputs(
            image=image,
            name=name,
            labelmap=labelmap,
            probabilities=tuple(maps),
            confidence=table,
            baseline=None if made.baseline is None else self._labelmap(made.baseline, name, self.out / "baseline"),
            estimates=segmentation.estimates,
            warnings=tuple(warnings),
            doubtful=frozenset(made.doubts),
        )

    def _labelmap(self, segmentation: Segmentation, name: str, folder: Path) -> Path:
        path = labelmap_path(folder, name, self.suffix)
        if self.suffix == ".seg.nrrd":
            write_slicer_segmentation(segmentation.labelmap, self.task, path)
        else:
            write_volume(segmentation.labelmap, path)
        return path


def labelmap_path(out: Path, name: str, suffix: str = ".nii.gz") -> Path:
    """Where `segment_files` writes the labelmap of a volume whose outputs have this name."""
    return out / f"{name}_segmentation{suffix}"


def output_name(image: Path) -> str:
    """What the outputs of an image are called, unless one says otherwise: `P1_image.nii.gz` -> `P1`."""
    name = volume_name(image)
    name = image_subject(name) or name
    return name.removesuffix(CHANNEL_SUFFIX) if holds_channels(image.parent) else name


def _names_of(requests: Sequence[Request]) -> tuple[list[str], list[str]]:
    """What the outputs of each volume are called, and what is said of it.

    Raises:
        InputError: Two of them are one, or would have one name.
    """
    images = [request.image for request in requests]
    if twice := next((image for image, count in Counter(images).items() if count > 1), None):
        raise InputError(f"{twice} is given twice", "name it once")
    own = [request.name or output_name(request.image) for request in requests]
    alike = _alike(own)
    # As in data sets that have a folder of each patient, with the same files in each.
    folders = [request.image.absolute().parent.name if name in alike and request.name is None else ""
               for name, request in zip(own, requests, strict=True)]  # fmt: skip
    called = [f"{folder}_{name}" if folder else name for folder, name in zip(folders, own, strict=True)]
    if repeated := _alike(called):
        raise InputError(f"Two volumes are called {min(repeated)}", "segment them into different folders")
    said = [request.name or (f"{folder}/{request.image.name}" if folder else request.image.name)
            for folder, request in zip(folders, requests, strict=True)]  # fmt: skip
    return called, said


def _alike(names: Sequence[str]) -> set[str]:
    """Those that others have too; on many disks capital letters make no difference."""
    times = Counter(name.casefold() for name in names)
    return {name for name in names if times[name.casefold()] > 1}


def _expand(path: Path) -> list[Request]:
    """A file or DICOM series folder is itself; another folder, or a CSV, is the images in it."""
    is_folder = path.is_dir() and (any(map(is_volume_file, path.iterdir())) or not dicom_series(path))
    if not is_folder and path.suffix.lower() != ".csv":
        return [Request(path)]
    return [Request(case.image, region=case.region) for case in find_cases(path, labelled=False)]


def _write_estimates(outputs: Sequence[Outputs], path: Path) -> None:
    """A row for each volume and structure so far, beside those of other volumes that are there; no new file where the
    model has no calibration."""
    if not path.exists() and not any(one.estimates for one in outputs):
        return
    made = {one.name for one in outputs}
    before = [line for line in _lines_of(path) if line[0] not in made]
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_ESTIMATES_HEAD)
        writer.writerows(before)
        for one in outputs:
            for structure, estimate in one.estimates.items():
                values = (f"{value:.4f}" for value in astuple(estimate))
                writer.writerow([one.name, structure, *values, "yes" if structure in one.doubtful else "no"])


def _lines_of(path: Path) -> list[list[str]]:
    """The lines of a table of estimates that is there, none where it is not.

    Raises:
        InputError: It is another table.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            first, lines = next(reader, _ESTIMATES_HEAD), [line for line in reader if line]
    except (UnicodeDecodeError, csv.Error):
        first, lines = [], []
    if first != _ESTIMATES_HEAD or any(len(line) != len(first) for line in lines):
        raise InputError(f"{path} was not written by SIFA, or was edited since", "move it away")
    return lines


def _write_confidence(segmentation: Segmentation, path: Path) -> None:
    """A row for each slice: its index along the axis (i, j or k) of the model's plane, and its confidence, which is
    empty outside of the field of view."""
    axis = "kji"[segmentation.slice_axis]
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f"slice_{axis}", "confidence"])
        for index, value in enumerate(segmentation.confidence):
            writer.writerow((index, "" if np.isnan(value) else f"{value:.4f}"))
