"""Rebuild the tables of the stored comparisons from the scores beside them.

    python Testing/Benchmarks/tables.py            # rewrites what is no longer right, and names it
    python Testing/Benchmarks/tables.py --check    # names it alone; exit code 1 if there is something

They are each comparison's `comparison.md` and, in documents, the table after each line `<!-- tables.py: NAME -->`. A
test checks all of them against the scores.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from volumes_and_surfaces import surfaces_table

from SIFASegmentationLib.cases import Case
from SIFASegmentationLib.scores import MEAN_OF_STRUCTURES, ScoreTable
from SIFASegmentationLib.structures import load_task
from SIFATrainingLib.compare import Comparison, Result, read_comparison
from SIFATrainingLib.comparison_report import markdown, markdown_table, share_closed
from SIFATrainingLib.variants import LOWER_BOUND, UPPER_BOUND

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCUMENTS = (ROOT / "README.md", HERE / "real_abdomen.md", HERE / "phantom_comparisons" / "README.md")

DIRECTIONS = {"mr_to_ct": "MR to CT", "ct_to_mr": "CT to MR"}
ODD = ("btcv_07", "btcv_12", "btcv_14", "btcv_23")
"""The odd subjects according to data/README.md of the copy of BTCV and CHAOS; MR has none."""

_MARKER = re.compile(r"<!-- tables\.py: (?P<name>.+?) -->\n\n(?:\|.*\n)+")
_TABLES_OF_A_COMPARISON = ("by structure", "by subject", "typical and odd")

README_ROWS = {
    LOWER_BOUND: "without adaptation",
    "random_contrasts": "random-contrast augmentation of the labelled slices only, no target volumes",
    "sifa_paper": "the paper's method, at this size",
    "without_translation": "recommended settings, without translation",
    "sifa": "**recommended settings**",
    UPPER_BOUND: "trained with target labels (upper bound)",
}


def main() -> int:
    """Rewrite or check the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = {path: text for path, text in texts().items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)} {'is not what the scores say' if check else 'is written anew'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(stale))


def texts() -> dict[Path, str]:
    """Return what each file should contain."""
    comparisons = {HERE / name / "comparison.md": markdown(comparison(name)) for name in stored()}
    return comparisons | {path: with_tables(path.read_text("utf-8")) for path in DOCUMENTS}


def stored() -> list[str]:
    """Return the folders of comparisons, relative to this one.

    Those of earlier programs (`before`) are left out, as they stay as they were.
    """
    names = {
        path.parents[2].relative_to(HERE).as_posix()
        for group in ("real_comparisons", "phantom_comparisons")
        for path in (HERE / group).glob("*/*/seed_*/scores.json")
    }
    return sorted(name for name in names if Path(name).name != "before")


@cache
def comparison(name: str) -> Comparison:
    """Read a stored comparison from its scores alone; its volumes and labelmaps need not exist."""
    out = HERE / name
    scores = ScoreTable.read(min(out.glob("*/seed_*/scores.json")))
    subjects = dict.fromkeys(row.subject for row in scores.rows)
    task = load_task("cardiac" if "cardiac" in name else "abdomen")
    odd = set(ODD) & set(subjects)
    return read_comparison(out, task, [Case(subject, Path(subject), None) for subject in subjects], odd)


def with_tables(text: str) -> str:
    """Return a document with its tables made anew.

    Raises:
        KeyError: A marker names a table that nothing makes.
        ValueError: A marker is not followed by an empty line and a table.
    """
    made, count = _MARKER.subn(lambda match: f"<!-- tables.py: {match['name']} -->\n\n{table(match['name'])}\n", text)
    if count != text.count("<!-- tables.py:"):
        raise ValueError("Put an empty line and a table after each marker of tables.py")
    return made


def shown_in(text: str) -> list[str]:
    """Return the names of the tables in a document."""
    return [match["name"] for match in _MARKER.finditer(text)]


def table(name: str) -> str:
    """Return the table of that name, in Markdown, without a newline at its end."""
    return tables()[name]()


@cache
def tables() -> dict[str, Callable[[], str]]:
    """Return the function that makes each table, by name."""
    made: dict[str, Callable[[], str]] = {
        "three seeds": three_seeds,
        "README": readme,
        "phantoms": phantoms,
        "finer grid": finer_grid,
        "bounds with falling rates": decayed_bounds,
    }
    for direction in DIRECTIONS:
        kinds = _TABLES_OF_A_COMPARISON[: 3 if comparison(f"real_comparisons/{direction}").odd else 2]
        for index, kind in enumerate(kinds):
            made[f"{direction}, {kind}"] = partial(_of_comparison, direction, index)
        rows = ["sifa", UPPER_BOUND]
        made[f"{direction}, volumes and surfaces"] = partial(
            surfaces_table, HERE / "real_comparisons" / direction, rows
        )
    return made


