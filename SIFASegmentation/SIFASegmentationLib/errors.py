"""The one error that a user can mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError


class InputError(ValueError):
    """Something that the user gave can't be used.

    The command line prints it alone, as one sentence, and exits with 2; a window shows it on a line. Every other
    exception is a fault of ours.

    Attributes:
        problem: What is wrong, with the name of the file, node or field.
        advice: What to do about it; empty where that is plain from the problem.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(problem, advice)
        self.problem, self.advice = problem, advice

    def __str__(self) -> str:
        sentence = f"{self.problem}: {self.advice}" if self.advice else self.problem
        return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def unwritable(path: Path | str, error: Exception) -> InputError:
    """What to raise where a file or folder can't be written, with the system's reason where it gives one."""
    reason = getattr(error, "strerror", None)
    problem = f"{path} can't be written to" + (f" ({reason})" if reason else "")
    return InputError(problem, "check the folder's permissions and the free space")


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Where (`loss_weights.cycle`; empty for the whole) and what the first thing is that a validation found wrong."""
    fault = error.errors()[0]
    return ".".join(str(part) for part in fault["loc"]), fault["msg"].removeprefix("Value error, ")
