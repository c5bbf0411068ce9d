"""Ctrl-C for those who train from a script or a notebook: heeded where the work can be saved, not in its midst."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_postponed() -> Iterator[Callable[[], bool]]:
    """Gives what tells whether Ctrl-C was pressed in the block, which should end soon then; at its end comes the error.

    Pressed again, it ends the block at once. Only where Ctrl-C would raise a `KeyboardInterrupt`: not in threads other
    than the main one, which it never reaches, and where the caller handles it, as the command line does.

    Raises:
        KeyboardInterrupt: It was pressed, and the block has ended without an error of its own.
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
