"""Checks of the volumes before a training: readable, similar in both domains, and labelled as the task says."""

from __future__ import annotations

from collections import defaultdict
from statistics import median, median_low

import numpy as np

from SIFASegmentationLib.cases import Case
from SIFASegmentationLib.components import component_sizes, large_parts
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.orientation import Plane, nearest_orientation
from SIFASegmentationLib.plausibility import doubt_about_mixture, doubt_about_window
from SIFASegmentationLib.preprocessing import Placement, prepare_volume
from SIFASegmentationLib.segmentation_options import Domain
from SIFASegmentationLib.structures import Structure
from SIFASegmentationLib.volumes import Geometry, Volume

from .dataset import DOMAINS, SetName, domain_of
from .findings import (
    FEW_SLICES,
    Finding,
    Level,
    beyond_grid,
    left_out,
    looks_like_labelmap,
    lost_labels,
    never_labelled,
    nothing_labelled,
    unused_volumes,
)
from .prepare import LabelReader, Preparation, all_left_out, is_left_out
from .steps import Report, Step

OTHER_EXTENT = 1.5  # Fields of view that differ by a larger factor don't show the same part of the body.
_LONG_PIXEL = 3.0  # If a pixel's sides differ by a larger factor, the volume was acquired in another plane.
_AXES = ("RL", "AP", "IS")  # Letters for the negative and positive direction of each axis of LPS.
_PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
_DIRECTIONS = ("slice direction", "height", "width")


