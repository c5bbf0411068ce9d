"""What a window says in a label: how things stand, and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .colors import color_of


def say(label: Any, text: str, *, error: bool = False) -> None:
    """One sentence in a label, in the colour of errors if it is one."""
    label.setStyleSheet(f"color:{color_of('error')}" if error else "")
    label.text = text


def warn(label: Any, sentences: Sequence[str]) -> None:
    """Warnings in a label, one a line; it is seen only where there are any."""
    label.setStyleSheet(f"color:{color_of('warning')}")
    label.text = "\n".join(f"\N{WARNING SIGN} {sentence}" for sentence in sentences)
    label.visible = bool(sentences)
