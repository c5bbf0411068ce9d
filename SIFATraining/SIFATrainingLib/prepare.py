"""Volumes and labelmaps to a prepared data set.

Two passes over the volumes of each domain: the first finds what belongs to the domain (pixel spacing, range of
intensities), the second writes the slices. Target labels are never opened, but for the supervised bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from pydantic import ValidationError

from SIFASegmentationLib.cohorts import Case, check_disjoint, find_cases
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.field_of_view import BoxMM
from SIFASegmentationLib.files import write_atomically
from SIFASegmentationLib.intensity import IntensitySettings, estimate_intensity_range
from SIFASegmentationLib.labelmaps import match_grid, read_labelmap
from SIFASegmentationLib.preprocessing import (
    Preprocessing,
    choose_spacing,
    labels_on_grid,
    place_volume,
    prepare_volume,
    sample_z_scores,
)
from SIFASegmentationLib.structures import Task, load_task
from SIFASegmentationLib.volumes import Volume, read_volume

from .dataset import FULL_SCALE, DomainEntry, DomainName, PreparedManifest, VolumeEntry

Progress = Callable[[str], None]


def prepare(
    source: Path,
    target: Path,
    out: Path,
    task: str | Task = "abdomen",
    *,
    plane: str | None = None,
    size: int = 256,
    spacing: float | None = None,
    stretch: bool = False,
    roi: BoxMM | None = None,
    full_slice: bool = False,
    source_coding: str | None = None,
    target_coding: str | None = None,
    source_window: tuple[float, float] | None = None,
    target_window: tuple[float, float] | None = None,
    percentiles: tuple[float, float] = (0.5, 99.5),
    hold_out: Sequence[str] = (),
    test: Path | None = None,
    target_labels: bool = False,
    report: Progress = print,
) -> PreparedManifest:
    """Read both domains and write the prepared data set `out`; whole or not at all.

    Args:
        source: Labelled volumes: a folder or CSV (`cohorts.find_cases`).
        target: Unlabelled volumes; labels beside them are not read unless `target_labels`.
        out: Folder to make.
        task: A preset's name, a task file, or a task.
        plane: Plane of the slices; the task's unless given.
        size: Rows and columns of the networks' grid, a multiple of 8.
        spacing: Its pixel spacing in mm; chosen so that 95 % of the fields of view of both domains fit unless given.
        stretch: Stretch each field of view to the grid instead, as the paper did.
        roi: Field of view of every volume, a box in mm, LPS; found automatically unless given.
        full_slice: Take the whole slice as the field of view.
        source_coding: Name of the task's label coding that the source's labelmaps use.
        target_coding: The same for the target's, where they are read.
        source_window: Clip the source to this window (HU) instead of percentiles.
        target_window: The same for the target.
        percentiles: Clip each volume to these percentiles of its field of view.
        hold_out: Patients, of either domain, to leave out.
        test: Folder or CSV of test volumes: none of its patients may be in the data set.
        target_labels: Store the target's labels as well, for `--method supervised`.
        report: Gets a line for each volume.

    Raises:
        InputError: Any of the inputs can't be used; the message names it.
    """
    task = task if isinstance(task, Task) else load_task(task)
    if out.exists():
        raise InputError(f"{out} already exists: choose another folder for the prepared data set.")
    found: dict[DomainName, list[Case]] = {
        "source": find_cases(source, labelled=True),
        "target": find_cases(target, labelled=target_labels),
    }
    check_disjoint(found["source"], found["target"], "the source", "the target")
    cases = {name: _without(some, hold_out, found) for name, some in found.items()}
    if test is not None:
        for name, chosen in cases.items():
            check_disjoint(chosen, find_cases(test, labelled=False), f"the {name}", "the test set")
    shared = {
        "plane": plane or task.plane,
        "size": size,
        "spacing": spacing,
        "field_of_view": "full" if full_slice else "body",
    }
    windows: dict[DomainName, tuple[float, float] | None] = {"source": source_window, "target": target_window}
    settings = {
        name: _checked({**shared, "intensity": {"percentiles": percentiles, "window": window}})
        for name, window in windows.items()
    }
    placed = {name: _measure(some, name, settings[name], roi, report) for name, some in cases.items()}
    if spacing is None and not stretch:
        spacing = choose_spacing([extent for measured in placed.values() for extent in measured.extents_mm], size)
    final = {
        name: settings[name].model_copy(update={"spacing": spacing, "intensity": measured.intensity})
        for name, measured in placed.items()
    }
    codings: dict[DomainName, str | None] = {"source": source_coding, "target": target_coding}
    labelled: dict[DomainName, bool] = {"source": True, "target": target_labels}
    with write_atomically(out) as partial:
        partial.mkdir(parents=True)
        entries = {}
        for name, chosen in cases.items():
            writer = _Writer(partial, name, placed[name].slices, final[name], task if labelled[name] else None)
            entries[name] = writer.write(chosen, codings[name], roi, report)
        manifest = PreparedManifest(task=task, source=entries["source"], target=entries["target"])
        (partial / "manifest.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


@dataclass(frozen=True)
class _Measured:
    """What the first pass finds of a domain: slices in all, heights and widths of the fields of view, intensities."""

    slices: int
    extents_mm: list[tuple[float, float]]
    intensity: IntensitySettings


def _measure(
    cases: Sequence[Case], name: DomainName, preprocessing: Preprocessing, roi: BoxMM | None, report: Progress
) -> _Measured:
    placements, samples = [], []
    for volume in _read(cases, f"{name}, measuring", report):
        placements.append(place_volume(volume, preprocessing, roi))
        samples.append(sample_z_scores(volume, preprocessing, roi))
    low, high = estimate_intensity_range(samples)
    return _Measured(
        sum(len(placement) for placement in placements),
        [placement.extent_mm for placement in placements],
        preprocessing.intensity.model_copy(update={"z_low": low, "z_high": high}),
    )


class _Writer:
    """The arrays of one domain on disk, filled volume after volume."""

    def __init__(
        self, folder: Path, name: DomainName, slices: int, preprocessing: Preprocessing, task: Task | None
    ) -> None:
        """`task` is that of the labels; None stores no labels."""
        shape = (slices, preprocessing.size, preprocessing.size)
        self.name, self.preprocessing, self.task = name, preprocessing, task
        self.slices = open_memmap(folder / f"{name}_slices.npy", mode="w+", dtype=np.int16, shape=shape)
        self.labels = (
            open_memmap(folder / f"{name}_labels.npy", mode="w+", dtype=np.uint8, shape=shape) if task else None
        )

    def write(
        self, cases: Sequence[Case], coding: str | None, roi: BoxMM | None, report: Progress
    ) -> DomainEntry:
        """Fill the arrays; the domain's entry of the manifest."""
        entries: list[VolumeEntry] = []
        start = 0
        for case, volume in zip(cases, _read(cases, f"{self.name}, resampling", report), strict=True):
            prepared = prepare_volume(volume, self.preprocessing, roi)
            stop = start + len(prepared)
            self.slices[start:stop] = np.rint(prepared.slices * FULL_SCALE)
            if self.labels is not None and self.task is not None and case.label is not None:
                labelmap = match_grid(read_labelmap(case.label, self.task, coding), volume)
                self.labels[start:stop] = labels_on_grid(labelmap, prepared.placement)
            entries.append(VolumeEntry(patient=case.patient, image=case.image.name, start=start, stop=stop))
            start = stop
        return DomainEntry(
            preprocessing=self.preprocessing, volumes=tuple(entries), labelled=self.labels is not None
        )


def _read(cases: Sequence[Case], doing: str, report: Progress) -> Iterator[Volume]:
    for number, case in enumerate(cases, 1):
        report(f"{doing} {number} of {len(cases)}: {case.image.name}")
        yield read_volume(case.image)


def _without(
    cases: list[Case], hold_out: Sequence[str], found: dict[DomainName, list[Case]]
) -> list[Case]:
    """The cases less the patients held out, each of which must be in one of the domains: a name misspelt would train.

    Raises:
        InputError: A patient is in neither domain, or nothing is left.
    """
    everyone = sorted({case.patient for some in found.values() for case in some})
    if unknown := [patient for patient in hold_out if patient not in everyone]:
        raise InputError(
            f"The patient '{unknown[0]}' to hold out is in neither domain: give one of {', '.join(everyone)}."
        )
    kept = [case for case in cases if case.patient not in hold_out]
    if not kept:
        raise InputError(f"All patients of {cases[0].image.parent} are held out: hold out fewer.")
    return kept


def _checked(settings: dict[str, Any]) -> Preprocessing:
    try:
        return Preprocessing.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = " ".join(str(part) for part in first["loc"])
        raise InputError(f"The {field} {first['input']} is not usable: {first['msg']}.") from None
