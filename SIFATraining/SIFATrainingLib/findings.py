"""What a check finds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from SIFASegmentationLib.errors import InputError

Level = Literal["ok", "warning", "error"]

FEW_SLICES = 100  # Of a domain; fewer make no model.
# How an advice begins ("they": of label codes). What else follows a colon belongs to what was found: a list, say.
_ADVICE = re.compile(
    r"(add|check|choose|compare|convert|copy|delete|draw|end|export|fetch|free|get|give|harden|hold|install|leave|let"
    r"|load|look|make|mend|move|name|pack|prepare|press|put|remove|rename|replace|resample|run|save|say|score|segment"
    r"|set|stack|start|stop|take|they|train|try|update|use|wait|write)"
    " "
)


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad it is, what it is about, what was found, and what to do ("" where nothing is to do)."""

    level: Level
    subject: str
    message: str
    fix: str = ""

    @classmethod
    def of(cls, subject: str, error: InputError) -> Finding:
        """An error of the input. What it says to do, after its last colon, is told apart where it surely is that."""
        sentence = str(error).removesuffix(".")
        message, _, fix = sentence.rpartition(": ")
        if message and _ADVICE.match(fix):
            return cls("error", subject, message, fix)
        return cls("error", subject, sentence)
