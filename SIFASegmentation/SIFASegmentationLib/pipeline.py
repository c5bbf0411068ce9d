"""Stages that work at the same time: while one item is used, the next is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


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
