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
