"""Text colours for levels of severity, readable in a light and in a dark window."""

from __future__ import annotations

from typing import Literal

import qt
import slicer

Level = Literal["ok", "warning", "error"]

# Contrast of at least 4.5:1 on white and light grey, and on the dark grey of Slicer's dark style (WCAG 2.1, 1.4.3).
_ON_LIGHT = {"ok": "#1e7042", "warning": "#8a5a00", "error": "#b03024"}
_ON_DARK = {"ok": "#5fd08a", "warning": "#f0b040", "error": "#ff7b6e"}
_MIDDLE = 128


def color_of(level: Level) -> str:
    """Return the colour of a level as #rrggbb, for style sheets and rich text."""
    window = slicer.app.palette().color(qt.QPalette.Window)
    return (_ON_DARK if window.lightness() < _MIDDLE else _ON_LIGHT)[level]
