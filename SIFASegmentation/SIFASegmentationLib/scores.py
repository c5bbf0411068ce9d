"""The table of scores, as text, CSV and JSON: a row for each subject and structure, then summary statistics."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, unwritable
from .files import write_atomically
from .quality import Estimate

DEFAULT_TOLERANCE_MM = 2.0
"""Default tolerance of surface Dice."""


@dataclass(frozen=True)
class Scores:
    """Scores of one structure, for prediction P and reference R; NaN where a score is not defined.

    Attributes:
        dice: 2 |P and R| / (|P| + |R|), 0 to 1; 0 if one mask is empty, NaN if both are.
        asd: Average symmetric surface distance: mean of the pooled distances, in mm. In the legacy mode the mean of the
            two directed means, in voxels.
        hd95: 95th percentile of the pooled distances, in mm (voxels in the legacy mode).
        surface_dice: Share of both surfaces within the tolerance of the other (Nikolov et al., JMIR 2021), 0 to 1;
            each surface voxel has the same weight.
        prediction_ml: Volume of the prediction.
        reference_ml: Volume of the reference.
        volume_difference: (|P| - |R|) / |R|; NaN for an empty reference.
    """

    dice: float
    asd: float
    hd95: float
    surface_dice: float
    prediction_ml: float
    reference_ml: float
    volume_difference: float


MEAN_OF_STRUCTURES = "mean"
NAMES = tuple(field.name for field in fields(Scores))
_HEADINGS = ("Dice", "ASD", "HD95", "surface Dice", "pred. ml", "ref. ml", "vol. diff.")
_WORDS = ("subject", "structure", "method", "note")  # Columns of text.
_ESTIMATE_COLUMNS = ("estimated_dice", "estimated_low", "estimated_high")
_FORMATS = ("{:.3f}", "{:.2f}", "{:.2f}", "{:.3f}", "{:.1f}", "{:.1f}", "{:+.3f}")


@dataclass(frozen=True)
class Row:
    """Scores of one structure in one subject.

    Attributes:
        subject: Name of the subject, unique in the table.
        structure: Name of the structure.
        scores: The structure's scores.
        note: Remarks on the scores.
        estimate: Dice as estimated without labels.
        method: Name of the method that made the segmentation, in a table that compares several; statistics are
            computed for each method separately.
    """

    subject: str
    structure: str
    scores: Scores
    note: str = ""
    estimate: Estimate | None = None
    method: str = ""


@dataclass(frozen=True)
class Summary:
    """A statistic of each score of a method, over the subjects in which it is defined."""

    structure: str
    statistic: str
    scores: Scores
    method: str = ""


@dataclass(frozen=True)
class Counts:
    """Numbers of subjects, for one structure and method: scored, with both masks empty, with one mask empty."""

    structure: str
    scored: int
    both_empty: int
    one_empty: int
    method: str = ""


@dataclass(frozen=True)
class ScoreTable:
    """Scores of any number of subjects.

    Attributes:
        rows: Rows, ordered by subject, then structure.
        legacy: Follow the paper's convention: distances in voxels, standard deviation of the population.
        tolerance: Tolerance of surface Dice, in mm (voxels in the legacy mode); a row with another one has it in its
            note.
        unmatched: Files without a counterpart.
    """

    rows: tuple[Row, ...]
    legacy: bool = False
    tolerance: float = DEFAULT_TOLERANCE_MM
    unmatched: tuple[str, ...] = ()

    @property
    def structures(self) -> list[str]:
        """Names of the structures, in order of appearance."""
        return list(dict.fromkeys(row.structure for row in self.rows))

    @property
    def methods(self) -> list[str]:
        """Names of the compared methods, in order of appearance; a single empty name if nothing is compared."""
        return list(dict.fromkeys(row.method for row in self.rows))

    def subject_means(self) -> list[Row]:
        """For each subject and method, the mean of each score over the structures; NaN is left out."""
        groups: dict[tuple[str, str], list[Scores]] = {}
        for row in self.rows:
            groups.setdefault((row.subject, row.method), []).append(row.scores)
        return [
            Row(subject, MEAN_OF_STRUCTURES, _statistic(scores, np.mean), method=method)
            for (subject, method), scores in groups.items()
        ]

    def summaries(self) -> list[Summary]:
        """Mean, standard deviation and median of each structure, then of the subjects' means, method by method.

        The standard deviation is that of a sample (n - 1), in the legacy mode that of the population.
        """
        deviation = np.std if self.legacy else _sample_deviation
        statistics: dict[str, Callable[..., Any]] = {"mean": np.mean, "std": deviation, "median": np.median}
        summarised = self._by_method_and_structure([*self.rows, *self.subject_means()])
        return [
            Summary(structure, statistic, _statistic([row.scores for row in rows], function), method)
            for (method, structure), rows in summarised.items()
            for statistic, function in statistics.items()
        ]

    def means(self, score: str) -> dict[tuple[str, str], float]:
        """Means of a score over the subjects, by (method, structure), and of the subjects' means: `means("dice")`."""
        means = [summary for summary in self.summaries() if summary.statistic == "mean"]
        return {(summary.method, summary.structure): getattr(summary.scores, score) for summary in means}

    def counts(self) -> list[Counts]:
        """Counts of scored subjects and of empty masks for each method and structure.

        Subjects without a reference are not counted.
        """
        counted = []
        for (method, structure), rows in self._by_method_and_structure(self.rows).items():
            referred = [row.scores for row in rows if not isnan(row.scores.reference_ml)]
            empty = [(scores.prediction_ml == 0, scores.reference_ml == 0) for scores in referred]
            both, one = sum(p and r for p, r in empty), sum(p != r for p, r in empty)
            counted.append(Counts(structure, len(empty) - both - one, both, one, method))
        return counted

    def _by_method_and_structure(self, rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
        """Rows grouped by (method, structure), in the order in which the statistics are listed."""
        groups: dict[tuple[str, str], list[Row]] = {
            (method, structure): [] for method in self.methods for structure in (*self.structures, MEAN_OF_STRUCTURES)
        }
        for row in rows:
            groups[row.method, row.structure].append(row)
        return {key: group for key, group in groups.items() if group}

    def mean(self, score: str) -> float:
        """Mean of a score over the subjects' means: the one number that sums up a table of one method."""
        return float(getattr(_statistic([row.scores for row in self.subject_means()], np.mean), score))

    def text(self) -> str:
        """The table for a terminal."""
        unit = "voxels" if self.legacy else "mm"
        summaries = self.summaries()
        told: list[Row | Summary] = [*self.rows, *summaries]
        columns = {
            "subject": [*(row.subject for row in self.rows), *(one.statistic for one in summaries)],
            "structure": [one.structure for one in told],
        }
        cells = zip(*(formatted(one.scores) for one in told), strict=True)
        headings = [f"{name} {unit}" if name in ("ASD", "HD95") else name for name in _HEADINGS]
        columns |= dict(zip(headings, map(list, cells), strict=True)) if told else {name: [] for name in headings}
        if any(row.estimate for row in self.rows):
            columns["estimated Dice"] = [*(formatted_estimate(row.estimate) for row in self.rows), *_none(summaries)]
        if any(self.methods):
            columns["method"] = [one.method for one in told]
        columns["note"] = [*(row.note for row in self.rows), *_none(summaries)]
        lines = _aligned([list(columns), *map(list, zip(*columns.values(), strict=True))])
        rule, last = "-" * max(map(len, lines)), len(self.rows) + 1
        parts = [lines[0], rule, *lines[1:last], rule, *lines[last:], ""]
        parts += self._counted()
        parts += [f"no counterpart: {name}" for name in self.unmatched]
        parts.append(f"surface Dice at {self.tolerance:g} {unit}" + (", the paper's convention" if self.legacy else ""))
        return "\n".join(parts)

    def empty_masks(self) -> list[str]:
        """One line for each structure that has empty masks."""
        return [
            f"{c.structure}{f' ({c.method})' if c.method else ''}: {c.scored} scored, {c.both_empty} with both masks "
            f"empty, {c.one_empty} with one empty"
            for c in self.counts()
            if c.both_empty or c.one_empty
        ]

    def _counted(self) -> list[str]:
        """Lines that say how many masks were empty; none if nothing could be scored."""
        scored = sum(count.scored for count in self.counts())
        return self.empty_masks() or ([f"{scored} scored, no mask empty"] if scored else [])

    def csv(self, delimiter: str = ",") -> str:
        """The table as CSV: the rows, then the statistics, with mean, std or median in the column `subject`."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
        unit = "voxels" if self.legacy else "mm"
        columns = [f"{name}_{unit}" if name in ("asd", "hd95") else name for name in NAMES]
        writer.writerow(["subject", "structure", *columns, *_ESTIMATE_COLUMNS, "method", "note"])
        counts = {(c.method, c.structure): c for c in self.counts()}
        for row in self.rows:
            estimate = ["", "", ""] if row.estimate is None else [f"{x:.4f}" for x in astuple(row.estimate)]
            writer.writerow([row.subject, row.structure, *_plain(row.scores), *estimate, row.method, row.note])
        for summary in self.summaries():
            c = counts.get((summary.method, summary.structure))
            note = f"{c.scored} scored; {c.both_empty} both empty; {c.one_empty} one empty" if c else ""
            scores = _plain(summary.scores)
            writer.writerow([summary.statistic, summary.structure, *scores, "", "", "", summary.method, note])
        return buffer.getvalue()

    def json(self) -> str:
        """The whole table as JSON; NaN becomes null."""
        content = {
            "convention": "legacy" if self.legacy else "standard",
            "distance_unit": "voxels" if self.legacy else "mm",
            "surface_dice_tolerance": self.tolerance,
            "rows": [
                {
                    "subject": r.subject,
                    "structure": r.structure,
                    **_nullable(r.scores),
                    "estimate": asdict(r.estimate) if r.estimate else None,
                    "method": r.method,
                    "note": r.note,
                }
                for r in self.rows
            ],
            "summary": [
                {"structure": s.structure, "statistic": s.statistic, "method": s.method, **_nullable(s.scores)}
                for s in self.summaries()
            ],
            "counts": [asdict(c) for c in self.counts()],
            "unmatched": list(self.unmatched),
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> ScoreTable:
        """Read a table that `write` wrote as JSON.

        Raises:
            InputError: The file can't be read or does not hold such a table.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = [
                Row(
                    row["subject"], row["structure"], _scores_of(row), row["note"],
                    Estimate(**row["estimate"]) if row.get("estimate") else None, row.get("method", ""),
                )
                for row in content["rows"]
            ]  # fmt: skip
            legacy = content["convention"] == "legacy"
            return cls(tuple(rows), legacy, content["surface_dice_tolerance"], tuple(content["unmatched"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} holds no scores ({error})", "score the labelmaps again") from error

    def write(self, path: Path) -> None:
        """Write the table as CSV or JSON, depending on the path's suffix.

        Raises:
            InputError: The suffix is neither `.csv` nor `.json`, or the file can't be written.
        """
        check_suffix(path)
        text = self.json() if path.suffix.lower() == ".json" else self.csv()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(path) as partial:
                partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise unwritable(path, error) from error


def check_suffix(path: Path) -> None:
    """Check that a table of scores can be written in the format of a path's suffix.

    Raises:
        InputError: The suffix is neither `.csv` nor `.json`.
    """
    if path.suffix.lower() not in (".csv", ".json"):
        raise InputError(f"{path} can't be written", "end its name with .csv or .json")


def _none(rows: Sequence[Any]) -> list[str]:
    """An empty cell for each row."""
    return [""] * len(rows)


def _sample_deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else nan


def _statistic(scores: Sequence[Scores], function: Callable[..., Any]) -> Scores:
    """Apply `function` to each score, over the values that are not NaN."""
    columns = ([v for s in scores if not isnan(v := getattr(s, name))] for name in NAMES)
    return Scores(*(float(function(column)) if column else nan for column in columns))


def _plain(scores: Scores) -> list[str]:
    return ["" if isnan(value) else repr(value) for value in asdict(scores).values()]


def _nullable(scores: Scores) -> dict[str, float | None]:
    return {name: None if isnan(value) else value for name, value in asdict(scores).items()}


def _scores_of(values: dict[str, Any]) -> Scores:
    """Inverse of `_nullable`."""
    return Scores(*(nan if values[name] is None else float(values[name]) for name in NAMES))


def formatted(scores: Scores) -> list[str]:
    """The scores as text for display, in the order of `NAMES`; `-` for one that is not defined."""
    values = asdict(scores).values()
    return ["-" if isnan(v) else form.format(v) for v, form in zip(values, _FORMATS, strict=True)]


def formatted_estimate(estimate: Estimate | None) -> str:
    """An estimate with its band as text for display; `-` for none."""
    return "-" if estimate is None else str(estimate)


def _aligned(cells: list[list[str]]) -> list[str]:
    """Lines with aligned columns, whose first row is the heading: text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    words = {column for column, name in enumerate(cells[0]) if name in _WORDS}
    return [
        "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
