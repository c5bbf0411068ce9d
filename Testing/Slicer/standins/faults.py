"""What went wrong where Slicer would only print: errors in slots, wrong signatures, Qt's complaints.

A test fails at its end if there were any.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from PySide6 import QtCore

# Words of messages that come from the offscreen platform itself.
_NOISE = ("propagateSizeHints", "This plugin supports grabbing", "XDG_RUNTIME_DIR", "font", "Font")

_recorded: list[str] = []


def record(text: str) -> None:
    """Print a fault, as Slicer does, and remember it."""
    print(text, file=sys.stderr)
    _recorded.append(text)


def record_exception(where: str) -> None:
    """Record the exception that is being handled."""
    record(f"{where}: {traceback.format_exc()}")


def take() -> list[str]:
    """Return what was recorded since the last call."""
    taken = list(_recorded)
    _recorded.clear()
    return taken


@contextmanager
def expected(words: str) -> Iterator[None]:
    """Require that a fault with these words is recorded in the block, and forget it."""
    before = len(_recorded)
    yield
    found = [text for text in _recorded[before:] if words in text]
    assert found, f"no fault with the words {words!r} among {_recorded[before:]}"
    _recorded[before:] = [text for text in _recorded[before:] if words not in text]


def listen() -> None:
    """Record Qt's complaints, and exceptions in callbacks of VTK and Qt, which no caller sees."""
    QtCore.qInstallMessageHandler(_qt_message)
    sys.excepthook = _uncaught


def _qt_message(kind: QtCore.QtMsgType, _context: QtCore.QMessageLogContext, text: str) -> None:
    if kind in (QtCore.QtMsgType.QtDebugMsg, QtCore.QtMsgType.QtInfoMsg) or any(noise in text for noise in _NOISE):
        return
    record(f"Qt: {text}")


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    record("exception in a callback: " + "".join(traceback.format_exception(kind, error, trace)))
