"""Write nodes of the scene as cohorts for `prepare`: images, labelmaps, and a `cohort.csv` that lists them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError, first_fault, unwritable
from SIFASegmentationLib.files import file_names, write_atomically
from SIFASegmentationLib.metaimage import write_in_portions
from SIFASegmentationLib.volumes import Volume
from SIFASegmentationLib.work import Work, at_once
from SIFASegmentationWidgets.nodes import (
    BINARY_LABELMAP,
    array_of,
    if_in_scene,
    is_segmentation,
    region_from_node,
    volume_from_node,
)
from SIFASegmentationWidgets.structures_of_nodes import Labels, labels_from_node, match_parts, parts_of

if TYPE_CHECKING:
    from SIFASegmentationLib.structures import Task

_MAPPING = "SIFA.structures"

Progress = Callable[[str, int, int], None]
"""Called with a volume's name, the number of volumes done before it, and the number of all volumes.

It is called before the volume is written, and repeatedly while it is, to keep a window responsive.
"""


class SourceRow(NamedTuple):
    """Nodes of a labelled volume: scalar volume, segmentation or labelmap, and markups ROI or None."""

    volume: Any
    labels: Any | None = None
    region: Any | None = None


class TargetRow(NamedTuple):
    """Nodes of an unlabelled volume: scalar volume, markups ROI or None, and labels for monitoring only or None."""

    volume: Any
    region: Any | None = None
    reference: Any | None = None


@dataclass(frozen=True)
class _Case:
    """A line of the cohort's CSV."""

    patient: str
    image: str
    label: str = ""
    region: str = ""


def stored_mapping(node: Any) -> dict[str, str] | None:
    """Return the user's choice of structure names by the keys of a node's parts; None if there is none.

    It is stored in the node, and so saved with the scene.
    """
    text = node.GetAttribute(_MAPPING)
    return json.loads(text) if text else None


def store_mapping(node: Any, mapping: dict[str, str] | None) -> None:
    """Store a mapping in its node; None returns to matching by terminology and name."""
    node.SetAttribute(_MAPPING, json.dumps(mapping) if mapping is not None else None)


def shown_mapping(node: Any, task: Task) -> dict[str, str]:
    """Return the structure name (empty for none) of each part of a node, by key: the user's choice, else what matches.

    Choices that were made for a task with other structures are ignored.
    """
    matched, _by_number = match_parts(parts_of(node), task)
    mapping = {key: structure.name if structure is not None else "" for key, structure in matched.items()}
    stored = stored_mapping(node) or {}
    if all(not name or task.structure_named(name) is not None for name in stored.values()):
        mapping |= {key: name for key, name in stored.items() if key in mapping}
    return mapping


def found_structures(node: Any, task: Task) -> list[str]:
    """Return the names of the task's structures that a node labels, in the task's order."""
    named = set(shown_mapping(node, task).values())
    return [structure.name for structure in task.structures if structure.name in named]


def unlabelled_fault(source: Sequence[SourceRow]) -> InputError | None:
    """Return the error for the first source volume without labels; None if all have labels."""
    bare = next((row.volume for row in source if row.labels is None), None)
    if bare is None:
        return None
    problem = _("The source volume {name} has no segmentation").format(name=bare.GetName())
    return InputError(problem, _("choose one, or remove its row"))


def check_labels(source: Sequence[SourceRow], target: Sequence[TargetRow], task: Task) -> None:
    """Check, before anything is written, that all labels contain some of the structures.

    Raises:
        InputError: A node has none of the structures; the error names it.
    """
    of_source = _("assign its segments to structures above, or choose another")
    of_target = _("choose another reference, or none")
    given = [*((row.labels, of_source) for row in source), *((row.reference, of_target) for row in target)]
    for node, advice in given:
        if node is not None and not found_structures(node, task):
            names = ", ".join(task.names)
            raise InputError(_("{name} has none of {names}").format(name=node.GetName(), names=names), advice)


