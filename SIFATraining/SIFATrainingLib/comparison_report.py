"""Reports of a comparison: Markdown, CSV and an HTML page with pictures."""

from __future__ import annotations

import csv
import html
import io
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import numpy as np

from SIFASegmentationLib.files import write_atomically
from SIFASegmentationLib.grids import resample_labelmap
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.jobs import PREVIEWS_FOLDER
from SIFASegmentationLib.labelmaps import read_labelmap
from SIFASegmentationLib.scores import MEAN_OF_STRUCTURES, NAMES, ScoreTable

from .captions import PREVIEW_CAPTION
from .compare import Comparison, Result, reference_of, subjects_of
from .config import TRANSLATING_METHODS
from .figures import draw_overlays, draw_scores, draw_watched
from .html_report import picture, picture_of_file, table, write_page
from .variants import LOWER_BOUND, UPPER_BOUND

_PICTURED = 3  # Number of volumes shown on the page.
_SMALLEST_GAP = 0.01  # Difference in Dice: one point.
_GAP_CAPTION = (
    "Gap closed: share of the difference in mean Dice between no adaptation and supervised training. These bounds are "
    "those of the row's own seeds if available, else of all; '-' if they differ by less than a point or are reversed."
)
_WATCHED_CAPTION = (
    "Mean Dice (%) of the monitor volumes, on the networks' grid, of the model that would have been exported then. It "
    "is not used for training, early stopping or checkpoint selection: the last checkpoint is exported."
)


@dataclass(frozen=True)
class Line:
    """A row of the main table; scores are means over the seeds.

    Attributes:
        title: Title of the row.
        trained: Settings of its trainings as text, by column: seeds, iterations, batch, width.
        dice: Dice in %, by structure and as `mean`.
        asd: ASD in mm, by structure and as `mean`.
        spread: Standard deviation (n - 1) of the mean Dice over the seeds, in points; NaN for a single seed.
        closed: Share of the gap closed (`share_closed`).
        masks: Number of pairs of masks compared, over all subjects, structures and seeds.
        one_empty: Number of these pairs with one empty mask; they have a Dice of 0 and no ASD.
        both_empty: Number of these pairs with two empty masks; they have no Dice either.
    """

    title: str
    trained: dict[str, str]
    dice: dict[str, float]
    asd: dict[str, float]
    spread: float
    closed: float
    masks: int
    one_empty: int
    both_empty: int


def table_lines(comparison: Comparison) -> list[Line]:
    """Return the rows of the main table, in the order of the comparison's variants."""
    lines = []
    for variant in comparison.variants:
        results = comparison.of(variant.name)
        means = [100 * result.table.mean("dice") for result in results]
        counts = [count for result in results for count in result.table.counts()]
        one_empty, both_empty = (sum(getattr(c, name) for c in counts) for name in ("one_empty", "both_empty"))
        lines.append(
            Line(
                title=variant.title,
                trained=_trained(results),
                dice={name: 100 * value for name, value in _means(results, "dice").items()},
                asd=_means(results, "asd"),
                spread=float(np.std(means, ddof=1)) if len(means) > 1 else nan,
                closed=share_closed(comparison, results),
                masks=sum(count.scored for count in counts) + one_empty + both_empty,
                one_empty=one_empty,
                both_empty=both_empty,
            )
        )
    return lines


def share_closed(comparison: Comparison, results: Sequence[Result], subjects: Collection[str] | None = None) -> float:
    """Share of the gap in mean Dice that a row closes: (row - without adaptation) / (supervised - without adaptation).

    Args:
        comparison: Provides the bounds. Their results with the row's seeds are used if there are any, else all.
        results: Results of the row.
        subjects: Subjects to use; all if None.

    Returns:
        The share; NaN if a bound is missing, or the upper is not above the lower by more than a point.
    """
    seeds = {seed for result in results for seed in result.seeds}
    bounds = []
    for name in (LOWER_BOUND, UPPER_BOUND):
        every = comparison.of(name)
        bounds.append(_mean_dice([result for result in every if result.seed in seeds] or every, subjects))
    low, high = bounds
    return (_mean_dice(results, subjects) - low) / (high - low) if high - low > _SMALLEST_GAP else nan


