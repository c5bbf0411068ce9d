"""Conversion of MRML nodes to the library's plain data, and of labelmaps back to segmentation nodes.

Slicer's world is RAS, the library's is LPS: the signs of x and y change here and nowhere else. A volume under a linear
transform is read in world coordinates; its labelmap goes back onto the volume's own grid and under its transform.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from SIFASegmentationLib.boxes import Box, labelled_box, values_in
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.volumes import DIRECTION_TOLERANCE, Geometry, Volume, check_spacing, check_voxels
from SIFASegmentationLib.work import Work

if TYPE_CHECKING:
    from SIFASegmentationLib.regions import BoxMM
    from SIFASegmentationLib.structures import Structure, Task

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
BINARY_LABELMAP = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
_RESULT = "SIFA.Result"  # Node attribute that marks results of a model.
CLOSED_SURFACE = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()

SegmentsState = tuple[tuple[str, int, int], ...]
"""Key, label value and voxels' modification time of each segment of a segmentation."""


def volume_from_node(node: Any) -> Volume:
    """Convert a scalar volume node to a volume in world coordinates; the array is the node's own, not a copy.

    Raises:
        InputError: The node has no image, several values per voxel, voxels that are not finite, or a transform that
            is not linear or shears; the error names the node.
    """
    array = array_of(node)
    check_voxels(array, _("The volume {name}").format(name=node.GetName()))
    return Volume(array, geometry_from_node(node), node.GetName())


def array_of(node: Any) -> np.ndarray:
    """Return the voxels of a volume node: (k, j, i), or (k, j, i, components); the node's own array, not a copy.

    Raises:
        InputError: The node is not a volume, or has no image.
    """
    if not node.IsA("vtkMRMLVolumeNode"):
        raise InputError(_("{name} is no volume").format(name=node.GetName()), _("choose one in its place"))
    if node.GetImageData() is None or min(node.GetImageData().GetDimensions()) < 1:
        problem = _("The volume {name} holds no image")
        raise InputError(problem.format(name=node.GetName()), _("load it again, or choose another"))
    return slicer.util.arrayFromVolume(node)


def is_segmentation(node: Any) -> bool:
    """Whether a node is a segmentation node; a labelmap is a volume."""
    return bool(node.IsA("vtkMRMLSegmentationNode"))


