"""MRML nodes to the library's plain data, and labelmaps back to segmentation nodes.

Slicer's world is RAS, the library's is LPS: x and y change their sign here and nowhere else. A volume under a linear
transform is read as it lies in the world; its labelmap goes back to the volume's own grid and under its transform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.volumes import DIRECTION_TOLERANCE, Geometry, Volume, check_voxels

if TYPE_CHECKING:
    from SIFASegmentationLib.field_of_view import BoxMM

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume_from_node(node: Any) -> Volume:
    """A scalar volume node as it lies in the world; the array is the node's own, not a copy.

    Raises:
        InputError: No image in the node, several values a voxel, voxels that are not finite, or a transform that is
            not linear or shears; names the node.
    """
    name = node.GetName()
    if node.GetImageData() is None or min(node.GetImageData().GetDimensions()) < 1:
        raise InputError(f"The volume {name} holds no image: load it again, or choose another.")
    array = slicer.util.arrayFromVolume(node)
    check_voxels(array, f"The volume {name}")
    return Volume(array, geometry_from_node(node), name)


def geometry_from_node(node: Any) -> Geometry:
    """Where a volume node's voxels lie in the world, in LPS.

    Raises:
        InputError: Its transform is not linear, or shears.
    """
    k, j, i = slicer.util.arrayFromVolume(node).shape[:3]
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    to_world = RAS_TO_LPS @ _world_matrix(node) @ slicer.util.arrayFromVTKMatrix(matrix)
    columns = to_world[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    # Exact where no transform changes it: a norm would lose the last bits.
    if node.GetParentTransformNode() is None:
        spacing = np.asarray(node.GetSpacing())
    directions = columns / spacing
    if not np.allclose(directions.T @ directions, np.eye(3), rtol=0, atol=DIRECTION_TOLERANCE):
        raise InputError(
            f"The volume {node.GetName()} lies under a transform that shears it: harden the transform and resample "
            "the volume to a rectangular grid (module Resample Scalar/Vector/DWI Volume)."
        )
    return Geometry(
        (i, j, k),
        tuple(spacing.tolist()),
        tuple(to_world[:3, 3].tolist()),
        tuple(directions.ravel().tolist()),
    )


def region_from_node(node: Any) -> BoxMM:
    """The box of a markups ROI in the world; of a turned ROI, the smallest upright box around it.

    Raises:
        InputError: The ROI is not placed yet.
    """
    from SIFASegmentationLib.field_of_view import BoxMM  # noqa: PLC0415  needs pydantic, which comes from pip

    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    if not all(bounds[axis] < bounds[axis + 1] for axis in (0, 2, 4)):
        raise InputError(f"The region of interest {node.GetName()} has no volume: place it, or choose none.")
    left, right, posterior, anterior, inferior, superior = bounds
    return BoxMM(minimum=(-right, -anterior, inferior), maximum=(-left, -posterior, superior))


def segmentation_from_labels(
    labels: np.ndarray, volume_node: Any, task: Any, name: str, segmentation_node: Any | None = None
) -> Any:
    """A segmentation node with the task's names, colours and terminology, in the place of the volume.

    Args:
        labels: uint8 (k, j, i), the task's values, on the volume node's own grid.
        volume_node: Gives geometry, parent transform and place in the subject hierarchy.
        task: The structures (`SIFASegmentationLib.structures.Task`).
        name: Of a new node.
        segmentation_node: To replace the content of; a new node unless given.
    """
    scene = slicer.mrmlScene
    colors = _color_node(task)
    labelmap = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "__sifa_labelmap__")
    try:
        matrix = vtk.vtkMatrix4x4()
        volume_node.GetIJKToRASMatrix(matrix)
        labelmap.SetIJKToRASMatrix(matrix)
        labelmap.CreateDefaultDisplayNodes()
        labelmap.GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())
        slicer.util.updateVolumeFromArray(labelmap, labels)
        if segmentation_node is None:
            segmentation_node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
        segmentation_node.CreateDefaultDisplayNodes()
        segmentation_node.GetSegmentation().RemoveAllSegments()
        segmentation_node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
        labelmap.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
        segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        logic = slicer.modules.segmentations.logic()
        if labels.any() and not logic.ImportLabelmapToSegmentationNode(labelmap, segmentation_node):
            raise RuntimeError(f"Slicer could not import the labelmap of {volume_node.GetName()}")
    finally:
        scene.RemoveNode(labelmap)
        scene.RemoveNode(colors)
    _describe_segments(segmentation_node.GetSegmentation(), task)
    place_beside(segmentation_node, volume_node)
    return segmentation_node


def volume_from_array(array: np.ndarray, like: Any, name: str) -> Any:
    """A new scalar volume node on the grid, and in the place, of another."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name))
    matrix = vtk.vtkMatrix4x4()
    like.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveTransformNodeID(like.GetTransformNodeID())
    slicer.util.updateVolumeFromArray(node, array)
    node.CreateDefaultDisplayNodes()
    place_beside(node, like)
    return node


def place_beside(node: Any, other: Any) -> None:
    """Give a node the same parent in the subject hierarchy as another."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item, beside = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(other)
    if item and beside:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))


def world_point(volume_node: Any, kji: tuple[float, float, float]) -> tuple[float, float, float]:
    """RAS position in the world of a voxel (k, j, i) of a volume node."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    position = _world_matrix(volume_node) @ slicer.util.arrayFromVTKMatrix(matrix) @ np.array([*kji[::-1], 1.0])
    r, a, s = position[:3].tolist()
    return r, a, s


def _world_matrix(node: Any) -> np.ndarray:
    """4x4 from the node's coordinates to the world's, RAS."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise InputError(
            f"The volume {node.GetName()} lies under a transform that is not linear: harden it (right-click the "
            "volume in the module Data, Harden transform), then choose it again."
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _color_node(task: Any) -> Any:
    """A temporary colour table: value -> name and colour."""
    colors = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", "__sifa_colors__")
    colors.SetTypeToUser()
    colors.SetNumberOfColors(len(task.structures) + 1)
    colors.SetColor(0, "background", 0.0, 0.0, 0.0, 0.0)
    for structure in task.structures:
        red, green, blue = (channel / 255 for channel in structure.color)
        colors.SetColor(structure.value, structure.name, red, green, blue, 1.0)
    return colors


def _describe_segments(segmentation: Any, task: Any) -> None:
    for structure in task.structures:
        segment = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(structure.name))
        if segment is not None:
            segment.SetColor(*(channel / 255 for channel in structure.color))
            segment.SetTag(segment.GetTerminologyEntryTagName(), structure.terminology.entry)
