"""What a window says: how things stand, warnings, and why a widget can't be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .colors import color_of

_OWN_TIP = "ownToolTip"  # The dynamic property that keeps a widget's tool tip while it says something else.


def say(label: Any, text: str, *, error: bool = False) -> None:
    """One sentence in a label, in the colour of errors if it is one."""
    label.setStyleSheet(f"color:{color_of('error')}" if error else "")
    label.text = text


def warn(label: Any, sentences: Sequence[str]) -> None:
    """Warnings in a label, one a line; it is seen only where there are any."""
    label.setStyleSheet(f"color:{color_of('warning')}")
    label.text = "\n".join(f"\N{WARNING SIGN} {sentence}" for sentence in sentences)
    label.visible = bool(sentences)


def allow(widget: Any, reason: str = "") -> None:
    """Let a button, or another widget, be used; where there is a reason against it, its tool tip says that instead of
    what it does."""
    if widget.property(_OWN_TIP) is None:
        widget.setProperty(_OWN_TIP, widget.toolTip)
    widget.enabled = not reason
    widget.toolTip = reason or widget.property(_OWN_TIP)
