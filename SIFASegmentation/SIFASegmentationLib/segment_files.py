"""Volumes on disk through a model, to labelmaps on disk."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from .bundle import BundleManifest, manifest_json, read_bundle
from .cohorts import CHANNEL_SUFFIX, MAP_INFIX, find_cases, holds_channels, image_subject, is_volume_file
from .dicom_files import dicom_series
from .doubts import as_sentences
from .errors import InputError
from .examination import Examination, Models, examine, in_memory
from .field_of_view import BoxMM
from .files import check_can_write, file_name, file_names, write_atomically
from .image_files import read_volume, write_volume
from .quality import Estimate
from .segmentation import Segmentation
from .segmentation_options import DEFAULTS, SegmentationOptions
from .segmented_folder import ESTIMATES_FILE, Origin, Row, SegmentedFolder, labelmap_path
from .slicer_segmentations import write_slicer_segmentation
from .structures import Task
from .volumes import Volume, volume_name

__all__ = ["ESTIMATES_FILE", "FORMATS", "Outputs", "Report", "Request", "SomeRefusedError", "labelmap_path",
           "output_name", "segment_files"]  # fmt: skip

FORMATS = (".nii.gz", ".nrrd", ".mha", ".seg.nrrd")

Report = Callable[[str, int, int], None]
"""Gets what the volume is called, the number of slices done and in all, of both models where there is a baseline."""


@dataclass(frozen=True)
class Request:
    """A volume to segment.

    Attributes:
        image: Its file, or the folder of its DICOM series.
        name: What its outputs are called, whatever the others are. Unless given, they are called after the file; where
            another image is called so, after its folder and the file; and where one is called so as well, after the
            patient.
        region: Its field of view, mm, LPS; that of all volumes unless given.
        patient: Whose it is, where that is known by more than the file.
    """

    image: Path
    name: str | None = None
    region: BoxMM | None = None
    patient: str | None = None


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

    @property
    def files(self) -> tuple[Path, ...]:
        """All that was written of the volume alone, the labelmap first."""
        others = [path for path in (self.confidence, self.baseline) if path is not None]
        return (self.labelmap, *self.probabilities, *others)


class SomeRefusedError(InputError):
    """Some volumes could not be segmented; `outputs` are those of the others."""

    def __init__(self, refused: dict[Path, InputError], outputs: list[Outputs]) -> None:
        self.outputs = outputs
        count = len(refused) + len(outputs)
        reasons = "\n".join(str(error) for error in refused.values())
        super().__init__(f"{len(refused)} of {count} volumes could not be segmented:\n{reasons}")


def segment_files(
    bundle: str | Path,
    volumes: str | Path | Request | Sequence[str | Path | Request],
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
    skip_existing: bool = False,
    report: Report | None = None,
    on_volume: Callable[[int, int], None] = lambda _number, _count: None,
    on_outputs: Callable[[Outputs], None] = lambda _outputs: None,
    on_refused: Callable[[Path, InputError], None] = lambda _image, _error: None,
) -> list[Outputs]:
    """Segment volumes with a bundle; one after the other, each file whole or not there.

    One that can't be used does not end those after it. Several processes may write to one folder. Results of an image
    replace those of before, but never those of another image or a labelmap of somebody else (`segmented_folder`).

    Args:
        bundle: From `sifa export`.
        volumes: Files, DICOM series folders, folders of such, or CSV files that name some, with their regions
            (`cohorts.find_cases`); or requests. One or several.
        out: Folder for `NAME_segmentation.nii.gz` and `estimated_dice.csv` (volume, structure, estimate, band,
            whether a warning is about it, warnings about it and about the volume), and on request
            `NAME_probability_STRUCTURE.nii.gz` (float32, in steps of 1/255) and `NAME_confidence.csv` (slice,
            confidence).
        options: How; whether the probability of each structure is written as well.
        device: auto, cpu or cuda.
        threads: Of the CPU; 0 for all cores.
        region: Field of view of every volume without one of its own, mm, LPS; found automatically unless given.
        confidence: Write the confidence of each slice.
        suffix: One of `FORMATS`.
        task: The structures that the bundle must have; not checked unless given.
        baseline: Also segment with the bundle's model without adaptation, into the folder `baseline` in `out`; unless
            given, where it has one.
        skip_existing: Leave out volumes of which the folder has all results, made of the same image by the same
            model and options, as after a call that was cut off.
        report: Called after each batch of slices.
        on_volume: Called before each volume with its number and how many there are, those left out as well.
        on_outputs: Called with what was written for a volume, as soon as it is.
        on_refused: Called with a volume among others that can't be used and the reason, as soon as that is known.

    Returns:
        What was written, but for volumes left out.

    Raises:
        SomeRefusedError: Volumes among others can't be used, or the folder has results of other images of all names
            that they could have; told when the others are done.
        InputError: The bundle, the folder or the only volume can't be used, the bundle is for other structures, or the
            folder has a labelmap of somebody else where one would be written.
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
    given = [volumes] if isinstance(volumes, str | Path | Request) else volumes
    requests = [one for some in given for one in ([some] if isinstance(some, Request) else _expand(Path(some)))]
    named = _names_of(requests)
    # Before the first volume is segmented.
    check_can_write(Path(out))
    folder = SegmentedFolder(Path(out), suffix)
    compares = opened.manifest.baseline is not None if baseline is None else baseline
    wanted = confidence, suffix, compares
    origins = [
        Origin(request.image, _names_model_and_options(opened.manifest, options, request.region or region, *wanted))
        for request in requests
    ]
    choices = _as_in(folder, named, origins)
    pending = [
        index for index, origin in enumerate(origins)
        if not (skip_existing and folder.has(next(iter(choices[index])), origin))
    ]  # fmt: skip
    if not pending:
        return []
    models = Models.load(opened, device, threads, baseline=compares)
    writer = _Writer(Path(out), own, suffix, confidence)
    outputs: list[Outputs] = []
    refused: dict[Path, InputError] = {}
    for index in pending:
        request, origin = requests[index], origins[index]
        on_volume(index + 1, len(requests))
        warnings: list[str] = []
        with ExitStack() as claim:
            try:
                name = claim.enter_context(folder.claimed(list(choices[index]), origin))
                shown = choices[index][name]
                with in_memory(shown):
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
                # Without its traceback, which would keep the volume in memory.
                refused[request.image] = InputError(error.problem, error.advice)
                on_refused(request.image, refused[request.image])
                continue
            # Where the folder can't be written to, no volume need be tried any more.
            written = writer.write(examination, request.image, name, warnings)
            folder.finish(name, origin, written.files, _rows(examination, warnings))
        outputs.append(written)
        on_outputs(written)
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


