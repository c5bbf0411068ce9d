"""The voxels of a segment, or of a value of a labelmap, on a volume's grid.

Slicer stores segments in layers: labelmaps of minimal extent, each shared by segments that don't overlap. If the voxels
of a layer coincide with those of the volume, they are read directly, since exporting a segment takes a full grid of
memory and more time than a window may be blocked. All other segments are exported.
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

_SAME_VOXEL = 1e-3  # Tolerance in voxels, too small to matter to nearest-neighbour interpolation.


@dataclass(frozen=True)
class PartVoxels:
    """The voxels of a part: those of an array that have the part's value.

    Attributes:
        array: Values (k, j, i), possibly with other parts among them; not a copy.
        value: Value of the part.
        where: Box of the volume's grid that the array fills; the part has no voxels outside it.
        resampled: Whether the part was resampled from another grid to the volume's.
    """

    array: np.ndarray
    value: int
    where: Box
    resampled: bool = False

    def within(self, box: Box | None) -> PartVoxels:
        """Crop to a box of the array that holds all voxels of the part; None, for a part without voxels, crops all."""
        box = box or (slice(0, 0),) * 3
        where = tuple(
            slice(whole.start + part.start, whole.start + part.stop)
            for whole, part in zip(self.where, box, strict=True)
        )
        return replace(self, array=self.array[box], where=where)

    def count(self) -> int:
        """Return the number of voxels of the part."""
        return int(np.count_nonzero(self.array == self.value))

    def mask(self, box: Box) -> np.ndarray:
        """Return the part's mask (k, j, i) in a box of the volume's grid that contains `where`."""
        mask = np.zeros([whole.stop - whole.start for whole in box], np.bool_)
        within = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(self.where, box, strict=True))
        np.equal(self.array, self.value, out=mask[within])
        return mask

    def paint(self, labels: np.ndarray, value: int) -> tuple[int, int]:
        """Set the part's voxels to a value in labels (k, j, i) of the whole grid, in place.

        Returns:
            Number of voxels of the part, and of those that had a label before.
        """
        count = overlap = 0
        # Slice by slice, so that temporary arrays fit the processor's cache.
        for plane, painted in zip(self.array, labels[self.where], strict=True):
            mask = plane == self.value
            count += int(np.count_nonzero(mask))
            overlap += int(np.count_nonzero(painted[mask]))
            painted[mask] = value
        return count, overlap


def voxels_of(node: Any, keys: Iterable[str], volume_node: Any) -> Iterator[tuple[str, PartVoxels]]:
    """Yield the key and the voxels of each of some parts of a segmentation or labelmap node.

    Args:
        node: Segmentation or labelmap node.
        keys: Keys of the parts (`structures_of_nodes.Part`).
        volume_node: Volume node whose grid is used.

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
    """Whether a part has no voxels, or as a surface no points, in its node."""
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
    """Return a labelmap node's array (k, j, i) on a volume's grid, and whether it had to be resampled to it.

    Resampling is by nearest neighbour.
    """
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
    """Return a segment's voxels straight from its layer; None if that may differ from what an export gives."""
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
    """Return the voxel (k, j, i) of a volume's grid at which a layer starts, possibly outside the volume.

    None if the layer's voxels do not coincide with those of the grid.
    """
    to_ras, from_ras = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    layer.GetImageToWorldMatrix(to_ras)
    volume_node.GetRASToIJKMatrix(from_ras)
    to_grid = slicer.util.arrayFromVTKMatrix(from_ras) @ slicer.util.arrayFromVTKMatrix(to_ras)
    shift = np.rint(to_grid[:3, 3])
    extent = np.reshape(layer.GetExtent(), (3, 2))
    # Largest deviation in voxels: errors of the axes add up towards the far end of the layer.
    strayed = np.abs(to_grid[:3, :3] - np.eye(3)) @ np.abs(extent).max(axis=1) + np.abs(to_grid[:3, 3] - shift)
    if strayed.max() > _SAME_VOXEL:
        return None
    i, j, k = (extent[:, 0] + shift).astype(int).tolist()
    return k, j, i


def _overlap(start: Shape, shape: Shape, whole: Shape) -> tuple[Box, Box]:
    """Return the part of an array that lies on a grid, as a box of the array and as a box of the grid.

    Args:
        start: Voxel of the grid at which the array starts, possibly outside the grid.
        shape: Shape of the array.
        whole: Shape of the grid.
    """
    inside, where = [], []
    for first, length, size in zip(start, shape, whole, strict=True):
        low = max(first, 0)
        high = max(min(first + length, size), low)
        inside.append(slice(low - first, high - first))
        where.append(slice(low, high))
    return tuple(inside), tuple(where)


def _all_of(shape: Shape) -> Box:
    return tuple(slice(0, length) for length in shape)
