"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from SIFASegmentationLib.errors import InputError

Level = Literal["ok", "warning", "error"]

FEW_SLICES = 100  # Of a domain; fewer make no model.


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad it is, what it is about, what was found, and what to do ("" where nothing is to do)."""

    level: Level
    subject: str
    message: str
    fix: str = ""

    @classmethod
    def of(cls, subject: str, error: InputError) -> Finding:
        """An error of the input."""
        return cls("error", subject, error.problem, error.advice)
