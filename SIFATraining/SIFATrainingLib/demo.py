"""Demo of the whole workflow on synthetic patients: labelled MR, unlabelled CT, a model for CT, and its scores."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.evaluation import evaluate
from SIFASegmentationLib.files import write_atomically
from SIFASegmentationLib.phantoms import write_cohort
from SIFASegmentationLib.scores import ScoreTable
from SIFASegmentationLib.segment_files import OutputOptions, segment_files
from SIFASegmentationLib.structures import load_task

from .config import make_config
from .console import ProgressLine, duration
from .demo_report import SEGMENTATIONS, write_report
from .devices import give_back_memory, inference_device
from .export import export
from .findings import print_warning
from .prepare import prepare
from .training import create_job, train

SIZE = 96
TRAINED_PATIENTS = 10
TEST_PATIENTS = 3
CT_WINDOWS = {"abdomen": (-150.0, 300.0), "cardiac": (-150.0, 450.0)}

# The smallest training that shows the gain within ten minutes on two CPU cores; time limits hold on slower ones.
SETTINGS: dict[str, Any] = {"width": 0.25, "batch": 4, "log_every": 20, "preview_every": 200, "checkpoint_every": 200}
ITERATIONS = {"without_adaptation": 600, "sifa": 1000}
TIME_LIMITS = {"without_adaptation": 90.0, "sifa": 390.0}
BUNDLES = {"without_adaptation": "bundle_without_adaptation", "sifa": "bundle"}


def demo(out: Path, *, task: str = "abdomen", device: str = "auto", seed: int = 0) -> dict[str, ScoreTable]:
    """Run the demo into the folder `out`, and return the score tables of `without_adaptation` and `sifa`.

    ```
    report.html  summary.json
    bundle/  bundle_without_adaptation/
    source/  target/train/  target/test/        phantoms
    segmentations/  segmentations_without_adaptation/  slicer/ (those of sifa as .seg.nrrd)
    prepared/  jobs/
    ```

    Raises:
        InputError: The folder is not empty, or the task has no phantoms.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} already exists and is not empty", "choose another folder with --out")
    started = time.monotonic()
    patients = 2 * TRAINED_PATIENTS + TEST_PATIENTS
    print(f"1 of 5  drawing {patients} synthetic patients: {task}, labelled MR and unlabelled CT")
    _draw_patients(out, task, seed)

    print("2 of 5  preparing slices")
    window, test = CT_WINDOWS[task], out / "target" / "test"
    prepare(
        out / "source", out / "target" / "train", out / "prepared", task, size=SIZE, target_window=window, test=test,
        warn=print_warning,
    )  # fmt: skip

    tables = {}
    for step, method in ((3, "without_adaptation"), (4, "sifa")):
        print(f"{step} of 5  {method.replace('_', ' ')}: training, segmenting {TEST_PATIENTS} new CT volumes, scoring")
        tables[method] = _train_and_score(out, method, task, device, seed)

    print("5 of 5  report")
    seconds = time.monotonic() - started
    _write_slicer_files(out, device)
    _write_summary(out / "summary.json", tables, seconds)
    write_report(out, load_task(task), tables, seconds)
    print()
    print(summary_text(tables, seconds))
    print(f"\nOpen {out / 'report.html'} in a browser; drag {out / 'slicer'} and {test} into 3D Slicer.")
    return tables


def summary_text(tables: dict[str, ScoreTable], seconds: float) -> str:
    """Return a table as text: mean Dice by structure, and mean ASD, of each method."""
    structures = tables["sifa"].structures
    lines = [f"{'mean Dice':22}" + "".join(f"{name:>14}" for name in (*structures, "mean", "ASD mm"))]
    for method, table in tables.items():
        means = {name: mean for (_, name), mean in table.means("dice").items()}
        cells = "".join(f"{means[name]:14.3f}" for name in (*structures, "mean"))
        lines.append(f"{method.replace('_', ' '):22}{cells}{table.mean('asd'):14.2f}")
        lines += [f"    {sentence}" for sentence in table.empty_masks()]
    gain = 100 * (tables["sifa"].mean("dice") - tables["without_adaptation"].mean("dice"))
    return "\n".join([*lines, f"adaptation: {gain:+.1f} Dice points, in {duration(seconds)}"])


def _draw_patients(out: Path, task: str, seed: int) -> None:
    first = 1000 * seed
    trained = range(first, first + TRAINED_PATIENTS)
    tested = range(first + TRAINED_PATIENTS, first + TRAINED_PATIENTS + TEST_PATIENTS)
    write_cohort(out / "source", task, "mr", trained)
    write_cohort(out / "target" / "train", task, "ct", trained, labelled=False)
    write_cohort(out / "target" / "test", task, "ct", tested)


def _train_and_score(out: Path, method: str, task: str, device: str, seed: int) -> ScoreTable:
    config = make_config(method=method, iterations=ITERATIONS[method], seed=seed, **SETTINGS)
    job = create_job(out / "prepared", out / "jobs" / method, config, device)
    train(job, time_limit_seconds=TIME_LIMITS[method], report=ProgressLine().event)
    export(job.folder, out / BUNDLES[method], device=device)
    give_back_memory()
    test = out / "target" / "test"
    segment_files(out / BUNDLES[method], [test], out / SEGMENTATIONS[method], device=inference_device(device))
    return evaluate(out / SEGMENTATIONS[method], test, load_task(task))


def _write_slicer_files(out: Path, device: str) -> None:
    test, outputs = out / "target" / "test", OutputOptions(suffix=".seg.nrrd")
    segment_files(out / "bundle", [test], out / "slicer", outputs=outputs, device=inference_device(device))


def _write_summary(path: Path, tables: dict[str, ScoreTable], seconds: float) -> None:
    content: dict[str, object] = {
        method: {"dice": table.mean("dice"), "asd_mm": table.mean("asd")} for method, table in tables.items()
    }
    content["seconds"] = seconds
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
