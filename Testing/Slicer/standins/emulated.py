"""Differences between PySide (Qt 6) and Slicer's Qt 5.15, and calls that must not happen in a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtWidgets

# Static functions that wait for a user; tests replace them by `monkeypatch.setattr(qt.QFileDialog, ...)`.
_MODAL = {
    "QFileDialog": {"getExistingDirectory", "getOpenFileName", "getOpenFileNames", "getSaveFileName"},
    "QInputDialog": {"getText", "getInt", "getDouble", "getItem", "getMultiLineText"},
    "QMessageBox": {"question", "information", "warning", "critical", "about", "aboutQt"},
}


def refuse_modal(class_name: str, method: str) -> None:
    """Raise `RuntimeError` if a call would wait for a user, since there is none."""
    if method == "exec" or method in _MODAL.get(class_name, ()):
        raise RuntimeError(f"{class_name}.{method} waits for a user: replace it in the test by monkeypatch.")


# Types that Qt 6 returns where Qt 5 returns nothing.
NOTHING_IN_QT_5 = {"QOverrideCursorGuard", "Connection"}

# Signals of Qt 5 that Qt 6 has under another name.
_SIGNALS = {
    ("QComboBox", "currentIndexChanged(QString)"): "currentTextChanged",
    ("QComboBox", "activated(QString)"): "textActivated",
    ("QComboBox", "highlighted(QString)"): "textHighlighted",
    ("QSpinBox", "valueChanged(QString)"): "textChanged",
    ("QDoubleSpinBox", "valueChanged(QString)"): "textChanged",
    ("QProcess", "error(QProcess::ProcessError)"): "errorOccurred",
    ("QButtonGroup", "buttonClicked(int)"): "idClicked",
    ("QButtonGroup", "buttonPressed(int)"): "idPressed",
    ("QButtonGroup", "buttonReleased(int)"): "idReleased",
    ("QButtonGroup", "buttonToggled(int,bool)"): "idToggled",
}


def native_signal(native: QtCore.QObject, signature: str) -> Any:
    """Return PySide's signal for a signature of Qt 5.

    The class of a stand-in maps signatures to its signals in `SIGNALS`, where the name does not identify them.

    Raises:
        NotImplementedError: The stand-in has no such signal.
    """
    own = getattr(type(native), "SIGNALS", {})
    if signature in own:
        return getattr(native, own[signature])
    for base in type(native).__mro__:
        if (base.__name__, signature) in _SIGNALS:
            return getattr(native, _SIGNALS[base.__name__, signature])
    signal = getattr(native, signature.partition("(")[0], None)
    if not isinstance(signal, QtCore.SignalInstance):
        raise NotImplementedError(f"The stand-in of {type(native).__name__} never emits {signature}.")
    return signal


# Methods of Qt 5 that Qt 6 lacks.
_METHODS: dict[str, Callable[..., Any]] = {
    "setMargin": lambda native, margin: native.setContentsMargins(margin, margin, margin, margin),
    "setTabStopWidth": lambda native, width: native.setTabStopDistance(width),
    # QFontMetrics
    "width": lambda native, text: native.horizontalAdvance(text),
}


def find_method(native: Any, name: str) -> Callable[..., Any]:
    """Return a method of a native object, or one that does the same in Qt 6."""
    found = getattr(native, name, None)
    if callable(found):
        return found
    if name in _METHODS:
        replacement = _METHODS[name]
        return lambda *args: replacement(native, *args)
    raise NotImplementedError(f"The stand-in of {type(native).__name__} has no {name}().")


opened: list[str] = []
"""What would have been opened in a browser or file manager."""


def _open_url(url: QtCore.QUrl) -> bool:
    opened.append(url.toString())
    return True


def find_static(native: type, name: str) -> Callable[..., Any]:
    """Return a static method of a native class."""
    if (native.__name__, name) == ("QDesktopServices", "openUrl"):
        return _open_url
    found = getattr(native, name, None)
    if found is None:
        raise NotImplementedError(f"The stand-in of {native.__name__} has no {name}().")
    return found


def read_property(native: QtCore.QObject, name: str) -> Any:
    """Return a property's value; properties of Qt 5 that are methods in Qt 6 are called."""
    if isinstance(native, QtCore.QObject) and native.metaObject().indexOfProperty(name) >= 0:
        return native.property(name)
    if name == "margin" and isinstance(native, QtWidgets.QLayout):
        return native.contentsMargins().left()
    getter = getattr(native, name, None)
    if callable(getter):
        return getter()
    if getter is not None:
        return getter
    raise NotImplementedError(f"The stand-in of {type(native).__name__} has no property {name}.")


def write_property(native: QtCore.QObject, name: str, value: Any) -> bool:
    """Set a property; False if the value is not accepted."""
    index = native.metaObject().indexOfProperty(name)
    if index >= 0:
        return native.metaObject().property(index).isWritable() and native.setProperty(name, value) is not False
    if name == "margin" and isinstance(native, QtWidgets.QLayout):
        native.setContentsMargins(value, value, value, value)
        return True
    setter = getattr(native, f"set{name[0].upper()}{name[1:]}", None)
    if setter is None:
        raise NotImplementedError(f"The stand-in of {type(native).__name__} has no property {name} to set.")
    setter(value)
    return True
