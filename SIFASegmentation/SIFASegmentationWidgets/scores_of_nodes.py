"""Scores of segmentation nodes against reference nodes, or volumes of the structures if there is no reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.work import Work

from . import nodes, structures_of_nodes
from .part_voxels import voxels_of
from .shown_results import ShownResult

if TYPE_CHECKING:
    from SIFASegmentationLib.scores import Row, ScoreTable
    from SIFASegmentationLib.structures import Task


def score_in_pieces(segmentation: Any, reference: Any, volume: Any, task: Task, tolerance: float) -> Work[list[Row]]:
    """Score a segmentation on a volume's grid: a row for each structure of a task, yielding several times for each.

    Args:
        segmentation: Segmentation or labelmap node to score.
        reference: Segmentation or labelmap node to score it against.
        volume: Volume node whose grid is used.
        task: The structures.
        tolerance: Tolerance of surface Dice, in mm, for structures of the task without their own.

    Raises:
        InputError: A node has none of the structures, or a transform can't be used.
    """
    from SIFASegmentationLib.evaluation import score_pair_in_pieces  # noqa: PLC0415
    from SIFASegmentationLib.volumes import Volume  # noqa: PLC0415

    geometry = nodes.geometry_from_node(volume)
    truth = structures_of_nodes.labels_from_node(reference, volume, task)
    yield
    # An empty prediction has no part that could be matched, but must still be scored.
    has_parts = bool(structures_of_nodes.parts_of(segmentation))
    predicted = (
        structures_of_nodes.labels_from_node(segmentation, volume, task)
        if has_parts
        else structures_of_nodes.Labels(0 * truth.array)
    )
    yield
    scored = yield from score_pair_in_pieces(
        volume.GetName(),
        Volume(predicted.array, geometry, segmentation.GetName()),
        Volume(truth.array, geometry, reference.GetName()),
        {structure.value: structure.name for structure in task.structures if structure.name in truth.structures},
        tolerance=tolerance,
        tolerances=task.tolerances_mm,
        notes=(*predicted.notes, *truth.notes),
    )
    if len(scored) == len(task.structures):
        return list(scored)
    # A structure that was not drawn in the reference is not known to be absent, so it gets no score.
    unscored = volume_rows(segmentation, volume, task, _("not in the reference"))
    rows = {row.structure: row for row in (*unscored, *scored)}
    return [rows[structure.name] for structure in task.structures]


def score_results_in_pieces(results: Sequence[ShownResult], task: Task, tolerance: float) -> Work[ScoreTable]:
    """Score results against their references; where there is no usable one, give the structures' volumes.

    Args:
        results: Results of a run; those whose nodes have left the scene are skipped.
        task: The structures.
        tolerance: Tolerance of surface Dice, in mm, for structures of the task without their own.
    """
    from SIFASegmentationLib.scores import ScoreTable  # noqa: PLC0415

    rows: list[Row] = []
    subjects = nodes.unique_names([result.volume for result in results if result.volume is not None])
    compares = any(result.baseline_id for result in results)
    for result in results:
        volume, reference = result.volume, result.reference
        for segmentation, estimates, doubts, method in (
            (result.segmentation, result.estimates, result.doubts, _("adapted") if compares else ""),
            (result.baseline, result.baseline_estimates, {}, _("without adaptation")),
        ):
            if volume is None or segmentation is None:
                continue
            if reference is None:
                made = volume_rows(segmentation, volume, task, _("no reference"))
                yield
            else:
                try:
                    made = yield from score_in_pieces(segmentation, reference, volume, task, tolerance)
                except InputError as error:
                    # A reference that can't be used must not cost the other results their scores.
                    made = volume_rows(segmentation, volume, task, str(error))
            rows += [
                replace(
                    row, subject=subjects[volume.GetID()], method=method, estimate=estimates.get(row.structure),
                    note="; ".join(filter(None, (row.note, doubts.get(row.structure)))),
                )
                for row in made
            ]  # fmt: skip
    return ScoreTable(tuple(rows), tolerance=tolerance)


def volume_rows(segmentation: Any, volume: Any, task: Task, note: str) -> list[Row]:
    """Return rows with the volume of each structure of a task, in ml, and no scores; `note` says why there are none.

    Several segments of the same structure are counted as their union.
    """
    from SIFASegmentationLib.scores import Row, Scores  # noqa: PLC0415

    voxel_ml = nodes.geometry_from_node(volume).voxel_volume_ml
    matched, _by_number = structures_of_nodes.match_parts(structures_of_nodes.parts_of(segmentation), task)
    rows = []
    for structure in task.structures:
        keys = [key for key, found in matched.items() if found is structure]
        ml = _count(segmentation, keys, volume) * voxel_ml
        found = note if ml else _("not found; {note}").format(note=note)
        rows.append(Row(volume.GetName(), structure.name, Scores(nan, nan, nan, nan, ml, nan, nan), found))
    return rows


def _count(segmentation: Any, keys: list[str], volume: Any) -> int:
    """Return the number of voxels in the union of some parts of a node."""
    parts = [voxels for _key, voxels in voxels_of(segmentation, keys, volume)]
    if len(parts) == 1:
        return parts[0].count()
    united = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.bool_)
    for voxels in parts:
        voxels.paint(united, 1)
    return int(np.count_nonzero(united))
