"""Checks of the rows in a training's tables, before the training starts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.orientation import Plane, nearest_orientation
from SIFASegmentationLib.volumes import Geometry
from SIFASegmentationLib.work import Work, at_once
from SIFASegmentationWidgets.nodes import array_of, geometry_from_node, lie_apart, volume_from_node
from SIFATrainingLib.findings import FEW_SLICES, Finding

from .cohorts_of_nodes import SourceRow, TargetRow, found_structures

if TYPE_CHECKING:
    from SIFASegmentationLib.structures import Task

Window = tuple[float, float] | None
"""Intensity window in HU, or None for percentiles."""


def check_rows_in_pieces(
    source: Sequence[SourceRow] | None,
    target: Sequence[TargetRow] | None,
    task: Task,
    region: Any | None = None,
    windows: tuple[Window, Window] = (None, None),
    plane: Plane | None = None,
) -> Work[list[Finding]]:
    """Check geometry, labels and number of the volumes in the two tables, yielding several times per volume.

    Nothing is written or resampled.

    Args:
        source: Source rows with a volume; None if the source is a folder of files.
        target: Target rows with a volume; None if the target is a folder of files.
        task: The structures.
        region: Markups ROI node for every volume that has none of its own.
        windows: Windows that the source and the target are clipped to.
        plane: Plane of the slices; the task's if None.
    """
    findings: list[Finding] = []
    sources, targets = list(source or ()), list(target or ())
    for kind, rows in ((_("source"), source), (_("target"), target)):
        if rows is not None and not rows:
            findings.append(Finding("error", kind, _("no volume"), _("add volumes to the table, or choose a folder")))
    findings += yield from _check_labels(sources, task)
    findings += yield from _check_references(targets, task)
    for kind, some, window in ((_("source"), sources, windows[0]), (_("target"), targets, windows[1])):
        volumes = [row.volume for row in some]
        unusable, slices = yield from _check_volumes(volumes, plane or task.plane)
        findings += unusable + (yield from _check_window(kind, volumes, window))
        findings += _check_regions(some, region)
        if some:
            few = slices < FEW_SLICES
            message = _("volumes: {volumes}, slices: {slices}").format(volumes=len(some), slices=slices)
            fix = _("more volumes make a better model: ten or more of each modality") if few else ""
            findings.append(Finding("warning" if few else "ok", kind, message, fix))
    return findings


check_rows = at_once(check_rows_in_pieces)


def what_is_written(
    source: Sequence[SourceRow] | None, target: Sequence[TargetRow] | None, plane: Plane
) -> tuple[int, int]:
    """Return the number of slices in the two tables, and the bytes of their files in the job's folder, with labels."""
    rows: list[SourceRow | TargetRow] = [*(source or ()), *(target or ())]
    slices = copied_bytes = 0
    for row in rows:
        # Volumes that can't be used are reported by `check_rows`, and not written.
        with suppress(InputError):
            slices += _slices(geometry_from_node(row.volume), plane)
            image = row.volume.GetImageData()
            labels = row.labels if isinstance(row, SourceRow) else row.reference
            copied_bytes += image.GetNumberOfPoints() * (image.GetScalarSize() + (labels is not None))
    return slices, copied_bytes


def _check_volumes(volumes: Sequence[Any], plane: Plane) -> Work[tuple[list[Finding], int]]:
    """Return findings about volumes that can't be used, and the number of slices along a plane in the others."""
    findings, slices = [], 0
    for node in volumes:
        try:
            slices += _slices(volume_from_node(node).geometry, plane)
        except InputError as error:
            findings.append(Finding.of(node.GetName(), error))
        yield
    return findings, slices


def _slices(geometry: Geometry, plane: Plane) -> int:
    return nearest_orientation(geometry, plane).reorder(geometry.size)[0]


def _check_window(kind: str, volumes: Sequence[Any], window: Window) -> Work[list[Finding]]:
    """Check whether volumes seem to be of one modality, and of the one that their window is meant for."""
    from SIFASegmentationLib.plausibility import (  # noqa: PLC0415  needs pydantic, which comes from pip
        doubt_about_mixture,
        doubt_about_window,
    )

    findings = []
    lowest: list[tuple[str, float]] = []
    for node in volumes:
        # Volumes without an image are reported elsewhere. NumPy finds the minimum many times faster than VTK.
        with suppress(InputError):
            lowest.append((node.GetName(), float(array_of(node).min())))
        yield
    if mixture := doubt_about_mixture(lowest):
        findings.append(Finding("warning", kind, mixture, _("leave out those of another modality")))
    if doubt := doubt_about_window([value for _name, value in lowest], window):
        fix = _("tick CT, clip to HU, and choose a window") if window is None else _("untick CT, clip to HU")
        findings.append(Finding("warning", kind, doubt, fix))
    return findings


def _check_regions(rows: Sequence[SourceRow | TargetRow], region: Any | None) -> list[Finding]:
    findings = []
    for row in rows:
        chosen = row.region or region
        if chosen is not None and lie_apart(row.volume, chosen):
            message = _("does not lie on {volume}").format(volume=row.volume.GetName())
            findings.append(Finding("error", chosen.GetName(), message, _("move it, or choose none")))
    return findings


def _check_labels(rows: Sequence[SourceRow], task: Task) -> Work[list[Finding]]:
    findings = []
    seen: set[str] = set()
    for row in rows:
        name = row.volume.GetName()
        if row.labels is None:
            findings.append(Finding("error", name, _("no segmentation"), _("choose one in its row, or remove the row")))
            continue
        found = found_structures(row.labels, task)
        seen |= set(found)
        missing = [name for name in task.names if name not in found]
        count = _("{n} of {all} structures").format(n=len(found), all=len(task.structures))
        if not found:
            fix = _("assign its segments to structures in the table of segments above")
            findings.append(Finding("error", row.labels.GetName(), _("none of the structures"), fix))
        elif missing:
            message = _("{count}, without {missing}").format(count=count, missing=", ".join(missing))
            fix = _("if it is visible in the image, leaving it unlabelled teaches the model that it is background")
            findings.append(Finding("warning", row.labels.GetName(), message, fix))
        findings += _check_place(row.volume, row.labels)
        yield
    never = [name for name in task.names if name not in seen]
    if rows and seen and never:
        fix = _("label it in some source volume, or choose another task")
        findings.append(Finding("error", _("task"), _("never labelled: {names}").format(names=", ".join(never)), fix))
    return findings


def _check_references(rows: Sequence[TargetRow], task: Task) -> Work[list[Finding]]:
    """Check the labels of target volumes, which only serve to monitor the training."""
    findings = []
    for row in rows:
        if row.reference is None:
            continue
        if not found_structures(row.reference, task):
            fix = _("choose another reference, or none")
            findings.append(Finding("error", row.reference.GetName(), _("none of the structures"), fix))
        findings += _check_place(row.volume, row.reference)
        yield
    return findings


def _check_place(volume: Any, labels: Any) -> list[Finding]:
    if not lie_apart(volume, labels):
        return []
    message = _("does not lie on {volume}").format(volume=volume.GetName())
    return [Finding("error", labels.GetName(), message, _("choose the segmentation of this volume"))]
