"""Following a scene from a widget, as long as the widget lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
import vtk
from PySide6 import QtCore

from . import faults


class SceneObserver:
    """Calls a widget when nodes come, go or change.

    While the scene is in a batch (closing, importing), single nodes are not told; `reset` is called at its end.
    """

    def __init__(
        self,
        scene: Any,
        widget: QtCore.QObject,
        added: Callable[[Any], None],
        removing: Callable[[Any], None],
        reset: Callable[[], None],
    ) -> None:
        self._scene, self._widget = scene, widget
        self._added, self._removing, self._reset = added, removing, reset
        self._tags: list[tuple[Any, int]] = []
        self._nodes: dict[str, tuple[Any, int]] = {}
        for event, handler in (
            (slicer.vtkMRMLScene.NodeAddedEvent, self._on_added),
            (slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._on_removing),
            (slicer.vtkMRMLScene.EndBatchProcessEvent, self._on_end),
        ):
            self._tags.append((scene, scene.AddObserver(event, handler)))
        nodes = scene.GetNodes()
        for index in range(nodes.GetNumberOfItems()):
            self._follow(nodes.GetItemAsObject(index))

    def stop(self) -> None:
        """Follow no longer."""
        for subject, tag in [*self._tags, *self._nodes.values()]:
            subject.RemoveObserver(tag)
        self._tags, self._nodes = [], {}

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        if not shiboken6.isValid(self._widget):
            self.stop()
            return
        try:
            function(*args)
        except Exception:  # VTK can't take it
            faults.record_exception(f"exception in {type(self._widget).__name__}")

    def _follow(self, node: Any) -> None:
        modified = getattr(self._widget, "node_modified", None)
        if modified is not None and node is not None and node.GetID() not in self._nodes:
            tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, _event: self._call(modified, caller))
            self._nodes[node.GetID()] = (node, tag)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_added(self, _scene: Any, _event: str, node: Any) -> None:
        self._follow(node)
        if not self._scene.IsBatchProcessing():
            self._call(self._added, node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_removing(self, _scene: Any, _event: str, node: Any) -> None:
        followed = self._nodes.pop(node.GetID(), None)
        if followed is not None:
            followed[0].RemoveObserver(followed[1])
        self._call(self._removing, node)

    def _on_end(self, _scene: Any, _event: str) -> None:
        self._call(self._reset)


class NodeFollower:
    """Calls a widget when the node that it shows changes."""

    def __init__(self, widget: QtCore.QObject, changed: Callable[[], None]) -> None:
        self._widget, self._changed = widget, changed
        self.node: Any = None
        self._tags: list[tuple[Any, int]] = []

    def follow(self, node: Any, *parts: Any) -> None:
        """Follow a node, or none, and the parts of it that tell of changes themselves."""
        for subject, tag in self._tags:
            subject.RemoveObserver(tag)
        self.node, self._tags = node, []
        for subject in (node, *parts):
            if subject is not None:
                self._tags.append((subject, subject.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_modified)))

    def _on_modified(self, _caller: Any, _event: str) -> None:
        if not shiboken6.isValid(self._widget):
            self.follow(None)
            return
        try:
            self._changed()
        except Exception:  # VTK can't take it
            faults.record_exception(f"exception in {type(self._widget).__name__}")
