"""Stages that work at the same time: while one item is used, the next is made, or several are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each of which is made in a thread while the caller is busy with the one before.

    NumPy and ONNX Runtime let other threads work while they compute. At most one item waits. Errors of `items` reach
    the caller at their place; when the caller stops early, the item under way is finished first.
    """
    remaining = iter(items)

    def take() -> list[Item]:
        return list(islice(remaining, 1))

    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(take)
        while taken := coming.result():
            coming = thread.submit(take)
            yield taken[0]


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """What `function` makes of each item, in their order, `threads` at a time.

    Items are taken by the caller's thread, and no more than are at work. Errors of `function` reach the caller at their
    place; when the caller stops early, what is under way is finished first.
    """
    with ThreadPoolExecutor(max_workers=threads) as pool:
        working: deque[Future[Result]] = deque()
        for item in items:
            working.append(pool.submit(function, item))
            if len(working) == threads:
                yield working.popleft().result()
        while working:
            yield working.popleft().result()
