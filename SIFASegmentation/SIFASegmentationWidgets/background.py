"""Run a computation that can't be split into pieces in a thread, while the window stays responsive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

_LOOK_SECONDS = 0.02


def in_background(function: Callable[[], T], while_waiting: Callable[[], None]) -> T:
    """Run a function in a thread, wait for it, and return its result or raise its exception.

    Args:
        function: Runs in the thread, and so must not use Slicer, Qt or VTK.
        while_waiting: Called repeatedly, to process events. An exception that it raises ends the wait; the thread then
            runs to its end, and its result is discarded.
    """
    executor = ThreadPoolExecutor(1)
    try:
        future = executor.submit(function)
        while not future.done():
            while_waiting()
            # The thread can only run while this one releases Python's global lock; waiting does, Qt's events do not.
            wait([future], timeout=_LOOK_SECONDS)
        return future.result()
    finally:
        executor.shutdown(wait=False)
