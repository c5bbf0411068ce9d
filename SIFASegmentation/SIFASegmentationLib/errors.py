"""The error for faults that a user can fix, and its messages for common causes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError


_OF_SYSTEM = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR,
        errno.ENAMETOOLONG, errno.EIO, errno.ELOOP,
    }
)  # fmt: skip


class InputError(ValueError):
    """Something that the user gave can't be used.

    The command line prints only its one sentence and exits with 2; a window shows it on a line. Every other exception
    is a fault of the program.

    Attributes:
        problem: What is wrong, with the name of the file, node or field.
        advice: What to do about it; empty if that is obvious from the problem.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(problem, advice)
        self.problem, self.advice = problem, advice

    def __str__(self) -> str:
        sentence = f"{self.problem}: {self.advice}" if self.advice else self.problem
        return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def unwritable(path: Path | str, error: Exception) -> InputError:
    """The error for a file or folder that can't be written, with the system's reason if it gives one."""
    reason = getattr(error, "strerror", None)
    problem = f"{path} can't be written to" + (f" ({reason})" if reason else "")
    return InputError(problem, "check the folder's permissions and the free space")


def system_fault(error: BaseException) -> InputError | None:
    """The error for a file or folder that the system refuses or has no room for; None if `error` is another one."""
    if not isinstance(error, OSError) or error.errno not in _OF_SYSTEM:
        return None
    where = error.filename or "A file"
    return InputError(f"{where} can't be used ({error.strerror})", "check the path, its permissions and the free space")


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Field and message of the first error of a validation.

    The field is written like `loss_weights.cycle`, and is empty for the whole; the message is part of a sentence.
    """
    fault = error.errors()[0]
    # For a field of several possible types, pydantic adds the type that it tried, which is left out here.
    where = ".".join(str(part) for part in fault["loc"] if part not in ("str", "int") and "[" not in str(part))
    if fault["type"] == "extra_forbidden":
        return where, "there is nothing of that name"
    message = fault["msg"].removeprefix("Value error, ")
    return where, message[:1].lower() + message[1:]
