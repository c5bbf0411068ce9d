"""What a window says: how things stand, warnings, and why a button can't be pressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .colors import color_of

_OWN_TIP = "ownToolTip"  # The dynamic property that keeps a button's tool tip while it says something else.


def say(label: Any, text: str, *, error: bool = False) -> None:
    """One sentence in a label, in the colour of errors if it is one."""
    label.setStyleSheet(f"color:{color_of('error')}" if error else "")
    label.text = text


def warn(label: Any, sentences: Sequence[str]) -> None:
    """Warnings in a label, one a line; it is seen only where there are any."""
    label.setStyleSheet(f"color:{color_of('warning')}")
    label.text = "\n".join(f"\N{WARNING SIGN} {sentence}" for sentence in sentences)
    label.visible = bool(sentences)


def allow(button: Any, reason: str = "") -> None:
    """Let a button be pressed; where there is a reason against it, its tool tip says that instead of what it does."""
    if button.property(_OWN_TIP) is None:
        button.setProperty(_OWN_TIP, button.toolTip)
    button.enabled = not reason
    button.toolTip = reason or button.property(_OWN_TIP)
