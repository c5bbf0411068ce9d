"""Turns of the event loop, for tests of what happens while something else is under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt


def every_turn(function: Callable[[], Any]) -> Any:
    """Return a timer that calls a function at each turn of the event loop; keep a reference to it, and stop it."""
    timer = qt.QTimer()
    timer.setInterval(0)
    timer.connect("timeout()", function)
    timer.start()
    return timer
