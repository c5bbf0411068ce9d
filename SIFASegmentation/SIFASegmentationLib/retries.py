"""Retries for files that other processes read and write at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_TRIES, _BETWEEN_TRIES_SECONDS = 20, 0.05

_T = TypeVar("_T")


def retried(action: Callable[[], _T], *faults: type[Exception]) -> _T:
    """Return the result of an action, repeating it after a `PermissionError` or one of `faults`; raise the last error.

    On Windows, a file can't be opened or replaced at the moment when another process replaces or reads it.
    """
    again: tuple[type[Exception], ...] = (PermissionError, *faults)
    for _ in range(_TRIES - 1):
        try:
            return action()
        except again:
            time.sleep(_BETWEEN_TRIES_SECONDS)
    return action()
