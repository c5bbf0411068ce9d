"""A folder that volumes are segmented into: which image each result came from, and a table of what is estimated of it.

```
.sifa/NAME.json             a record: of which image the results called NAME are, how they were made, their estimates
NAME_segmentation.nii.gz    the first of these results
estimated_dice.csv          the estimates of all volumes
```

Several processes may write to one folder. Whose a name is, its record says (`result_records`); the table is made anew
of all records, until it has all that are there by then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError
from .estimates_table import ESTIMATES_FILE, Row, read_lines, write_lines
from .output_names import labelmap_path
from .result_records import Origin, Record, Records


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
        self._records, self._table = Records(out), out / ESTIMATES_FILE
        read_lines(self._table)
        self._records.read_all(self._records.signatures())

    def names(self, choices: Sequence[Sequence[str]], origins: Sequence[Origin]) -> list[list[str]]:
        """What the results of some volumes can be called here.

        Args:
            choices: Names of each in order of preference, of which the first is no other volume's first.
            origins: Of the results of each.

        Returns:
            For each: the name that its results have already, else the first that is free, else its first choice; then
            its other choices, but for names of the other volumes.

        Raises:
            InputError: There is a labelmap of somebody else under such a name.
        """
        taken = {first.casefold() for first, *_ in choices}
        found = []
        for (first, *others), origin in zip(choices, origins, strict=True):
            # Two copies of an image have a name each.
            own = [first, *(name for name in others if name.casefold() not in taken)]
            best = self._best_of(own, origin)
            taken.add(best.casefold())
            found.append([best, *(name for name in own if name != best)])
        return found

    def has(self, name: str, origin: Origin) -> bool:
        """Whether all results of that name are there, of the image, and made like that."""
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
        """Have one of some names, the first that can be had, for the results of an image, which the block makes.

        A name that was free is free again if the block wrote no labelmap.

        Raises:
            InputError: All names are other images', or there is a labelmap that SIFA has no record of.
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
        """Note down what came of an image under a name, in its record and in the table.

        Args:
            name: That was claimed.
            origin: As it was claimed for.
            files: The results, in the folder; the labelmap first.
            rows: For the table.
        """
        relative = tuple(file.relative_to(self.out).as_posix() for file in files)
        self._records.write(name, origin.finished(relative, rows))
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

    def _best_of(self, names: Sequence[str], origin: Origin) -> str:
        """The first of some names that can be had for an image; where all are other images', the first of all."""
        ordered = self._by_owner(names, origin)
        best = next((name for name in ordered if self._belongs(name, origin) is not False), ordered[0])
        self._check_labelmap(best)
        return best

    def _claim(self, names: Sequence[str], origin: Origin) -> tuple[str, Record | None]:
        """The first of some names that can be had for an image, which is its own then, and its record of before."""
        for name in self._by_owner(names, origin):
            self._check_labelmap(name)
            before = self._records.claim(name, origin.begun())
            if before is None or origin.owns(before):
                return name, before
        record = self._records.read(names[0])
        # Its volume may have failed meanwhile.
        of_which = f" ({record.image})" if record is not None else ""
        raise InputError(
            f"{self.out} has results called {' and '.join(names)} already, of other images{of_which}",
            "choose another folder; to replace results, delete them and their records, such as "
            f"{self._records.path(names[0])}",
        )

    def _by_owner(self, names: Sequence[str], origin: Origin) -> list[str]:
        """Names that are the image's first, else as they were."""
        return sorted(names, key=lambda name: not self._belongs(name, origin))

    def _belongs(self, name: str, origin: Origin) -> bool | None:
        """Whether the results of a name are those of the image; None where the name is free."""
        record = self._records.read(name)
        return None if record is None else origin.owns(record)

    def _check_labelmap(self, name: str) -> None:
        """Refuse to replace a labelmap that somebody else made.

        Raises:
            InputError: Names it.
        """
        path = self._labelmap(name)
        # In this order: a labelmap that another process writes meanwhile has its record before it.
        unrecorded = path.exists() and self._records.read(name) is None
        if unrecorded and all(volume != name for volume, *_ in read_lines(self._table)):
            raise InputError(
                f"{path} is there already, and SIFA has no record of writing it",
                "move it away or choose another folder",
            )

    def _write_table(self) -> None:
        """Make the table of all records; no new file without any rows.

        Whoever writes last has seen all records that were there before, for others that come later write again.
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
        """Of the table: what records say of their volumes, and of all others what it has."""
        known = {name for name, record in records.items() if record.rows is not None}
        lines = [line for line in read_lines(self._table) if line[0] not in known]
        for name, record in sorted(records.items()):
            if self._holds(record):
                lines += [[name, *row] for row in record.rows or ()]
        return lines

    def _holds(self, record: Record) -> bool:
        """Whether the labelmap was not deleted since."""
        return bool(record.files) and (self.out / record.files[0]).exists()

    def _labelmap(self, name: str) -> Path:
        return labelmap_path(self.out, name, self.suffix)
