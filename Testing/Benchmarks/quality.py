"""What the estimated Dice of segmentations are worth: against the true ones, of every row of finished comparisons.

    python Testing/Benchmarks/quality.py COMPARISON ... > Testing/Benchmarks/quality.md

A comparison is a folder that `sifa compare` made. Its models were calibrated on labels of their source alone.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from SIFASegmentationLib.scores import ScoreTable
from SIFASegmentationLib.segment_files import ESTIMATES_FILE


@dataclass(frozen=True)
class Pair:
    """Estimated and true Dice of a structure in a volume, and whether a warning was about it."""

    subject: str
    structure: str
    estimate: float
    low: float
    high: float
    doubtful: bool
    true: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="+", type=Path)
    parser.add_argument("--bad", type=float, default=0.5, help="A true Dice below is a segmentation to be found.")
    arguments = parser.parse_args()
    print("# Estimated Dice\n")
    names = " ".join(path.name for path in arguments.comparisons)
    print(f"Made by `python Testing/Benchmarks/quality.py {names}`, {date.today()}.\n")
    print("Of every structure of every test volume: rank correlation of estimated and true Dice, over all pairs and,")
    print("in the mean, over the volumes of each structure; mean absolute difference; and the share of true Dice in")
    print("the band, which should be 80 %.\n")
    print("| comparison | row | pairs | rank correlation | of each structure | mean difference | in the band |")
    print("|---|---|---|---|---|---|---|")
    everything: list[Pair] = []
    for folder in arguments.comparisons:
        for row in sorted({path.parent.parent for path in folder.glob("*/seed_*/scores.json")}):
            pairs = [pair for seed in sorted(row.glob("seed_*")) for pair in pairs_of(seed)]
            if pairs:
                print(line(folder.name, row.name, pairs))
                everything += pairs
            else:
                print(f"{row} has no estimates: export and segment it again", file=sys.stderr)
    print(line("all", "all", everything))
    print_found(everything, arguments.bad)


def pairs_of(seed: Path) -> Iterator[Pair]:
    """All pairs of one training."""
    path = seed / "labelmaps" / ESTIMATES_FILE
    if not path.exists():
        return
    true = {(row.subject, row.structure): row.scores.dice for row in ScoreTable.read(seed / "scores.json").rows}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            subject = row["volume"].split("_image")[0]
            numbers = (float(row[name]) for name in ("estimated_dice", "low", "high"))
            doubtful = row["doubtful"] == "yes"
            yield Pair(subject, row["structure"], *numbers, doubtful, true=true[subject, row["structure"]])


def line(comparison: str, row: str, pairs: list[Pair]) -> str:
    """A row of the table."""
    estimates, true = (np.array([getattr(pair, name) for pair in pairs]) for name in ("estimate", "true"))
    inside = np.mean([pair.low <= pair.true <= pair.high for pair in pairs])
    correlation = spearmanr(estimates, true).statistic
    structures = np.array([pair.structure for pair in pairs])
    of_each = [spearmanr(estimates[chosen], true[chosen]).statistic
               for chosen in (structures == name for name in np.unique(structures))]  # fmt: skip
    difference = np.abs(estimates - true).mean()
    cells = f"{len(pairs)} | {correlation:.2f} | {np.nanmean(of_each):.2f} | {difference:.3f} | {100 * inside:.0f} %"
    return f"| {comparison} | {row} | {cells} |"


def print_found(pairs: list[Pair], bad: float) -> None:
    """How well the bad ones are found: by the estimate, by a warning about the structure, by either."""
    poor, good = ([p for p in pairs if (p.true < bad) == wanted] for wanted in (True, False))
    signs: dict[str, Callable[[Pair], bool]] = {
        f"estimated below {bad:g}": lambda p: p.estimate < bad,
        "a warning about it": lambda p: p.doubtful,
        "either": lambda p: p.estimate < bad or p.doubtful,
    }
    print(f"\n| sign | of {len(poor)} structures with a Dice below {bad:g} | of the other {len(good)} |\n|---|---|---|")
    for name, sign in signs.items():
        print(f"| {name} | {sum(map(sign, poor))} | {sum(map(sign, good))} |")
    missed = sorted((p for p in poor if not signs["either"](p)), key=lambda p: p.true)
    if missed:
        print("\nMissed by both:\n\n| volume | structure | true | estimated |\n|---|---|---|---|")
        for p in missed:
            print(f"| {p.subject} | {p.structure} | {p.true:.2f} | {p.estimate:.2f} ({p.low:.2f}-{p.high:.2f}) |")


if __name__ == "__main__":
    main()
