"""The main window, which Slicer has unless it is started with `--no-main-window`."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtWidgets

from .layout import qMRMLLayoutManager
from .modules import qSlicerModuleManager


class qSlicerModuleSelectorToolBar(QtWidgets.QToolBar):  # noqa: N801
    """`slicer.util.moduleSelector()`: leaves a module and enters another one."""

    moduleSelected = QtCore.Signal(str)

    def __init__(self, manager: qSlicerModuleManager, parent: QtWidgets.QWidget) -> None:
        super().__init__(parent)
        self._manager, self._selected = manager, ""

    def selectModule(self, name: str) -> None:  # noqa: N802
        """Open a module; an unknown name is ignored."""
        if name == self._selected or (name and name not in self._manager.loaded):
            return
        for other, deed in ((self._selected, "exit"), (name, "enter")):
            module = self._manager.loaded.get(other)
            # C++ modules have no window here.
            if hasattr(module, "widgetRepresentation"):
                getattr(module.widgetRepresentation(), deed)()
        self._selected = name
        self.moduleSelected.emit(name)

    selectedModule = QtCore.Property(str, lambda self: self._selected, selectModule)


class qSlicerMainWindow(QtWidgets.QMainWindow):  # noqa: N801
    """`slicer.util.mainWindow()`."""

    def __init__(self, manager: qSlicerModuleManager) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = qSlicerModuleSelectorToolBar(manager, self)
        self.statusBar()

    def moduleSelector(self) -> qSlicerModuleSelectorToolBar:  # noqa: N802
        """Where modules are chosen."""
        return self._selector


NATIVES: dict[str, type] = {found.__name__: found for found in (qSlicerMainWindow, qSlicerModuleSelectorToolBar)}


class MainWindow:
    """The main window and its layout, as long as a test needs them."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self.window = qSlicerMainWindow(application.moduleManager())
        self._layout = qMRMLLayoutManager(application.mrmlScene())
        application.setLayoutManager(self._layout)

    def close(self) -> None:
        """Remove the main window and its layout again."""
        self.window.moduleSelector().selectModule("")
        self._application.setLayoutManager(None)
        self._layout._remove_nodes()
        self.window.deleteLater()
        # Deleted now: `slicer.util.mainWindow` finds it until then.
        QtCore.QCoreApplication.sendPostedEvents(self.window, QtCore.QEvent.Type.DeferredDelete)
