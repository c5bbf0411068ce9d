"""Long work as a generator that yields after each piece, so that a window can live in between."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
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


def at_once(in_pieces: Callable[P, Work[T]]) -> Callable[P, T]:
    """The function that does in one go, and with the same arguments, what `in_pieces` does piece by piece.

    >>> def squares_in_pieces(numbers):
    ...     squares = []
    ...     for number in numbers:
    ...         squares.append(number**2)
    ...         yield
    ...     return squares
    >>> at_once(squares_in_pieces)([1, 2, 3])
    [1, 4, 9]
    """

    @wraps(in_pieces)
    def function(*args: P.args, **kwargs: P.kwargs) -> T:
        return result_of(in_pieces(*args, **kwargs))

    return function
