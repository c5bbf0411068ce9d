"""Pipelines in threads: while one item is used, the next one or several are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, computing each in a thread while the caller is busy with the one before.

    NumPy and ONNX Runtime release the GIL while they compute. At most one item waits. An error of `items` is raised in
    the caller in place of the item; if the caller stops early, the item in progress is completed first.
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
    """Yield `function(item)` for each item in order, computing `threads` of them at a time.

    Items are taken in the caller's thread, never more than `threads` ahead. An error of `function` is raised in the
    caller in place of the result; if the caller stops early, the results in progress are completed first.
    """
    with ThreadPoolExecutor(max_workers=threads) as pool:
        working: deque[Future[Result]] = deque()
        for item in items:
            working.append(pool.submit(function, item))
            if len(working) == threads:
                yield working.popleft().result()
        while working:
            yield working.popleft().result()
