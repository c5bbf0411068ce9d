"""Whether Slicer ends when its last window is closed."""

from __future__ import annotations

import slicer


def ends_with_last_window() -> bool:
    """Whether Slicer ends when its last window is closed: it has a main window.

    Without one (`--no-main-window`), windows come and go, and each may be the last for a while.
    """
    return slicer.util.mainWindow() is not None
