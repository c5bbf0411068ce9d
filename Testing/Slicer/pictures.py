"""Pictures of the windows, taken during the tests if requested."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def picture(loaded: Any, name: str) -> None:
    """Write `name`.png of a module's window into the folder that the environment variable SIFA_SCREENSHOTS names."""
    folder = os.environ.get("SIFA_SCREENSHOTS")
    if folder:
        from standins.screenshots import grab  # noqa: PLC0415  there is none inside Slicer

        grab(loaded.parent, Path(folder) / f"{name}.png", width=560)
