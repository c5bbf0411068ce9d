"""How those who wait for something long are told how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """A part that is about to be done, such as a volume to be read: parts behind and in all, and what it is."""

    done: int
    total: int
    message: str

    def __str__(self) -> str:
        return self.message

    def event(self, stage: str) -> dict[str, Any]:
        """What a job's `progress` event says of it."""
        return {"stage": stage, "done": self.done, "total": self.total, "message": self.message}


Report = Callable[[Step], None]
"""Told of each step; what it raises ends the work, and leaves nothing behind."""


def say_nothing(_: Step) -> None:
    """A report for those who don't wait."""


Emit = Callable[[str, dict[str, Any]], None]
"""Gets kind and data of each event of a job."""


class EndedError(Exception):
    """Raised by a report to end the work before it is done: somebody asked for that, or its time is over."""


def ending(must_end: Callable[[], bool]) -> Report:
    """A report that ends the work with an `EndedError` as soon as `must_end` says so."""

    def report(_: Step) -> None:
        if must_end():
            raise EndedError

    return report