def geometry_from_node(node: Any) -> Geometry:
    """Return the geometry of a volume node in the world, in LPS.

    Raises:
        InputError: It has no image, its voxel size is implausible for a scan, its axes are not at right angles, or its
            transform is not linear or shears.
    """
    k, j, i = array_of(node).shape[:3]
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    to_world = RAS_TO_LPS @ _world_matrix(node) @ slicer.util.arrayFromVTKMatrix(matrix)
    columns = to_world[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    # Without a transform, the node's spacing is exact, while the norm has rounding errors.
    if node.GetParentTransformNode() is None:
        spacing = np.asarray(node.GetSpacing())
    check_spacing(spacing.tolist(), _("The volume {name}").format(name=node.GetName()))
    directions = columns / spacing
    if not np.allclose(directions.T @ directions, np.eye(3), rtol=0, atol=DIRECTION_TOLERANCE):
        problem = _("The volume {name} has axes that are not at right angles")
        advice = _("resample it to a rectangular grid (module Resample Scalar/Vector/DWI Volume)")
        if node.GetParentTransformNode() is not None:
            problem = _("The volume {name} lies under a transform that shears it")
            advice = _("harden that, and {mend}").format(mend=advice)
        raise InputError(problem.format(name=node.GetName()), advice)
    return Geometry(
        (i, j, k),
        tuple(spacing.tolist()),
        tuple(to_world[:3, 3].tolist()),
        tuple(directions.ravel().tolist()),
    )


def region_from_node(node: Any) -> BoxMM:
    """Return the box of a markups ROI in the world; for a rotated ROI, the smallest axis-aligned box around it.

    Raises:
        InputError: The ROI has no volume: it has not been placed yet.
    """
    from SIFASegmentationLib.regions import BoxMM  # noqa: PLC0415  needs pydantic, which comes from pip

    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    if not all(bounds[axis] < bounds[axis + 1] for axis in (0, 2, 4)):
        problem = _("The region of interest {name} has no volume")
        raise InputError(problem.format(name=node.GetName()), _("place it, or choose none"))
    left, right, posterior, anterior, inferior, superior = bounds
    return BoxMM(minimum=(-right, -anterior, inferior), maximum=(-left, -posterior, superior))


def segmentation_from_labels(
    labels: np.ndarray, volume_node: Any, task: Task, name: str, segmentation_node: Any | None = None
) -> Any:
    """Make a segmentation node with a task's names, colours and terminology, in the place of a volume.

    Args:
        labels: uint8 (k, j, i), the task's label values, on the volume node's own grid.
        volume_node: Volume node that provides the geometry, parent transform and place in the subject hierarchy.
        task: The structures (`SIFASegmentationLib.structures.Task`).
        name: Name of a new node.
        segmentation_node: Segmentation node whose content is replaced; if None, a new node is made.

    Returns:
        The segmentation node. Structures without voxels get no segment.
    """
    if segmentation_node is None:
        unique = slicer.mrmlScene.GenerateUniqueName(name)
        segmentation_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", unique)
    segmentation_node.CreateDefaultDisplayNodes()
    segmentation = segmentation_node.GetSegmentation()
    segmentation.RemoveAllSegments()
    segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
    segmentation_node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    box = labelled_box(labels)
    if box is not None:
        layer, values = _layer(labels, box, volume_node), set(values_in(labels[box]))
        for structure in task.structures:
            if structure.value in values:
                segmentation.AddSegment(_segment(structure, layer))
    place_beside(segmentation_node, volume_node)
    return segmentation_node


def state_of(segmentation_node: Any) -> SegmentsState:
    """Return a state that differs after any change of the voxels or of the set of segments.

    It stays the same when names, colours or surfaces change.
    """
    segmentation = segmentation_node.GetSegmentation()
    source, states = segmentation.GetSourceRepresentationName(), []
    for key in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(key)
        layer = segment.GetRepresentation(source)
        states.append((key, segment.GetLabelValue(), layer.GetMTime() if layer is not None else 0))
    return tuple(states)


def surfaces_in_pieces(segmentation_node: Any) -> Work[None]:
    """Make the closed surfaces of a segmentation of labelmaps, yielding after each segment.

    Slicer itself makes all of them in one go.
    """
    segmentation, surfaces = segmentation_node.GetSegmentation(), {}
    for key in segmentation.GetSegmentIDs():
        if segmentation.GetSegment(key) is not None:  # It may have been removed in the meantime.
            surfaces[key] = _closed_surface(segmentation, key)
        yield
    for key, surface in surfaces.items():
        segment = segmentation.GetSegment(key)
        if segment is not None and surface is not None:
            segment.AddRepresentation(CLOSED_SURFACE, surface)
    # Slicer invokes this event at the end of a conversion, for the views that show it.
    segmentation.InvokeEvent(slicer.vtkSegmentation.ContainedRepresentationNamesModified)


def volume_from_array(array: np.ndarray, like: Any, name: str) -> Any:
    """Make a scalar volume node from voxels (k, j, i), on the grid and in the place of the volume node `like`."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name))
    matrix = vtk.vtkMatrix4x4()
    like.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveTransformNodeID(like.GetTransformNodeID())
    slicer.util.updateVolumeFromArray(node, array)
    node.CreateDefaultDisplayNodes()
    place_beside(node, like)
    return node


def if_in_scene(node: Any | None) -> Any | None:
    """Return the node if it is still in the scene; None if it has left the scene, or was None."""
    return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None


def mark_as_result(node: Any) -> None:
    """Mark a node as made by a model, so that it is offered neither as an image to segment nor as training labels."""
    node.SetAttribute(_RESULT, "1")


def is_result(node: Any) -> bool:
    """Whether a node was made by a model."""
    return node.GetAttribute(_RESULT) is not None


def lie_apart(one: Any, other: Any) -> bool:
    """Whether the world bounding boxes of two nodes are disjoint; False if either node is empty."""
    first, second = [0.0] * 6, [0.0] * 6
    one.GetRASBounds(first)
    other.GetRASBounds(second)
    if not all(bounds[axis] < bounds[axis + 1] for bounds in (first, second) for axis in (0, 2, 4)):
        return False
    return any(first[a] > second[a + 1] or second[a] > first[a + 1] for a in (0, 2, 4))


def unique_names(nodes: Iterable[Any]) -> dict[str, str]:
    """Return a distinct name for each node, by ID: its own name, numbered where several nodes share one."""
    names: dict[str, str] = {}
    for node in nodes:
        if node.GetID() in names:
            continue
        name, number = node.GetName(), 1
        while name in names.values():
            number += 1
            name = f"{node.GetName()} ({number})"
        names[node.GetID()] = name
    return names


def place_beside(node: Any, other: Any) -> None:
    """Give a node the same parent in the subject hierarchy as another node has."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item, beside = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(other)
    if item and beside:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))