def three_seeds() -> str:
    """Compare the bounds and SIFA by seed; all shares are of the gap between the mean bounds."""
    rows: list[list[str]] = []
    for direction, words in DIRECTIONS.items():
        made = comparison(f"real_comparisons/{direction}")
        low, high = (made.of(name) for name in (LOWER_BOUND, UPPER_BOUND))
        bottom, top = _mean(low, "dice"), _mean(high, "dice")
        sifa = [*_each_and_all(made.of("sifa")), made.of("sifa_mean_of_3")]
        shares = [_in_brackets((_mean(group, "dice") - bottom) / (top - bottom)) for group in sifa]
        rows += [
            [f"{words}, without adaptation, mean Dice", *map(_percent, _each_and_all(low)), ""],
            [f"{words}, SIFA, mean Dice", *(_percent(g) + share for g, share in zip(sifa, shares, strict=True))],
            [f"{words}, supervised, mean Dice", *map(_percent, _each_and_all(high)), ""],
            [f"{words}, SIFA, mean ASD, mm", *(f"{_mean(group, 'asd'):.1f}" for group in sifa)],
        ]
    seeds = [f"seed {result.seed}" for result in made.of("sifa")]
    return markdown_table(["", *seeds, "mean", "mean of the three models"], rows)


def readme() -> str:
    """Return the README's table: mean Dice, with the share of the gap closed, or a star if there is just one run."""
    rows = []
    for name, title in README_ROWS.items():
        cells, one = [], False
        for direction in DIRECTIONS:
            made = comparison(f"real_comparisons/{direction}")
            results = made.of(name)
            one = one or len(results) == 1
            share = len(results) > 1 and name not in (LOWER_BOUND, UPPER_BOUND)
            dice = f"**{_percent(results)}**" if name == "sifa" else _percent(results)
            cells.append(dice + (_share(made, results) if share else ""))
        rows.append([title + (" *" if one else ""), *cells])
    caption = "mean Dice in % (share of the gap closed); mean of three training runs (*: one run)"
    return markdown_table([caption, *DIRECTIONS.values()], rows)


def phantoms() -> str:
    """Return the mean Dice in the synthetic tasks, over all seeds that exist, and the share of the gap closed."""
    made = {
        f"{organ}, {words}": comparison(f"phantom_comparisons/{task}_{direction}")
        for task, organ in (("abdomen", "abdomen"), ("cardiac", "heart"))
        for direction, words in DIRECTIONS.items()
    }
    variants = next(iter(made.values())).variants
    rows = []
    for variant in variants:
        title = f"**{variant.title}**" if variant.name == "sifa" else variant.title
        bound = variant.name in (LOWER_BOUND, UPPER_BOUND)
        results = [(one, one.of(variant.name)) for one in made.values()]
        rows.append([title, *(_percent(row) + ("" if bound else _share(one, row)) for one, row in results)])
    return markdown_table(["", *made], rows)


def finer_grid() -> str:
    """Compare SIFA on 192 x 192 pixels with the same seeds on 128 x 128."""
    rows, structures = [], list(load_task("abdomen").names)
    for direction, words in DIRECTIONS.items():
        finer = comparison(f"real_comparisons/192_{direction}").of("sifa")
        same = _with_seeds_of(finer, direction)
        dice = [f"{100 * _mean(finer, 'dice', structure):.1f}" for structure in structures]
        both = [cell for results in (finer, same) for cell in (_percent(results), f"{_mean(results, 'asd'):.1f}")]
        seeds = ", ".join(str(result.seed) for result in finer)
        rows.append([words, seeds, *dice, *both])
    head = ["", "seeds", *structures, "mean Dice", "mean ASD, mm", "128 x 128: mean Dice", "mean ASD, mm"]
    return markdown_table(head, rows)


def decayed_bounds() -> str:
    """Compare the bounds trained with falling rates with the same seeds at a constant rate."""
    rows = []
    for row, title in ((LOWER_BOUND, "without adaptation"), (UPPER_BOUND, "supervised on the target")):
        cells = []
        for direction in DIRECTIONS:
            falling = comparison(f"real_comparisons/decay_{direction}").of(row)
            cells += map(_percent, (falling, _with_seeds_of(falling, direction)))
        rows.append([title, *cells])
    head = [cell for words in DIRECTIONS.values() for cell in (f"{words}, mean Dice", "at a constant rate")]
    return markdown_table(["", *head], rows)


def _of_comparison(direction: str, index: int) -> str:
    """Return one of the tables of `comparison.md`."""
    found = re.findall(r"(?:^\|.*\n)+", markdown(comparison(f"real_comparisons/{direction}")), re.MULTILINE)
    return str(found[index]).rstrip("\n")


def _each_and_all(results: list[Result]) -> list[list[Result]]:
    """Return the trainings of a row one by one, then all together."""
    return [*([result] for result in results), results]


def _percent(results: Sequence[Result]) -> str:
    """Return the mean Dice in %."""
    return f"{100 * _mean(results, 'dice'):.1f}"


def _share(made: Comparison, results: Sequence[Result]) -> str:
    """Return the share of the gap closed, in brackets."""
    return _in_brackets(share_closed(made, results))


def _in_brackets(share: float) -> str:
    return f" ({100 * share:.0f} %)"


def _with_seeds_of(others: Sequence[Result], direction: str) -> list[Result]:
    """Return the trainings of the same row and seeds as `others` on real abdomens, in the main comparison."""
    seeds = {result.seed for result in others}
    row = comparison(f"real_comparisons/{direction}").of(others[0].variant.name)
    return [result for result in row if result.seed in seeds]


def _mean(results: Iterable[Result], score: str, structure: str = MEAN_OF_STRUCTURES) -> float:
    """Return the mean over the trainings of a row, of one structure or of the subjects' means."""
    return float(np.mean([result.table.means(score)["", structure] for result in results]))


if __name__ == "__main__":
    sys.exit(main())
