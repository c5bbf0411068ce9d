"""A folder that volumes are segmented into: which image each result came from, and a table of what is estimated of it.

```
.sifa/NAME.json      a record: of which image the results called NAME are, how they were made, their estimates
estimated_dice.csv   the estimates of all volumes
```

Several processes may write to one folder, and nothing is locked: locks are not the same on all disks, and killed
processes leave them. A name belongs to whoever makes its record, which only one can. The table is made anew of all
records, until it has all that are there by then.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from .errors import InputError
from .files import is_remains, write_atomically
from .schema import Frozen

ESTIMATES_FILE = "estimated_dice.csv"
_RECORDS_FOLDER = ".sifa"
_HEAD = ["volume", "structure", "estimated_dice", "low", "high", "doubtful", "warnings"]
_HEAD_OF_BEFORE = _HEAD[:-1]
_TRIES, _BETWEEN_TRIES_SECONDS = 20, 0.05  # Of reading what another process may be writing.

Row = tuple[str, str, str, str, str, str]
"""Of the table, without the volume."""


class Record(Frozen):
    """Whose a name is, and what came of it.

    Attributes:
        image: The volume's file or folder, an absolute path.
        made_by: Names the model and the options; None while the results are being made.
        labelmap: Name of its file; empty as long as there is none.
        rows: Of the table; as long as these are not known, those that the table has stay.
    """

    image: str
    made_by: str | None = None
    labelmap: str = ""
    rows: tuple[Row, ...] | None = None


class SegmentedFolder:
    """The records and the table of a folder, there or not yet."""

    def __init__(self, out: Path) -> None:
        """
        Raises:
            InputError: There is a table of that name which SIFA did not write, or a record is damaged.
        """
        self.out = out
        self._read: dict[str, tuple[tuple[int, int], Record]] = {}
        _lines_of(self._table)
        self._records(self._signatures())

    def has(self, name: str, image: Path, made_by: str) -> bool:
        """Whether all results of that name are there, of the image, and made like that."""
        path = self._path(name)
        record = _read_record(path) if path.exists() else None
        return record is not None and (record.image, record.made_by) == (_said(image), made_by) and self._holds(record)

    @contextmanager
    def claimed(self, name: str, image: Path) -> Iterator[None]:
        """Have a name for the results of an image, which the block makes; unless it finishes, a name that was free is
        free again.

        Raises:
            InputError: The name is another image's.
        """
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _claim(path, Record(image=_said(image)))
        if before is not None:
            if before.image != _said(image):
                raise InputError(
                    f"{self.out} has results called {name} already, of another image ({before.image})",
                    "choose another folder, or give both images in one call, which names them after their folders; "
                    f"to replace the results, delete {path}",
                )
            _write_record(path, before.model_copy(update={"made_by": None}))
        try:
            yield
        finally:
            made = _read_record(path)
            if before is None and made is not None and made.made_by is None:
                path.unlink(missing_ok=True)

    def finish(self, name: str, record: Record) -> None:
        """Note down what came of a name, in its record and in the table."""
        _write_record(self._path(name), record)
        self._write_table()

    def _write_table(self) -> None:
        """A row for each volume and structure that a record or the table has; no new file without any rows.

        Whoever writes last has seen all records that were there before, for others that come later write again.
        """
        while True:
            seen = self._signatures()
            records = self._records(seen)
            known = {name for name, record in records.items() if record.rows is not None}
            lines = [line for line in _lines_of(self._table) if line[0] not in known]
            for name, record in sorted(records.items()):
                lines += [[name, *row] for row in record.rows or () if self._holds(record)]
            if not lines and not self._table.exists():
                return
            with write_atomically(self._table) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([_HEAD, *lines])
            if self._signatures() == seen:
                return

    def _signatures(self) -> dict[str, tuple[int, int]]:
        """What tells each record from the one before, by name."""
        found = {}
        for path in (self.out / _RECORDS_FOLDER).glob("*.json"):
            if is_remains(path):
                continue
            try:
                status = path.stat()
            except FileNotFoundError:  # Of a volume that failed.
                continue
            found[path.name.removesuffix(".json")] = (status.st_mtime_ns, status.st_size)
        return found

    def _records(self, signatures: dict[str, tuple[int, int]]) -> dict[str, Record]:
        """Those records; of thousands, only those that changed are read."""
        for name, signature in signatures.items():
            if name not in self._read or self._read[name][0] != signature:
                record = _read_record(self._path(name))
                if record is not None:
                    self._read[name] = (signature, record)
        return {name: self._read[name][1] for name in signatures if name in self._read}

    def _holds(self, record: Record) -> bool:
        """Whether the labelmap was not deleted since."""
        return bool(record.labelmap) and (self.out / record.labelmap).exists()

    def _path(self, name: str) -> Path:
        return self.out / _RECORDS_FOLDER / f"{name}.json"

    @property
    def _table(self) -> Path:
        return self.out / ESTIMATES_FILE


def record_of(image: Path, made_by: str, labelmap: Path, rows: tuple[Row, ...]) -> Record:
    """That of an image whose results are there."""
    return Record(image=_said(image), made_by=made_by, labelmap=labelmap.name, rows=rows)


def _said(image: Path) -> str:
    """An image as records name it; where a name is not in UTF-8, with an escape."""
    return str(image.resolve()).encode(errors="backslashreplace").decode()


def _claim(path: Path, record: Record) -> Record | None:
    """Make a record unless there is one, which is returned."""
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(record.model_dump_json())
        except FileExistsError:
            if (before := _read_record(path)) is not None:
                return before
        else:
            return None


def _read_record(path: Path) -> Record | None:
    """A record; None if it was removed meanwhile.

    Raises:
        InputError: It is damaged.
    """
    for _ in range(_TRIES):
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, PermissionError):
            # Another process has made it and not written it yet, or on Windows is replacing it.
            time.sleep(_BETWEEN_TRIES_SECONDS)
    raise InputError(f"{path} is damaged or can't be read", "delete it, then segment its volume again")


def _write_record(path: Path, record: Record) -> None:
    with write_atomically(path) as partial:
        partial.write_text(record.model_dump_json(), encoding="utf-8")


def _lines_of(path: Path) -> list[list[str]]:
    """The lines of a table of estimates that is there, none where it is not.

    Raises:
        InputError: It is another table.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            first, lines = next(reader, _HEAD), [line for line in reader if line]
    except (UnicodeDecodeError, csv.Error):
        first, lines = [], []
    if first not in (_HEAD, _HEAD_OF_BEFORE) or any(len(line) != len(first) for line in lines):
        raise InputError(f"{path} was not written by SIFA, or was edited since", "move it away")
    return [[*line, *[""] * (len(_HEAD) - len(line))] for line in lines]
