"""How far the parts of a node extend on a volume's grid, which may not cover all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SIFASegmentationLib.boxes import Box, ValueBoxes, covered_voxels
from SIFASegmentationLib.work import Work

from .nodes import BINARY_LABELMAP, array_of, is_segmentation

Reach = tuple[np.ndarray, np.ndarray]
"""First voxel (i, j, k) in a grid's coordinates, and the one after the last; either may lie outside the grid."""

_PARALLEL = 1e-3  # How far an axis may deviate from one of the grid's, relative to its longest component.


def reach_in_pieces(node: Any, keys: Iterable[str], volume_node: Any, boxes: ValueBoxes) -> Work[Reach | None]:
    """Find the range of voxels of a volume's grid that parts of a node touch, yielding after every few planes.

    If the arrays that hold the parts lie within the grid as a whole, their extent is returned without a search of
    their voxels, and may be larger than the parts.

    Args:
        node: Segmentation or labelmap node.
        keys: Keys of its parts (`structures_of_nodes.Part`).
        volume_node: Volume node that provides the grid.
        boxes: Cache of the arrays searched before.

    Returns:
        The range; None if the parts have no voxels, or if the nodes lie under different transforms that are not linear.
    """
    to_grid = _to_grid(node, volume_node)
    if to_grid is None:
        return None
    parts = [part for key in keys if (part := _part(node, key)) is not None]
    whole: Reach | None = None
    for part in parts:
        whole = common_reach(whole, _reach_of(part.corners(), to_grid))
    if whole is None or is_within(whole, volume_node):
        return whole
    reached: Reach | None = None
    for part in parts:
        reached = common_reach(reached, _reach_of((yield from part.points_in_pieces(to_grid, boxes)), to_grid))
        yield
    return reached


def is_within(reached: Reach, volume_node: Any) -> bool:
    """Whether a range of voxels lies entirely within a volume's grid."""
    first, end = reached
    return bool((first >= 0).all() and (end <= volume_node.GetImageData().GetDimensions()).all())


def common_reach(one: Reach | None, other: Reach | None) -> Reach | None:
    """Return the smallest range that contains both, either of which may be None."""
    if one is None or other is None:
        return one or other
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])


@dataclass(frozen=True)
class _Surface:
    """A part that is stored as points (vtkPointSet `data`) in its node's own coordinates (RAS)."""

    data: Any

    def corners(self) -> np.ndarray:
        bounds = self.data.GetBounds()
        return np.array(list(itertools.product(bounds[0:2], bounds[2:4], bounds[4:6])))

    def points_in_pieces(self, _to_grid: np.ndarray, _boxes: ValueBoxes) -> Work[np.ndarray]:
        yield
        points: np.ndarray = vtk_to_numpy(self.data.GetPoints().GetData())
        return points


@dataclass(frozen=True)
class _Voxels:
    """A part that is stored as voxels of an array.

    Attributes:
        array: Values (k, j, i), possibly with other parts among them.
        value: Value of the part.
        to_ras: 4x4 matrix from the array's indices (i, j, k) to the node's own coordinates (RAS).
    """

    array: np.ndarray
    value: int
    to_ras: np.ndarray

    def corners(self) -> np.ndarray:
        return self._outer_corners(tuple(slice(0, length) for length in self.array.shape))

    def points_in_pieces(self, to_grid: np.ndarray, boxes: ValueBoxes) -> Work[np.ndarray]:
        """Return corners (n, 3) of voxels, in the node's own coordinates, that enclose all voxels of the part.

        Args:
            to_grid: 4x4 matrix from the node's own coordinates to voxels of the grid.
            boxes: Cache of the arrays searched before.
        """
        box = yield from boxes.of(self.array, self.value)
        if box is None:
            return np.empty((0, 3))
        if _is_monomial((to_grid @ self.to_ras)[:3, :3]):
            return self._outer_corners(box)
        # On a rotated grid, the corners of a box reach further than its content; the ends of the part's rows do not.
        labelled = self.array[box] == self.value
        k, j = np.nonzero(labelled.any(2))
        first, last = labelled.argmax(2)[k, j], labelled.shape[2] - 1 - labelled[..., ::-1].argmax(2)[k, j]
        start = [part.start for part in reversed(box)]
        ends = np.concatenate([np.stack([i, j, k], 1) + start for i in (first, last)])
        halves = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
        return self._in_ras((ends[:, np.newaxis] + halves).reshape(-1, 3))

    def _outer_corners(self, box: Box) -> np.ndarray:
        faces = [(part.start - 0.5, part.stop - 0.5) for part in reversed(box)]
        return self._in_ras(np.array(list(itertools.product(*faces))))

    def _in_ras(self, indices: np.ndarray) -> np.ndarray:
        points: np.ndarray = indices @ self.to_ras[:3, :3].T + self.to_ras[:3, 3]
        return points


def _part(node: Any, key: str) -> _Surface | _Voxels | None:
    """Return a part of a node; None if it has no extent, or only fractional voxels, whose extent is not known."""
    matrix = vtk.vtkMatrix4x4()
    if not is_segmentation(node):
        node.GetIJKToRASMatrix(matrix)
        return _Voxels(array_of(node), int(key), slicer.util.arrayFromVTKMatrix(matrix))
    segmentation = node.GetSegmentation()
    segment, kind = segmentation.GetSegment(key), segmentation.GetSourceRepresentationName()
    source = segment.GetRepresentation(kind)
    if source is None:
        return None
    if kind == BINARY_LABELMAP:
        if min(source.GetDimensions()) < 1:
            return None
        source.GetImageToWorldMatrix(matrix)
        to_ras = slicer.util.arrayFromVTKMatrix(matrix)
        to_ras[:3, 3] += to_ras[:3, :3] @ source.GetExtent()[::2]
        return _Voxels(slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, key), segment.GetLabelValue(), to_ras)
    has_points = source.IsA("vtkPointSet") and source.GetNumberOfPoints() > 0
    return _Surface(source) if has_points else None


def _reach_of(points: np.ndarray, to_grid: np.ndarray) -> Reach | None:
    return covered_voxels(points @ to_grid[:3, :3].T + to_grid[:3, 3]) if len(points) else None


def _to_grid(node: Any, volume_node: Any) -> np.ndarray | None:
    """Return the 4x4 matrix from a node's own coordinates (RAS) to voxels (i, j, k) of a volume.

    None if a transform between the two is not linear.
    """
    between, to_voxels = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    transforms = node.GetParentTransformNode(), volume_node.GetParentTransformNode()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(*transforms, between):
        return None
    volume_node.GetRASToIJKMatrix(to_voxels)
    return slicer.util.arrayFromVTKMatrix(to_voxels) @ slicer.util.arrayFromVTKMatrix(between)


def _is_monomial(axes: np.ndarray) -> bool:
    """Whether each axis, a column of `axes`, is parallel to an axis of the grid."""
    strayed = np.sort(np.abs(axes), axis=0)[:2]
    return bool((strayed <= _PARALLEL * np.abs(axes).max(axis=0)).all())
