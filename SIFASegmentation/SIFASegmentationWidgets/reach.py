"""How far the parts of a node reach on a volume's grid, which need not hold all of them."""

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
"""First voxel (i, j, k) of a grid, and the one after the last; either may be outside of it."""

_PARALLEL = 1e-3  # Of a voxel's edge: what axes may stray.


def reach_in_pieces(node: Any, keys: Iterable[str], volume_node: Any, boxes: ValueBoxes) -> Work[Reach | None]:
    """The voxels of a volume's grid that parts of a node touch, some planes of what it keeps a piece.

    More than that where what the node keeps, mostly no more than it must, lies on the grid as a whole: then nothing is
    looked through. None where the parts have no voxel, or where the two nodes lie under different transforms that are
    not linear.

    Args:
        node: Segmentation or labelmap node.
        keys: Of its parts (`structures_of_nodes.Part`).
        volume_node: Gives the grid.
        boxes: Of what was looked through before.
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
    """Whether all of it is on a volume's grid."""
    first, end = reached
    return bool((first >= 0).all() and (end <= volume_node.GetImageData().GetDimensions()).all())


def common_reach(one: Reach | None, other: Reach | None) -> Reach | None:
    """Of two, either of which may be none."""
    if one is None or other is None:
        return one or other
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])


@dataclass(frozen=True)
class _Surface:
    """A part that is kept as points of its node's own coordinates (RAS)."""

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
    """A part that is kept as voxels of an array.

    Attributes:
        array: (k, j, i), maybe with other parts in it.
        value: The part's.
        to_ras: 4x4 from the array's indices (i, j, k) to its node's own coordinates.
    """

    array: np.ndarray
    value: int
    to_ras: np.ndarray

    def corners(self) -> np.ndarray:
        return self._outer_corners(tuple(slice(0, length) for length in self.array.shape))

    def points_in_pieces(self, to_grid: np.ndarray, boxes: ValueBoxes) -> Work[np.ndarray]:
        """Corners of voxels between which all of the part's lie.

        Args:
            to_grid: 4x4 from the node's coordinates to the grid's voxels.
            boxes: Of what was looked through before.
        """
        box = yield from boxes.of(self.array, self.value)
        if box is None:
            return np.empty((0, 3))
        if _is_monomial((to_grid @ self.to_ras)[:3, :3]):
            return self._outer_corners(box)
        # On a grid that is turned, a box reaches further than what is in it: the ends of its rows do not.
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
    """A part of a node; None where it has no extent, or shares of voxels, which tell none."""
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
    """4x4 from a node's own coordinates (RAS) to voxels (i, j, k) of a volume; None if a transform is not linear."""
    between, to_voxels = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    transforms = node.GetParentTransformNode(), volume_node.GetParentTransformNode()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(*transforms, between):
        return None
    volume_node.GetRASToIJKMatrix(to_voxels)
    return slicer.util.arrayFromVTKMatrix(to_voxels) @ slicer.util.arrayFromVTKMatrix(between)


def _is_monomial(axes: np.ndarray) -> bool:
    """Whether each axis lies along one of the grid's."""
    strayed = np.sort(np.abs(axes), axis=0)[:2]
    return bool((strayed <= _PARALLEL * np.abs(axes).max(axis=0)).all())
