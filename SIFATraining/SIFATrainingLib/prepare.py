"""Prepare volumes and labelmaps as a data set for training.

The volumes of each domain are read twice: the first pass measures what belongs to the domain (pixel spacing, range of
intensities), and finds labels that can't be used and volumes to leave out (`is_left_out`); the second writes the
slices. Target labels are never opened, except for the supervised bound and for monitoring, which has a set of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import dtype_to_descr, open_memmap, write_array_header_1_0
from numpy.typing import NDArray
from pydantic import ValidationError

from SIFASegmentationLib.cases import Case, check_disjoint
from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.errors import InputError, first_fault
from SIFASegmentationLib.files import check_can_write, remove_remains, write_atomically
from SIFASegmentationLib.grids import match_grid
from SIFASegmentationLib.heartbeat import heartbeat, is_alive
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.intensity import FULL_RANGE, ROBUST_RANGE, estimate_intensity_range
from SIFASegmentationLib.labelmaps import Labels, coding_named, read_labels, structures_ml
from SIFASegmentationLib.mask_folders import holds_masks
from SIFASegmentationLib.positions import positions_mm
from SIFASegmentationLib.preprocessing import (
    Preprocessing,
    choose_spacing,
    labels_on_grid,
    place_volume,
    prepare_volume,
    sample_z_scores,
)
from SIFASegmentationLib.regions import BoxMM
from SIFASegmentationLib.schema import Frozen
from SIFASegmentationLib.segmentation_options import Domain
from SIFASegmentationLib.structures import Task, load_task
from SIFASegmentationLib.usual import position_ranges, volume_ranges
from SIFASegmentationLib.volumes import Triple, Volume

from .dataset import (
    DOMAINS,
    FULL_SCALE,
    DomainEntry,
    PreparedManifest,
    SetName,
    VolumeEntry,
    domain_of,
)
from .findings import (
    Warn,
    beyond_grid,
    left_out,
    log_warning,
    looks_like_labelmap,
    lost_labels,
    never_labelled,
    nothing_labelled,
    unused_volumes,
)
from .steps import Report, Step, say_nothing


class Preparation(Frozen):
    """What to prepare, and how.

    Attributes:
        source: Labelled volumes: a folder or CSV (`cohorts.find_cases`). Those whose masks show none of the structures
            are left out, here and in `monitor`.
        target: Unlabelled volumes; labels beside them are not read unless `target_labels`.
        task: A preset's name, a task file, or a task.
        plane: Plane of the slices; the task's unless given.
        size: Rows and columns of the networks' grid, a multiple of 8.
        spacing: Pixel spacing of the grid in mm; unless given, it is chosen so that 95 % of the fields of view of both
            domains fit.
        stretch: Stretch each field of view to the grid instead, as the paper did.
        roi: Field of view of every volume, a box in mm, LPS; a CSV can give a volume a region of its own instead. Found
            automatically where neither is given.
        full_slice: Take the whole slice as the field of view.
        source_coding: Name of the task's label coding that the source's labelmaps use, by values or by names.
        target_coding: The same for the target's, where they are read, and for the monitor's.
        source_window: Clip the source to this window (HU) instead of percentiles.
        target_window: The same for the target.
        percentiles: Clip each volume to these percentiles of its field of view.
        min_max: Map the least and greatest z-score of the domain, after that clip, to -1 and 1, and clip no volume to
            them, as the authors' code did. Otherwise the 0.1 and 99.9 percentiles are used, with a clip.
        hold_out: Patients, of either domain, to leave out.
        test: Folder or CSV of test volumes, none of whose patients may be in the data set.
        target_labels: Store the target's labels as well, for `--method supervised`.
        monitor: Labelled volumes of the target's modality, used to watch a training but never to train on; they may be
            the target's own.
    """

    source: Path
    target: Path
    task: Task | str = "abdomen"
    plane: str | None = None
    size: int = 256
    spacing: float | None = None
    stretch: bool = False
    roi: BoxMM | None = None
    full_slice: bool = False
    source_coding: str | None = None
    target_coding: str | None = None
    source_window: tuple[float, float] | None = None
    target_window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    min_max: bool = False
    hold_out: tuple[str, ...] = ()
    test: Path | None = None
    target_labels: bool = False
    monitor: Path | None = None

    def loaded_task(self) -> Task:
        """Return the task, which is read if it was given by name.

        Raises:
            InputError: There is no such preset or file, or it is not a valid task.
        """
        return self.task if isinstance(self.task, Task) else load_task(self.task)

    def below(self, folder: Path) -> Preparation:
        """Return a copy with the task read, and with paths relative to `folder` made absolute."""
        paths = {name: getattr(self, name) for name in ("source", "target", "test", "monitor")}
        located = {name: (folder / path).resolve() for name, path in paths.items() if path is not None}
        return self.model_copy(update={**located, "task": self.loaded_task()})

    def preprocessing(self, domain: Domain) -> Preprocessing:
        """Return a domain's preprocessing, before anything is measured.

        Raises:
            InputError: A setting is out of bounds; the message names it.
        """
        window = self.source_window if domain == "source" else self.target_window
        settings = {
            "plane": self.plane or self.loaded_task().plane,
            "size": self.size,
            "spacing": self.spacing,
            "field_of_view": "full" if self.full_slice else "body",
            "intensity": {"percentiles": self.percentiles, "window": window, "clip": not self.min_max},
        }
        if self.stretch and self.spacing is not None:
            raise InputError("There are a spacing and --stretch, which has none", "give one of the two")
        try:
            return Preprocessing.model_validate(settings)
        except ValidationError as error:
            field, message = first_fault(error)
            given = error.errors()[0]["input"]
            if field == "intensity":
                field, given = (f"{domain} window", window) if window is not None else ("percentiles", self.percentiles)
            problem = f"The {field.replace('.', ' ')} {given} can't be used ({message})"
            raise InputError(problem, "see `sifa prepare --help`") from None

    @property
    def sets(self) -> tuple[SetName, ...]:
        """The sets to prepare: both domains, and the monitor set if there is one."""
        return ("source", "target") if self.monitor is None else ("source", "target", "monitor")

    def labelled(self, name: SetName) -> bool:
        """Whether the labels of a set are read."""
        return name != "target" or self.target_labels

    def coding(self, name: SetName) -> str | None:
        """Return the label coding of a set."""
        return self.source_coding if name == "source" else self.target_coding

    def find(self, name: SetName) -> list[Case]:
        """Find the images of one of `sets`, including patients held out.

        Raises:
            InputError: The folder or CSV can't be used.
        """
        path: Path = getattr(self, name)
        return find_cases(path, labelled=self.labelled(name))

    def cases(self) -> dict[SetName, list[Case]]:
        """Find the images of each set; patients held out are left out of both domains.

        Raises:
            InputError: A folder or CSV can't be used, two sets share a patient, or a patient held out is unknown.
        """
        found = {name: self.find(name) for name in DOMAINS}
        check_disjoint(found["source"], found["target"], "the source", "the target")
        cases: dict[SetName, list[Case]] = {name: _without(name, self.hold_out, found) for name in DOMAINS}
        if self.monitor is not None:
            cases["monitor"] = self.find("monitor")
            check_disjoint(cases["source"], cases["monitor"], "the source", "the monitor set")
        if self.test is not None:
            tested = find_cases(self.test, labelled=False)
            for name, chosen in cases.items():
                check_disjoint(chosen, tested, f"the {name}", "the test set")
        return cases


def make_preparation(**settings: Any) -> Preparation:
    """Make a preparation from its attributes.

    Raises:
        InputError: A setting is unknown, of the wrong type or out of bounds; the message names it.
    """
    try:
        preparation = Preparation.model_validate(settings)
    except ValidationError as error:
        field, message = first_fault(error)
        raise InputError(
            f"The setting '{field}' of the preparation is not usable ({message})", "see `sifa prepare --help`"
        ) from None
    for domain in DOMAINS:
        preparation.preprocessing(domain)
    for coding in (preparation.source_coding, preparation.target_coding):
        if coding is not None:
            coding_named(coding, preparation.loaded_task())
    return preparation


def prepare(
    source: str | Path,
    target: str | Path,
    out: str | Path,
    task: str | Task = "abdomen",
    *,
    report: Report = say_nothing,
    warn: Warn = log_warning,
    **settings: Any,
) -> PreparedManifest:
    """Read both domains and write the prepared data set `out`, whole or not at all.

    Args:
        source: Labelled volumes.
        target: Unlabelled volumes.
        out: Folder to create.
        task: The structures.
        report: Called before each volume is read.
        warn: Called with findings about volumes and labels that a training will not see, images that may be labelmaps,
            and structures without labels.
        settings: Any other attribute of `Preparation`.

    Raises:
        InputError: An input can't be used; the message names it.
    """
    return run_preparation(make_preparation(source=source, target=target, task=task, **settings), out, report, warn)


def run_preparation(
    preparation: Preparation, out: str | Path, report: Report = say_nothing, warn: Warn = log_warning
) -> PreparedManifest:
    """Prepare a data set as `prepare` does, from a `Preparation`."""
    out, task = Path(out), preparation.loaded_task()
    if out.exists():
        raise InputError(f"{out} already exists", "choose another folder for the prepared data set")
    cases = preparation.cases()
    # Checked before the volumes are read.
    check_can_write(out.parent)
    for name in preparation.sets:
        for finding in unused_volumes(name, getattr(preparation, name)):
            warn(finding)
    if out.parent.exists():
        # What a killed preparation left can be as large as a data set.
        remove_remains(out.parent, of=out.name, in_use=is_alive)
    roi = preparation.roi
    steps = _Steps(2 * sum(map(len, cases.values())), report)
    settings = {name: preparation.preprocessing(name) for name in DOMAINS}
    labels = {
        name: LabelReader(task, preparation.coding(name)) if preparation.labelled(name) else None for name in cases
    }
    measured = {
        name: _measure(some, name, settings[domain_of(name)], labels[name], roi, steps) for name, some in cases.items()
    }
    for name, some in cases.items():
        for finding in left_out(name, measured[name].left_out, len(some)):
            warn(finding)
    spacing = preparation.spacing
    if spacing is None and not preparation.stretch:
        spacing = choose_spacing([extent for name in DOMAINS for extent in measured[name].extents_mm], preparation.size)
    final = {
        name: settings[name].model_copy(update={"spacing": spacing, **measured[name].of_domain}) for name in DOMAINS
    }
    if spacing is not None:
        for name in cases:
            for finding in beyond_grid(name, measured[name].extents_mm, preparation.size, spacing):
                warn(finding)
    with write_atomically(out) as partial:
        partial.mkdir(parents=True)
        # Lets another preparation of `out` see that this folder was not left by a killed one.
        with heartbeat(partial):
            entries: dict[SetName, DomainEntry] = {}
            for name, found in measured.items():
                writer = _Writer(partial, name, found.slices, final[domain_of(name)], labels[name], warn)
                entries[name] = writer.write(found.cases, roi, steps)
        manifest = PreparedManifest(
            task=task, source=entries["source"], target=entries["target"], monitor=entries.get("monitor")
        )
        (partial / "manifest.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


class _Steps:
    """Counts the volumes that are read, and reports each."""

    def __init__(self, total: int, report: Report) -> None:
        self.done, self.total, self.report = 0, total, report

    def read(self, cases: Sequence[Case], doing: str) -> Iterator[Volume]:
        """Yield the images of `cases`, one after the other."""
        for number, case in enumerate(cases, 1):
            self.report(Step(self.done, self.total, f"{doing} {number} of {len(cases)}: {case.shown(case.image)}"))
            yield read_volume(case.image)
            self.done += 1


@dataclass(frozen=True)
class LabelReader:
    """How the labelmaps of a set are read."""

    task: Task
    coding: str | None

    def read(self, path: Path, image: Volume) -> tuple[Labels, Volume]:
        """Read a file or a folder of masks; return its labels, and its labelmap on the image's grid.

        A file must have a labelled voxel, since one without is probably the wrong file. All masks of a folder may be
        empty: a data set of whole bodies has patients in which none of a task's structures is visible.

        Raises:
            InputError: The file or folder can't be used, or not for this image.
        """
        labels = read_labels(path, self.task, self.coding, allow_empty=holds_masks(path))
        return labels, match_grid(labels.labelmap, image)


def is_left_out(name: SetName, labelmap: Volume) -> bool:
    """Whether a set does not use a volume, since none of the structures is labelled in it.

    Labels of the target never decide this: a training must not depend on them.
    """
    return name != "target" and not labelmap.array.any()


def all_left_out(name: SetName, task: Task) -> InputError:
    """Return the error that no volume of a set is used."""
    return InputError(
        f"No volume of the {name} set shows any of the structures {', '.join(task.names)}",
        "check that the masks belong to this task",
    )


@dataclass(frozen=True)
class _Measured:
    """What the first pass measures in a set.

    Attributes:
        cases: Those that are used.
        left_out: Those that are not (`is_left_out`).
        slices: Number of slices in the volumes that are used.
        extents_mm: Height and width of each field of view.
        of_domain: The attributes of the preprocessing that belong to the domain.
    """

    cases: list[Case]
    left_out: list[Case]
    slices: int
    extents_mm: list[tuple[float, float]]
    of_domain: dict[str, Any]


def _measure(
    cases: Sequence[Case],
    name: SetName,
    preprocessing: Preprocessing,
    labels: LabelReader | None,
    roi: BoxMM | None,
    steps: _Steps,
) -> _Measured:
    used, unused = [], []
    placements, samples = [], []
    for case, volume in zip(cases, steps.read(cases, f"{name}, measuring"), strict=True):
        if labels is not None and case.label is not None:
            # Read here already: it takes little time, and an error in the second pass would discard what was written.
            _, labelmap = labels.read(case.label, volume)
            if is_left_out(name, labelmap):
                unused.append(case)
                steps.total -= 1  # It is not read for the second time.
                continue
        used.append(case)
        placement = place_volume(volume, preprocessing, case.region or roi)
        placements.append(placement)
        samples.append(sample_z_scores(volume, placement, preprocessing.intensity))
    if labels is not None and not used:
        raise all_left_out(name, labels.task)
    intensity = preprocessing.intensity
    low, high = estimate_intensity_range(samples, ROBUST_RANGE if intensity.clip else FULL_RANGE)
    of_slices = [placement.spacings[0] for placement in placements]
    of_pixels = [spacing for placement in placements for spacing in placement.spacings[1:]]
    return _Measured(
        used,
        unused,
        sum(len(placement) for placement in placements),
        [placement.extent_mm for placement in placements],
        {
            "intensity": intensity.model_copy(update={"z_low": low, "z_high": high}),
            "slice_spacings": (min(of_slices), max(of_slices)),
            "pixel_spacings": (min(of_pixels), max(of_pixels)),
        },
    )


class _Writer:
    """The arrays of one set on disk, filled volume after volume."""

    def __init__(
        self,
        folder: Path,
        name: SetName,
        slices: int,
        preprocessing: Preprocessing,
        reader: LabelReader | None,
        warn: Warn,
    ) -> None:
        """Create the arrays; `reader` reads the labels, and None stores no labels."""
        shape = (slices, preprocessing.size, preprocessing.size)
        self.name, self.preprocessing, self.reader, self.warn = name, preprocessing, reader, warn
        self.slices, self.labels = folder / f"{name}_slices.npy", folder / f"{name}_labels.npy"
        _write_zeros(self.slices, np.dtype(np.int16), shape)
        if reader is not None:
            _write_zeros(self.labels, np.dtype(np.uint8), shape)

    def write(self, cases: Sequence[Case], roi: BoxMM | None, steps: _Steps) -> DomainEntry:
        """Fill the arrays, and return the set's entry in the manifest."""
        entries: list[VolumeEntry] = []
        volumes_ml: list[dict[str, float]] = []
        positions: list[dict[str, Triple]] = []
        start = 0
        for case, volume in zip(cases, steps.read(cases, f"{self.name}, resampling"), strict=True):
            for finding in looks_like_labelmap(case.shown(case.image), volume):
                self.warn(finding)
            prepared = prepare_volume(volume, self.preprocessing, case.region or roi)
            stop = start + len(prepared)
            # If nothing is clipped, voxels of the monitor set may lie beyond the target's range.
            _fill(self.slices, start, np.rint(np.clip(prepared.slices, -1, 1) * FULL_SCALE))
            if self.reader is not None and case.label is not None:
                labels, labelmap = self.reader.read(case.label, volume)
                shown = case.shown(case.label)
                for finding in lost_labels(shown, labels, self.reader.task) + nothing_labelled(shown, labelmap):
                    self.warn(finding)
                volumes_ml.append(structures_ml(labelmap, self.reader.task))
                positions.append(positions_mm(labelmap, self.reader.task))
                _fill(self.labels, start, labels_on_grid(labelmap, prepared.placement))
            entries.append(VolumeEntry(patient=case.patient, image=case.shown(case.image), start=start, stop=stop))
            start = stop
        if self.reader is not None:
            found = {name for volume in volumes_ml for name, ml in volume.items() if ml > 0}
            for finding in never_labelled(self.name, found, self.reader.task, "warning"):
                self.warn(finding)
        return DomainEntry(
            preprocessing=self.preprocessing,
            volumes=tuple(entries),
            labelled=self.reader is not None,
            structures_ml=volume_ranges(volumes_ml),
            positions_mm=position_ranges(positions),
        )


