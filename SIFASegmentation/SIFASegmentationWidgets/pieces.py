"""Run long computations (`SIFASegmentationLib.work`) in the event loop, piece by piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import qt

_ENDED = object()


class Pieces:
    """Queue of computations that are run one after the other, never nested, a piece at each turn of the event loop."""

    def __init__(self) -> None:
        self._works: deque[Iterator[None]] = deque()
        self._working = False
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._do_one)

    def add(self, work: Iterator[None]) -> None:
        """Queue a computation, which starts when those added before are done."""
        self._works.append(work)
        self._timer.start()

    def finish(self) -> None:
        """Run everything that is left now; does nothing if called from within a piece."""
        while self._works and not self._working:
            self._do_one()

    def stop(self) -> None:
        """Drop all computations that are left."""
        self._works.clear()
        self._timer.stop()

    def _do_one(self) -> None:
        """Run one piece; a computation that raises is dropped, and those after it continue."""
        # A piece may process events, including those of this timer.
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
