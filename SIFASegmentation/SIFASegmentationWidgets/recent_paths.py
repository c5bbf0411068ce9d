"""Recently used paths, kept in the application's settings, the last used first."""

from __future__ import annotations

import json
from pathlib import Path

import qt


class RecentPaths:
    """List of at most `kept` paths under one key of the settings; missing paths stay, since they may come back."""

    def __init__(self, key: str, kept: int) -> None:
        self._key, self._kept = key, kept

    def read(self) -> list[Path]:
        """Return the paths, the last used first."""
        stored = qt.QSettings().value(self._key, "[]")
        return [Path(path) for path in json.loads(stored)] if stored else []

    def put_first(self, path: Path) -> None:
        """Add a path at the top, or move it there."""
        self._write([path, *self._others(path)][: self._kept])

    def remove(self, path: Path) -> None:
        """Remove a path from the list."""
        self._write(self._others(path))

    def _others(self, path: Path) -> list[Path]:
        return [other for other in self.read() if other != path]

    def _write(self, paths: list[Path]) -> None:
        qt.QSettings().setValue(self._key, json.dumps([str(path) for path in paths]))
