"""Long work as a generator that yields after each piece, so that a window can live in between."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Work = Generator[None, None, T]
"""Yields after each piece; returns what came of it."""


def result_of(work: Work[T]) -> T:
    """Do all of some work now."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
