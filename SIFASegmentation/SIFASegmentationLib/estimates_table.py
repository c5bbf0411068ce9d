"""The table of estimates, `estimated_dice.csv`, with a row for each structure of each volume."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path

from .doubts import as_sentences
from .errors import InputError
from .examination import Examination
from .files import write_atomically
from .retries import retried

ESTIMATES_FILE = "estimated_dice.csv"

_HEAD = ["volume", "structure", "estimated_dice", "low", "high", "doubtful", "warnings"]
_HEAD_OF_BEFORE = _HEAD[:-1]

Row = tuple[str, str, str, str, str, str]
"""A row of the table without its first column, the volume."""


def rows_of(made: Examination, warnings: Sequence[str]) -> tuple[Row, ...]:
    """Return a volume's rows: one for each structure, with the warnings about it and about the whole volume."""
    segmentation = made.segmentation
    about = dict(zip(made.doubts, as_sentences(segmentation.labelmap.name, made.doubts), strict=True))
    rows = []
    for structure, estimate in segmentation.estimates.items():
        others = {sentence for other, sentence in about.items() if other != structure}
        dice, low, high = (f"{value:.4f}" for value in astuple(estimate))
        reasons = " ".join(sentence for sentence in warnings if sentence not in others)
        rows.append((structure, dice, low, high, "yes" if structure in made.doubts else "no", reasons))
    return tuple(rows)


def read_lines(path: Path) -> list[list[str]]:
    """Read the rows below the header of a table, each starting with the volume; none if the file does not exist.

    Raises:
        InputError: The file is another table.
    """
    if not path.exists():
        return []
    try:
        with retried(partial(path.open, newline="", encoding="utf-8-sig")) as file:
            reader = csv.reader(file)
            head, lines = next(reader, _HEAD), [line for line in reader if line]
    except (UnicodeDecodeError, csv.Error):
        head, lines = [], []
    if head not in (_HEAD, _HEAD_OF_BEFORE) or any(len(line) != len(head) for line in lines):
        raise InputError(f"{path} was not written by SIFA, or was edited since", "move it away")
    return [[*line, *[""] * (len(_HEAD) - len(line))] for line in lines]


def write_lines(path: Path, lines: Sequence[Sequence[str]]) -> None:
    """Write a table of such rows, in place of any that exists.

    Raises:
        PermissionError: Another program, such as Excel on Windows, has the file open.
    """

    def write() -> None:
        with write_atomically(path) as partly, partly.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_HEAD, *lines])

    retried(write)
