"""Progress reports of long operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """A step that is about to begin, such as reading one of several volumes.

    Attributes:
        done: Number of steps completed.
        total: Number of steps in all.
        message: What this step does.
    """

    done: int
    total: int
    message: str

    def __str__(self) -> str:
        return self.message

    def event(self, stage: str) -> dict[str, Any]:
        """Return the data of a job's `progress` event about this step."""
        return {"stage": stage, "done": self.done, "total": self.total, "message": self.message}


Report = Callable[[Step], None]
"""Called before each step; an exception raised by it ends the operation, which leaves nothing behind."""


def say_nothing(_: Step) -> None:
    """Ignore the step: the report of callers that don't show progress."""


Emit = Callable[[str, dict[str, Any]], None]
"""Called with the kind and the data of each event of a job."""


class EndedError(Exception):
    """Raised to end work before it is done, on request or because its time is over."""


def ending(must_end: Callable[[], bool]) -> Report:
    """Return a report that raises `EndedError` as soon as `must_end` returns true."""

    def report(_: Step) -> None:
        if must_end():
            raise EndedError

    return report
