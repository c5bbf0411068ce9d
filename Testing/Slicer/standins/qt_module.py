"""The module `qt`: the classes of Qt that Slicer names, made on first use."""

from __future__ import annotations

import types
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from . import pythonqt
from .listing import listed_classes, named_only

for _source in (QtCore, QtGui, QtWidgets):
    for _name in dir(_source):
        # PySide makes a class on first use; until then, it treats its objects as those of the base class.
        getattr(_source, _name)


class ClassModule(types.ModuleType):
    """A module whose classes are wrapped on first use, if the listing has them."""

    def __init__(self, name: str, natives: dict[str, type]) -> None:
        """`natives` maps names to PySide classes, at least the names in the listing."""
        super().__init__(name)
        self.__dict__["natives"] = natives

    def __getattr__(self, name: str) -> Any:
        wrapped = None if name.startswith("_") else self.class_named(name)
        if wrapped is None:
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
        return wrapped

    def class_named(self, name: str) -> pythonqt.PythonQtClassWrapper | None:
        """Return the wrapped class of a name; None if a running Slicer has none, or there is no stand-in."""
        if name in self.__dict__:
            return self.__dict__[name]
        full_name = f"{self.__name__}.{name}"
        is_listed = full_name in listed_classes()
        if not (is_listed or name in named_only(self.__name__)):
            return None
        native = self.natives[name]
        listing = listed_classes()[full_name] if is_listed else pythonqt.introspect(native)
        wrapped = pythonqt.make_class(name, native, listing, self.__name__)
        self.__dict__[name] = wrapped
        return wrapped


class _AllOfQt(dict[str, type]):
    """PySide's classes by name; PySide makes them on first use."""

    def __missing__(self, name: str) -> type | None:
        for source in (QtWidgets, QtGui, QtCore, QtUiTools):
            found = getattr(source, name, None)
            if isinstance(found, type):
                self[name] = found
                return found
        return None


def _forbidden_signal(*_args: Any) -> None:
    raise NotImplementedError("A signal made in Python crashes Slicer at exit: use a list of callables.")


def make_qt() -> ClassModule:
    """Make the module."""
    module = ClassModule("qt", _AllOfQt())
    module.Signal = _forbidden_signal
    module.qVersion = lambda: "5.15.2"
    return module
