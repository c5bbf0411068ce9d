"""The one error that a user can mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Something that the user gave can't be used.

    The message is one sentence that names the file, node or field, says what was wrong, and what to do. The command
    line prints it alone and exits with 2; a window shows it on a line. Every other exception is a fault of ours.
    """


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Where (`loss_weights.cycle`; empty for the whole) and what the first thing is that a validation found wrong."""
    fault = error.errors()[0]
    return ".".join(str(part) for part in fault["loc"]), fault["msg"].removeprefix("Value error, ")
