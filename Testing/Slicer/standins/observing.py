"""Observation of nodes and scenes by a widget, without keeping the widget alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
import vtk
from PySide6 import QtCore

from . import faults


class _Follower:
    """Observes VTK objects for a widget until the widget is gone."""

    def __init__(self, widget: QtCore.QObject) -> None:
        self._widget = weakref.ref(widget)
        self._tags: dict[Any, tuple[Any, int]] = {}

    def observe(self, key: Any, subject: Any, event: Any, handler: Callable[..., None]) -> None:
        """Call a handler for an event of a VTK object, until `forget(key)`."""
        self.forget(key)
        self._tags[key] = (subject, subject.AddObserver(event, handler))

    def forget(self, key: Any) -> None:
        """Stop what `observe` began with this key."""
        if key in self._tags:
            subject, tag = self._tags.pop(key)
            subject.RemoveObserver(tag)

    def stop(self) -> None:
        """Stop all observations."""
        for key in list(self._tags):
            self.forget(key)

    def tell(self, method: str, *args: Any) -> None:
        """Call a method of the widget; if the widget is gone, stop."""
        widget = self._widget()
        if widget is None or not shiboken6.isValid(widget):
            self.stop()
            return
        try:
            getattr(widget, method)(*args)
        except Exception:  # VTK can't handle it
            faults.record_exception(f"exception in {type(widget).__name__}")


class SceneFollower(_Follower):
    """Calls a widget's `node_added`, `node_removing`, `node_modified`, `scene_imported`, and `refill`."""

    def __init__(self, scene: Any, widget: QtCore.QObject) -> None:
        super().__init__(widget)
        self._scene = scene
        self.observe("added", scene, slicer.vtkMRMLScene.NodeAddedEvent, self._added)
        self.observe("removing", scene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._removing)
        self.observe("end", scene, slicer.vtkMRMLScene.EndBatchProcessEvent, self._end)
        self.observe("imported", scene, slicer.vtkMRMLScene.EndImportEvent, self._imported)
        nodes = scene.GetNodes()
        for index in range(nodes.GetNumberOfItems()):
            self._follow(nodes.GetItemAsObject(index))

    def _follow(self, node: Any) -> None:
        self.observe(node.GetID(), node, vtk.vtkCommand.ModifiedEvent, self._modified)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _added(self, scene: Any, _event: str, node: Any) -> None:
        self._follow(node)
        if not scene.IsBatchProcessing():
            self.tell("node_added", node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _removing(self, _scene: Any, _event: str, node: Any) -> None:
        self.forget(node.GetID())
        self.tell("node_removing", node)

    def _modified(self, node: Any, _event: str) -> None:
        if not self._scene.IsBatchProcessing():
            self.tell("node_modified", node)

    def _end(self, _scene: Any, _event: str) -> None:
        self.tell("refill")

    def _imported(self, _scene: Any, _event: str) -> None:
        self.tell("scene_imported")


class NodeFollower(_Follower):
    """Calls a widget's `refill` when the node that it shows, or a part of that, changes or goes."""

    def __init__(self, widget: QtCore.QObject) -> None:
        super().__init__(widget)
        self.node: Any = None

    def follow(self, node: Any, *parts: Any) -> None:
        """Follow a node, or none, and those of its parts that report changes themselves."""
        self.stop()
        self.node = node
        for number, subject in enumerate((node, *parts)):
            if subject is not None:
                self.observe(number, subject, vtk.vtkCommand.ModifiedEvent, self._modified)
        if node is not None and node.GetScene() is not None:
            self.observe("gone", node.GetScene(), slicer.vtkMRMLScene.NodeRemovedEvent, self._removed)

    def _modified(self, _caller: Any, _event: str) -> None:
        self.tell("refill")

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _removed(self, _scene: Any, _event: str, node: Any) -> None:
        if node is self.node:
            self.follow(None)
            self.tell("refill")