def _trained(results: Sequence[Result]) -> dict[str, str]:
    """Return the settings of a row's trainings as text, by column; differing values are listed."""
    values: dict[str, list[str]] = {
        "seeds": [str(seed) for result in results for seed in result.seeds],
        "iterations": [f"{result.config.iterations:,}" for result in results],
        "batch": [str(result.config.batch) for result in results],
        "width": [f"{result.config.width:g}" for result in results],
    }
    return {name: ", ".join(dict.fromkeys(texts)) for name, texts in values.items()}


def _means(results: Sequence[Result], score: str) -> dict[str, float]:
    """Return a score's mean over the seeds, by structure and as `mean` of the structures."""
    by_seed = [{name: mean for (_, name), mean in result.table.means(score).items()} for result in results]
    return {name: float(np.mean([values[name] for values in by_seed])) for name in by_seed[0]}


def _mean_dice(results: Sequence[Result], subjects: Collection[str] | None = None) -> float:
    """Return the mean over seeds and subjects (all, or some) of the subjects' mean Dice; NaN if there is none."""
    means = [
        row.scores.dice
        for result in results
        for row in result.table.subject_means()
        if (subjects is None or row.subject in subjects) and not isnan(row.scores.dice)
    ]
    return float(np.mean(means)) if means else nan


def markdown(comparison: Comparison) -> str:
    """Return Markdown with tables by structure and subject, and of odd subjects and monitored trainings if any."""
    head, rows = _cells(comparison)
    parts = [markdown_table(head, rows), *_sentences(comparison)]
    parts += ["Mean Dice (%) by subject:", markdown_table(*_subject_cells(comparison))]
    if comparison.odd:
        parts += [f"Apart from the odd subjects ({_odd(comparison)}):", markdown_table(*_group_cells(comparison))]
    if _watched(comparison):
        parts += [_WATCHED_CAPTION, markdown_table(*_watched_cells(comparison))]
    return "\n\n".join(parts) + "\n"


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the main table."""
    lines = table_lines(comparison)
    structures = [name for name in lines[0].dice if name != MEAN_OF_STRUCTURES] if lines else []
    unlike = [name for name, texts in _by_column(lines).items() if len(set(texts)) > 1]
    head = ["", *unlike, *(f"{name}, Dice" for name in structures), "mean Dice"]
    head += [*(f"{name}, ASD mm" for name in structures), "mean ASD mm", "gap closed"]
    rows = []
    for line in lines:
        spread = "" if isnan(line.spread) else f" ± {line.spread:.1f}"
        trained = [line.trained[name] for name in unlike]
        *dice, mean = (_number(line.dice[name], "{:.1f}") for name in (*structures, MEAN_OF_STRUCTURES))
        asd = [_number(line.asd[name], "{:.1f}") for name in (*structures, MEAN_OF_STRUCTURES)]
        rows.append([line.title, *trained, *dice, f"{mean}{spread}", *asd, _share(line.closed)])
    return head, rows


def _by_column(lines: Sequence[Line]) -> dict[str, list[str]]:
    """Return the settings of all rows' trainings, by column."""
    return {name: [line.trained[name] for line in lines] for name in lines[0].trained} if lines else {}


def _sentences(comparison: Comparison) -> list[str]:
    """Return the notes below the main table."""
    lines = table_lines(comparison)
    columns = _by_column(lines)
    alike = [f"{name} {texts[0]}" for name, texts in columns.items() if len(set(texts)) == 1]
    mixed = [variant.title for variant in comparison.variants if _is_mixed(comparison.of(variant.name))]
    sentences = [f"All rows: {'; '.join(alike)}."] if alike else []
    if mixed:
        sentences.append(f"Trained with other settings from seed to seed (settings.json): {'; '.join(mixed)}.")
    return [*sentences, _GAP_CAPTION, *_empty_masks(lines)]


def _is_mixed(results: Sequence[Result]) -> bool:
    """Whether the seeds of a row were trained with different settings, as versions or calls of different days do."""
    first, *others = (result.config.model_copy(update={"seed": 0}) for result in results)
    return any(other != first for other in others)


