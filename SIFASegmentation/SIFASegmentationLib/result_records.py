"""Records of results (`.sifa/NAME.json`): which image the results called NAME came from, and how they were made.

Several processes may write to one folder. Nothing is locked: locks differ between disks, and killed processes leave
them behind. A name belongs to the process that creates its record, which only one can do.
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
"""Time of modification (ns) and size (bytes) of a record's file, which show whether the record has changed."""


class Record(Frozen):
    """The image that a name belongs to, and its results.

    Attributes:
        image: Absolute path of the volume's file or folder; for messages only.
        content: Identifies the image, wherever it is stored (`Origin.content`).
        made_by: Identifies the model and the options; None while the results are being made.
        files: Files of the results, relative to the folder, with slashes; the labelmap is the first. Empty as long as
            there are none.
        rows: Rows for the table; None if they are not known yet, and the table keeps those that it has.
    """

    image: str
    content: str
    made_by: str | None = None
    files: tuple[str, ...] = ()
    rows: tuple[Row, ...] | None = None


@dataclass(frozen=True)
class Origin:
    """What results are made from, and how.

    Attributes:
        image: The volume's file or folder.
        made_by: Identifies the model and the options.
    """

    image: Path
    made_by: str

    @cached_property
    def content(self) -> str:
        """Identifies the image by its content (`image_identity`) or, if that is not known, by its path.

        The image's files are only read on first use, as there may be many.
        """
        return content_of(self.image) or hashlib.sha256(self._said.encode()).hexdigest()

    def owns(self, record: Record) -> bool:
        """Whether a record is about results of this image."""
        return record.content == self.content

    def begun(self, before: Record | None = None) -> Record:
        """Return a record of results being made, which meanwhile keeps the files and rows of the record `before`."""
        record = Record(image=self._said, content=self.content)
        return record if before is None else record.model_copy(update={"files": before.files, "rows": before.rows})

    def finished(self, files: tuple[str, ...], rows: tuple[Row, ...]) -> Record:
        """Return a record of finished results."""
        return Record(image=self._said, content=self.content, made_by=self.made_by, files=files, rows=rows)

    @property
    def _said(self) -> str:
        """The image's path as stored in records; bytes that are not UTF-8 are escaped."""
        return str(self.image.resolve()).encode(errors="backslashreplace").decode()


class Records:
    """The records of a folder, which need not exist yet, by the names of the results."""

    def __init__(self, out: Path) -> None:
        self._folder = out / _FOLDER
        self._known: dict[str, tuple[Signature, Record | None]] = {}

    def path(self, name: str) -> Path:
        """Return the path of a record."""
        return self._folder / f"{name}.json"

    def read(self, name: str) -> Record | None:
        """Read a record; None if there is none, or if it stays empty.

        Raises:
            InputError: The record is damaged or can't be read.
        """
        path = self.path(name)
        try:
            # Retried, since another process may be writing it.
            return retried(partial(_read, path), _EmptyError, ValidationError)
        except (FileNotFoundError, _EmptyError):
            return None
        except (ValidationError, PermissionError) as error:
            raise InputError(
                f"{path} is damaged or can't be read", "delete it, then segment its volume again"
            ) from error

    def claim(self, name: str, record: Record) -> Record | None:
        """Create a record; if there is one already, return that instead.

        Raises:
            InputError: The existing record is damaged or can't be read.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self.path(name)
        while not _make(path, record):
            if (before := self.read(name)) is not None:
                return before
            # A record that stays empty belongs to nobody.
            with suppress(FileNotFoundError):
                if path.stat().st_size == 0:
                    retried(path.unlink)
        return None

    def write(self, name: str, record: Record) -> None:
        """Replace a record that was claimed."""

        def write() -> None:
            with write_atomically(self.path(name)) as partly:
                partly.write_text(record.model_dump_json(), encoding="utf-8")

        retried(write)

    def remove(self, name: str) -> None:
        """Remove a record, so that its name is free again."""
        retried(partial(self.path(name).unlink, missing_ok=True))

    def signatures(self) -> dict[str, Signature]:
        """Return the signatures of all records that exist now, by name."""
        found = {}
        for path in self._folder.glob("*.json"):
            # On disks of other systems, macOS puts a file of the same name with this prefix beside each file.
            if is_remains(path) or path.name.startswith("._"):
                continue
            try:
                status = retried(path.stat)
            except FileNotFoundError:  # Removed meanwhile, because its volume failed.
                continue
            found[path.name.removesuffix(".json")] = (status.st_mtime_ns, status.st_size)
        return found

    def read_all(self, signatures: Mapping[str, Signature]) -> dict[str, Record]:
        """Return the records with these signatures; only those that have changed since the last call are read.

        Raises:
            InputError: A record is damaged or can't be read.
        """
        for name, signature in signatures.items():
            if name not in self._known or self._known[name][0] != signature:
                self._known[name] = (signature, self.read(name))
        return {name: record for name in signatures if (record := self._known[name][1]) is not None}


class _EmptyError(Exception):
    """A record is empty: its process was killed, or has not written it yet."""


def _read(path: Path) -> Record:
    if not (content := path.read_bytes()):
        raise _EmptyError
    return Record.model_validate_json(content)


def _make(path: Path, record: Record) -> bool:
    """Create a record; return False if there is one already."""
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
