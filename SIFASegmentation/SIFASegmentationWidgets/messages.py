"""Messages in a window: its status, warnings, and why a widget is disabled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .colors import color_of

_OWN_TIP = "ownToolTip"  # Dynamic property that keeps a widget's own tool tip while another is shown.


def say(label: Any, text: str, *, error: bool = False) -> None:
    """Show one sentence in a label, in the colour of errors if it is one."""
    label.setStyleSheet(f"color:{color_of('error')}" if error else "")
    label.text = text


def warn(label: Any, sentences: Sequence[str]) -> None:
    """Show warnings in a label, one per line; hide the label if there are none."""
    label.setStyleSheet(f"color:{color_of('warning')}")
    label.text = "\n".join(f"\N{WARNING SIGN} {sentence}" for sentence in sentences)
    label.visible = bool(sentences)


def allow(widget: Any, reason: str = "") -> None:
    """Enable a widget, or disable it if there is a reason to, which then replaces its tool tip."""
    if widget.property(_OWN_TIP) is None:
        widget.setProperty(_OWN_TIP, widget.toolTip)
    widget.enabled = not reason
    widget.toolTip = reason or widget.property(_OWN_TIP)
