"""Any two segmentations against one another, whoever made them."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from SIFASegmentationLib.boxes import common_box
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.scores import Row, ScoreTable
from SIFASegmentationLib.work import Work

from .nodes import geometry_from_node
from .part_voxels import voxels_of
from .structures_of_nodes import Part, parts_of


def compare_in_pieces(first: Any, second: Any, *, tolerance: float = 2.0) -> Work[ScoreTable]:
    """Scores of each part of `first` against its counterpart in `second`, the reference; a portion of a part a piece.

    Args:
        first: Segmentation or labelmap node.
        second: The same.
        tolerance: Of surface Dice, in mm.

    Raises:
        InputError: No two parts match, or neither node knows a grid to compare on.
    """
    from SIFASegmentationLib.metrics import score_labelmaps_in_pieces  # noqa: PLC0415  not every Slicer has SciPy

    grid = _grid_of(first) or _grid_of(second)
    if grid is None:
        raise InputError(
            f"Neither {first.GetName()} nor {second.GetName()} knows the volume that it was drawn on: set a source "
            "volume in the Segment Editor."
        )
    ours, theirs = parts_of(first), parts_of(second)
    pairs = match_pairs(ours, theirs)
    if not pairs:
        raise InputError(
            f"No part of {first.GetName()} has a counterpart of its terminology or name in {second.GetName()}: rename "
            "the segments."
        )
    i, j, k = geometry_from_node(grid).spacing
    subject = f"{first.GetName()} / {second.GetName()}"
    predicted = voxels_of(first, [one.key for one, _ in pairs], grid)
    referred = voxels_of(second, [other.key for _, other in pairs], grid)
    rows = []
    for (one, _other), (_, ours_in), (_, theirs_in) in zip(pairs, predicted, referred, strict=True):
        box = common_box(ours_in.where, theirs_in.where)
        # As labelmaps with one value, which are cropped to what has it.
        masks = ours_in.mask(box).view(np.uint8), theirs_in.mask(box).view(np.uint8)
        scored = yield from score_labelmaps_in_pieces(*masks, (k, j, i), [1], tolerance=tolerance)
        scores = scored[1]
        empty = [who for who, ml in ((first.GetName(), scores.prediction_ml), (second.GetName(), scores.reference_ml))
                 if ml == 0]  # fmt: skip
        note = f"{' and '.join(empty)} empty" if empty else ""
        rows.append(Row(subject, one.name or f"label {one.key}", scores, note))
        yield
    matched = {part.key for pair in pairs for part in pair}
    alone = [part.name or part.key for part in (*ours, *theirs) if part.key not in matched]
    return ScoreTable(tuple(rows), tolerance=tolerance, unmatched=tuple(dict.fromkeys(alone)))


def match_pairs(first: list[Part], second: list[Part]) -> list[tuple[Part, Part]]:
    """Parts that are the same thing: by type and modifier of their terminology, else by name, else by number."""
    pairs: list[tuple[Part, Part]] = []
    for one in first:
        candidates = [other for other in second if all(other is not taken for _, taken in pairs)]
        for same in (_same_terminology, _same_name, _same_number):
            found = next((other for other in candidates if same(one, other)), None)
            if found is not None:
                pairs.append((one, found))
                break
    return pairs


def _same_terminology(one: Part, other: Part) -> bool:
    codes = _codes(one)
    return codes is not None and codes == _codes(other)


def _codes(part: Part) -> list[list[str]] | None:
    """Scheme and code of type and modifier; None for what says nothing, such as Slicer's generic `Tissue`."""
    codes = [fields.split("^")[:2] for fields in part.entry.split("~")[2:4]]
    generic = {"85756007", ""}  # Tissue, which Slicer gives to every new segment.
    return codes if len(codes) == 2 and codes[0][-1] not in generic else None


def _same_name(one: Part, other: Part) -> bool:
    return bool(one.name) and one.name.strip().casefold() == other.name.strip().casefold()


def _same_number(one: Part, other: Part) -> bool:
    return not one.name and not other.name and one.key == other.key


def _grid_of(node: Any) -> Any | None:
    """A volume node whose grid a node was drawn on: itself for a labelmap."""
    if not node.IsA("vtkMRMLSegmentationNode"):
        return node
    return node.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())
