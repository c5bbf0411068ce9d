"""Modules of the application: C++ ones with their real logic, and scripted ones loaded from their files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from . import faults, pythonqt
from .native_property import stored
from .qmrml import qSlicerWidget


class CoreModule:
    """A C++ module of Slicer, of which only the logic exists; that is the real one."""

    def __init__(self, name: str, logic: Any) -> None:
        self.name, self.title, self.path = name, name, ""
        self._logic = logic

    def logic(self) -> Any:
        """Its logic."""
        return self._logic


class qSlicerScriptedLoadableModule(QtCore.QObject):  # noqa: N801
    """A scripted module as C++ sees it: `self.parent` of the module class, and what `slicer.modules` holds."""

    def __init__(self, name: str = "", path: str = "") -> None:
        super().__init__()
        self._name, self._path = name, path
        self._widget: qSlicerScriptedLoadableModuleWidget | None = None
        self._logic = slicer.vtkSlicerScriptedLoadableModuleLogic() if _has_scripted_logic() else None

    name = QtCore.Property(str, lambda self: self._name)
    path = QtCore.Property(str, lambda self: self._path)
    title = stored(str, "")
    categories = stored("QStringList", [])
    dependencies = stored("QStringList", [])
    contributors = stored("QStringList", [])
    associatedNodeTypes = stored("QStringList", [])
    helpText = stored(str, "")
    acknowledgementText = stored(str, "")
    icon = stored(QtGui.QIcon, QtGui.QIcon())
    hidden = stored(bool, False)
    index = stored(int, -1)
    widgetRepresentationCreationEnabled = stored(bool, True)

    def logic(self) -> Any:
        """The C++ half of its logic, which does nothing."""
        return self._logic

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:  # noqa: N802
        """The widget that holds the module's window, made the first time."""
        if self._widget is None:
            self._widget = self.createNewWidgetRepresentation()
        return self._widget

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:  # noqa: N802
        """One more such widget."""
        widget = qSlicerScriptedLoadableModuleWidget()
        widget._set_up(self._name)
        return widget


def _has_scripted_logic() -> bool:
    # Not part of slicer-core.
    return hasattr(slicer, "vtkSlicerScriptedLoadableModuleLogic")


class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):  # noqa: N801
    """Holds the window of a scripted module: `self.parent` of the module's widget class."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._entered, self._name = False, ""
        self._python: Any = None
        QtWidgets.QVBoxLayout(self)

    isEntered = QtCore.Property(bool, lambda self: self._entered)
    moduleName = QtCore.Property(str, lambda self: self._name)

    def _set_up(self, name: str) -> None:
        """Make the Python half."""
        self._name = name
        self.setObjectName(f"{name}ModuleWidget")
        self.setMRMLScene(slicer.mrmlScene)
        wrapper = pythonqt.wrap(self)
        self._python = getattr(sys.modules[name], f"{name}Widget")(wrapper)
        setattr(slicer.modules, f"{name}Widget", self._python)
        self._call("setup")

    def self(self) -> Any:
        """The Python half."""
        return self._python

    def enter(self) -> None:
        """The module was opened."""
        self._entered = True
        self._call("enter")

    def exit(self) -> None:
        """Another module was opened."""
        self._entered = False
        self._call("exit")

    def reload(self) -> None:
        """Make the Python half anew, from what is in `sys.modules` now."""
        self._set_up(self._name)

    def _call(self, name: str) -> None:
        try:
            getattr(self._python, name, lambda: None)()
        except Exception:  # C++ prints it and goes on
            faults.record_exception(f"exception in {self._name}Widget.{name}")


class qSlicerModuleManager(QtCore.QObject):  # noqa: N801
    """`slicer.app.moduleManager()`."""

    moduleAboutToBeUnloaded = QtCore.Signal(str)
    moduleLoaded = QtCore.Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.loaded: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        """A module by its name."""
        return self.loaded.get(name)

    def modulesNames(self) -> list[str]:  # noqa: N802
        """Names of all modules."""
        return list(self.loaded)

    def factoryManager(self) -> qSlicerModuleFactoryManager:  # noqa: N802
        """What loads modules."""
        return qSlicerModuleFactoryManager(self)


class qSlicerModuleFactoryManager(QtCore.QObject):  # noqa: N801
    """`slicer.app.moduleManager().factoryManager()`."""

    def __init__(self, manager: qSlicerModuleManager) -> None:
        super().__init__(manager)
        self._manager = manager

    def loadedModuleNames(self) -> list[str]:  # noqa: N802
        """Names of all modules."""
        return list(self._manager.loaded)

    def isLoaded(self, name: str) -> bool:  # noqa: N802
        """Whether there is such a module."""
        return name in self._manager.loaded


class Modules:
    """`slicer.modules`: modules by their names in lower case."""

    def __init__(self, manager: qSlicerModuleManager) -> None:
        self.__dict__["_manager"] = manager

    def __getattr__(self, name: str) -> Any:
        for module_name, module in self._manager.loaded.items():
            if module_name.lower() == name:
                return pythonqt.wrap(module)
        raise AttributeError(f"module 'slicer.modules' has no attribute '{name}'")


class ModuleNames:
    """`slicer.moduleNames`: names of modules by themselves."""

    def __init__(self, manager: qSlicerModuleManager) -> None:
        self.__dict__["_manager"] = manager

    def __getattr__(self, name: str) -> str:
        if name in self._manager.loaded:
            return name
        raise AttributeError(f"module 'slicer.moduleNames' has no attribute '{name}'")


NATIVES: dict[str, type] = {
    found.__name__: found
    for found in (
        qSlicerScriptedLoadableModule, qSlicerScriptedLoadableModuleWidget, qSlicerModuleManager,
        qSlicerModuleFactoryManager,
    )
}  # fmt: skip

_LOGICS = {
    "Colors": "vtkSlicerColorLogic", "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic", "Volumes": "vtkSlicerVolumesLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic", "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic", "Tables": "vtkSlicerTablesLogic", "Plots": "vtkSlicerPlotsLogic",
    "Transforms": "vtkSlicerTransformLogic", "Texts": "vtkSlicerTextsLogic", "CropVolume": "vtkSlicerCropVolumeLogic",
}  # fmt: skip


def load_core_modules(manager: qSlicerModuleManager, application_logic: Any, scene: Any) -> None:
    """Load the C++ modules whose logic slicer-core has, connected to the scene and to one another."""
    logics = {name: getattr(slicer, class_name)() for name, class_name in _LOGICS.items()}
    # Silences warnings that Slicer's files of terminologies and colours are missing.
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
    for name, logic in logics.items():
        logic.SetMRMLApplicationLogic(application_logic)
        application_logic.SetModuleLogic(name, logic)
        manager.loaded[name] = CoreModule(name, logic)
    for logic in logics.values():
        logic.SetMRMLScene(scene)
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_INFO)


def load_scripted_module(manager: qSlicerModuleManager, name: str, folder: Path) -> qSlicerScriptedLoadableModule:
    """Import `folder/name.py` and make its module object, as Slicer does when it starts."""
    path = folder / f"{name}.py"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if name not in manager.loaded:
        spec = importlib.util.spec_from_file_location(name, path)
        python_module = importlib.util.module_from_spec(spec)
        sys.modules[name] = python_module
        spec.loader.exec_module(python_module)
        native = qSlicerScriptedLoadableModule(name, str(path))
        wrapper = pythonqt.wrap(native)
        # Slicer keeps both halves as long as it runs.
        native._python = getattr(python_module, name)(wrapper)
        manager.loaded[name] = native
        manager.moduleLoaded.emit(name)
    return manager.loaded[name]
