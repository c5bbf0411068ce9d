"""The layout of views, which is there when there is a main window. No view is drawn."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from .plot_view import qMRMLPlotWidget

_SLICE_VIEWS = ("Red", "Green", "Yellow")
_ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}


class qMRMLSliceWidget(QtWidgets.QWidget):  # noqa: N801
    """A slice view: its nodes and its logic are real."""

    def __init__(self, name: str, scene: Any) -> None:
        super().__init__()
        self.setObjectName(f"qMRMLSliceWidget{name}")
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLScene(scene)
        self._node = self._logic.AddSliceNode(name)
        self._node.SetOrientation(_ORIENTATIONS[name])

    def mrmlSliceNode(self) -> Any:  # noqa: N802
        """Its slice node."""
        return self._node

    def sliceLogic(self) -> Any:  # noqa: N802
        """Its logic."""
        return self._logic

    def mrmlSliceCompositeNode(self) -> Any:  # noqa: N802
        """Which volumes it shows."""
        return self._logic.GetSliceCompositeNode()


class qMRMLLayoutManager(QtCore.QObject):  # noqa: N801
    """`slicer.app.layoutManager()`."""

    layoutChanged = QtCore.Signal(int)

    def __init__(self, scene: Any, parent: QtCore.QObject | None = None) -> None:
        super().__init__(parent)
        self._scene = scene
        self._layout = slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
        self._slices = {name: qMRMLSliceWidget(name, scene) for name in _SLICE_VIEWS}
        self._plot = qMRMLPlotWidget()
        self._plot.setMRMLScene(scene)
        self._plot.setMRMLPlotViewNode(scene.AddNewNodeByClass("vtkMRMLPlotViewNode", "PlotView1"))

    def setLayout(self, layout: int) -> None:  # noqa: N802
        """Change the layout."""
        if layout != self._layout:
            self._layout = layout
            self.layoutChanged.emit(layout)

    layout = QtCore.Property(int, lambda self: self._layout, setLayout)

    def sliceViewNames(self) -> list[str]:  # noqa: N802
        """Names of the slice views."""
        return list(self._slices)

    def sliceWidget(self, name: str) -> qMRMLSliceWidget | None:  # noqa: N802
        """A slice view."""
        return self._slices.get(name)

    def mrmlSliceLogics(self) -> Any:  # noqa: N802
        """The logics of all slice views."""
        collection = vtk.vtkCollection()
        for widget in self._slices.values():
            collection.AddItem(widget.sliceLogic())
        return collection

    def plotWidget(self, index: int) -> qMRMLPlotWidget | None:  # noqa: N802
        """A plot view."""
        return self._plot if index == 0 else None

    plotViewCount = QtCore.Property(int, lambda _self: 1)

    def resetSliceViews(self) -> None:  # noqa: N802
        """Fit each slice view to its volume."""
        for widget in self._slices.values():
            widget.sliceLogic().FitSliceToBackground()

    def resetThreeDViews(self) -> None:  # noqa: N802
        """There are none."""

    def _remove_nodes(self) -> None:
        """Take the views' nodes out of the scene."""
        for widget in self._slices.values():
            self._scene.RemoveNode(widget.mrmlSliceCompositeNode())
            self._scene.RemoveNode(widget.mrmlSliceNode())
        if self._plot.mrmlPlotViewNode() is not None:
            self._scene.RemoveNode(self._plot.mrmlPlotViewNode())


NATIVES: dict[str, type] = {found.__name__: found for found in (qMRMLLayoutManager, qMRMLSliceWidget)}
