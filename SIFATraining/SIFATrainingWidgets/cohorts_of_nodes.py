"""Nodes of the scene to cohorts on disk that `prepare` reads: images, labelmaps, and `cohort.csv` that names them."""

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
"""Gets a volume's name, the number done before it, and the number in all: before the volume is written, and again and
again while it is, so that a window can live meanwhile."""


class SourceRow(NamedTuple):
    """A labelled volume: scalar volume, segmentation or labelmap, markups ROI or None."""

    volume: Any
    labels: Any | None = None
    region: Any | None = None


class TargetRow(NamedTuple):
    """An unlabelled volume: scalar volume, markups ROI or None, and labels for monitoring only or None."""

    volume: Any
    region: Any | None = None
    reference: Any | None = None


@dataclass(frozen=True)
class _Case:
    """A line of the CSV."""

    patient: str
    image: str
    label: str = ""
    region: str = ""


def stored_mapping(node: Any) -> dict[str, str] | None:
    """What the user said which part of a node is which structure: key -> name; None where nothing was said.

    It is kept with the node, so that it is saved with the scene.
    """
    text = node.GetAttribute(_MAPPING)
    return json.loads(text) if text else None


def store_mapping(node: Any, mapping: dict[str, str] | None) -> None:
    """Keep a mapping with its node; None goes back to matching by terminology and name."""
    node.SetAttribute(_MAPPING, json.dumps(mapping) if mapping is not None else None)


def shown_mapping(node: Any, task: Task) -> dict[str, str]:
    """Structure name (empty for none) of each part of a node by its key: what was said, else what matches.

    What was said for a task with other structures is not meant for this one.
    """
    matched, _by_number = match_parts(parts_of(node), task)
    mapping = {key: structure.name if structure is not None else "" for key, structure in matched.items()}
    stored = stored_mapping(node) or {}
    if all(not name or task.structure_named(name) is not None for name in stored.values()):
        mapping |= {key: name for key, name in stored.items() if key in mapping}
    return mapping


def found_structures(node: Any, task: Task) -> list[str]:
    """Names of the task's structures that a node labels, in the task's order."""
    named = set(shown_mapping(node, task).values())
    return [structure.name for structure in task.structures if structure.name in named]


def unlabelled_fault(source: Sequence[SourceRow]) -> InputError | None:
    """What is wrong where a source volume has no labels; None where all have."""
    bare = next((row.volume for row in source if row.labels is None), None)
    if bare is None:
        return None
    problem = _("The source volume {name} has no segmentation").format(name=bare.GetName())
    return InputError(problem, _("choose one, or remove its row"))


def check_labels(source: Sequence[SourceRow], target: Sequence[TargetRow], task: Task) -> None:
    """Whether what labels volumes holds some of the structures, before anything is written.

    Raises:
        InputError: One has none of the structures; names the node.
    """
    of_source = _("assign its segments to structures above, or choose another")
    of_target = _("choose another reference, or none")
    given = [*((row.labels, of_source) for row in source), *((row.reference, of_target) for row in target)]
    for node, advice in given:
        if node is not None and not found_structures(node, task):
            names = ", ".join(task.names)
            raise InputError(_("{name} has none of {names}").format(name=node.GetName(), names=names), advice)


def write_source(rows: Sequence[SourceRow], task: Task, folder: Path, progress: Progress) -> list[str]:
    """Write labelled volumes.

    Returns:
        What is to be known about their labels, such as overlaps.

    Raises:
        InputError: A volume or its labels can't be used; names the node.
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
    """Write unlabelled volumes, and those with a reference for monitoring once more in a cohort of their own.

    Returns:
        What is to be known about the references, such as overlaps.

    Raises:
        InputError: A volume or a reference can't be used; names the node.
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
            # In a folder of its own: nothing that trains ever looks into it.
            _write(Volume(labels.array, volume.geometry, name), folder / "monitoring" / f"{name}_label.mha", tell)
            monitored.append(_Case(name, f"../{name}_image.mha", f"{name}_label.mha", region_text(row.region)))
    _write_csv(folder / "cohort.csv", cases)
    if monitored:
        _write_csv(folder / "monitoring" / "cohort.csv", monitored)
    return notes


def task_from_parts_in_pieces(node: Any, tell: Callable[[str], None] = lambda _name: None) -> Work[Task]:
    """A task of one's own: the segments of a segmentation node, with their names, colours and terminology, and as
    many parts as they have here (two, where both kidneys are one segment). Some slices of a segment a piece.

    Args:
        node: Segmentation or labelmap node.
        tell: Gets the name of each segment before it is looked through.

    Raises:
        InputError: The node has no segment, or two of one name; or it was changed meanwhile.
    """
    from pydantic import ValidationError  # noqa: PLC0415  comes from pip

    from SIFASegmentationLib.structures import Task  # noqa: PLC0415

    structures, found = [], parts_of(node)
    for value, part in enumerate(found, 1):
        tell(part.name or part.key)
        # What is said is drawn before it is done.
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
    """How many large parts a segment, or a value of a labelmap, has; 1 where that is not known without an export."""
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
    # Of a mask of its own: what the node holds may change meanwhile.
    sizes = yield from component_sizes_in_pieces(voxels.view(np.uint8))
    return large_parts(sizes[1]) if sizes else 1


def _check_there(row: SourceRow | TargetRow) -> None:
    """While one volume is written the scene may be closed: then transforms are gone, and what is left lies elsewhere.

    Raises:
        InputError: A node of the row has left the scene.
    """
    for node in row:
        if node is not None and if_in_scene(node) is None:
            problem = _("{name} was removed from the scene while volumes were being written; nothing was started")
            raise InputError(problem.format(name=node.GetName()))


def _labels(node: Any, volume_node: Any, task: Task) -> Labels:
    """The labels of a node on the grid of a volume node.

    Raises:
        InputError: Nothing in it is a structure, or none of it lies on the volume.
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
    """What the table of segments shows, where a user has said something; None leaves it to the matching."""
    if stored_mapping(node) is None:
        return None
    return {key: name for key, name in shown_mapping(node, task).items() if name}


def names_of(rows: Sequence[SourceRow | TargetRow]) -> list[str]:
    """A file name for each row's volume, all different."""
    return file_names(row.volume.GetName() for row in rows)


def region_text(node: Any | None) -> str:
    """The box of a markups ROI node as X0,X1,Y0,Y1,Z0,Z1 in mm, LPS, as the cohort's CSV has it."""
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
    """Category, type and modifier of Slicer's entry; the generic tissue where it says nothing."""
    from SIFASegmentationLib.structures import GENERIC_TISSUE  # noqa: PLC0415  needs pydantic, which comes from pip

    codes = [field.split("^") for field in entry.split("~")[1:4]]
    valid = [{"code": c[1], "meaning": c[2]} if len(c) == 3 and c[0] == "SCT" and c[1] else None for c in codes]
    if len(valid) < 2 or valid[0] is None or valid[1] is None:
        tissue = {"code": GENERIC_TISSUE, "meaning": "Tissue"}
        return {"category": tissue, "type": tissue}
    return {"category": valid[0], "type": valid[1], "modifier": valid[2] if len(valid) > 2 else None}