def _write_zeros(path: Path, dtype: np.dtype[Any], shape: tuple[int, int, int]) -> None:
    """Write an array of zeros to a file, to be filled later.

    The zeros are written rather than left as a hole, so that a disk without room for them is an error now. Filling a
    hole would end the process by a signal.
    """
    with path.open("wb") as file:
        write_array_header_1_0(file, {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
        blank = bytes(shape[1] * shape[2] * dtype.itemsize)
        for _ in range(shape[0]):
            file.write(blank)


def _fill(path: Path, start: int, slices: NDArray[Any]) -> None:
    """Write slices into an array in a file, starting at the slice `start`.

    The file is open only meanwhile: on Windows, a folder with an open file can be neither renamed nor removed.
    """
    open_memmap(path, mode="r+")[start : start + len(slices)] = slices


def _without(domain: Domain, hold_out: Sequence[str], found: Mapping[Domain, list[Case]]) -> list[Case]:
    """Return the cases of a domain without patients held out.

    Each of these must be in one of the domains, since a misspelt patient would be trained on.

    Raises:
        InputError: A patient is in neither domain, or nothing is left.
    """
    everyone = sorted({case.patient for some in found.values() for case in some})
    if unknown := [patient for patient in hold_out if patient not in everyone]:
        raise InputError(
            f"The patient '{unknown[0]}' to hold out is in neither domain", f"give one of {', '.join(everyone)}"
        )
    kept = [case for case in found[domain] if case.patient not in hold_out]
    if not kept:
        raise InputError(f"All patients of the {domain} are held out", "hold out fewer")
    return kept
