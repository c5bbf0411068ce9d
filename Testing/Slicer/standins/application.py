"""The application: `slicer.app`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from . import pythonqt
from .layout import qMRMLLayoutManager
from .listing import listed_classes
from .modules import qSlicerModuleManager


class qSlicerApplication(QtWidgets.QApplication):  # noqa: N801
    """`slicer.app`, in testing mode and without a main window until a test asks for one."""

    startupCompleted = QtCore.Signal()
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self) -> None:
        super().__init__([sys.argv[0]])
        self.setApplicationName("Slicer")
        self.setOrganizationName("NA-MIC")
        # Tests must not touch the user's own folder.
        self._folder = tempfile.TemporaryDirectory(prefix="slicer-standins-")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, self._folder.name)
        self._temporary = Path(self._folder.name) / "temporary"
        self._temporary.mkdir()
        self._application_logic = slicer.vtkSlicerApplicationLogic()
        self._scene: Any = None
        self._layout_manager: qMRMLLayoutManager | None = None
        self._module_manager = qSlicerModuleManager()
        self._options = SimpleNamespace(runPythonAndExit=True)

    # What listings call properties

    temporaryPath = QtCore.Property(str, lambda self: str(self._temporary))
    majorVersion = QtCore.Property(int, lambda _self: 5)
    minorVersion = QtCore.Property(int, lambda _self: 12)
    revision = QtCore.Property(str, lambda _self: "0")
    slicerHome = QtCore.Property(str, lambda self: self._folder.name)
    os = QtCore.Property(str, lambda _self: {"win32": "win", "darwin": "macosx"}.get(sys.platform, "linux"))
    mainApplicationName = QtCore.Property(str, lambda _self: "Slicer")

    # Methods

    def applicationLogic(self) -> Any:  # noqa: N802
        """Selection, interaction, propagation."""
        return self._application_logic

    def mrmlScene(self) -> Any:  # noqa: N802
        """The scene."""
        return self._scene

    def set_scene(self, scene: Any) -> None:
        """Take up the scene."""
        self._scene = scene
        self._application_logic.SetMRMLScene(scene)
        self.mrmlSceneChanged.emit(scene)

    def layoutManager(self) -> qMRMLLayoutManager | None:  # noqa: N802
        """The layout; None without a main window."""
        return self._layout_manager

    def setLayoutManager(self, manager: Any) -> None:  # noqa: N802
        """Give the application its layout."""
        self._layout_manager = manager

    def moduleManager(self) -> qSlicerModuleManager:  # noqa: N802
        """The loaded modules."""
        return self._module_manager

    def testingEnabled(self) -> bool:  # noqa: N802
        """Whether message boxes are answered automatically: always."""
        return True

    def commandOptions(self) -> Any:  # noqa: N802
        """Options of the command line."""
        return self._options

    def settings(self) -> QtCore.QSettings:
        """The application's settings."""
        return QtCore.QSettings()

    userSettings = revisionUserSettings = settings

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:  # noqa: N802
        """The environment that Slicer was started in."""
        return QtCore.QProcessEnvironment.systemEnvironment()

    environment = startupEnvironment

    def moduleLogic(self, name: str) -> Any:  # noqa: N802
        """The C++ logic of a module."""
        return self._module_manager.module(name).logic()

    def moduleDocumentationUrl(self, name: str) -> str:  # noqa: N802
        """Where a module is explained."""
        return f"https://slicer.readthedocs.io/en/5.12/user_guide/modules/{name.lower()}.html"

    def applicationDirPath(self) -> str:  # noqa: N802
        """Folder of the executable."""
        return str(Path(sys.executable).parent)

    def isEnvironmentVariableValueSet(self, name: str) -> bool:  # noqa: N802
        """Whether a variable has a value."""
        return name in os.environ

    def setRenderPaused(self, _paused: bool) -> None:  # noqa: N802
        """Nothing is rendered."""

    def pauseRender(self) -> None:  # noqa: N802
        """Nothing is rendered."""

    resumeRender = pauseRender


def wrapped_application(application: qSlicerApplication) -> Any:
    """`slicer.app`."""
    wrapped = pythonqt.make_class("qSlicerApplication", qSlicerApplication, listed_classes()["slicer.app"], "slicer")
    wrapper = wrapped.__new__(wrapped)
    wrapper._adopt(application)
    return wrapper
