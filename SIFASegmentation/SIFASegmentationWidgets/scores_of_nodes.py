"""Scores of a segmentation node against a reference node, and what can be said where there is none."""

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
    """A row for each structure of a task, a portion of a structure a piece."""
    from SIFASegmentationLib.evaluation import score_pair_in_pieces  # noqa: PLC0415
    from SIFASegmentationLib.volumes import Volume  # noqa: PLC0415

    geometry = nodes.geometry_from_node(volume)
    truth = structures_of_nodes.labels_from_node(reference, volume, task)
    yield
    # An empty prediction has no part that could be matched, and still has to be scored.
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
    # What nobody drew in the reference is no structure that is not there.
    unscored = volume_rows(segmentation, volume, task, _("not in the reference"))
    rows = {row.structure: row for row in (*unscored, *scored)}
    return [rows[structure.name] for structure in task.structures]


def score_results_in_pieces(results: Sequence[ShownResult], task: Task, tolerance: float) -> Work[ScoreTable]:
    """Scores of results where they have a reference that can be used, the structures' volumes where not."""
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
                    # One reference that can't be used does not take the others' scores away.
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
    """Rows with the volume of each structure of a task in ml and no score; `note` says why.

    Several segments of one structure are counted as one that holds them all.
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
    """Number of voxels that some of a node's parts have."""
    parts = [voxels for _key, voxels in voxels_of(segmentation, keys, volume)]
    if len(parts) == 1:
        return parts[0].count()
    united = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.bool_)
    for voxels in parts:
        voxels.paint(united, 1)
    return int(np.count_nonzero(united))
