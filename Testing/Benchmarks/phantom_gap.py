"""How far apart the phantoms' modalities are: a segmentor trained on the other modality, and one on the target itself.

Both are asked for: without adaptation below 45, or there is nothing to adapt; supervised above 90, or it is the
structures that are hard. The trainings are those of the demo, but longer and on more patients.

    python Testing/Benchmarks/phantom_gap.py --out DIR > Testing/Benchmarks/phantom_gap.md
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
    parser.add_argument("--patients", type=int, default=16)
    parser.add_argument("--tested", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0, help="Of patients and training.")
    arguments = parser.parse_args()
    print("# The gap between the phantoms' modalities\n")
    command = "python Testing/Benchmarks/phantom_gap.py " + " ".join(sys.argv[1:])
    print(f"Made on {date.today()} by\n\n    {command}\n")
    print(
        f"Mean Dice (%) of {arguments.tested} new patients of the target, by networks of width {SETTINGS['width']} on "
        f"{SIZE} x {SIZE} pixels,\nafter {arguments.iterations} iterations of batch {SETTINGS['batch']} on "
        f"{arguments.patients} patients. Seed {arguments.seed}.\n"
    )
    print("| task | source | target | trained on the source, without adaptation | trained on the target |")
    print("|---|---|---|---|---|", flush=True)
    for task in arguments.tasks:
        for source, target in (("mr", "ct"), ("ct", "mr")):
            dice = measure(arguments, task, source, target)
            cells = " | ".join(f"{100 * dice[method]:.1f}" for method in METHODS)
            print(f"| {task} | {source} | {target} | {cells} |", flush=True)


def measure(arguments: argparse.Namespace, task: str, source: str, target: str) -> dict[str, float]:
    """Mean Dice of both methods on test patients of the target."""
    out: Path = arguments.out / f"{task}_{source}_to_{target}"
    first = 1000 * arguments.seed
    trained = range(first, first + arguments.patients)
    write_cohort(out / "source", task, source, trained)
    write_cohort(out / "target", task, target, trained)
    write_cohort(out / "test", task, target, range(trained.stop, trained.stop + arguments.tested))
    windows = {"ct": CT_WINDOWS[task], "mr": None}
    prepare(
        out / "source", out / "target", out / "prepared", task, size=SIZE, target_labels=True, test=out / "test",
        source_window=windows[source], target_window=windows[target], report=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    dice = {}
    for method in METHODS:
        config = make_config(method=method, iterations=arguments.iterations, seed=arguments.seed, **SETTINGS)
        job = create_job(out / "prepared", out / method, config)
        train(job)
        bundle = export(job.folder, out / f"{method}_bundle")
        segment_files(bundle.path, [out / "test"], out / f"{method}_labelmaps")
        table = evaluate(out / f"{method}_labelmaps", out / "test", load_task(task))
        print(out.name, method, table.text(), sep="\n", file=sys.stderr, flush=True)
        dice[method] = table.mean("dice")
    return dice


if __name__ == "__main__":
    main()
