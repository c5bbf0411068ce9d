"""Keeps the subject hierarchy in step with the scene, which in Slicer is done by Qt plugins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk

from . import faults

# Classes of nodes that Slicer's plugins put into the hierarchy.
_TAKEN = (
    "vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode", "vtkMRMLModelNode", "vtkMRMLTransformNode",
    "vtkMRMLTableNode", "vtkMRMLTextNode", "vtkMRMLPlotSeriesNode", "vtkMRMLPlotChartNode", "vtkMRMLROINode",
)  # fmt: skip


class SubjectHierarchyFollower:
    """Gives each new node an item below the scene, and removes the item with the node."""

    def __init__(self, scene: Any) -> None:
        self._scene = scene
        events = slicer.vtkMRMLScene
        for event, handler in (
            (events.NodeAddedEvent, self._added), (events.NodeAboutToBeRemovedEvent, self._removing),
            (events.EndImportEvent, self._imported), (events.EndCloseEvent, self._closed),
            (events.EndBatchProcessEvent, self._imported),
        ):  # fmt: skip
            scene.AddObserver(event, handler, 10.0)
        self._closed(scene, "")

    def _hierarchy(self) -> Any:
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _added(self, scene: Any, _event: str, node: Any) -> None:
        if node.IsA("vtkMRMLSubjectHierarchyNode"):
            slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)
        elif not scene.IsImporting():
            _guarded(lambda: self._place(node))

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _removing(self, scene: Any, _event: str, node: Any) -> None:
        if scene.IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        item = self._hierarchy().GetItemByDataNode(node)
        if item:
            self._hierarchy().RemoveItem(item, False, False)

    def _imported(self, scene: Any, _event: str) -> None:
        if scene.IsClosing() or scene.IsImporting():
            return
        slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)
        nodes = scene.GetNodes()
        for index in range(nodes.GetNumberOfItems()):
            node = nodes.GetItemAsObject(index)
            _guarded(lambda node=node: self._place(node))

    def _closed(self, scene: Any, _event: str) -> None:
        slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)

    def _place(self, node: Any) -> None:
        if node.GetHideFromEditors() or not any(node.IsA(kind) for kind in _TAKEN):
            return
        hierarchy = self._hierarchy()
        if not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


def _guarded(deed: Callable[[], None]) -> None:
    try:
        deed()
    except Exception:  # VTK can't handle it
        faults.record_exception("exception in the subject hierarchy")
