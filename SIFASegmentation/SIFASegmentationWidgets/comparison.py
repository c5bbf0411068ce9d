"""Comparison of any two segmentations, whatever made them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from SIFASegmentationLib.boxes import ValueBoxes, common_box, is_too_wide
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.scores import DEFAULT_TOLERANCE_MM, Row, Scores, ScoreTable
from SIFASegmentationLib.work import Work

from .nodes import array_of, drawn_on, geometry_from_node, if_in_scene, is_segmentation, remembered_image
from .part_voxels import PartVoxels, voxels_of
from .reach import Reach, common_reach, is_within, reach_in_pieces
from .structures_of_nodes import Part, parts_of


def compare_in_pieces(first: Any, second: Any, *, tolerance: float = DEFAULT_TOLERANCE_MM) -> Work[ScoreTable]:
    """Score each part of `first` against its counterpart in `second`, yielding several times within each part.

    Args:
        first: Segmentation or labelmap node to score.
        second: Segmentation or labelmap node that serves as the reference.
        tolerance: Tolerance of surface Dice, in mm.

    Raises:
        InputError: No two parts match, or neither node defines a grid to compare on.
    """
    for node in (first, second):
        if not is_segmentation(node):
            array_of(node)  # Raises if there is no image; otherwise the error would be that no names match.
    ours, theirs = parts_of(first), parts_of(second)
    pairs = match_pairs(ours, theirs)
    if not pairs:
        raise InputError(
            _("No segment of {first} ({ours}) matches one of {second} ({theirs}) by terminology or name").format(
                first=first.GetName(), ours=_names(ours), second=second.GetName(), theirs=_names(theirs)
            ),
            _("rename the segments"),
        )
    rows = yield from _score_pairs(first, second, pairs, tolerance)
    # By identity, since the two nodes may use the same keys.
    matched = {id(part) for pair in pairs for part in pair}
    alone = [part.name or part.key for part in (*ours, *theirs) if id(part) not in matched]
    return ScoreTable(tuple(rows), tolerance=tolerance, unmatched=tuple(dict.fromkeys(alone)))


def _score_pairs(first: Any, second: Any, pairs: list[tuple[Part, Part]], tolerance: float) -> Work[list[Row]]:
    ours, theirs = [one.key for one, _other in pairs], [other.key for _one, other in pairs]
    boxes = ValueBoxes()
    with common_grid(first, second) as known:
        array_of(known)  # Raises an error that names the node if it has no image.
        ours_reach = yield from reach_in_pieces(first, ours, known, boxes)
        theirs_reach = yield from reach_in_pieces(second, theirs, known, boxes)
        with _wide_enough(known, common_reach(ours_reach, theirs_reach)) as (grid, note):
            predicted, referred = voxels_of(first, ours, grid), voxels_of(second, theirs, grid)
            spacing = geometry_from_node(grid).spacing
            names = first.GetName(), second.GetName()
            rows = []
            for (one, _other), (_key, our), (_its_key, their) in zip(pairs, predicted, referred, strict=True):
                voxels = our.within((yield from boxes.of(our.array, our.value)))
                reference = their.within((yield from boxes.of(their.array, their.value)))
                scores = yield from _score_part(voxels, reference, spacing, tolerance)
                rows.append(_row(names, one.name or f"label {one.key}", scores, note))
                yield
            return rows


def _score_part(
    voxels: PartVoxels, reference: PartVoxels, spacing: tuple[float, float, float], tolerance: float
) -> Work[Scores]:
    from SIFASegmentationLib.metrics import score_labelmaps_in_pieces  # noqa: PLC0415  not every Slicer has SciPy

    box = common_box(voxels.where, reference.where)
    # Scored as labelmaps with a single value, since those are cropped to their labelled part.
    masks = voxels.mask(box).view(np.uint8), reference.mask(box).view(np.uint8)
    scored = yield from score_labelmaps_in_pieces(*masks, spacing[::-1], [1], tolerance=tolerance)
    return scored[1]


def _row(names: tuple[str, str], part: str, scores: Scores, note: str) -> Row:
    volumes = zip(names, (scores.prediction_ml, scores.reference_ml), strict=True)
    empty = [who for who, ml in volumes if ml == 0]
    notes = [_("{names} empty").format(names=_(" and ").join(empty)) if empty else "", note]
    return Row(" / ".join(names), part, scores, "; ".join(filter(None, notes)))


def match_pairs(first: list[Part], second: list[Part]) -> list[tuple[Part, Part]]:
    """Pair the parts of two nodes that denote the same thing, in the order of `first`.

    Parts match by the type and modifier of their terminology, and by name as well where several share these; the
    remaining parts match by name, and labels without names by number.
    """
    taken: dict[int, Part] = {}
    for same in (_same_terminology_and_name, _same_terminology, _equal_name, _same_name, _same_number):
        for index, one in enumerate(first):
            left = (other for other in second if all(other is not used for used in taken.values()))
            found = next((other for other in left if same(one, other)), None) if index not in taken else None
            if found is not None:
                taken[index] = found
    return [(first[index], taken[index]) for index in sorted(taken)]


def _same_terminology_and_name(one: Part, other: Part) -> bool:
    return _same_terminology(one, other) and (_equal_name(one, other) or _same_name(one, other))


def _same_terminology(one: Part, other: Part) -> bool:
    from SIFASegmentationLib.structures import codes_of  # noqa: PLC0415  needs pydantic, which comes from pip

    codes = codes_of(one.entry)
    return codes is not None and codes == codes_of(other.entry)


def _equal_name(one: Part, other: Part) -> bool:
    return bool(one.name) and one.name.strip().casefold() == other.name.strip().casefold()


def _same_name(one: Part, other: Part) -> bool:
    from SIFASegmentationLib.structures import normal_name  # noqa: PLC0415  needs pydantic, which comes from pip

    return bool(normal_name(one.name)) and normal_name(one.name) == normal_name(other.name)


def _same_number(one: Part, other: Part) -> bool:
    return not one.name and not other.name and one.key == other.key


def _names(parts: list[Part]) -> str:
    return ", ".join(part.name or part.key for part in parts) or _("no part")


@contextmanager
def common_grid(first: Any, second: Any) -> Iterator[Any]:
    """Provide a volume node on whose grid two nodes can be compared.

    This is one of the two (a labelmap), or the volume that one of them was drawn on. If that is not in the scene, it is
    a temporary node with the grid that a segmentation remembers, removed on exit.

    Raises:
        InputError: Neither node defines a grid.
    """
    grid = _grid_of(first) or _grid_of(second)
    if grid is not None:
        yield grid
        return
    made = _remembered_grid(first) or _remembered_grid(second)
    if made is None:
        raise InputError(
            _("Neither {first} nor {second} has a source volume").format(
                first=first.GetName(), second=second.GetName()
            ),
            _("set a source volume in the Segment Editor"),
        )
    with _in_scene(made):
        yield made


@contextmanager
def _wide_enough(grid: Any, reached: Reach | None) -> Iterator[tuple[Any, str]]:
    """Provide a volume node that covers what two nodes reach, and a note where that goes beyond `grid`, else "".

    If `grid` does not cover it, the node is a temporary one with an extended grid of the same voxels, removed on exit;
    if that would be too large, it is `grid` itself. Files are compared in the same way
    (`SIFASegmentationLib.evaluation`).
    """
    if reached is None or is_within(reached, grid):
        yield grid, ""
        return
    first, end = reached
    if is_too_wide((end - first).tolist(), grid.GetImageData().GetDimensions()):
        yield grid, _("the two lie far apart: check that they are of the same volume")
        return
    matrix = vtk.vtkMatrix4x4()
    grid.GetIJKToRASMatrix(matrix)
    start = matrix.MultiplyPoint((*first.tolist(), 1.0))
    for axis in range(3):
        matrix.SetElement(axis, 3, start[axis])
    voxels = vtk.vtkImageData()
    voxels.SetDimensions(*(end - first).tolist())
    voxels.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    made = _grid_node(grid.GetName(), matrix, voxels, grid.GetTransformNodeID())
    with _in_scene(made):
        yield made, _("{name} does not cover all that is compared, and was extended").format(name=grid.GetName())


@contextmanager
def _in_scene(node: Any) -> Iterator[None]:
    """Keep a node in the scene for the duration of the `with` block."""
    slicer.mrmlScene.AddNode(node)
    try:
        yield
    finally:
        # The scene may have been closed in the meantime.
        if if_in_scene(node) is not None:
            slicer.mrmlScene.RemoveNode(node)


def _grid_node(name: str, ijk_to_ras: Any, voxels: Any, transform: str | None) -> Any:
    """Make a hidden volume node, not yet in the scene, that only serves as a grid."""
    grid = slicer.vtkMRMLScalarVolumeNode()
    grid.SetName(name)
    grid.SetHideFromEditors(True)
    grid.SetSaveWithScene(False)
    grid.SetIJKToRASMatrix(ijk_to_ras)
    grid.SetAndObserveImageData(voxels)
    grid.SetAndObserveTransformNodeID(transform)
    return grid


def _grid_of(node: Any) -> Any | None:
    """Return the volume node whose grid a node was drawn on (itself for a labelmap), or None."""
    if not is_segmentation(node):
        return node
    return drawn_on(node)


def _remembered_grid(node: Any) -> Any | None:
    """Make a volume node, not yet in the scene, with the image geometry that a segmentation remembers.

    None if it remembers none.
    """
    image = remembered_image(node, with_voxels=True)
    if image is None or min(image.GetDimensions()) < 1:
        return None
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    i, _i, j, _j, k, _k = image.GetExtent()
    start = matrix.MultiplyPoint((i, j, k, 1.0))
    for axis in range(3):
        matrix.SetElement(axis, 3, start[axis])
    voxels = vtk.vtkImageData()
    voxels.SetDimensions(*image.GetDimensions())
    voxels.GetPointData().SetScalars(image.GetPointData().GetScalars())
    return _grid_node(node.GetName(), matrix, voxels, node.GetTransformNodeID())
