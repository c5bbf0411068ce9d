"""Which segmentation or labelmap of the scene belongs to which volume."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk

from .nodes import drawn_on, is_result, is_segmentation, lie_apart, remembered_image

_KIND = re.compile(r"[\W_]+(image|volume|labels?|labelmap|seg|segmentation|mask|gt|truth|reference)$")
"""What names of an image and of its labels differ in."""

_NUMBER = re.compile(r"_\d+$")
"""That Slicer adds where a name is taken."""


def labels_by_volume(volumes: Sequence[Any]) -> dict[str, Any]:
    """The first segmentation or labelmap of each volume, by the volume's node ID; what a model made is left out.

    A segmentation that was drawn in Slicer knows its volume. Of one from a file, and of a labelmap, it is the volume
    on the same grid; where several are, that of them with the same name, but for what kind of file each is.

    Args:
        volumes: Nodes to choose from.
    """
    owned: dict[str, Any] = {}
    for node in label_nodes():
        volume = _volume_of(node, volumes)
        if volume is not None:
            owned.setdefault(volume.GetID(), node)
    return owned


def label_nodes() -> list[Any]:
    """The segmentations and labelmaps of the scene; what a model made is left out."""
    classes = ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode")
    nodes = [node for name in classes for node in slicer.util.getNodesByClass(name)]
    return [node for node in nodes if not is_result(node) and not node.GetHideFromEditors()]


def _volume_of(node: Any, volumes: Sequence[Any]) -> Any | None:
    if is_segmentation(node):
        volume = drawn_on(node)
        if volume is not None:
            return volume if volume in volumes else None
    grid = _grid(node)
    near = [one for one in volumes if (not lie_apart(one, node) if grid is None else _is_same(_grid(one), grid))]
    if len(near) > 1:
        near = [one for one in near if _stems(one) & _stems(node)]
    return near[0] if len(near) == 1 else None


def _grid(node: Any) -> tuple[tuple[int, ...], np.ndarray] | None:
    """Extent, and 4x4 from voxels to the node's own coordinates; None where a segmentation does not remember them."""
    image, matrix = node.GetImageData() if not is_segmentation(node) else None, vtk.vtkMatrix4x4()
    if image is not None:
        node.GetIJKToRASMatrix(matrix)
    elif is_segmentation(node):
        image = remembered_image(node, with_voxels=False)
        if image is None:
            return None
        image.GetImageToWorldMatrix(matrix)
    else:
        return None
    return tuple(image.GetExtent()), slicer.util.arrayFromVTKMatrix(matrix)


def _is_same(one: tuple[tuple[int, ...], np.ndarray] | None, other: tuple[tuple[int, ...], np.ndarray]) -> bool:
    return one is not None and one[0] == other[0] and np.allclose(one[1], other[1], rtol=0, atol=1e-3)


def _stems(node: Any) -> set[str]:
    """What a node's patient may be called, by the node's name."""
    name = node.GetName().lower()
    names = {name, _NUMBER.sub("", name)}
    return names | {_KIND.sub("", one) for one in names}
