"""A folder that volumes are segmented into: which image each result came from, and a table of what is estimated of it.

```
.sifa/NAME.json             a record: of which image the results called NAME are, how they were made, their estimates
NAME_segmentation.nii.gz    the first of these results
estimated_dice.csv          the estimates of all volumes
```

Several processes may write to one folder, and nothing is locked: locks are not the same on all disks, and killed
processes leave them. A name belongs to whoever makes its record, which only one can. The table is made anew of all
records, until it has all that are there by then.

An image is known by its content: it may be moved, and an image that replaces it is another one.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from .cohorts import OWN_ENDING, is_volume_file
from .errors import InputError
from .files import is_remains, write_atomically
from .schema import Frozen

ESTIMATES_FILE = "estimated_dice.csv"
_RECORDS_FOLDER = ".sifa"
_HEAD = ["volume", "structure", "estimated_dice", "low", "high", "doubtful", "warnings"]
_HEAD_OF_BEFORE = _HEAD[:-1]
_TRIES, _BETWEEN_TRIES_SECONDS = 20, 0.05  # Of a file that another process may be writing or reading.
_LOOKED_AT_BYTES = 1 << 20  # At either end of a file: all of it would take minutes for a study on a network disk.
_HEADER_SUFFIXES = (".hdr", ".mhd", ".nhdr")  # Of headers whose voxels may be in files of their own.

_T = TypeVar("_T")

Row = tuple[str, str, str, str, str, str]
"""Of the table, without the volume."""


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
        """Tells the image from others: the names (of a folder's files alone), sizes and both ends of its files.

        Where these can't be read or found, its path: whoever reads the image tells what is the matter. Files are read
        only once this is asked for, as there may be many.
        """
        try:
            found = _content_of(self.image)
        except OSError:
            found = None
        return found or hashlib.sha256(self._said.encode()).hexdigest()

    def record(self, **known: object) -> Record:
        """A record of the image, with what is known of the results."""
        return Record.model_validate({"image": self._said, "content": self.content, **known})

    @property
    def _said(self) -> str:
        """The image as records name it; where a name is not in UTF-8, with an escape."""
        return str(self.image.resolve()).encode(errors="backslashreplace").decode()


class SegmentedFolder:
    """The records and the table of a folder, there or not yet."""

    def __init__(self, out: Path, suffix: str = ".nii.gz") -> None:
        """
        Args:
            out: The folder.
            suffix: Of the labelmaps that are written to it.

        Raises:
            InputError: There is a table of that name which SIFA did not write, or a record is damaged.
        """
        self.out, self.suffix = out, suffix
        self._read: dict[str, tuple[tuple[int, int], Record | None]] = {}
        _lines_of(self._table)
        self._records(self._signatures())

    def name_of(self, names: Sequence[str], origin: Origin) -> str:
        """Which of some names, in order of preference, the results of an image have: one that is theirs already, else
        the first that is free; where all are other images', the first.

        Raises:
            InputError: There is a labelmap of that name which SIFA has no record of.
        """
        ordered = self._by_owner(names, origin)
        name = next((one for one in ordered if self._belongs(one, origin) is not False), ordered[0])
        self._check_labelmap(name)
        return name

    def has(self, name: str, origin: Origin) -> bool:
        """Whether all results of that name are there, of the image, and made like that."""
        record = _read_record(self._path(name))
        return (
            record is not None
            and (record.content, record.made_by) == (origin.content, origin.made_by)
            and bool(record.files)
            and all((self.out / file).exists() for file in record.files)
        )

    @contextmanager
    def claimed(self, names: Sequence[str], origin: Origin) -> Iterator[str]:
        """Have one of some names for the results of an image, chosen as `name_of` does, which the block makes.

        A name that was free is free again if the block wrote no labelmap.

        Raises:
            InputError: All names are other images', or there is a labelmap that SIFA has no record of.
        """
        (self.out / _RECORDS_FOLDER).mkdir(parents=True, exist_ok=True)
        for name in self._by_owner(names, origin):
            self._check_labelmap(name)
            path = self._path(name)
            before = _claim(path, origin.record())
            if before is None or before.content == origin.content:
                break
        else:
            raise self._taken(names)
        if before is not None:
            _write_record(path, origin.record(files=before.files, rows=before.rows))
        try:
            yield name
        finally:
            made = _read_record(path)
            if before is None and made is not None and made.made_by is None and not self._labelmap(name).exists():
                _retried(partial(path.unlink, missing_ok=True))

    def finish(self, name: str, origin: Origin, files: Sequence[Path], rows: tuple[Row, ...]) -> None:
        """Note down what came of an image under a name, in its record and in the table.

        Args:
            name: That was claimed.
            origin: As it was claimed for.
            files: The results, in the folder; the labelmap first.
            rows: For the table.
        """
        relative = tuple(file.relative_to(self.out).as_posix() for file in files)
        _write_record(self._path(name), origin.record(made_by=origin.made_by, files=relative, rows=rows))
        try:
            self._write_table()
        except PermissionError:
            # Windows, and a program such as Excel has it open. Nothing is lost: all of it is in the records.
            print(
                f"{self._table} can't be written to; close it if another program has it open. The next volume that is "
                f"segmented into {self.out} completes it",
                file=sys.stderr,
                flush=True,
            )

    def _by_owner(self, names: Sequence[str], origin: Origin) -> list[str]:
        """Names that are the image's first, else as they were."""
        return sorted(names, key=lambda name: not self._belongs(name, origin))

    def _belongs(self, name: str, origin: Origin) -> bool | None:
        """Whether the results of a name are those of the image; None where the name is free."""
        record = _read_record(self._path(name))
        return None if record is None else record.content == origin.content

    def _check_labelmap(self, name: str) -> None:
        """Refuse to replace a labelmap that somebody else made.

        Raises:
            InputError: Names it.
        """
        path = self._labelmap(name)
        # In this order: a labelmap that another process writes meanwhile has its record before it.
        unrecorded = path.exists() and _read_record(self._path(name)) is None
        if unrecorded and all(line[0] != name for line in _lines_of(self._table)):
            raise InputError(
                f"{path} is there already, and SIFA has no record of writing it",
                "move it away or choose another folder",
            )

    def _taken(self, names: Sequence[str]) -> InputError:
        record = _read_record(self._path(names[0]))
        # Its volume may have failed meanwhile.
        of_which = f" ({record.image})" if record is not None else ""
        return InputError(
            f"{self.out} has results called {' and '.join(names)} already, of other images{of_which}",
            f"choose another folder; to replace results, delete them and their records, such as {self._path(names[0])}",
        )

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
            _retried(partial(_write_lines, self._table, lines))
            if self._signatures() == seen:
                return

    def _signatures(self) -> dict[str, tuple[int, int]]:
        """What tells each record from the one before, by name."""
        found = {}
        for path in (self.out / _RECORDS_FOLDER).glob("*.json"):
            # What macOS puts beside files on disks of other systems has their names with this before it.
            if is_remains(path) or path.name.startswith("._"):
                continue
            try:
                status = _retried(path.stat)
            except FileNotFoundError:  # Of a volume that failed.
                continue
            found[path.name.removesuffix(".json")] = (status.st_mtime_ns, status.st_size)
        return found

    def _records(self, signatures: dict[str, tuple[int, int]]) -> dict[str, Record]:
        """Those records; of thousands, only those that changed are read."""
        for name, signature in signatures.items():
            if name not in self._read or self._read[name][0] != signature:
                self._read[name] = (signature, _read_record(self._path(name)))
        return {name: record for name in signatures if (record := self._read[name][1]) is not None}

    def _holds(self, record: Record) -> bool:
        """Whether the labelmap was not deleted since."""
        return bool(record.files) and (self.out / record.files[0]).exists()

    def _labelmap(self, name: str) -> Path:
        return labelmap_path(self.out, name, self.suffix)

    def _path(self, name: str) -> Path:
        return self.out / _RECORDS_FOLDER / f"{name}.json"

    @property
    def _table(self) -> Path:
        return self.out / ESTIMATES_FILE


def labelmap_path(out: Path, name: str, suffix: str = ".nii.gz") -> Path:
    """Where the labelmap of a volume is whose results have this name."""
    return out / f"{name}{OWN_ENDING}{suffix}"


def _content_of(image: Path) -> str | None:
    """See `Origin`; None where the voxels are not found, or there is nothing that holds some."""
    digest, files, is_folder = hashlib.sha256(), _files_of(image), image.is_dir()
    for file in files:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            digest.update(b"%s %d " % (os.fsencode(file.name) if is_folder else b"", size))
            digest.update(opened.read(_LOOKED_AT_BYTES))
            opened.seek(max(opened.tell(), size - _LOOKED_AT_BYTES))
            digest.update(opened.read())
    return digest.hexdigest() if files else None


def _files_of(image: Path) -> list[Path]:
    """The files that an image consists of; none where some are not found."""
    if image.is_dir():
        # What SIFA writes may be in it as well.
        return [file for file in sorted(image.iterdir()) if file.is_file() and not _is_beside_a_series(file)]
    if not image.name.lower().endswith(_HEADER_SUFFIXES):
        return [image]
    with image.open("rb") as opened:
        header = opened.read(_LOOKED_AT_BYTES)
    beside = [file for file in sorted(image.parent.iterdir()) if file.is_file() and not is_volume_file(file)]
    if image.suffix.lower() == ".hdr":  # Which names no file.
        voxels = [file for file in beside if file.name.startswith(f"{image.stem}.")]
    else:
        voxels = [file for file in beside if os.fsencode(file.name) in header]
    return [image, *voxels] if voxels else []


def _is_beside_a_series(file: Path) -> bool:
    return file.name.startswith(".") or is_volume_file(file) or file.suffix.lower() == ".csv"


class _EmptyError(Exception):
    """A record without content: its process was killed, or has not got to writing it."""


def _retried(action: Callable[[], _T], *faults: type[Exception]) -> _T:
    """What comes of an action, which is tried again after some faults; the last one is raised.

    By itself after a `PermissionError`: on Windows no file can be opened or replaced in the moment in which another
    process replaces or reads it.
    """
    again: tuple[type[Exception], ...] = (PermissionError, *faults)
    for _ in range(_TRIES - 1):
        try:
            return action()
        except again:
            time.sleep(_BETWEEN_TRIES_SECONDS)
    return action()


def _claim(path: Path, record: Record) -> Record | None:
    """Make a record unless there is one, which is returned."""
    while True:
        try:
            file = _retried(partial(path.open, "x", encoding="utf-8"))
        except FileExistsError:
            if (before := _read_record(path)) is not None:
                return before
            with suppress(FileNotFoundError):
                if path.stat().st_size == 0:
                    _retried(path.unlink)
            continue
        try:
            with file:
                file.write(record.model_dump_json())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return None


def _read_record(path: Path) -> Record | None:
    """A record; None if there is none, or one that stays empty.

    Raises:
        InputError: It is damaged.
    """

    def read() -> Record:
        if not (content := path.read_bytes()):
            raise _EmptyError
        return Record.model_validate_json(content)

    try:
        # Another process may be writing it.
        return _retried(read, _EmptyError, ValidationError)
    except (FileNotFoundError, _EmptyError):
        return None
    except (ValidationError, PermissionError) as error:
        raise InputError(f"{path} is damaged or can't be read", "delete it, then segment its volume again") from error


def _write_record(path: Path, record: Record) -> None:
    def write() -> None:
        with write_atomically(path) as partly:
            partly.write_text(record.model_dump_json(), encoding="utf-8")

    _retried(write)


def _write_lines(path: Path, lines: Sequence[Sequence[str]]) -> None:
    with write_atomically(path) as partly, partly.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_HEAD, *lines])


def _lines_of(path: Path) -> list[list[str]]:
    """The lines of a table of estimates that is there, none where it is not.

    Raises:
        InputError: It is another table.
    """
    if not path.exists():
        return []
    try:
        with _retried(partial(path.open, newline="", encoding="utf-8-sig")) as file:
            reader = csv.reader(file)
            first, lines = next(reader, _HEAD), [line for line in reader if line]
    except (UnicodeDecodeError, csv.Error):
        first, lines = [], []
    if first not in (_HEAD, _HEAD_OF_BEFORE) or any(len(line) != len(first) for line in lines):
        raise InputError(f"{path} was not written by SIFA, or was edited since", "move it away")
    return [[*line, *[""] * (len(_HEAD) - len(line))] for line in lines]
