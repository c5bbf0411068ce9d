"""Puts the stand-ins where Python code in Slicer looks for the real ones."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any, NamedTuple

if "QT_QPA_PLATFORM" not in os.environ and not os.environ.get("DISPLAY") and sys.platform == "linux":
    os.environ["QT_QPA_PLATFORM"] = "offscreen"

import PySide6
import slicer

if PySide6.__version__.startswith("6.12.0") and sys.version_info < (3, 12):
    # Every call of a C++ function that returns nothing drops a reference to None, until the interpreter aborts.
    raise ImportError("PySide6 6.12.0 aborts Python 3.11: install PySide6-Essentials<6.12.")


class Environment(NamedTuple):
    """The stand-ins, to be held as long as they are used.

    Attributes:
        application: The native application.
        scene: `slicer.mrmlScene`.
    """

    application: Any
    scene: Any
    followers: list[Any]


_installed: list[Environment] = []


def install() -> Environment:
    """Make the application and its scene, once per process."""
    if not _installed:
        _installed.append(_install())
    return _installed[0]


def _install() -> Environment:
    # `pythonqt` and what it imports don't depend on the modules; the rest needs `qt` and `ctk` to exist.
    from . import ctk_module, faults, pythonqt, qt_module  # noqa: PLC0415

    faults.listen()

    qt = qt_module.make_qt()
    ctk = ctk_module.make_ctk()
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    from . import application, layout, main_window, modules, qmrml, ui_loader  # noqa: PLC0415
    from .subject_hierarchy import SubjectHierarchyFollower  # noqa: PLC0415

    classes = qt_module.ClassModule(
        "slicer", {**qmrml.NATIVES, **modules.NATIVES, **layout.NATIVES, **main_window.NATIVES}
    )
    qt.natives["QUiLoader"] = ui_loader.UiLoader

    def find_class(name: str) -> Any:
        for module in (classes, ctk, qt):
            found = module.class_named(name)
            if found is not None:
                return found
        return pythonqt.known_class(name)

    pythonqt.find_class = find_class
    app = application.qSlicerApplication()
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    app.set_scene(scene)
    slicer.app = application.wrapped_application(app)
    slicer.modules = modules.Modules(app.moduleManager())
    slicer.moduleNames = modules.ModuleNames(app.moduleManager())
    for name in classes.natives:
        setattr(slicer, name, classes.class_named(name))
    _submodules()
    modules.load_core_modules(app.moduleManager(), app.applicationLogic(), scene)
    return Environment(app, scene, [SubjectHierarchyFollower(scene)])


def _submodules() -> None:
    for name, stand_in in (
        ("i18n", "i18n"), ("packaging", "packaging_module"), ("parameterNodeWrapper", "parameter_node"),
        ("ScriptedLoadableModule", "scripted_module"),
    ):  # fmt: skip
        module: ModuleType = importlib.import_module(f"{__package__}.{stand_in}")
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
