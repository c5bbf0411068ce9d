"""Pictures of a module's window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6 import QtGui, QtWidgets

from . import pythonqt

_FONTS = ("DejaVu Sans", "Noto Sans", "Liberation Sans", "Arial", "Helvetica")


def grab(parent: Any, path: Path, width: int = 560) -> None:
    """Write a picture (PNG) of a window in full height, as wide as `width` pixels.

    Args:
        parent: The widget that holds the window, as Slicer's module panel would.
        path: File to write; its folder is made.
        width: Width in pixels.
    """
    use_plain_look()
    native = pythonqt.unwrap(parent)
    native.setFixedWidth(width)
    native.show()
    # Each turn lets nested layouts adapt to the height from the last one.
    for _turn in range(3):
        QtWidgets.QApplication.processEvents()
        native.resize(width, _height(native, width))
    path.parent.mkdir(parents=True, exist_ok=True)
    native.grab().save(str(path))


def use_plain_look() -> None:
    """Use Fusion in light colours and the first available font of a list, so that pictures look the same everywhere."""
    application = QtWidgets.QApplication.instance()
    assert isinstance(application, QtWidgets.QApplication)
    if application.style().objectName() != "fusion":
        application.setStyle("fusion")
    application.setPalette(application.style().standardPalette())
    families = set(QtGui.QFontDatabase.families())
    found = next((name for name in _FONTS if name in families), None)
    if found is not None:
        application.setFont(QtGui.QFont(found, 9))


def _height(native: QtWidgets.QWidget, width: int) -> int:
    layout = native.layout()
    wanted = layout.totalHeightForWidth(width) if layout is not None and layout.hasHeightForWidth() else -1
    return max(wanted, native.minimumSizeHint().height(), native.sizeHint().height() if wanted < 0 else 0)