def world_point(volume_node: Any, kji: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the world position (RAS, mm) of a voxel (k, j, i) of a volume node."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    position = _world_matrix(volume_node) @ slicer.util.arrayFromVTKMatrix(matrix) @ np.array([*kji[::-1], 1.0])
    r, a, s = position[:3].tolist()
    return r, a, s


def _world_matrix(node: Any) -> np.ndarray:
    """Return the 4x4 matrix from a node's own coordinates to world coordinates, both RAS.

    Raises:
        InputError: The node's transform is not linear.
    """
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise InputError(
            _("The volume {name} lies under a transform that is not linear").format(name=node.GetName()),
            _(
                "harden it (module Data, right-click on the transform's icon in the volume's row, Harden transform), "
                "then choose it again"
            ),
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _layer(labels: np.ndarray, box: Box, volume_node: Any) -> Any:
    """Make a layer for segments to share: an oriented image of a box of labels (k, j, i).

    Slicer's own import of a labelmap is slower: it scans the whole labelmap once for each value.
    """
    k, j, i = box
    layer = slicer.vtkOrientedImageData()
    layer.SetExtent(i.start, i.stop - 1, j.start, j.stop - 1, k.start, k.stop - 1)
    layer.GetPointData().SetScalars(numpy_to_vtk(labels[k, j, i].ravel(), deep=True))
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    layer.SetGeometryFromImageToWorldMatrix(matrix)
    return layer


def _segment(structure: Structure, layer: Any) -> Any:
    segment = slicer.vtkSegment()
    segment.SetName(structure.name)
    segment.SetColor(*(channel / 255 for channel in structure.color))
    segment.SetTag(segment.GetTerminologyEntryTagName(), structure.terminology.entry)
    segment.SetLabelValue(structure.value)
    segment.AddRepresentation(BINARY_LABELMAP, layer)
    return segment


def _closed_surface(segmentation: Any, key: str) -> Any:
    """Make the surface of one segment the way Slicer does, with the segmentation's conversion parameters."""
    alone = slicer.vtkSegmentation()
    alone.SetSourceRepresentationName(BINARY_LABELMAP)
    alone.CopyConversionParameters(segmentation)
    alone.CopySegmentFromSegmentation(segmentation, key)
    alone.CreateRepresentation(CLOSED_SURFACE)
    return alone.GetSegment(key).GetRepresentation(CLOSED_SURFACE)


def drawn_on(node: Any) -> Any | None:
    """Return the volume node that a segmentation was drawn on; None if it refers to none, or that is gone."""
    return node.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())


def remembered_image(node: Any, *, with_voxels: bool) -> Any | None:
    """Return the geometry that a segmentation remembers of the image it was drawn on, or None.

    Args:
        node: Segmentation node.
        with_voxels: Allocate the voxels of the returned vtkOrientedImageData as well.
    """
    converter, image = slicer.vtkSegmentationConverter, slicer.vtkOrientedImageData()
    text = node.GetSegmentation().GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
    return image if text and converter.DeserializeImageGeometry(text, image, with_voxels) else None
