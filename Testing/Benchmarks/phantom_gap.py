"""How far apart the phantoms' modalities are: a segmentor trained on the other modality, and one on the target itself.

    python Testing/Benchmarks/phantom_gap.py --out DIR > phantom_gap.md
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from SIFASegmentationLib.evaluation import evaluate
from SIFASegmentationLib.segment_files import segment_files
from SIFASegmentationLib.structures import load_task
from SIFATrainingLib.config import make_config
from SIFATrainingLib.demo import CT_WINDOWS, SETTINGS, SIZE
from SIFATrainingLib.export import export
from SIFATrainingLib.phantoms import write_cohort
from SIFATrainingLib.prepare import prepare
from SIFATrainingLib.training import create_job, train

METHODS = ("without_adaptation", "supervised")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["abdomen", "cardiac"])
    parser.add_argument("--patients", type=int, default=10)
    parser.add_argument("--tested", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=600)
    arguments = parser.parse_args()
    print("# The gap between the phantoms' modalities\n")
    print(
        f"Mean Dice (%) on {arguments.tested} patients after {arguments.iterations} iterations on "
        f"{arguments.patients}, {SIZE} x {SIZE} pixels, width {SETTINGS['width']}; made by "
        f"`Testing/Benchmarks/phantom_gap.py`, {date.today()}.\n"
    )
    print("| task | source | target | trained on the source | trained on the target |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    for task in arguments.tasks:
        for source, target in (("mr", "ct"), ("ct", "mr")):
            dice = measure(arguments, task, source, target)
            cells = " | ".join(f"{100 * dice[method]:.1f}" for method in METHODS)
            print(f"| {task} | {source} | {target} | {cells} |", flush=True)


def measure(arguments: argparse.Namespace, task: str, source: str, target: str) -> dict[str, float]:
    """Mean Dice of both methods on test patients of the target."""
    out: Path = arguments.out / f"{task}_{source}_to_{target}"
    write_cohort(out / "source", task, source, range(arguments.patients))
    write_cohort(out / "target", task, target, range(arguments.patients))
    write_cohort(out / "test", task, target, range(arguments.patients, arguments.patients + arguments.tested))
    windows = {"ct": CT_WINDOWS[task], "mr": None}
    prepare(
        out / "source", out / "target", out / "prepared", task, size=SIZE, target_labels=True, test=out / "test",
        source_window=windows[source], target_window=windows[target], report=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    dice = {}
    for method in METHODS:
        config = make_config(method=method, iterations=arguments.iterations, **SETTINGS)
        job = create_job(out / "prepared", out / method, config)
        train(job)
        bundle = export(job.folder, out / f"{method}_bundle")
        segment_files(bundle.folder, [out / "test"], out / f"{method}_labelmaps")
        dice[method] = evaluate(out / f"{method}_labelmaps", out / "test", load_task(task)).mean("dice")
    return dice


if __name__ == "__main__":
    main()
