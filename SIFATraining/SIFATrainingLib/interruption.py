"""Ctrl-C in trainings from a script or a notebook, postponed until the work can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_postponed() -> Iterator[Callable[[], bool]]:
    """Postpone the `KeyboardInterrupt` of Ctrl-C to the end of the block.

    Yields a function that returns whether Ctrl-C was pressed, in which case the block should end soon. Pressed again,
    Ctrl-C ends the block at once. Changes nothing where Ctrl-C would not raise a `KeyboardInterrupt`: outside the main
    thread, or where the caller handles the signal, as the command line does.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and the block has ended without an error of its own.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    pressed = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed.is_set():
        raise KeyboardInterrupt
