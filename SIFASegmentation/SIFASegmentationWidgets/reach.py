"""How far the parts of a node reach on a volume's grid, which need not hold all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import slicer
import vtk

from SIFASegmentationLib.boxes import Box, covered_voxels, labelled_box

from .nodes import BINARY_LABELMAP, array_of, is_segmentation

Reach = tuple[np.ndarray, np.ndarray]
"""First voxel (i, j, k) of a grid, and the one after the last; either may be outside of it."""


def reach(node: Any, keys: Iterable[str], volume_node: Any) -> Reach | None:
    """The voxels of a volume's grid that parts of a node touch; no more than that where some are outside of it.

    None where the parts have no voxel, or where the two nodes lie under different transforms that are not linear.

    Args:
        node: Segmentation or labelmap node.
        keys: Of its parts (`structures_of_nodes.Part`).
        volume_node: Gives the grid.
    """
    to_grid = _to_grid(node, volume_node)
    if to_grid is None:
        return None
    keys = list(keys)
    whole = _voxels_at(to_grid, _corners(node, keys, tight=False))
    # What a node keeps, mostly no more than it must, is looked through where that tells anything.
    if whole is None or _is_within(whole, volume_node):
        return whole
    return _voxels_at(to_grid, _corners(node, keys, tight=True))


def reaches_out(node: Any, keys: Iterable[str], volume_node: Any) -> bool:
    """Whether some of the parts' voxels lie outside of a volume's grid."""
    reached = reach(node, keys, volume_node)
    return reached is not None and not _is_within(reached, volume_node)


def common_reach(one: Reach | None, other: Reach | None) -> Reach | None:
    """Of two, either of which may be none."""
    if one is None or other is None:
        return one or other
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])


def _is_within(reached: Reach, volume_node: Any) -> bool:
    first, end = reached
    return bool((first >= 0).all() and (end <= volume_node.GetImageData().GetDimensions()).all())


def _voxels_at(to_grid: np.ndarray, corners: np.ndarray) -> Reach | None:
    if len(corners) == 0:
        return None
    return covered_voxels(corners @ to_grid[:3, :3].T + to_grid[:3, 3])


def _to_grid(node: Any, volume_node: Any) -> np.ndarray | None:
    """4x4 from a node's own coordinates (RAS) to voxels (i, j, k) of a volume; None if a transform is not linear."""
    between, to_voxels = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    transforms = node.GetParentTransformNode(), volume_node.GetParentTransformNode()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(*transforms, between):
        return None
    volume_node.GetRASToIJKMatrix(to_voxels)
    return slicer.util.arrayFromVTKMatrix(to_voxels) @ slicer.util.arrayFromVTKMatrix(between)


def _corners(node: Any, keys: list[str], *, tight: bool) -> np.ndarray:
    """Points (n, 3) of the node's own coordinates (RAS) between which the parts lie.

    Args:
        node: Segmentation or labelmap node.
        keys: Of its parts.
        tight: Look where the voxels are; else all that is kept of a part is taken for it.
    """
    if is_segmentation(node):
        return np.concatenate([np.empty((0, 3)), *(_corners_of_segment(node, key, tight=tight) for key in keys)])
    matrix, array = vtk.vtkMatrix4x4(), array_of(node)
    node.GetIJKToRASMatrix(matrix)
    values = [int(key) for key in keys]
    return _corners_of_voxels(matrix, (0, 0, 0), _box(array, values, tight=tight))


def _corners_of_segment(node: Any, key: str, *, tight: bool) -> np.ndarray:
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment(key)
    source = segment.GetRepresentation(segmentation.GetSourceRepresentationName())
    if source is None:
        return np.empty((0, 3))
    if not source.IsA("vtkOrientedImageData"):
        return np.array(list(_corners_of_bounds(source.GetBounds())))
    if min(source.GetDimensions()) < 1:
        return np.empty((0, 3))
    matrix = vtk.vtkMatrix4x4()
    source.GetImageToWorldMatrix(matrix)
    is_binary = segmentation.GetSourceRepresentationName() == BINARY_LABELMAP
    i, j, k = source.GetDimensions()
    box: Box | None = (slice(0, k), slice(0, j), slice(0, i))
    if tight and is_binary:
        array = slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, key)
        box = _box(array, [segment.GetLabelValue()], tight=True)
    return _corners_of_voxels(matrix, source.GetExtent()[::2], box)


def _box(array: np.ndarray, values: list[int], *, tight: bool) -> Box | None:
    """Of an array (k, j, i): that with one of the values in it, or all of it."""
    return (
        labelled_box(np.isin(array, values).view(np.uint8))
        if tight
        else tuple(slice(0, length) for length in array.shape)
    )


def _corners_of_voxels(to_ras: Any, start: tuple[int, ...], box: Box | None) -> np.ndarray:
    """The corners of a box (k, j, i) of voxels whose first has these indices (i, j, k): its outer faces."""
    if box is None:
        return np.empty((0, 3))
    faces = [(at + part.start - 0.5, at + part.stop - 0.5) for at, part in zip(start, reversed(box), strict=True)]
    matrix = slicer.util.arrayFromVTKMatrix(to_ras)
    corners = np.array(list(itertools.product(*faces)))
    corners_ras: np.ndarray = corners @ matrix[:3, :3].T + matrix[:3, 3]
    return corners_ras


def _corners_of_bounds(bounds: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
    """Of an upright box; none where it is that of nothing."""
    if bounds[0] <= bounds[1]:
        yield from itertools.product(bounds[0:2], bounds[2:4], bounds[4:6])
