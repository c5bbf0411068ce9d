"""How good the estimated Dice of segmentations is, compared with the true Dice, in all rows of finished comparisons.

    python Testing/Benchmarks/quality.py COMPARISON ... > Testing/Benchmarks/quality.md

A comparison is a folder made by `sifa compare`. Its models were calibrated on labels of their source alone.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from SIFASegmentationLib.doubts import WORSE, doubts_about_adaptation
from SIFASegmentationLib.estimates_table import ESTIMATES_FILE
from SIFASegmentationLib.quality import Estimate
from SIFASegmentationLib.scores import ScoreTable
from SIFATrainingLib.compare import file_name


@dataclass(frozen=True)
class Pair:
    """Estimated and true Dice of a structure in a volume.

    Attributes:
        subject: The volume.
        structure: The structure's name.
        estimate: Estimated Dice.
        low: Lower end of the estimated band.
        high: Upper end of the estimated band.
        doubtful: Whether there was a warning about the structure.
        true: True Dice.
    """

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
    parser.add_argument("--volumes-of", default="sifa", metavar="ROW", help="The row whose volumes are listed.")
    arguments = parser.parse_args()
    print("# Estimated Dice\n")
    names = " ".join(path.name for path in arguments.comparisons)
    print(f"Made by `python Testing/Benchmarks/quality.py {names}`, {date.today()}.\n")
    print("Rank correlation between estimated and true Dice: over all pairs of a structure and a test volume; over the")
    print("volumes of each structure, averaged over the structures; and over the volumes' mean Dice, averaged over")
    print("seeds. Mean absolute difference of the two. Share of the true Dice that lie in the estimated band, which")
    print("should be 80 %.\n")
    print("| comparison | row | pairs | rank correlation | of each structure | of volumes | difference | in the band |")
    print("|---|---|---|---|---|---|---|---|")
    everything: list[Pair] = []
    listed: dict[str, list[Pair]] = {}
    trained: dict[tuple[Path, str], list[list[Pair]]] = defaultdict(list)
    for folder in arguments.comparisons:
        for row in sorted({path.parent.parent for path in folder.glob("*/seed_*/scores.json")}):
            of_seeds = {seed.name: pairs for seed in sorted(row.glob("seed_*")) if (pairs := list(pairs_of(seed)))}
            if of_seeds:
                print(line(folder.name, row.name, list(of_seeds.values())))
                everything += itertools.chain(*of_seeds.values())
                for seed, pairs in of_seeds.items():
                    trained[folder, seed].append(pairs)
            else:
                print(f"{row} has no estimates: export and segment it again", file=sys.stderr)
            if row.name == arguments.volumes_of:
                listed |= {f"{folder.name}, {seed}": pairs for seed, pairs in of_seeds.items()}
    print(line("all", "all", [everything]))
    print_found(everything, arguments.bad)
    print_worse(trained.values())
    for title, pairs in listed.items():
        print_volumes(title, pairs)


def pairs_of(seed: Path) -> Iterator[Pair]:
    """Yield all pairs of one training; none if it has no estimates."""
    path = seed / "labelmaps" / ESTIMATES_FILE
    if not path.exists():
        return
    rows = ScoreTable.read(seed / "scores.json").rows
    true = {(file_name(row.subject), row.structure): row.scores.dice for row in rows}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            subject = row["volume"].split("_image")[0]
            estimate, low, high = (float(row[name]) for name in ("estimated_dice", "low", "high"))
            structure, doubtful = row["structure"], row["doubtful"] == "yes"
            yield Pair(subject, structure, estimate, low, high, doubtful, true[subject, structure])


def line(comparison: str, row: str, seeds: list[list[Pair]]) -> str:
    """Return a row of the table, from the pairs of each training."""
    pairs = list(itertools.chain(*seeds))
    estimates, true = (np.array([getattr(pair, name) for pair in pairs]) for name in ("estimate", "true"))
    inside = np.mean([pair.low <= pair.true <= pair.high for pair in pairs])
    correlation = spearmanr(estimates, true).statistic
    structures = np.array([pair.structure for pair in pairs])
    of_each = [spearmanr(estimates[chosen], true[chosen]).statistic
               for chosen in (structures == name for name in np.unique(structures))]  # fmt: skip
    of_volumes = [spearmanr(*np.array(list(volume_means(some).values())).T).statistic for some in seeds]
    correlations = f"{correlation:.2f} | {np.nanmean(of_each):.2f} | {np.nanmean(of_volumes):.2f}"
    difference = np.abs(estimates - true).mean()
    cells = f"{len(pairs)} | {correlations} | {difference:.3f} | {100 * inside:.0f} %"
    return f"| {comparison} | {row} | {cells} |"


def volume_means(pairs: list[Pair]) -> dict[str, tuple[float, float]]:
    """Return the estimated and true mean Dice over the structures of each volume, by subject."""
    return {
        subject: (
            float(np.mean([p.estimate for p in pairs if p.subject == subject])),
            float(np.mean([p.true for p in pairs if p.subject == subject])),
        )
        for subject in sorted({p.subject for p in pairs})
    }


def print_volumes(title: str, pairs: list[Pair]) -> None:
    """Print the volumes of a training, the lowest estimate first, and the structures with a warning in each."""
    print(f"\nVolumes of {title}, the lowest estimate first:\n")
    print("| volume | estimated mean Dice | true | warned about |\n|---|---|---|---|")
    for subject, (estimate, true) in sorted(volume_means(pairs).items(), key=lambda one: one[1][0]):
        doubtful = ", ".join(p.structure for p in pairs if p.subject == subject and p.doubtful)
        print(f"| {subject} | {estimate:.2f} | {true:.2f} | {doubtful or '-'} |")


def print_worse(models: Iterable[list[list[Pair]]]) -> None:
    """Print how reliable the warning is that adaptation made a volume worse.

    All pairs of models of one seed are compared on each volume; each of the two takes the role of the adapted one.
    """
    told = worse = both = wrong = compared = 0
    for rows in models:
        for adapted, other in itertools.permutations(rows, 2):
            true = [volume_means(pairs) for pairs in (adapted, other)]
            for subject, (_estimate, dice) in true[0].items():
                estimates = ({p.structure: Estimate(p.estimate, p.low, p.high) for p in pairs if p.subject == subject}
                             for pairs in (adapted, other))  # fmt: skip
                warned, lost = bool(doubts_about_adaptation(subject, *estimates)), true[1][subject][1] - dice
                compared, told, worse = compared + 1, told + warned, worse + (lost > WORSE)
                both, wrong = both + (warned and lost > WORSE), wrong + (warned and lost < 0)
    print(f"\nOf two models of one seed on one volume, {compared:,} times, the first is worse than the second by more")
    print(
        f"than {WORSE:g} of the mean Dice {worse:,} times. The warning that adaptation made it worse would have come up"
    )
    print(f"{told:,} times: {both:,} of those {worse:,}, and {wrong:,} times where the first is the better one.")


def print_found(pairs: list[Pair], bad: float) -> None:
    """Print how well bad segmentations are found by the estimate, by a warning about the structure, or by either."""
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
