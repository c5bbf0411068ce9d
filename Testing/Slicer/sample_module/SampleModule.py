"""A scripted module with one of everything, to try the stand-ins on before the real modules are."""

from __future__ import annotations

import pathlib
from enum import Enum
from typing import Annotated, Any, Optional

import numpy as np
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Default, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class SampleModule(ScriptedLoadableModule):
    """What Slicer shows of it."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Sample")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Testing")]


class Mode(Enum):
    """A choice."""

    fast = 1
    exact = 2


@parameterNodeWrapper
class SampleModuleParameterNode:
    """One parameter of each kind."""

    volume: vtkMRMLScalarVolumeNode
    reference: Optional[vtkMRMLSegmentationNode]  # noqa: UP045  Slicer refuses `X | None`
    mode: Mode = Mode.exact
    count: Annotated[int, WithinRange(1, 10)] = 3
    tolerance: Annotated[float, WithinRange(0, 20), Default(2.0)]
    smooth: bool = True
    title: str = "a title"
    folder: pathlib.Path = pathlib.Path("somewhere")
    tags: list[str]


class SampleModuleLogic(ScriptedLoadableModuleLogic):
    """Doubles a volume."""

    def getParameterNode(self) -> SampleModuleParameterNode:  # noqa: N802  Slicer's name
        """The parameters."""
        return SampleModuleParameterNode(super().getParameterNode())

    def double(self, volume: Any) -> Any:
        """A volume with twice the values."""
        return slicer.util.addVolumeFromArray(slicer.util.arrayFromVolume(volume) * 2, name="double")


class SampleModuleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The window."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SampleModuleLogic | None = None
        self.parameters: SampleModuleParameterNode | None = None
        self.calls: list[str] = []

    def setup(self) -> None:
        """Called once."""
        ScriptedLoadableModuleWidget.setup(self)
        ui = slicer.util.loadUI(self.resourcePath("UI/SampleModule.ui"))
        self.layout.addWidget(ui)
        self.ui = slicer.util.childWidgetVariables(ui)
        ui.setMRMLScene(slicer.mrmlScene)
        self.logic = SampleModuleLogic()
        self.ui.applyButton.connect("clicked(bool)", self.apply)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.scene_closes)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.scene_closed)
        self.enter()

    def enter(self) -> None:
        """Called each time it is opened."""
        self.calls.append("enter")
        self.connect_parameters(self.logic.getParameterNode())

    def exit(self) -> None:
        """Called each time it is left."""
        self.calls.append("exit")

    def cleanup(self) -> None:
        """Called at the end."""
        self.calls.append("cleanup")
        self.connect_parameters(None)
        self.removeObservers()

    def connect_parameters(self, parameters: SampleModuleParameterNode | None) -> None:
        """Take up a parameter node, or none."""
        if self.parameters is not None:
            self.parameters.disconnectGui(self.connection)
            self.removeObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.check)
        self.parameters = parameters
        if parameters is not None:
            self.connection = parameters.connectGui(self.ui)
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.check)
            self.check()

    def scene_closes(self, _caller: Any, _event: str) -> None:
        """Let the parameter node go."""
        self.connect_parameters(None)

    def scene_closed(self, _caller: Any, _event: str) -> None:
        """Take up the new one."""
        if self.parent.isEntered:
            self.enter()

    def check(self, _caller: Any = None, _event: Any = None) -> None:
        """Enable the button where it can do something."""
        self.ui.applyButton.enabled = self.parameters.volume is not None
        self.ui.applyButton.toolTip = "" if self.ui.applyButton.enabled else _("Choose a volume.")

    def apply(self) -> None:
        """Double the volume."""
        with slicer.util.tryWithErrorDisplay(_("Failed."), waitCursor=True):
            self.logic.double(self.parameters.volume)


class SampleModuleTest(ScriptedLoadableModuleTest):
    """The self test."""

    def test_double(self) -> None:
        """Twice the values."""
        volume = slicer.util.addVolumeFromArray(np.ones((2, 3, 4)))
        assert (slicer.util.arrayFromVolume(SampleModuleLogic().double(volume)) == 2).all()
