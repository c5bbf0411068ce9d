"""Where the voxels of a segment, or of a labelmap's value, lie on a volume's grid.

Slicer keeps segments as layers: labelmaps that cover no more than they must, each with the segments that don't overlap.
Where a layer's voxels are those of the volume they are read as they are; exporting a segment would cost a grid of its
own, and more time than a window may take. Every other segment is exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer
import vtk

from SIFASegmentationLib.boxes import Box
from SIFASegmentationLib.volumes import Volume

from .nodes import BINARY_LABELMAP, array_of, geometry_from_node, is_segmentation

Shape = tuple[int, ...]

_SAME_VOXEL = 1e-3  # Of a voxel; nearest neighbour can't tell less either.


@dataclass(frozen=True)
class PartVoxels:
    """The voxels of a part: those of an array that have its value.

    Attributes:
        array: (k, j, i), maybe with other parts in it; not a copy.
        value: The part's.
        where: The box of the volume's grid that the array fills; outside of it the part has no voxel.
        resampled: Whether the node's voxels are not those of the volume's grid.
    """

    array: np.ndarray
    value: int
    where: Box
    resampled: bool = False

    def within(self, box: Box | None) -> PartVoxels:
        """The same, of a box of the array that has all of its voxels; none where it has no voxel."""
        box = box or (slice(0, 0),) * 3
        where = tuple(
            slice(whole.start + part.start, whole.start + part.stop)
            for whole, part in zip(self.where, box, strict=True)
        )
        return replace(self, array=self.array[box], where=where)

    def count(self) -> int:
        """Number of voxels."""
        return int(np.count_nonzero(self.array == self.value))

    def mask(self, box: Box) -> np.ndarray:
        """Mask (k, j, i) of a box of the volume's grid that holds all of `where`."""
        mask = np.zeros([whole.stop - whole.start for whole in box], np.bool_)
        within = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(self.where, box, strict=True))
        np.equal(self.array, self.value, out=mask[within])
        return mask

    def paint(self, labels: np.ndarray, value: int) -> tuple[int, int]:
        """Set the part's voxels to a value in labels (k, j, i) of the whole grid; how many, and how many had one."""
        count = overlap = 0
        # Slice by slice: what is made for one stays in the processor's cache.
        for plane, painted in zip(self.array, labels[self.where], strict=True):
            mask = plane == self.value
            count += int(np.count_nonzero(mask))
            overlap += int(np.count_nonzero(painted[mask]))
            painted[mask] = value
        return count, overlap


def voxels_of(node: Any, keys: Iterable[str], volume_node: Any) -> Iterator[tuple[str, PartVoxels]]:
    """The voxels of parts of a segmentation or labelmap node, by their keys (`structures_of_nodes.Part`), one by one.

    Raises:
        InputError: The transform of the node or the volume can't be used.
    """
    if is_segmentation(node):
        for key in keys:
            yield key, _voxels_of_segment(node, key, volume_node)
        return
    labels, resampled = _labels_on_grid(node, volume_node)
    for key in keys:
        yield key, PartVoxels(labels, int(key), _all_of(labels.shape), resampled)


def is_empty(node: Any, key: str) -> bool:
    """Whether a part has no voxel, or no point, of its own."""
    if not is_segmentation(node):
        return not (array_of(node) == int(key)).any()
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment(key)
    if segmentation.GetSourceRepresentationName() != BINARY_LABELMAP:
        source = segment.GetRepresentation(segmentation.GetSourceRepresentationName())
        return source is None or (source.IsA("vtkPolyData") and source.GetNumberOfPoints() == 0)
    layer = segment.GetRepresentation(BINARY_LABELMAP)
    if layer is None or min(layer.GetDimensions()) < 1:
        return True
    return not (slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, key) == segment.GetLabelValue()).any()


def _labels_on_grid(node: Any, volume_node: Any) -> tuple[np.ndarray, bool]:
    """The array (k, j, i) of a labelmap node, and whether it was resampled (by nearest neighbour) from another grid."""
    from SIFASegmentationLib.grids import resample_labelmap, same_grid  # noqa: PLC0415  not every Slicer has SimpleITK

    labels = Volume(array_of(node), geometry_from_node(node), node.GetName())
    wanted = geometry_from_node(volume_node)
    if same_grid(labels.geometry, wanted):
        return labels.array, False
    return resample_labelmap(labels, wanted).array, True


def _voxels_of_segment(node: Any, key: str, volume_node: Any) -> PartVoxels:
    found = _voxels_in_layer(node, key, volume_node)
    if found is not None:
        return found
    exported = slicer.util.arrayFromSegmentBinaryLabelmap(node, key, volume_node) > 0
    return PartVoxels(exported, 1, _all_of(exported.shape), not is_empty(node, key))


def _voxels_in_layer(node: Any, key: str, volume_node: Any) -> PartVoxels | None:
    """A segment's voxels within its layer; None where that is not what an export would give."""
    segmentation = node.GetSegmentation()
    if segmentation.GetSourceRepresentationName() != BINARY_LABELMAP:
        return None
    segment = segmentation.GetSegment(key)
    layer = segment.GetRepresentation(BINARY_LABELMAP)
    if layer is None or min(layer.GetDimensions()) < 1:
        return None
    if node.GetTransformNodeID() != volume_node.GetTransformNodeID():
        return None
    start = _start_on_grid(layer, volume_node)
    if start is None:
        return None
    array = slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, key)
    inside, where = _overlap(start, array.shape, slicer.util.arrayFromVolume(volume_node).shape[:3])
    return PartVoxels(array[inside], segment.GetLabelValue(), where)


def _start_on_grid(layer: Any, volume_node: Any) -> Shape | None:
    """Voxel (k, j, i) of a volume's grid at which a layer starts; None if the layer's voxels are not those of the grid.

    It may be outside of the volume.
    """
    to_ras, from_ras = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    layer.GetImageToWorldMatrix(to_ras)
    volume_node.GetRASToIJKMatrix(from_ras)
    to_grid = slicer.util.arrayFromVTKMatrix(from_ras) @ slicer.util.arrayFromVTKMatrix(to_ras)
    shift = np.rint(to_grid[:3, 3])
    extent = np.reshape(layer.GetExtent(), (3, 2))
    # What an error of the axes adds up to at the layer's far end.
    strayed = np.abs(to_grid[:3, :3] - np.eye(3)) @ np.abs(extent).max(axis=1) + np.abs(to_grid[:3, 3] - shift)
    if strayed.max() > _SAME_VOXEL:
        return None
    i, j, k = (extent[:, 0] + shift).astype(int).tolist()
    return k, j, i


def _overlap(start: Shape, shape: Shape, whole: Shape) -> tuple[Box, Box]:
    """Of an array that starts at a voxel of a grid: the box of it that is on the grid, and where that is there."""
    inside, where = [], []
    for first, length, size in zip(start, shape, whole, strict=True):
        low = max(first, 0)
        high = max(min(first + length, size), low)
        inside.append(slice(low - first, high - first))
        where.append(slice(low, high))
    return tuple(inside), tuple(where)


def _all_of(shape: Shape) -> Box:
    return tuple(slice(0, length) for length in shape)