def write_source(rows: Sequence[SourceRow], task: Task, folder: Path, progress: Progress) -> list[str]:
    """Write labelled volumes as a cohort.

    Returns:
        Remarks about their labels, such as overlaps.

    Raises:
        InputError: A volume or its labels can't be used, or have left the scene; the error names the node.
    """
    cases: list[_Case] = []
    notes: list[str] = []
    for number, (row, name) in enumerate(zip(rows, names_of(rows), strict=True)):
        tell = partial(progress, row.volume.GetName(), number, len(rows))
        tell()
        _check_there(row)
        volume = volume_from_node(row.volume)
        labels = _labels(row.labels, row.volume, task)
        notes += labels.notes
        _write(volume, folder / f"{name}_image.mha", tell)
        _write(Volume(labels.array, volume.geometry, name), folder / f"{name}_label.mha", tell)
        cases.append(_Case(name, f"{name}_image.mha", f"{name}_label.mha", region_text(row.region)))
    _write_csv(folder / "cohort.csv", cases)
    return notes


def write_target(rows: Sequence[TargetRow], task: Task, folder: Path, progress: Progress) -> list[str]:
    """Write unlabelled volumes as a cohort, and a second cohort of those that have a reference, for monitoring.

    Returns:
        Remarks about the references, such as overlaps.

    Raises:
        InputError: A volume or a reference can't be used, or has left the scene; the error names the node.
    """
    cases, monitored, notes = [], [], list[str]()
    for number, (row, name) in enumerate(zip(rows, names_of(rows), strict=True)):
        tell = partial(progress, row.volume.GetName(), number, len(rows))
        tell()
        _check_there(row)
        volume = volume_from_node(row.volume)
        _write(volume, folder / f"{name}_image.mha", tell)
        cases.append(_Case(name, f"{name}_image.mha", "", region_text(row.region)))
        if row.reference is not None:
            labels = _labels(row.reference, row.volume, task)
            notes += labels.notes
            # In a separate folder, which the training itself never reads.
            _write(Volume(labels.array, volume.geometry, name), folder / "monitoring" / f"{name}_label.mha", tell)
            monitored.append(_Case(name, f"../{name}_image.mha", f"{name}_label.mha", region_text(row.region)))
    _write_csv(folder / "cohort.csv", cases)
    if monitored:
        _write_csv(folder / "monitoring" / "cohort.csv", monitored)
    return notes


def task_from_parts_in_pieces(node: Any, tell: Callable[[str], None] = lambda _name: None) -> Work[Task]:
    """Make a task of the user's own from the segments of a node, yielding several times within each segment.

    Its structures have the segments' names, colours and terminology, and as many parts as the segments have in this
    node (two if both kidneys are one segment).

    Args:
        node: Segmentation or labelmap node.
        tell: Called with the name of each segment before its parts are counted.

    Raises:
        InputError: The node has no segments, or two of the same name, or was changed meanwhile.
    """
    from pydantic import ValidationError  # noqa: PLC0415  comes from pip

    from SIFASegmentationLib.structures import Task  # noqa: PLC0415

    structures, found = [], parts_of(node)
    for value, part in enumerate(found, 1):
        tell(part.name or part.key)
        # Gives the window time to draw the message before the work starts.
        yield
        if parts_of(node) != found:
            problem = _("{name} was changed while it was looked through").format(name=node.GetName())
            raise InputError(problem, _("press My structures again"))
        color, terminology = _color(node, part.key), _terminology(part.entry)
        parts = yield from _count_parts_in_pieces(node, part.key)
        structures.append(
            {"name": part.name, "value": value, "color": color, "terminology": terminology, "parts": parts}
        )
    if not structures:
        problem = _("The segmentation {name} has no segment").format(name=node.GetName())
        raise InputError(problem, _("draw the structures first"))
    name = re.sub(r"\W+", "_", node.GetName()).strip("_").lower() or "own"
    try:
        return Task.model_validate({"name": name, "title": node.GetName(), "plane": "axial", "structures": structures})
    except ValidationError as error:
        _field, reason = first_fault(error)
        problem = _("The segments of {name} can't be used ({reason})").format(name=node.GetName(), reason=reason)
        raise InputError(problem, _("correct them in the Segment Editor")) from error