def _empty_masks(lines: Sequence[Line]) -> list[str]:
    """Return a sentence on how many masks were empty; they have no ASD, and means leave them out."""
    empty = []
    for line in lines:
        if line.one_empty or line.both_empty:
            both = f" ({line.both_empty} in both)" if line.both_empty else ""
            empty.append(f"{line.title} {line.one_empty + line.both_empty} of {line.masks}{both}")
    sentence = "Masks that were empty in the prediction or the reference, with a Dice of 0 and no ASD"
    if not empty:
        return ["No mask was empty, in a prediction or a reference."] if lines else []
    return [f"{sentence} (where both are, there is no Dice either): {'; '.join(empty)}."]


def _subject_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    subjects = subjects_of(comparison.cases)
    rows = []
    for variant in comparison.variants:
        by_seed = [
            {row.subject: row.scores.dice for row in result.table.subject_means()}
            for result in comparison.of(variant.name)
        ]
        means = [100 * np.mean([values[subject] for values in by_seed]) for subject in subjects]
        rows.append([variant.title, *(_number(float(mean), "{:.1f}") for mean in means)])
    return ["", *subjects], rows


def _group_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of typical and odd subjects: mean Dice and share of the gap closed."""
    named = list(zip(subjects_of(comparison.cases), comparison.cases, strict=True))
    odd = {subject for subject, case in named if case.patient in comparison.odd}
    groups = {"typical": {subject for subject, _case in named} - odd, "odd": odd}
    head = ["", *(f"{name}, {what}" for name in groups for what in ("mean Dice", "gap closed"))]
    rows = []
    for variant in comparison.variants:
        results, cells = comparison.of(variant.name), []
        for group in groups.values():
            dice, closed = _mean_dice(results, group), share_closed(comparison, results, group)
            cells += [_number(100 * dice, "{:.1f}"), _share(closed)]
        rows.append([variant.title, *cells])
    return head, rows


def _watched(comparison: Comparison) -> list[tuple[Result, list[tuple[int, float]]]]:
    """Return the monitored trainings, each with its curve: pairs of iteration and mean Dice of the monitor volumes."""
    watched = [(result, result.watched()) for result in comparison.results]
    return [(result, points) for result, points in watched if points]


def _watched_cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    rows = []
    for result, points in _watched(comparison):
        iteration, best = max(points, key=lambda point: point[1])
        last = points[-1][1]
        dice = [f"{100 * value:.1f}" for value in (best, last, best - last)]
        rows.append([f"{result.variant.title}, seed {result.seed}", dice[0], f"{iteration:,}", *dice[1:]])
    return ["", "best mean Dice", "at iteration", "last", "lost"], rows


def _curves(comparison: Comparison) -> list[str]:
    """Return the page's section on monitored trainings; empty if there are none."""
    watched = _watched(comparison)
    if not watched:
        return []
    curves = [(f"{result.variant.title}, seed {result.seed}", points) for result, points in watched]
    return [
        "<h2>As the trainings went on</h2>",
        table(*_watched_cells(comparison)),
        picture(draw_watched(curves), _WATCHED_CAPTION),
    ]


def _apart(comparison: Comparison) -> list[str]:
    """Return the page's section on odd subjects; empty if there are none."""
    if not comparison.odd:
        return []
    return [f"<h2>Apart from the odd subjects ({html.escape(_odd(comparison))})</h2>", table(*_group_cells(comparison))]


def _odd(comparison: Comparison) -> str:
    return ", ".join(sorted(comparison.odd))


def _number(value: float, form: str) -> str:
    return "-" if isnan(value) else form.format(value)


