"""A computation in a thread, waited for while the window lives: for what a library does in one piece."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

_LOOK_SECONDS = 0.02


def in_background(function: Callable[[], T], while_waiting: Callable[[], None]) -> T:
    """What a function returns, or raises, that knows nothing of Slicer, Qt and VTK.

    Args:
        function: Called in a thread.
        while_waiting: Called again and again, to let events in. What it raises ends the waiting; the thread comes to
            its end by itself, and nobody hears of it.
    """
    executor = ThreadPoolExecutor(1)
    try:
        future = executor.submit(function)
        while not future.done():
            while_waiting()
            # Threads run when the main one lets go of Python's lock, which waiting does and Qt's events do not.
            wait([future], timeout=_LOOK_SECONDS)
        return future.result()
    finally:
        executor.shutdown(wait=False)
