"""Settings of the preparation without a field in the window: `preparation.NAME=VALUE` among the further settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError

if TYPE_CHECKING:
    from SIFATrainingLib.prepare import Preparation

NAMES = ("spacing", "stretch", "full_slice", "percentiles", "min_max")
"""Fields of `Preparation` that have no field in the window."""

_PREFIX = "preparation."


def split(texts: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """Split `NAME=VALUE` texts into those of the training, and the settings of the preparation by name.

    Raises:
        InputError: A setting of the preparation is unknown or out of bounds; the error names it.
    """
    of_training: list[str] = []
    given: dict[str, str | list[str]] = {}
    for text in texts:
        if not text.startswith(_PREFIX):
            of_training.append(text)
            continue
        name, _equals, value = text.removeprefix(_PREFIX).partition("=")
        if name not in NAMES:
            known = ", ".join(f"{_PREFIX}{name}" for name in NAMES)
            raise InputError(_("The setting '{text}' is unknown").format(text=text), _("choose from ") + known)
        given[name] = value.split(",") if "," in value else value
    if not given:
        return of_training, {}
    from SIFATrainingLib.prepare import make_preparation  # noqa: PLC0415

    # Made without volumes, only to validate the values.
    made = make_preparation(source=Path(), target=Path(), **given)
    return of_training, {name: getattr(made, name) for name in given}


def joined(texts: Iterable[str], preparation: Preparation) -> str:
    """Replace the preparation's settings in `NAME=VALUE` texts with those of `preparation` that aren't defaults."""
    fields = type(preparation).model_fields
    unusual = {name: getattr(preparation, name) for name in NAMES if getattr(preparation, name) != fields[name].default}
    return " ".join(
        [
            *(text for text in texts if not text.startswith(_PREFIX)),
            *(f"{_PREFIX}{name}={_text(value)}" for name, value in unusual.items()),
        ]
    )


def command_line(preparation: Mapping[str, Any]) -> list[str]:
    """Return the options of `sifa check` for settings of the preparation."""
    options = []
    for name, value in preparation.items():
        option = f"--{name.replace('_', '-')}"
        if not isinstance(value, bool):
            options.append(f"{option}={_text(value)}")
        elif value:
            options.append(option)
    return options


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
