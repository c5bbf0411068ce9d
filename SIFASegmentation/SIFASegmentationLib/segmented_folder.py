"""A folder of segmentation results: the image that each result came from, and a table of the estimates.

```
.sifa/NAME.json             a record: the image that the results called NAME are of, how they were made, their estimates
NAME_segmentation.nii.gz    the first of these results
estimated_dice.csv          the estimates of all volumes
```

Several processes may write to one folder. A name's record says which image it belongs to (`result_records`); the table
is rebuilt from all records until it includes every one that exists by then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError
from .estimates_table import ESTIMATES_FILE, Row, read_lines, write_lines
from .output_names import labelmap_path
from .result_records import Origin, Record, Records

_LOGGER = logging.getLogger(__name__)


class SegmentedFolder:
    """The records and the table of a folder, which need not exist yet."""

    def __init__(self, out: Path, suffix: str = ".nii.gz") -> None:
        """
        Args:
            out: The folder.
            suffix: Suffix of the labelmaps that are written to it.

        Raises:
            InputError: There is a table of that name that SIFA did not write, or a record is damaged.
        """
        self.out, self.suffix = out, suffix
        self._records, self._table = Records(out), out / ESTIMATES_FILE
        read_lines(self._table)
        self._records.read_all(self._records.signatures())

    def names(self, choices: Sequence[Sequence[str]], origins: Sequence[Origin]) -> list[list[str]]:
        """Choose the names that the results of some volumes can have in this folder.

        Args:
            choices: Names for each volume in order of preference, of which the first is no other volume's first.
            origins: Origin of each volume's results.

        Returns:
            For each volume: the name that its results have already, else the first free one, else its first choice;
            then its other choices, except for names of the other volumes.

        Raises:
            InputError: A labelmap that SIFA did not write has such a name.
        """
        taken = {first.casefold() for first, *_ in choices}
        found = []
        for (first, *others), origin in zip(choices, origins, strict=True):
            # Two copies of an image must not get the same name.
            own = [first, *(name for name in others if name.casefold() not in taken)]
            best = self._best_of(own, origin)
            taken.add(best.casefold())
            found.append([best, *(name for name in own if name != best)])
        return found

    def has(self, name: str, origin: Origin) -> bool:
        """Whether all results of that name exist, and were made from this image in the same way."""
        record = self._records.read(name)
        return (
            record is not None
            and origin.owns(record)
            and record.made_by == origin.made_by
            and bool(record.files)
            and all((self.out / file).exists() for file in record.files)
        )

    @contextmanager
    def claimed(self, names: Sequence[str], origin: Origin) -> Iterator[str]:
        """Claim the first available one of some names for the results of an image, which the block makes.

        A name that was free is free again if the block wrote no labelmap.

        Raises:
            InputError: All names belong to other images, or there is a labelmap that SIFA has no record of.
        """
        name, before = self._claim(names, origin)
        if before is not None:
            self._records.write(name, origin.begun(before))
        try:
            yield name
        finally:
            made = self._records.read(name)
            if before is None and made is not None and made.made_by is None and not self._labelmap(name).exists():
                self._records.remove(name)

    def finish(self, name: str, origin: Origin, files: Sequence[Path], rows: tuple[Row, ...]) -> None:
        """Record the results of an image under a name, and update the table.

        Args:
            name: Name that was claimed.
            origin: Origin that it was claimed for.
            files: Files of the results, in the folder; the labelmap first.
            rows: Rows for the table.
        """
        relative = tuple(file.relative_to(self.out).as_posix() for file in files)
        self._records.write(name, origin.finished(relative, rows))
        try:
            self._write_table()
        except PermissionError:
            # On Windows, a program such as Excel has the table open. Nothing is lost: the records have all of it.
            _LOGGER.warning(
                "%s can't be written to; close it if another program has it open. The next volume that is segmented "
                "into %s completes it",
                self._table,
                self.out,
            )

    def _best_of(self, names: Sequence[str], origin: Origin) -> str:
        """Return the first available one of some names for an image; if all belong to other images, the first of all.

        Raises:
            InputError: A labelmap that SIFA did not write has that name.
        """
        ordered = self._by_owner(names, origin)
        best = next((name for name in ordered if self._belongs(name, origin) is not False), ordered[0])
        self._check_labelmap(best)
        return best

    def _claim(self, names: Sequence[str], origin: Origin) -> tuple[str, Record | None]:
        """Claim the first available one of some names for an image; return it with the image's earlier record, if any.

        Raises:
            InputError: All names belong to other images, or there is a labelmap that SIFA has no record of.
        """
        for name in self._by_owner(names, origin):
            self._check_labelmap(name)
            before = self._records.claim(name, origin.begun())
            if before is None or origin.owns(before):
                return name, before
        record = self._records.read(names[0])
        # The record is gone if its volume has failed meanwhile.
        of_which = f" ({record.image})" if record is not None else ""
        raise InputError(
            f"{self.out} has results called {' and '.join(names)} already, of other images{of_which}",
            "choose another folder; to replace results, delete them and their records, such as "
            f"{self._records.path(names[0])}",
        )

    def _by_owner(self, names: Sequence[str], origin: Origin) -> list[str]:
        """Return the names that belong to the image first, and otherwise in the given order."""
        return sorted(names, key=lambda name: not self._belongs(name, origin))

    def _belongs(self, name: str, origin: Origin) -> bool | None:
        """Whether the results of a name are those of the image; None if the name is free."""
        record = self._records.read(name)
        return None if record is None else origin.owns(record)

    def _check_labelmap(self, name: str) -> None:
        """Refuse to replace a labelmap that SIFA did not write.

        Raises:
            InputError: There is one of that name; the message names it.
        """
        path = self._labelmap(name)
        # The labelmap is looked for first: another process would write its record before it.
        unrecorded = path.exists() and self._records.read(name) is None
        if unrecorded and all(volume != name for volume, *_ in read_lines(self._table)):
            raise InputError(
                f"{path} is there already, and SIFA has no record of writing it",
                "move it away or choose another folder",
            )

    def _write_table(self) -> None:
        """Rebuild the table from all records; without any rows, no new file is made.

        The last process to write it has seen all records that existed before, as those that add others write it again.
        """
        while True:
            seen = self._records.signatures()
            lines = self._lines(self._records.read_all(seen))
            if not lines and not self._table.exists():
                return
            write_lines(self._table, lines)
            if self._records.signatures() == seen:
                return

    def _lines(self, records: dict[str, Record]) -> list[list[str]]:
        """Return the rows of the table: those in the records, and for all other volumes those that it has."""
        known = {name for name, record in records.items() if record.rows is not None}
        lines = [line for line in read_lines(self._table) if line[0] not in known]
        for name, record in sorted(records.items()):
            if self._holds(record):
                lines += [[name, *row] for row in record.rows or ()]
        return lines

    def _holds(self, record: Record) -> bool:
        """Whether the labelmap of a record still exists."""
        return bool(record.files) and (self.out / record.files[0]).exists()

    def _labelmap(self, name: str) -> Path:
        return labelmap_path(self.out, name, self.suffix)
