"""Long computations as generators that yield after each piece, so that a window stays responsive."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
Work = Generator[None, None, T]
"""A generator that yields after each piece of work and returns the result."""


def result_of(work: Work[T]) -> T:
    """Run a computation to its end and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def at_once(in_pieces: Callable[P, Work[T]]) -> Callable[P, T]:
    """Turn a generator function that works in pieces into an ordinary function with the same arguments and result.

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