def _share(value: float) -> str:
    return _number(value, "{:z.0%}")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells in Markdown, without a newline at its end."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def csv_text(comparison: Comparison) -> str:
    """Return a CSV with every score, one line for each row, seed, subject and structure; distances are in mm."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["row", "seed", "iterations", "subject", "structure", *NAMES, "note"])
    for result in comparison.results:
        for row in result.table.rows:
            values = (getattr(row.scores, name) for name in NAMES)
            cells = ("" if isnan(value) else repr(value) for value in values)
            trained = result.variant.name, result.seed, result.config.iterations
            writer.writerow([*trained, row.subject, row.structure, *cells, row.note])
    return buffer.getvalue()


def table_csv(comparison: Comparison) -> str:
    """Return the main table as CSV, with plain numbers.

    Dice and its spread over seeds are on the scale [0, 1], ASD is in mm, missing values are empty. The last columns
    count the pairs of masks that were compared, and those with one or both masks empty.
    """
    lines = table_lines(comparison)
    structures = list(lines[0].dice) if lines else []
    trained = list(lines[0].trained) if lines else []
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    scores = [f"{score} {name}" for score in ("dice", "asd_mm") for name in structures]
    writer.writerow(["row", *trained, *scores, "dice_spread", "gap_closed", "masks", "one_empty", "both_empty"])
    for line in lines:
        dice = [line.dice[name] / 100 for name in structures]
        values = [*dice, *(line.asd[name] for name in structures), line.spread / 100, line.closed]
        cells = ["" if isnan(value) else f"{value:.6g}" for value in values]
        counts = line.masks, line.one_empty, line.both_empty
        writer.writerow([line.title, *line.trained.values(), *cells, *counts])
    return buffer.getvalue()


def write_comparison(out: Path, comparison: Comparison, target_coding: str | None = None) -> None:
    """Write `comparison.md`, `comparison_table.csv`, `comparison.csv` (every score) and `comparison.html` into `out`.

    Args:
        out: The comparison's folder.
        comparison: What to report.
        target_coding: Coding of the labels in the target's references, for the pictures.
    """
    texts = {"comparison.md": markdown, "comparison_table.csv": table_csv, "comparison.csv": csv_text}
    for name, text_of in texts.items():
        text = text_of(comparison)
        with write_atomically(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    head, rows = _cells(comparison)
    parts = [
        f"<h1>Comparison: {html.escape(comparison.task.title)}</h1>",
        f"<p>Scores of {len(comparison.cases)} volumes of the target that are in no training set.</p>",
        table(head, rows),
        *(f"<p>{html.escape(sentence)}</p>" for sentence in _sentences(comparison)),
        "<h2>By subject</h2>",
        table(*_subject_cells(comparison)),
        *_apart(comparison),
        *_curves(comparison),
        "<h2>Distribution over subjects and seeds</h2>",
        picture(draw_scores(_pooled(comparison), "dice", "Dice"), "Dice; box: quartiles, line: median."),
        picture(draw_scores(_pooled(comparison), "asd", "ASD, mm"), "Average symmetric surface distance."),
        "<h2>Segmentations</h2>",
        *_overlays(comparison, target_coding),
        "<h2>Translated slices</h2>",
        *_previews(comparison),
    ]
    write_page(out / "comparison.html", "SIFA comparison", parts)


def _pooled(comparison: Comparison) -> list[tuple[str, ScoreTable]]:
    """Return title and scores of each row, with all its seeds pooled."""
    return [
        (variant.title, ScoreTable(tuple(row for result in comparison.of(variant.name) for row in result.table.rows)))
        for variant in comparison.variants
    ]


def _overlays(comparison: Comparison, coding: str | None) -> list[str]:
    """Return pictures of the first volumes, segmented by the first seed of each row."""
    pictures = []
    named = zip(subjects_of(comparison.cases), comparison.cases, strict=True)
    for subject, case in itertools.islice(named, _PICTURED):
        if case.label is None:
            continue
        labelmaps = []
        for variant in comparison.variants:
            path = comparison.of(variant.name)[0].labelmap(subject)
            if path.exists():
                labelmaps.append((variant.title, read_labelmap(path, comparison.task, allow_empty=True)))
        if not labelmaps:
            continue
        image, reference = read_volume(case.image), reference_of(case, comparison.task, coding)
        reference = resample_labelmap(reference, image.geometry)
        figure = draw_overlays(image, labelmaps, reference, comparison.task)
        pictures.append(picture(figure, html.escape(subject)))
    return pictures


def _previews(comparison: Comparison) -> list[str]:
    """Return the last preview strip, by the first seed, of each row that translates."""
    pictures = []
    for variant in comparison.variants:
        first = comparison.of(variant.name)[0]
        if first.config.method not in TRANSLATING_METHODS:
            continue
        strips = sorted((first.folder / "job" / PREVIEWS_FOLDER).glob("*.png"))
        if strips:
            pictures.append(picture_of_file(strips[-1], f"{html.escape(variant.title)}. {PREVIEW_CAPTION}"))
    return pictures
