"""What Dice does not show in finished comparisons: how large structures come out, and how far off their surfaces are.

    python Testing/Benchmarks/volumes_and_surfaces.py COMPARISON ROW ...

A comparison is a folder made by `sifa compare`; all seeds of a row are taken together. Values are medians over
volumes and seeds, since a structure that is missed altogether has no surface.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

from SIFASegmentationLib.scores import Row, ScoreTable
from SIFATrainingLib.comparison_report import markdown_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("rows", nargs="+")
    arguments = parser.parse_args()
    words = " ".join([arguments.comparison.name, *arguments.rows])
    print(f"Made by `python Testing/Benchmarks/volumes_and_surfaces.py {words}`, {date.today()}.\n")
    print(surfaces_table(arguments.comparison, arguments.rows))


def surfaces_table(comparison: Path, rows: Sequence[str]) -> str:
    """Return a table in Markdown with a line for each row and structure."""
    head = ["row", "structure", "volume against the reference", "too large", "HD95, mm", "surface Dice, 2 mm"]
    lines = []
    for row in rows:
        paths = sorted((comparison / row).glob("seed_*/scores.json"))
        scored = [one for path in paths for one in ScoreTable.read(path).rows]
        structures = dict.fromkeys(one.structure for one in scored)
        lines += [line(row, name, [one for one in scored if one.structure == name]) for name in structures]
    return markdown_table([*head, "worst Dice"], lines)


def line(row: str, structure: str, rows: list[Row]) -> list[str]:
    """Return the cells for one structure, over all volumes of a row."""
    differences = 100 * np.array([one.scores.volume_difference for one in rows])
    hd95, surface = (np.array([getattr(one.scores, name) for one in rows]) for name in ("hd95", "surface_dice"))
    worst = min(rows, key=lambda one: one.scores.dice)
    return [
        row,
        structure,
        f"{np.median(differences):+.0f} % ({differences.min():+.0f} to {differences.max():+.0f})",
        f"{int((differences > 0).sum())} of {len(rows)}",
        f"{np.nanmedian(hd95):.0f}",
        f"{np.nanmedian(surface):.2f}",
        f"{100 * worst.scores.dice:.0f} ({worst.subject})",
    ]


if __name__ == "__main__":
    main()