task_from_parts = at_once(task_from_parts_in_pieces)


def _count_parts_in_pieces(node: Any, key: str) -> Work[int]:
    """Count the large parts of a segment or label value; 1 if that would take an export of the segment."""
    from SIFASegmentationLib.components import (  # noqa: PLC0415  scipy may come from pip
        component_sizes_in_pieces,
        large_parts,
    )

    if is_segmentation(node):
        segment = node.GetSegmentation().GetSegment(key)
        layer = segment.GetRepresentation(BINARY_LABELMAP)
        if layer is None or min(layer.GetDimensions()) < 1:
            return 1
        voxels = slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, key) == segment.GetLabelValue()
    else:
        voxels = array_of(node) == int(key)
    yield
    # Counted on a copy as a mask, since the node's voxels may change in the meantime.
    sizes = yield from component_sizes_in_pieces(voxels.view(np.uint8))
    return large_parts(sizes[1]) if sizes else 1


def _check_there(row: SourceRow | TargetRow) -> None:
    """Check that the nodes of a row are still in the scene, which may be closed while another volume is written.

    A node that has left the scene has lost its transform, and so would be written in the wrong place.

    Raises:
        InputError: A node of the row has left the scene.
    """
    for node in row:
        if node is not None and if_in_scene(node) is None:
            problem = _("{name} was removed from the scene while volumes were being written; nothing was started")
            raise InputError(problem.format(name=node.GetName()))


def _labels(node: Any, volume_node: Any, task: Task) -> Labels:
    """Return the labels of a node on the grid of a volume node.

    Raises:
        InputError: The node has none of the structures, or none of them lies on the volume.
    """
    labels = labels_from_node(node, volume_node, task, _chosen_mapping(node, task))
    if not labels.array.any():
        problem = _("{labels} labels no voxel of {volume}")
        raise InputError(
            problem.format(labels=node.GetName(), volume=volume_node.GetName()),
            _("check that the two belong together"),
        )
    return labels


def _chosen_mapping(node: Any, task: Task) -> dict[str, str] | None:
    """Return the mapping shown in the table of segments if the user has chosen one; None to match automatically."""
    if stored_mapping(node) is None:
        return None
    return {key: name for key, name in shown_mapping(node, task).items() if name}


def names_of(rows: Sequence[SourceRow | TargetRow]) -> list[str]:
    """Return a distinct file name for each row's volume."""
    return file_names(row.volume.GetName() for row in rows)


def region_text(node: Any | None) -> str:
    """Return the box of a markups ROI node as the cohort's CSV has it: X0,X1,Y0,Y1,Z0,Z1 in mm, LPS.

    Empty if the node is None.
    """
    return "" if node is None else region_from_node(node).text


def _write(volume: Volume, path: Path, tell: Callable[[], None]) -> None:
    for _portion in write_in_portions(volume, path):
        tell()


def _write_csv(path: Path, cases: list[_Case]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["patient", "image", "label", "region"])
            writer.writerows((case.patient, case.image, case.label, case.region) for case in cases)
    except OSError as error:
        raise unwritable(path, error) from error


def _color(node: Any, key: str) -> list[int]:
    if not is_segmentation(node):
        return [200, 120, 80]
    return [round(255 * channel) for channel in node.GetSegmentation().GetSegment(key).GetColor()]


def _terminology(entry: str) -> dict[str, Any]:
    """Return category, type and modifier of Slicer's terminology entry; generic tissue if it has no valid codes."""
    from SIFASegmentationLib.structures import GENERIC_TISSUE  # noqa: PLC0415  needs pydantic, which comes from pip

    codes = [field.split("^") for field in entry.split("~")[1:4]]
    valid = [{"code": c[1], "meaning": c[2]} if len(c) == 3 and c[0] == "SCT" and c[1] else None for c in codes]
    if len(valid) < 2 or valid[0] is None or valid[1] is None:
        tissue = {"code": GENERIC_TISSUE, "meaning": "Tissue"}
        return {"category": tissue, "type": tissue}
    return {"category": valid[0], "type": valid[1], "modifier": valid[2] if len(valid) > 2 else None}
