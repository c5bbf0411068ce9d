"""Pipelines in threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from SIFASegmentationLib.pipeline import ahead, in_threads


def test_items_come_in_order_through_several_stages() -> None:
    doubled = ahead(2 * item for item in ahead(range(20)))
    assert list(doubled) == list(range(0, 40, 2))
    assert list(ahead([])) == []
    assert list(ahead([None, 0, ""])) == [None, 0, ""], "items that count as false do not end it"


def test_the_next_item_is_made_while_one_is_used_and_no_further() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in ahead(items()):
        if number < 3:
            assert made[number + 1].wait(10), "nobody asked for it yet"
        assert not any(event.is_set() for event in made[number + 2 :])


def test_errors_reach_the_caller_at_their_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    stage = ahead(items())
    assert next(stage) == 1
    with pytest.raises(ValueError, match="the second"):
        next(stage)


def test_no_thread_is_left_when_the_caller_stops_early() -> None:
    before = set(threading.enumerate())
    for item in ahead(ahead(range(100))):
        if item == 3:
            break
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("threads", [1, 3])
def test_several_items_are_worked_on_and_come_in_order(threads: int) -> None:
    at_work, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(threads, timeout=10)

    def halve(number: int) -> float:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        together.wait()
        with lock:
            at_work -= 1
        return number / 2

    # The barrier breaks unless as many calls as there are threads run at the same time.
    assert list(in_threads(halve, range(4 * threads), threads)) == [number / 2 for number in range(4 * threads)]
    assert most == threads


def test_errors_in_threads_reach_the_caller_at_their_place() -> None:
    stage = in_threads(lambda number: 1 / number, [2, 0, 4], threads=2)
    assert next(stage) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(stage)
