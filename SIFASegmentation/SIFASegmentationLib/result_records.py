"""Records of results: which image those of a name came from, and how they were made (`.sifa/NAME.json`).

Several processes may write to one folder, and nothing is locked: locks are not the same on all disks, and killed
processes leave them. A name belongs to whoever makes its record, which only one can.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from pydantic import ValidationError

from .errors import InputError
from .estimates_table import Row
from .files import is_remains, write_atomically
from .image_identity import content_of
from .retries import retried
from .schema import Frozen

_FOLDER = ".sifa"

Signature = tuple[int, int]
"""What tells a record from the one before: its file's time and size."""


class Record(Frozen):
    """Whose a name is, and what came of it.

    Attributes:
        image: The volume's file or folder, an absolute path; for messages only.
        content: Tells the image from others, wherever it lies.
        made_by: Names the model and the options; None while the results are being made.
        files: Of the results, relative to the folder, with slashes; the labelmap is the first. Empty as long as there
            are none.
        rows: Of the table; as long as these are not known, those that the table has stay.
    """

    image: str
    content: str
    made_by: str | None = None
    files: tuple[str, ...] = ()
    rows: tuple[Row, ...] | None = None


@dataclass(frozen=True)
class Origin:
    """What results are made of, and how.

    Attributes:
        image: The volume's file or folder.
        made_by: Names the model and the options.
    """

    image: Path
    made_by: str

    @cached_property
    def content(self) -> str:
        """Tells the image from others (`image_identity`); where its content is not known, by its path.

        Files are read only once this is asked for, as there may be many.
        """
        return content_of(self.image) or hashlib.sha256(self._said.encode()).hexdigest()

    def owns(self, record: Record) -> bool:
        """Whether what a record is about came from this image."""
        return record.content == self.content

    def begun(self, before: Record | None = None) -> Record:
        """A record of results that are being made; meanwhile, files and rows of the record of `before` stay."""
        record = Record(image=self._said, content=self.content)
        return record if before is None else record.model_copy(update={"files": before.files, "rows": before.rows})

    def finished(self, files: tuple[str, ...], rows: tuple[Row, ...]) -> Record:
        """A record of results that are there."""
        return Record(image=self._said, content=self.content, made_by=self.made_by, files=files, rows=rows)

    @property
    def _said(self) -> str:
        """The image as records name it; where a name is not in UTF-8, with an escape."""
        return str(self.image.resolve()).encode(errors="backslashreplace").decode()


class Records:
    """Those of a folder, there or not yet, by the names of the results."""

    def __init__(self, out: Path) -> None:
        self._folder = out / _FOLDER
        self._known: dict[str, tuple[Signature, Record | None]] = {}

    def path(self, name: str) -> Path:
        """Where a record is."""
        return self._folder / f"{name}.json"

    def read(self, name: str) -> Record | None:
        """A record; None if there is none, or one that stays empty.

        Raises:
            InputError: It is damaged.
        """
        path = self.path(name)
        try:
            # Another process may be writing it.
            return retried(partial(_read, path), _EmptyError, ValidationError)
        except (FileNotFoundError, _EmptyError):
            return None
        except (ValidationError, PermissionError) as error:
            raise InputError(
                f"{path} is damaged or can't be read", "delete it, then segment its volume again"
            ) from error

    def claim(self, name: str, record: Record) -> Record | None:
        """Make a record unless there is one, which is returned.

        Raises:
            InputError: The one that is there is damaged.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self.path(name)
        while not _make(path, record):
            if (before := self.read(name)) is not None:
                return before
            # One that stays empty is nobody's.
            with suppress(FileNotFoundError):
                if path.stat().st_size == 0:
                    retried(path.unlink)
        return None

    def write(self, name: str, record: Record) -> None:
        """Put a record in the place of one that was claimed."""

        def write() -> None:
            with write_atomically(self.path(name)) as partly:
                partly.write_text(record.model_dump_json(), encoding="utf-8")

        retried(write)

    def remove(self, name: str) -> None:
        """Leave a name to others."""
        retried(partial(self.path(name).unlink, missing_ok=True))

    def signatures(self) -> dict[str, Signature]:
        """What records there are now."""
        found = {}
        for path in self._folder.glob("*.json"):
            # What macOS puts beside files on disks of other systems has their names with this before it.
            if is_remains(path) or path.name.startswith("._"):
                continue
            try:
                status = retried(path.stat)
            except FileNotFoundError:  # Of a volume that failed.
                continue
            found[path.name.removesuffix(".json")] = (status.st_mtime_ns, status.st_size)
        return found

    def read_all(self, signatures: Mapping[str, Signature]) -> dict[str, Record]:
        """Those records; of thousands, only those that changed are read.

        Raises:
            InputError: One is damaged.
        """
        for name, signature in signatures.items():
            if name not in self._known or self._known[name][0] != signature:
                self._known[name] = (signature, self.read(name))
        return {name: record for name in signatures if (record := self._known[name][1]) is not None}


class _EmptyError(Exception):
    """A record without content: its process was killed, or has not got to writing it."""


def _read(path: Path) -> Record:
    if not (content := path.read_bytes()):
        raise _EmptyError
    return Record.model_validate_json(content)


def _make(path: Path, record: Record) -> bool:
    """Make a record, unless there is one."""
    try:
        file = retried(partial(path.open, "x", encoding="utf-8"))
    except FileExistsError:
        return False
    try:
        with file:
            file.write(record.model_dump_json())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True
