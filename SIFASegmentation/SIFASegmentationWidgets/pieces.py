"""Long work (`SIFASegmentationLib.work`) done by the event loop, piece by piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import qt

_ENDED = object()


class Pieces:
    """Works one after the other, a piece at each turn of the event loop: nothing runs within anything else."""

    def __init__(self) -> None:
        self._works: deque[Iterator[None]] = deque()
        self._working = False
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._do_one)

    def add(self, work: Iterator[None]) -> None:
        """Do some work when what was added before is done."""
        self._works.append(work)
        self._timer.start()

    def finish(self) -> None:
        """Do the rest now; not from within a piece."""
        while self._works and not self._working:
            self._do_one()

    def stop(self) -> None:
        """Do no more of it, for good."""
        self._works.clear()
        self._timer.stop()

    def _do_one(self) -> None:
        """A piece; a work that raises is left, and the ones after it go on."""
        # A piece may let events in, and with them this timer's.
        if self._working or not self._works:
            return
        work, ended = self._works[0], True
        self._working = True
        try:
            ended = next(work, _ENDED) is _ENDED
        finally:
            self._working = False
            if ended and self._works and self._works[0] is work:
                self._works.popleft()
            if not self._works:
                self._timer.stop()
