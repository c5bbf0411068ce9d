"""Any two segmentations against one another, whoever made them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from SIFASegmentationLib.boxes import common_box
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.scores import Row, ScoreTable
from SIFASegmentationLib.work import Work

from .nodes import array_of, geometry_from_node, if_in_scene, is_segmentation
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
    with common_grid(first, second) as grid:
        return (yield from _compare_on(grid, first, second, tolerance))


def _compare_on(grid: Any, first: Any, second: Any, tolerance: float) -> Work[ScoreTable]:
    from SIFASegmentationLib.metrics import score_labelmaps_in_pieces  # noqa: PLC0415  not every Slicer has SciPy

    for node in (first, second):
        if not is_segmentation(node):
            array_of(node)  # One without an image has no parts, which would be told as names that don't match.
    ours, theirs = parts_of(first), parts_of(second)
    pairs = match_pairs(ours, theirs)
    if not pairs:
        raise InputError(
            _("No part of {first} ({ours}) has a counterpart of its terminology or name in {second} ({theirs})").format(
                first=first.GetName(), ours=_names(ours), second=second.GetName(), theirs=_names(theirs)
            ),
            _("rename the segments"),
        )
    i, j, k = geometry_from_node(grid).spacing
    subject = f"{first.GetName()} / {second.GetName()}"
    predicted = voxels_of(first, [one.key for one, _other in pairs], grid)
    referred = voxels_of(second, [other.key for _one, other in pairs], grid)
    rows = []
    for (one, _other), (_key, ours_in), (_its_key, theirs_in) in zip(pairs, predicted, referred, strict=True):
        box = common_box(ours_in.where, theirs_in.where)
        # As labelmaps with one value, which are cropped to what has it.
        masks = ours_in.mask(box).view(np.uint8), theirs_in.mask(box).view(np.uint8)
        scored = yield from score_labelmaps_in_pieces(*masks, (k, j, i), [1], tolerance=tolerance)
        scores = scored[1]
        empty = [who for who, ml in ((first.GetName(), scores.prediction_ml), (second.GetName(), scores.reference_ml))
                 if ml == 0]  # fmt: skip
        note = _("{names} empty").format(names=_(" and ").join(empty)) if empty else ""
        rows.append(Row(subject, one.name or f"label {one.key}", scores, note))
        yield
    # By identity, since keys of the two nodes may be equal.
    matched = {id(part) for pair in pairs for part in pair}
    alone = [part.name or part.key for part in (*ours, *theirs) if id(part) not in matched]
    return ScoreTable(tuple(rows), tolerance=tolerance, unmatched=tuple(dict.fromkeys(alone)))


def match_pairs(first: list[Part], second: list[Part]) -> list[tuple[Part, Part]]:
    """Parts that are the same thing, in the order of `first`: by type and modifier of their terminology, of several
    with the same one by name as well; those that are left by name; labels without names by number."""
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
    """A volume node on whose grid two nodes can be compared: one of them, the volume that one was drawn on, or, where
    that is not in the scene, one with the grid that a segmentation remembers, which is there for as long as needed.

    Raises:
        InputError: Neither knows a grid.
    """
    grid = _grid_of(first) or _grid_of(second)
    if grid is not None:
        yield grid
        return
    made = _remembered_grid(first) or _remembered_grid(second)
    if made is None:
        raise InputError(
            _("Neither {first} nor {second} knows the volume that it was drawn on").format(
                first=first.GetName(), second=second.GetName()
            ),
            _("set a source volume in the Segment Editor"),
        )
    slicer.mrmlScene.AddNode(made)
    try:
        yield made
    finally:
        # The scene may have been closed meanwhile.
        if if_in_scene(made) is not None:
            slicer.mrmlScene.RemoveNode(made)


def _grid_of(node: Any) -> Any | None:
    """A volume node whose grid a node was drawn on: itself for a labelmap."""
    if not is_segmentation(node):
        return node
    return node.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())


def _remembered_grid(node: Any) -> Any | None:
    """A volume node, not in the scene, with the geometry that a segmentation keeps of the image it was drawn on."""
    converter = slicer.vtkSegmentationConverter
    text = node.GetSegmentation().GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
    image = slicer.vtkOrientedImageData()
    if not text or not converter.DeserializeImageGeometry(text, image, True) or min(image.GetDimensions()) < 1:
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
    grid = slicer.vtkMRMLScalarVolumeNode()
    grid.SetName(node.GetName())
    grid.SetHideFromEditors(True)
    grid.SetSaveWithScene(False)
    grid.SetIJKToRASMatrix(matrix)
    grid.SetAndObserveImageData(voxels)
    grid.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    return grid
