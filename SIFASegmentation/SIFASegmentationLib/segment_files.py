"""Volumes on disk through a model, to labelmaps on disk."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from .bundle import Domain, read_bundle
from .cohorts import IMAGE_SUFFIX, find_cases
from .errors import InputError
from .field_of_view import BoxMM
from .files import write_atomically
from .image_files import read_volume, write_volume
from .labelmaps import write_slicer_segmentation
from .quality import Estimate, doubts_about_adaptation
from .segmentation import Segmentation, Segmentor
from .structures import Task
from .volumes import Volume, volume_name

ESTIMATES_FILE = "estimated_dice.csv"
FORMATS = (".nii.gz", ".nrrd", ".mha", ".seg.nrrd")

Report = Callable[[str, int, int], None]
"""Gets the volume's file name, the number of slices done and in all."""


@dataclass(frozen=True)
class Outputs:
    """What was written for one volume, and what is estimated of it.

    Attributes:
        labelmap: Its file.
        probabilities: Files of the probability of each structure, where asked for.
        confidence: File of each slice's confidence, where asked for.
        baseline: Labelmap of the model without adaptation, where asked for.
        estimates: Estimated Dice by structure.
        warning: Where the model without adaptation seems to be the better one for it.
    """

    labelmap: Path
    probabilities: tuple[Path, ...]
    confidence: Path | None
    baseline: Path | None
    estimates: dict[str, Estimate]
    warning: str | None = None


def segment_files(
    bundle: str | Path,
    volumes: Sequence[str | Path],
    out: str | Path,
    *,
    device: str = "auto",
    threads: int = 0,
    region: BoxMM | None = None,
    domain: Domain | None = None,
    probabilities: bool = False,
    confidence: bool = False,
    largest_component: bool = True,
    suffix: str = ".nii.gz",
    task: Task | None = None,
    baseline: bool = False,
    report: Report | None = None,
) -> list[Outputs]:
    """Segment volumes with a bundle; one after the other, each file whole or not there.

    Args:
        bundle: From `sifa export`.
        volumes: Files, DICOM series folders, and folders of such (where there are `*_image.*`, those alone).
        out: Folder for `NAME_segmentation.nii.gz` and `estimated_dice.csv` (volume, structure, estimate, band), and on
            request `NAME_probability_STRUCTURE.nii.gz` (float32, in steps of 1/255) and `NAME_confidence.csv` (slice,
            confidence).
        device: auto, cpu or cuda.
        threads: Of the CPU; 0 for all cores.
        region: Field of view of every volume, mm, LPS; found automatically unless given.
        domain: Whose preprocessing to use: the target's unless given.
        probabilities: Write the probability of each structure.
        confidence: Write the confidence of each slice.
        largest_component: Of each structure keep the largest connected part alone.
        suffix: One of `FORMATS`.
        task: The structures that the bundle must have; not checked unless given.
        baseline: Also segment with the bundle's model without adaptation, into the folder `baseline` in `out`.
        report: Called after each batch of slices.

    Raises:
        InputError: The bundle, a volume or the folder can't be used, or the bundle is for other structures.
    """
    if suffix not in FORMATS:
        raise InputError(f"The format '{suffix}' can't be written: choose {', '.join(FORMATS)}.")
    opened = read_bundle(bundle)
    structures = opened.manifest.task.structures
    if task is not None and [s.name for s in task.structures] != [s.name for s in structures]:
        raise InputError(
            f"The bundle {bundle} segments {', '.join(s.name for s in structures)}, not the structures of the task "
            f"{task.name}: choose another bundle."
        )
    paths = [path for given in volumes for path in _expand(Path(given))]
    names = [_output_name(path) for path in paths]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"Two volumes are called {repeated[0]}: segment them into different folders.")
    segmentor = Segmentor(opened, device, threads)
    unadapted = Segmentor(opened, device, threads, baseline=True) if baseline else None
    outputs = []
    for name, path in zip(names, paths, strict=True):
        volume = read_volume(path)
        segmentation = segmentor.segment(
            volume,
            region=region,
            domain=domain,
            probabilities=probabilities,
            largest_component=largest_component,
            progress=None if report is None else _named(report, path.name),
        )
        written = _write(segmentation, name, Path(out), opened.manifest.task, suffix, confidence)
        if unadapted is not None:
            compared = unadapted.segment(
                volume,
                region=region,
                domain=domain,
                largest_component=largest_component,
                progress=None if report is None else _named(report, f"{path.name}, without adaptation"),
            )
            folder = Path(out) / "baseline"
            labelmap = _write(compared, name, folder, opened.manifest.task, suffix, confidence=False).labelmap
            warning = doubts_about_adaptation(path.name, segmentation.estimates, compared.estimates)
            written = replace(written, baseline=labelmap, warning=warning)
        outputs.append(written)
        _write_estimates(outputs, paths, Path(out) / ESTIMATES_FILE)
    return outputs


def labelmap_path(out: Path, image: Path, suffix: str = ".nii.gz") -> Path:
    """Where `segment_files` writes the labelmap of an image."""
    return out / f"{_output_name(image)}_segmentation{suffix}"


def _output_name(image: Path) -> str:
    return volume_name(image).removesuffix(IMAGE_SUFFIX)


def _named(report: Report, name: str) -> Callable[[int, int], None]:
    return lambda done, total: report(name, done, total)


def _expand(path: Path) -> list[Path]:
    """A file or DICOM series folder is itself; another folder is the images in it."""
    if not path.is_dir():
        return [path]
    try:
        return [case.image for case in find_cases(path, labelled=False)]
    except InputError:
        # Not a folder of volumes; as one series it gets its own error from the reader.
        return [path]


def _write(
    segmentation: Segmentation, name: str, out: Path, task: Task, suffix: str, confidence: bool
) -> Outputs:
    labelmap = out / f"{name}_segmentation{suffix}"
    if suffix == ".seg.nrrd":
        write_slicer_segmentation(segmentation.labelmap, task, labelmap)
    else:
        write_volume(segmentation.labelmap, labelmap)
    maps = []
    for structure, volume in segmentation.probabilities.items():
        path = out / f"{name}_probability_{structure.replace(' ', '_')}.nii.gz"
        write_volume(Volume(volume.array / np.float32(255), volume.geometry, volume.name), path)
        maps.append(path)
    table = out / f"{name}_confidence.csv"
    if confidence:
        _write_confidence(segmentation, table)
    return Outputs(labelmap, tuple(maps), table if confidence else None, None, segmentation.estimates)


def _write_estimates(outputs: Sequence[Outputs], paths: Sequence[Path], path: Path) -> None:
    """A row for each volume and structure so far; no file where the model has no calibration."""
    if not any(one.estimates for one in outputs):
        return
    with write_atomically(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["volume", "structure", "estimated_dice", "low", "high"])
        for image, one in zip(paths, outputs, strict=False):
            for structure, estimate in one.estimates.items():
                writer.writerow([image.name, structure, *(f"{value:.4f}" for value in astuple(estimate))])


def _write_confidence(segmentation: Segmentation, path: Path) -> None:
    """A row for each slice: its index along the axis (i, j or k) of the model's plane, and its confidence, which is
    empty outside of the field of view."""
    axis = "kji"[segmentation.slice_axis]
    with write_atomically(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f"slice_{axis}", "confidence"])
        for index, value in enumerate(segmentation.confidence):
            writer.writerow((index, "" if np.isnan(value) else f"{value:.4f}"))
