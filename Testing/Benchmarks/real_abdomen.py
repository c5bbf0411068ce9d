"""MR to CT on real abdomens: without adaptation against SIFA, on CT volumes that no training saw.

    python Testing/Benchmarks/real_abdomen.py --mr DIR --ct DIR --out DIR --hold-out NAME ... > real_abdomen.md

`--mr` and `--ct` hold `NAME_image.nii.gz` and `NAME_label.nii.gz` (CHAOS T2-SPIR and BTCV with the labels of the task
`abdomen`). CT labels are read for the scores alone. What is already in `--out` is not done again, so a run that was
cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from datetime import date
from pathlib import Path

import torch

from SIFASegmentationLib import __version__
from SIFASegmentationLib.evaluation import evaluate
from SIFASegmentationLib.jobs import Job, State
from SIFASegmentationLib.scores import ScoreTable
from SIFASegmentationLib.segment_files import segment_files
from SIFASegmentationLib.structures import load_task
from SIFATrainingLib.config import make_config
from SIFATrainingLib.export import export
from SIFATrainingLib.prepare import prepare
from SIFATrainingLib.training import create_job, train

METHODS = ("without_adaptation", "sifa")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--mr", "--ct", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--hold-out", nargs="+", required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--iterations", type=int, nargs=2, default=(1500, 4000), help="of the two methods")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    tables = {
        method: run(method, iterations, arguments)
        for method, iterations in zip(METHODS, arguments.iterations, strict=True)
    }
    print(markdown(tables, arguments))


def run(method: str, iterations: int, arguments: argparse.Namespace) -> ScoreTable:
    """Prepare, train, export, segment and score, less what is already there."""
    out: Path = arguments.out
    if not (out / "prepared").exists():
        prepare(
            arguments.mr, arguments.ct, out / "prepared", "abdomen", size=arguments.size,
            hold_out=arguments.hold_out, report=_to_stderr,
        )  # fmt: skip
    folder = out / method
    config = make_config(method=method, iterations=iterations, width=arguments.width, batch=arguments.batch)
    job = Job(folder) if folder.exists() else create_job(out / "prepared", folder, config, arguments.device)
    if job.state() is not State.FINISHED:
        train(job, report=lambda kind, data: _to_stderr(f"{method} {kind} {data}") if kind == "progress" else None)
    bundle = export(folder, out / f"{method}_bundle")
    images = [arguments.ct / f"{name}_image.nii.gz" for name in arguments.hold_out]
    segment_files(bundle.path, images, out / f"{method}_labelmaps")
    return evaluate(out / f"{method}_labelmaps", arguments.ct, load_task("abdomen"))


def markdown(tables: dict[str, ScoreTable], arguments: argparse.Namespace) -> str:
    """The table of means, then Dice by subject."""
    structures = tables["sifa"].structures
    lines = [
        "# MR to CT on real abdomens",
        "",
        f"{len(arguments.hold_out)} CT volumes held out, {arguments.size} x {arguments.size} pixels, width "
        f"{arguments.width:g}, batch {arguments.batch}; SIFA {__version__}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}, {date.today()}.",
        "",
        "Made by `" + " ".join(["Testing/Benchmarks/real_abdomen.py", *_without_folders(sys.argv[1:])]) + "`.",
        "",
        "| | iterations | training | " + " | ".join(structures) + " | mean Dice | mean ASD, mm |",
        "|---|" + "---|" * (len(structures) + 4),
    ]
    for method, table in tables.items():
        job = Job(arguments.out / method)
        dice = {s.structure: s.scores.dice for s in table.summaries() if s.statistic == "mean"}
        cells = " | ".join(f"{100 * dice[name]:.1f}" for name in (*structures, "mean"))
        lines.append(
            f"| {method.replace('_', ' ')} | {job.specification['config']['iterations']:,} | {_minutes(job)} min | "
            f"{cells} | {table.mean('asd'):.1f} |"
        )
    lines += ["", "Mean Dice by subject:", "", "| | " + " | ".join(arguments.hold_out) + " |"]
    lines.append("|---|" + "---|" * len(arguments.hold_out))
    for method, table in tables.items():
        means = {row.subject: row.scores.dice for row in table.subject_means()}
        values = " | ".join(f"{100 * means[name]:.1f}" for name in arguments.hold_out)
        lines.append(f"| {method.replace('_', ' ')} | {values} |")
    return "\n".join(lines)


def _minutes(job: Job) -> int:
    """Time from the first report of losses to the last."""
    times = [event.time for event in job.events()[0] if event.kind == "losses"]
    return round((times[-1] - times[0]) / 60)


def _without_folders(arguments: list[str]) -> list[str]:
    """The command for others: folders are theirs."""
    return [
        "DIR" if previous in ("--mr", "--ct", "--out") else argument
        for previous, argument in zip(["", *arguments], arguments, strict=False)
    ]


def _to_stderr(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
