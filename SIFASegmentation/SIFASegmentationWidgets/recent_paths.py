"""Paths in the application's settings, the last used first: what a user has had before is found again."""

from __future__ import annotations

import json
from pathlib import Path

import qt


class RecentPaths:
    """The list under one key, of so many at the most; what is not there any more stays, and may come back."""

    def __init__(self, key: str, kept: int) -> None:
        self._key, self._kept = key, kept

    def read(self) -> list[Path]:
        """The paths."""
        stored = qt.QSettings().value(self._key, "[]")
        return [Path(path) for path in json.loads(stored)] if stored else []

    def put_first(self, path: Path) -> None:
        """Add a path, or move it up."""
        self._write([path, *self._others(path)][: self._kept])

    def remove(self, path: Path) -> None:
        """Take a path off the list."""
        self._write(self._others(path))

    def _others(self, path: Path) -> list[Path]:
        return [other for other in self.read() if other != path]

    def _write(self, paths: list[Path]) -> None:
        qt.QSettings().setValue(self._key, json.dumps([str(path) for path in paths]))
