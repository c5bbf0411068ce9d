"""Long work that a button starts, and cancels when it is pressed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from SIFASegmentationLib.work import Work

from .pieces import Pieces


class ButtonWork:
    """Runs one computation at a time, piece by piece in the event loop; meanwhile its button reads "Cancel"."""

    def __init__(self, button: Any, on_end: Callable[[], None]) -> None:
        """
        Args:
            button: The button, with its text for when nothing runs. The caller connects it, and checks `is_running`
                to tell whether a click means start or cancel.
            on_end: Called when a computation has ended, whether it was completed or not.
        """
        self._button, self._text, self._on_end = button, button.text, on_end
        self._pieces = Pieces()
        self.is_running = False

    def start(self, work: Work[None]) -> None:
        """Start a computation at the next turn of the event loop; must not be called while another one runs."""
        self.is_running = True
        self._button.text = _("Cancel")
        self._pieces.add(self._do(work))

    def stop(self) -> None:
        """Cancel the computation."""
        self._pieces.stop()
        # A generator that was not started yet does not run its `finally`.
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
