"""Long work that a button starts and, pressed once more, cancels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from SIFASegmentationLib.work import Work

from .pieces import Pieces


class ButtonWork:
    """One work at a time, done by the event loop in pieces; as long as it runs, the button offers to cancel it."""

    def __init__(self, button: Any, on_end: Callable[[], None]) -> None:
        """
        Args:
            button: Says what it does when nothing runs; who connects it asks `is_running` what a click means.
            on_end: Called when a work has ended, whether all of it was done or not.
        """
        self._button, self._text, self._on_end = button, button.text, on_end
        self._pieces = Pieces()
        self.is_running = False

    def start(self, work: Work[None]) -> None:
        """Begin some work at the next turn of the event loop; not while another one runs."""
        self.is_running = True
        self._button.text = _("Cancel")
        self._pieces.add(self._do(work))

    def stop(self) -> None:
        """Do no more of it."""
        self._pieces.stop()
        # A work that was not begun yet ends without a word.
        self._end()

    def _do(self, work: Work[None]) -> Work[None]:
        try:
            yield from work
        finally:
            self._end()

    def _end(self) -> None:
        if self.is_running:
            self.is_running = False
            self._button.text = self._text
            self._on_end()
