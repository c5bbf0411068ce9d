"""Find which segmentation or labelmap in the scene belongs to which volume."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk

from .nodes import drawn_on, is_result, is_segmentation, lie_apart, remembered_image

_KIND = re.compile(r"[\W_]+(image|volume|labels?|labelmap|seg|segmentation|mask|gt|truth|reference)$")
"""Endings in which the names of an image and of its labels differ."""

_NUMBER = re.compile(r"_\d+$")
"""Suffix that Slicer adds to a name that is already taken."""


def labels_by_volume(volumes: Sequence[Any]) -> dict[str, Any]:
    """Return the first segmentation or labelmap of each volume, by the volume's node ID, without results of models.

    A segmentation that was drawn in Slicer refers to its volume. One from a file, or a labelmap, belongs to the volume
    on the same grid; if several are, to the one whose name is the same except for its ending (`_KIND`).

    Args:
        volumes: Volume nodes to choose from.
    """
    owned: dict[str, Any] = {}
    for node in label_nodes():
        volume = _volume_of(node, volumes)
        if volume is not None:
            owned.setdefault(volume.GetID(), node)
    return owned


def label_nodes() -> list[Any]:
    """Return the visible segmentation and labelmap nodes of the scene, without results of models."""
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
    """Return a node's extent and its 4x4 matrix from voxels to the node's own coordinates; None if it has none."""
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
    """Return the patient names that a node's name may stand for."""
    name = node.GetName().lower()
    names = {name, _NUMBER.sub("", name)}
    return names | {_KIND.sub("", one) for one in names}
