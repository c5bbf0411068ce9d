"""The parts of a segmentation or labelmap node, and which structures they are.

Parts are matched by terminology, then by name; only if no label of a labelmap matches by name, by number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from SIFASegmentationLib.boxes import ValueBoxes, values_in
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.work import result_of

from .nodes import array_of, is_segmentation
from .part_voxels import is_empty, voxels_of
from .reach import is_within, reach_in_pieces

if TYPE_CHECKING:
    from SIFASegmentationLib.structures import Structure, Task


@dataclass(frozen=True)
class Part:
    """A segment, or a value of a labelmap.

    Attributes:
        key: Segment ID, or the label value as text.
        name: Name of the segment, or of the value in the colour table; may be empty.
        entry: Terminology entry as Slicer stores it; empty if there is none.
    """

    key: str
    name: str
    entry: str = ""


@dataclass(frozen=True)
class Labels:
    """Labels of a node.

    Attributes:
        array: uint8 (k, j, i), with the task's label values.
        notes: Remarks about the labels, such as overlaps.
        structures: Names of the structures that the node could contain: all of the task's for a labelmap; those that
            have a segment, even an empty one, for a segmentation.
    """

    array: np.ndarray
    notes: tuple[str, ...] = ()
    structures: frozenset[str] = frozenset()


def parts_of(node: Any) -> list[Part]:
    """Return the segments of a segmentation node, or the values (without 0) of a labelmap node."""
    if is_segmentation(node):
        segmentation = node.GetSegmentation()
        segments = [(key, segmentation.GetSegment(key)) for key in segmentation.GetSegmentIDs()]
        return [Part(key, segment.GetName(), _entry(segment)) for key, segment in segments]
    if node.GetImageData() is None:
        return []
    display = node.GetDisplayNode()
    colors = display.GetColorNode() if display is not None else None
    values = [value for value in _values_of(node) if value != 0]
    return [Part(str(value), (colors.GetColorName(value) or "") if colors is not None else "") for value in values]


_values: dict[str, tuple[int, list[int]]] = {}
"""Cache of labelmap nodes' modification times and values, by ID: windows ask again at every change of a parameter."""


def _values_of(node: Any) -> list[int]:
    image = node.GetImageData()
    changed = max(image.GetMTime(), image.GetPointData().GetMTime())
    known = _values.get(node.GetID())
    if known is None or known[0] != changed:
        known = changed, list(values_in(array_of(node)))
        _values[node.GetID()] = known
    return known[1]


def structure_of(part: Part, task: Task) -> Structure | None:
    """Return the task's structure that a part is, by terminology or name; None if it is none of them.

    The name decides if the part's terminology is that of several structures, or of none.
    """
    coded = [s for s in task.structures if part.entry and s.terminology.is_in(part.entry)]
    named = task.structure_named(part.name) if part.name else None
    return coded[0] if len(coded) == 1 else named


def match_parts(parts: Iterable[Part], task: Task) -> tuple[dict[str, Structure | None], bool]:
    """Return the structure of each part by key (None if it is none), and whether label numbers had to decide."""
    parts = list(parts)
    matched = {part.key: structure_of(part, task) for part in parts}
    if any(matched.values()) or not all(part.key.isdecimal() for part in parts):
        return matched, False
    own = {str(structure.value): structure for structure in task.structures}
    return {part.key: own.get(part.key) for part in parts}, True


def labels_from_node(node: Any, volume_node: Any, task: Task, mapping: dict[str, str] | None = None) -> Labels:
    """Return the labels of a segmentation or labelmap node on the grid of a volume node.

    Args:
        node: Segmentation or labelmap node.
        volume_node: Volume node that provides the grid.
        task: The structures (`SIFASegmentationLib.structures.Task`).
        mapping: Names of structures by the keys of parts; if given, nothing is matched automatically.

    Raises:
        InputError: Nothing in the node is a structure of the task, or a transform can't be used.
    """
    parts, notes = parts_of(node), []
    if mapping is None:
        matched, by_number = match_parts(parts, task)
        if by_number:
            notes.append(_("labels of {name} matched by number").format(name=node.GetName()))
    else:
        matched = {key: task.structure_named(name) for key, name in mapping.items()}
    chosen = {part.key: structure for part in parts if (structure := matched.get(part.key)) is not None}
    if not chosen:
        names = ", ".join(part.name or part.key for part in parts) or "(none)"
        raise InputError(
            _("{name} has the parts {names}, none of which is a structure of the task").format(
                name=node.GetName(), names=names
            ),
            _("name them {wanted}").format(wanted=", ".join(task.names)),
        )
    labels = np.zeros(slicer.util.arrayFromVolume(volume_node).shape, np.uint8)
    overlap, resampled, outside = 0, False, []
    for key, voxels in voxels_of(node, chosen, volume_node):
        count, overlapping = voxels.paint(labels, chosen[key].value)
        overlap += overlapping
        resampled |= voxels.resampled
        if count == 0 and not is_empty(node, key):
            outside.append(chosen[key].name)
    if overlap:
        note = _("segments of {name} overlap in {voxels} voxels, which go to the later one")
        notes.append(note.format(name=node.GetName(), voxels=overlap))
    if outside:
        note = _("{parts} of {name} does not lie on {volume}")
        notes.append(note.format(parts=", ".join(outside), name=node.GetName(), volume=volume_node.GetName()))
    else:
        reached = result_of(reach_in_pieces(node, chosen, volume_node, ValueBoxes()))
        if reached is not None and not is_within(reached, volume_node):
            note = _("some of {name} lies outside of {volume}")
            notes.append(note.format(name=node.GetName(), volume=volume_node.GetName()))
        if resampled:
            note = _("{name} resampled to the grid of {volume}")
            notes.append(note.format(name=node.GetName(), volume=volume_node.GetName()))
    of_segments = {structure.name for structure in matched.values() if structure is not None}
    drawn = of_segments if is_segmentation(node) else set(task.names)
    return Labels(labels, tuple(notes), frozenset(drawn))


def _entry(segment: Any) -> str:
    entry = vtk.mutable("")
    return str(entry) if segment.GetTag(segment.GetTerminologyEntryTagName(), entry) else ""
