"""The one error that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Something that the user gave can't be used.

    The message is one sentence that names the file, node or field, says what was wrong, and what to do. The command
    line prints it alone and exits with 2; a window shows it on a line. Every other exception is a fault of ours.
    """