def output_name(image: Path) -> str:
    """What the outputs of an image are called, unless one says otherwise: `P1_image.nii.gz` -> `P1`."""
    name = volume_name(image)
    name = image_subject(name) or name
    return name.removesuffix(CHANNEL_SUFFIX) if holds_channels(image.parent) else name


def _names_of(requests: Sequence[Request]) -> list[dict[str, str]]:
    """What the outputs of each volume can be called, the best name first, and what is said of the volume then.

    The first names are all different. The others are for a folder that has results of another image of that name, as
    where each volume is segmented by a call of its own.

    Raises:
        InputError: Two of them are one, or would have one name.
    """
    images = [request.image for request in requests]
    if twice := next((image for image, count in Counter(images).items() if count > 1), None):
        raise InputError(f"{twice} is given twice", "name it once")
    choices = [_choices(request) for request in requests]
    for choice in range(max(map(len, choices), default=1) - 1):
        alike = _alike([next(iter(names)) for names in choices])
        for names in choices:
            first = next(iter(names))
            # As in data sets that have a folder of each patient, with the same files in each. Its first name goes last.
            if first in alike and len(names) > choice + 1:
                names[first] = names.pop(first)
    if repeated := _alike([next(iter(names)) for names in choices]):
        raise InputError(f"Two volumes are called {min(repeated)}", "segment them into different folders")
    return choices


def _as_in(
    folder: SegmentedFolder, choices: Sequence[dict[str, str]], origins: Sequence[Origin]
) -> list[dict[str, str]]:
    """The choices of each volume (`_names_of`) without those of others, and first the name that it has in the folder.

    Raises:
        InputError: There is a labelmap of somebody else under such a name.
    """
    taken = {next(iter(names)).casefold() for names in choices}
    left = []
    for names, origin in zip(choices, origins, strict=True):
        first, *others = names
        # Two copies of an image have a name each.
        own = [first, *(name for name in others if name.casefold() not in taken)]
        best = folder.name_of(own, origin)
        taken.add(best.casefold())
        left.append({name: names[name] for name in (best, *own)})
    return left


def _choices(request: Request) -> dict[str, str]:
    """Names of a volume's outputs, from the one that says least to the one that says most, and of the volume."""
    if request.name is not None:
        return {request.name: request.name}
    own, file, folder = output_name(request.image), request.image.name, request.image.absolute().parent.name
    choices = {own: file, f"{folder}_{own}": f"{folder}/{file}"}
    if request.patient is not None:
        choices.setdefault(file_name(request.patient), request.patient)
    return choices


def _alike(names: Sequence[str]) -> set[str]:
    """Those that others have too; on many disks capital letters make no difference."""
    times = Counter(name.casefold() for name in names)
    return {name for name in names if times[name.casefold()] > 1}


def _expand(path: Path) -> list[Request]:
    """A file or DICOM series folder is itself; another folder, or a CSV, is the images in it."""
    is_folder = path.is_dir() and (any(map(is_volume_file, path.iterdir())) or not dicom_series(path))
    if not is_folder and path.suffix.lower() != ".csv":
        return [Request(path)]
    # In a folder, patients are called as their files are.
    return [Request(case.image, region=case.region, patient=None if is_folder else case.patient)
            for case in find_cases(path, labelled=False)]  # fmt: skip


def _rows(made: Examination, warnings: Sequence[str]) -> tuple[Row, ...]:
    """What the table of estimates says of a volume: for each structure the warnings about it and about the whole."""
    segmentation = made.segmentation
    about = dict(zip(made.doubts, as_sentences(segmentation.labelmap.name, made.doubts), strict=True))
    rows = []
    for structure, estimate in segmentation.estimates.items():
        others = {sentence for other, sentence in about.items() if other != structure}
        dice, low, high = (f"{value:.4f}" for value in astuple(estimate))
        reasons = " ".join(sentence for sentence in warnings if sentence not in others)
        rows.append((structure, dice, low, high, "yes" if structure in made.doubts else "no", reasons))
    return tuple(rows)


def _names_model_and_options(
    manifest: BundleManifest, options: SegmentationOptions, region: BoxMM | None, *outputs: object
) -> str:
    """The same for two volumes that are segmented in the same way, with the same `outputs`."""
    return hashlib.sha256(repr((manifest_json(manifest), options, region, outputs)).encode()).hexdigest()


def _write_confidence(segmentation: Segmentation, path: Path) -> None:
    """A row for each slice: its index along the axis (i, j or k) of the model's plane, and its confidence, which is
    empty outside of the field of view."""
    axis = "kji"[segmentation.slice_axis]
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f"slice_{axis}", "confidence"])
        for index, value in enumerate(segmentation.confidence):
            writer.writerow((index, "" if np.isnan(value) else f"{value:.4f}"))
