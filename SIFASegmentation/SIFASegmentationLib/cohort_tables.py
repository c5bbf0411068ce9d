"""The cases of a CSV file, which names the image, the labelmap and the patient of each."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path

from .cases import Case
from .errors import InputError
from .regions import parse_box


def cases_in_csv(path: Path, labelled: bool, patients: Collection[str] | None) -> list[Case]:
    """Find the cases listed in a CSV file; see `cohorts.find_cases`."""
    wanted = ["patient", "image", *(["label"] if labelled else [])]
    cases: list[Case] = []
    lines: dict[Path, int] = {}  # The line that names each file.
    for line, row in _csv_rows(path, wanted):
        patient = unicodedata.normalize("NFC", row["patient"])
        if patients is not None and patient not in patients:
            continue
        for column in wanted:
            if not row[column]:
                raise InputError(f"{path}, line {line}, has an empty {column}", "fill it in")
        files = [path.parent / row[column] for column in wanted[1:]]
        for file in files:
            if not file.exists():
                raise InputError(
                    f"{path}, line {line}, names {file}, which does not exist", "give paths relative to the CSV file"
                )
        for file in files:
            first = lines.setdefault(file.resolve(), line)
            if first != line:
                raise InputError(f"{path}, line {line}, names {file}, as line {first} does", "remove one of the two")
        if len({file.resolve() for file in files}) < len(files):
            raise InputError(f"{path}, line {line}, gives {files[0]} as image and label", "correct one of them")
        text = row.get("region", "")
        region = parse_box(text, f"In {path}, line {line}, the region") if text else None
        cases.append(Case(patient, files[0], files[1] if labelled else None, region))
    if not cases:
        raise InputError(f"{path} has no row below its header", "add one for each image")
    return cases


def _csv_rows(path: Path, wanted: list[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the line number and the stripped values, by column, of each row.

    Raises:
        InputError: The file is not a CSV text file, its columns are wrong, or a row has too many values.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            text = file.read()
        delimiter = _delimiter(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(reader.line_num, [value.strip() for value in row]) for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV text file", "give a folder, or a CSV with patient, image, label") from error
    header = [column.lower() for column in rows[0][1]] if rows else []
    if repeated := [column for column in header if column and header.count(column) > 1]:
        raise InputError(f"{path} has the column {repeated[0]} twice", "remove or rename one of the two")
    if any(column not in header for column in wanted):
        raise InputError(
            f"{path} lacks the columns of a table of volumes",
            f"put {', '.join(wanted)}, with commas or semicolons between them, into its first line",
        )
    for line, row in rows[1:]:
        if len(row) > len(header):
            separator = "semicolon" if delimiter == ";" else "comma"
            raise InputError(
                f"{path}, line {line}, has more values than columns", f"put quotes around what has a {separator}"
            )
    return [(line, dict(zip_longest(header, row, fillvalue=""))) for line, row in rows[1:]]


def _delimiter(text: str) -> str:
    """Return the delimiter: a semicolon if the header has semicolons and no commas, else a comma.

    Excel writes semicolons where numbers have decimal commas.
    """
    header = next((line for line in text.splitlines() if line.strip(" ,;")), "")
    return ";" if ";" in header and "," not in header else ","