class VolumeChecks:
    """Checks every volume of a preparation, and every labelmap that training or monitoring will read.

    Attributes:
        findings: What was found, after `run`.
        slices: Number of slices in the readable volumes of each set that are not left out, after `run`.
    """

    def __init__(self, preparation: Preparation, report: Report, domain: Domain | None = None) -> None:
        """
        Args:
            preparation: The volumes, and how they are to be prepared.
            report: Called before each volume is read.
            domain: The only domain to check; if None, both domains and the monitor set are.
        """
        self.findings: list[Finding] = []
        self._sets = preparation.sets if domain is None else (domain,)
        self.slices: dict[SetName, int] = dict.fromkeys(self._sets, 0)
        self._preparation, self._report = preparation, report
        self._task = preparation.loaded_task()
        self._extents: dict[SetName, list[tuple[float, float, float]]] = defaultdict(list)
        self._left_out: dict[SetName, list[Case]] = defaultdict(list)
        self._lowest: dict[SetName, list[tuple[str, float]]] = defaultdict(list)
        # By set and label value: the number of large parts in each labelmap that contains the value.
        self._parts: dict[SetName, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))

    def run(self) -> None:
        """Run all checks."""
        cases = self._cases()
        total, done = sum(map(len, cases.values())), 0
        for name, some in cases.items():
            for case in some:
                self._report(Step(done, total, f"{name}, checking {done + 1} of {total}: {case.shown(case.image)}"))
                self._check(name, case)
                done += 1
            self._sum_up(name, len(some))
        self._compare_extents()

    def _cases(self) -> dict[SetName, list[Case]]:
        """Return the cases of each set that can be found; without held-out ones if the sets are consistent."""
        found: dict[SetName, list[Case]] = {}
        for name in self._sets:
            try:
                found[name] = self._preparation.find(name)
            except InputError as error:
                self.findings.append(Finding.of(name, error))
        if tuple(found) != self._preparation.sets:
            return found
        try:
            cases = self._preparation.cases()
        except InputError as error:
            self.findings.append(Finding.of("patients", error))
            return found
        self.findings.append(Finding("ok", "patients", f"no patient of {' and '.join(DOMAINS)} is in both"))
        return cases

    def _check(self, name: SetName, case: Case) -> None:
        preprocessing = self._preparation.preprocessing(domain_of(name))
        subject = case.shown(case.image)
        try:
            volume = read_volume(case.image)
        except InputError as error:
            self.findings.append(Finding.of(subject, error))
            return
        about_label = self._label_findings(name, case, volume)
        if about_label is None:
            self.findings.append(Finding("ok", subject, "none of the structures"))
            self._left_out[name].append(case)
            return
        try:
            placement = prepare_volume(volume, preprocessing, case.region or self._preparation.roi).placement
        except InputError as error:
            self.findings += [Finding.of(subject, error), *about_label]
            return
        self.findings.append(_describe(subject, placement, preprocessing.plane))
        self.findings += looks_like_labelmap(subject, volume) + about_label
        self.slices[name] += len(placement)
        self._lowest[name].append((subject, float(volume.array.min())))
        self._extents[name].append((len(placement) * placement.spacings[0], *placement.extent_mm))

    def _label_findings(self, name: SetName, case: Case, volume: Volume) -> list[Finding] | None:
        """Check the labels of a volume, if they are read; return None if the volume is left out because of them."""
        if case.label is None:
            return []
        subject = case.shown(case.label)
        try:
            coding = self._preparation.coding(name)
            labels, labelmap = LabelReader(self._task, coding).read(case.label, volume)
        except InputError as error:
            return [Finding.of(subject, error)]
        if is_left_out(name, labelmap):
            return None
        sizes = component_sizes(labelmap.array)
        found = [structure.name for structure in self._task.structures if structure.value in sizes]
        missing = [structure.name for structure in self._task.structures if structure.value not in sizes]
        for value, parts in sizes.items():
            self._parts[name][value].append(large_parts(parts))
        if not found:
            (about_structures,) = nothing_labelled(subject, labelmap)
        elif missing:
            message = f"{', '.join(found)}; without {', '.join(missing)}"
            fix = "if it is visible in the image, leaving it unlabelled teaches the model that it is background"
            about_structures = Finding("warning", subject, message, fix)
        else:
            about_structures = Finding("ok", subject, f"all {len(found)} structures")
        return [about_structures, *lost_labels(subject, labels, self._task)]

    def _sum_up(self, name: SetName, volumes: int) -> None:
        """Add the findings about a set as a whole, such as too few slices or structures that are never labelled."""
        unused = self._left_out[name]
        if unused and len(unused) == volumes:
            self.findings.append(Finding.of(name, all_left_out(name, self._task)))
            return
        slices = self.slices[name]
        message = f"volumes: {volumes - len(unused)}, slices: {slices:,}"
        if name in DOMAINS and slices < FEW_SLICES:
            fix = "add volumes: ten or more of each modality make a better model"
            self.findings.append(Finding("warning", name, message, fix))
        else:
            self.findings.append(Finding("ok", name, message))
        self.findings += unused_volumes(name, getattr(self._preparation, name))
        self.findings += left_out(name, unused, volumes)
        if name in DOMAINS:
            self._check_window(name)
        if self._preparation.spacing is not None:
            extents = [(height, width) for _along, height, width in self._extents[name]]
            self.findings += beyond_grid(name, extents, self._preparation.size, self._preparation.spacing)
        if self._preparation.labelled(name):
            labelled = [structure.name for structure in self._task.structures if structure.value in self._parts[name]]
            level: Level = "warning" if name == "monitor" else "error"
            self.findings += never_labelled(name, labelled, self._task, level)
        for structure in self._task.structures:
            self._check_parts(name, structure)

    def _check_window(self, name: SetName) -> None:
        """Warn if the volumes don't look like one modality, or not like those that their window is meant for."""
        if mixture := doubt_about_mixture(self._lowest[name]):
            self.findings.append(Finding("warning", name, mixture, "leave out those of another modality"))
        window = self._preparation.preprocessing(domain_of(name)).intensity.window
        if doubt := doubt_about_window([value for _name, value in self._lowest[name]], window):
            option = f"--{domain_of(name)}-window"
            fix = f"leave out {option}" if window is not None else f"give {option}, such as -150,300 for soft tissue"
            self.findings.append(Finding("warning", name, doubt, fix))

    def _check_parts(self, name: SetName, structure: Structure) -> None:
        """Warn if a structure usually has more large parts than segmentation keeps of it."""
        counts = self._parts[name].get(structure.value, [0])
        usual = median_low(counts)
        if 0 < structure.parts < usual:
            share = f"{sum(count >= usual for count in counts)} of {len(counts)} labelmaps"
            message = f"{structure.name} has {usual} large parts or more in {share}, {structure.parts} would be kept"
            fix = f'set "parts": {usual} for it in the task file, or make each part a structure of its own'
            self.findings.append(Finding("warning", name, message, fix))

    def _compare_extents(self) -> None:
        """Compare the size of the fields of view in both domains, by their medians over the volumes."""
        extents = [self._extents[name] for name in DOMAINS]
        if not all(extents):
            return
        alike = True
        for direction, source, target in zip(_DIRECTIONS, *(zip(*some, strict=True) for some in extents), strict=True):
            a, b = median(source), median(target)
            if max(a, b) > OTHER_EXTENT * min(a, b):
                alike = False
                message = f"fields of view differ in {direction}: {a:.0f} mm in the source, {b:.0f} mm in the target"
                fix = "crop both to the same part of the body, with a region of interest or beforehand"
                self.findings.append(Finding("warning", "part of the body", message, fix))
        if alike:
            message = f"fields of view of about the same size (within a factor of {OTHER_EXTENT})"
            self.findings.append(Finding("ok", "part of the body", message))


def _describe(subject: str, placement: Placement, plane: Plane) -> Finding:
    """Describe size, spacing, orientation and slices of a volume; warn if it was acquired in another plane."""
    geometry = placement.geometry
    size = " x ".join(map(str, geometry.size))
    spacing = " x ".join(f"{value:.3g}" for value in geometry.spacing)
    message = f"{size} voxels of {spacing} mm, {_orientation(geometry)}, {len(placement)} {plane} slices"
    _, rows, columns = placement.spacings
    if max(rows, columns) <= _LONG_PIXEL * min(rows, columns):
        return Finding("ok", subject, message)
    thick = max(_PLANES, key=lambda other: nearest_orientation(geometry, other).reorder(geometry.spacing)[0])
    message += f", whose pixels are {rows:.3g} x {columns:.3g} mm"
    return Finding("warning", subject, message, f"it was acquired in {thick} slices: choose that plane")


def _orientation(geometry: Geometry) -> str:
    """Return the directions of the axes i, j, k, such as `LPS`; `near LPS` for an oblique volume."""
    letters, straight = "", True
    for column in geometry.direction_matrix.T:
        axis = int(np.abs(column).argmax())
        letters += _AXES[axis][int(column[axis] > 0)]
        straight = straight and abs(float(column[axis])) > 0.999
    return letters if straight else f"near {letters}"
