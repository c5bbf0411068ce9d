"""Qt properties of the stand-ins' own widgets, in a line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6 import QtCore


def stored(kind: Any, default: Any, changed: str | None = None) -> QtCore.Property:
    """A property that stores what it is given, and calls a method of its widget when that changes.

    Args:
        kind: Its C++ or Python type.
        default: Its initial value.
        changed: Name of the method; None if there is none.
    """
    key = object()

    def read(widget: Any) -> Any:
        return widget.__dict__.get(key, default)

    def write(widget: Any, value: Any) -> None:
        if value != read(widget):
            widget.__dict__[key] = value
            if changed is not None:
                getattr(widget, changed)()

    return QtCore.Property(kind, read, write)


def delegated(kind: Any, part: str, name: str) -> QtCore.Property:
    """A property of a part of the widget, such as its spin box.

    Args:
        kind: Its C++ or Python type.
        part: Attribute of the widget that holds the part.
        name: Name of the part's property.
    """
    setter = f"set{name[0].upper()}{name[1:]}"

    def read(widget: Any) -> Any:
        return getattr(getattr(widget, part), name)()

    def write(widget: Any, value: Any) -> None:
        getattr(getattr(widget, part), setter)(value)

    return QtCore.Property(kind, read, write)


def computed(kind: Any, read: Callable[[Any], Any], write: Callable[[Any, Any], None] | None = None) -> QtCore.Property:
    """A property that is read and written by functions."""
    return QtCore.Property(kind, read, write)
