"""The `sifa` command: reads arguments, calls the function behind, prints progress. Nothing is computed here."""

from __future__ import annotations

import math
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.field_of_view import BoxMM
from SIFASegmentationLib.jobs import ENDED, Job, State
from SIFASegmentationLib.structures import load_task

from .console import ProgressLine, show_events

app = typer.Typer(
    name="sifa",
    help="Segment CT with labels of MR, or MR with labels of CT: SIFA (Chen et al., IEEE TMI 2020).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)

Roi = Annotated[
    str | None,
    typer.Option(metavar="X0,X1,Y0,Y1,Z0,Z1", help="Region of interest in mm (LPS); the body's box unless given."),
]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
TimeLimit = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Stop and save after this long: 90s, 9m, 2h30m.")
]


@app.command()
def prepare(
    source: Annotated[Path, typer.Option(help="Labelled volumes: a folder (*_image, *_label or nnU-Net) or a CSV.")],
    target: Annotated[Path, typer.Option(help="Unlabelled volumes: a folder or a CSV. Labels there are not read.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    task: Annotated[str, typer.Option(help="abdomen, cardiac, or a task file (JSON).")] = "abdomen",
    plane: Annotated[str | None, typer.Option(help="axial, coronal or sagittal; the task's unless given.")] = None,
    size: Annotated[int, typer.Option(help="Rows and columns of the networks' grid, a multiple of 8.")] = 256,
    spacing: Annotated[float | None, typer.Option(help="Its pixel spacing in mm; fits the data unless given.")] = None,
    stretch: Annotated[bool, typer.Option("--stretch", help="Stretch each field of view to the grid (paper).")] = False,
    roi: Roi = None,
    full_slice: Annotated[bool, typer.Option("--full-slice", help="Don't crop to the body.")] = False,
    source_coding: Annotated[
        str | None, typer.Option(help="Label codes of the source: 'MMWHS', 'CHAOS MR', 'BTCV', ...")
    ] = None,
    target_coding: Annotated[str | None, typer.Option(help="The same for --target-labels.")] = None,
    source_window: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Clip the source to this HU window, not to percentiles.")
    ] = None,
    target_window: Annotated[str | None, typer.Option(metavar="LOW,HIGH", help="The same for the target.")] = None,
    percentiles: Annotated[
        str, typer.Option(metavar="LOW,HIGH", help="Clip each volume to these percentiles of its own.")
    ] = "0.5,99.5",
    hold_out: Annotated[list[str] | None, typer.Option(help="A patient to leave out; can be repeated.")] = None,
    test: Annotated[Path | None, typer.Option(help="Test volumes; refuses to share a patient with them.")] = None,
    target_labels: Annotated[
        bool, typer.Option("--target-labels", help="Store target labels too, for --method supervised.")
    ] = False,
) -> None:
    """Turn volumes of both domains into a prepared data set."""
    from .prepare import prepare as run  # noqa: PLC0415

    manifest = run(
        source, target, out, task, plane=plane, size=size, spacing=spacing, stretch=stretch, roi=_box(roi),
        full_slice=full_slice, source_coding=source_coding, target_coding=target_coding,
        source_window=_pair(source_window, "--source-window"), target_window=_pair(target_window, "--target-window"),
        percentiles=_pair(percentiles, "--percentiles") or (0.5, 99.5), hold_out=hold_out or (), test=test,
        target_labels=target_labels,
    )  # fmt: skip
    grid = manifest.source.preprocessing
    spaced = f"{grid.spacing:g} mm" if grid.spacing else "stretched"
    print(
        f"{out}: {manifest.source.slices} source and {manifest.target.slices} target slices, {grid.plane}, "
        f"{grid.size} x {grid.size}, {spaced}"
    )


@app.command()
def train(
    prepared: Annotated[Path, typer.Argument(help="From `sifa prepare`.")],
    out: Annotated[Path, typer.Option(help="Job folder to make.")],
    preset: Annotated[str, typer.Option(help="recommended, or paper: the authors' choices.")] = "recommended",
    method: Annotated[
        str,
        typer.Option(
            help="sifa, without_adaptation, supervised, image_alignment, image_and_prediction_alignment, prior_sifa."
        ),
    ] = "sifa",
    width: Annotated[float, typer.Option(help="Channels as a fraction of the paper's.")] = 1.0,
    iterations: Annotated[int, typer.Option(help="Number of iterations.")] = 20_000,
    batch: Annotated[int, typer.Option(help="Slices of each domain per process and iteration.")] = 8,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    time_limit: TimeLimit = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of all networks.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any other setting, such as loss_weights.cycle=5; `sifa settings`."
        ),
    ] = None,
) -> None:
    """Train on a prepared data set, in a job folder that can be stopped, resumed, watched and exported."""
    from .config import make_config  # noqa: PLC0415
    from .devices import is_first_process  # noqa: PLC0415
    from .training import create_job  # noqa: PLC0415

    settings: dict[str, Any] = {
        "method": method, "width": width, "iterations": iterations, "batch": batch, "seed": seed
    }  # fmt: skip
    settings |= {
        name: value
        for name, value in (("learning_rate", learning_rate), ("precision", precision))
        if value is not None
    }
    config = make_config(preset, **_with_settings(settings, setting or []))
    limit = _seconds(time_limit)
    job = create_job(prepared, out, config, device) if is_first_process() else _await_job(out)
    _run(job, limit)


@app.command()
def resume(
    job: Annotated[Path, typer.Argument(help="Job folder of a training that was stopped or cut off.")],
    time_limit: TimeLimit = None,
) -> None:
    """Go on from the last checkpoint."""
    _run(Job(job), _seconds(time_limit))


@app.command()
def stop(job: Annotated[Path, typer.Argument(help="Job folder.")]) -> None:
    """Ask a training to finish its iteration, save and end."""
    opened = Job(job)
    if (state := opened.state()) in ENDED:
        raise InputError(f"The job {job} is {state}: there is nothing to stop.")
    opened.request_stop()
    print(f"{job}: stop requested; it ends after the iteration at hand and can be resumed")


@app.command()
def watch(job: Annotated[Path, typer.Argument(help="Job folder.")]) -> None:
    """Follow a training until it ends, from this machine or another that shares the disk."""
    show_events(Job(job))


@app.command()
def settings() -> None:
    """List every setting of a training with its default and where it comes from."""
    from .config import TrainingConfig, describe  # noqa: PLC0415

    for name, default, description in describe(TrainingConfig()):
        print(f"{name} = {default}\n    {description}")


@app.command()
def export(
    job: Annotated[Path, typer.Argument(help="Job folder with a checkpoint.")],
    out: Annotated[Path, typer.Option(help="Bundle to make or replace.")],
    name: Annotated[str | None, typer.Option(help="What lists of models show.")] = None,
    weights: Annotated[str, typer.Option(help="average (moving average of the weights) or raw.")] = "average",
) -> None:
    """Make a bundle of the last checkpoint: ONNX model, weights, manifest."""
    from .export import export as run  # noqa: PLC0415

    bundle = run(job, out, name=name, weights=weights)
    check = bundle.manifest.verification
    print(
        f"{out}: {bundle.manifest.name}; ONNX against torch on {check.slices} slices: probabilities differ by at most "
        f"{check.largest_difference:.1e}"
    )


@app.command()
def segment(
    bundle: Annotated[Path, typer.Argument(help="From `sifa export`.")],
    volumes: Annotated[list[Path], typer.Argument(metavar="VOLUME...", help="Files, DICOM folders, folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the labelmaps.")],
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    threads: Annotated[int, typer.Option(help="Of the CPU; 0 for all cores.")] = 0,
    roi: Roi = None,
    domain: Annotated[str, typer.Option(help="Preprocess as the model's target or source volumes.")] = "target",
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also a map for each structure.")] = False,
    confidence: Annotated[bool, typer.Option("--confidence", help="Also a CSV of each slice's confidence.")] = False,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Keep all parts of a structure, not only the largest.")
    ] = False,
    suffix: Annotated[str, typer.Option("--format", help=".nii.gz, .nrrd, .mha, or .seg.nrrd for Slicer.")] = ".nii.gz",
    task: Annotated[str | None, typer.Option(help="Refuse a bundle that is for other structures.")] = None,
) -> None:
    """Segment volumes with a bundle; each labelmap on its volume's own grid."""
    from SIFASegmentationLib.segment_files import segment_files  # noqa: PLC0415

    if domain not in ("source", "target"):
        raise InputError(f"The domain '{domain}' is unknown: choose target or source.")
    line = ProgressLine()
    written = segment_files(
        bundle, volumes, out, device=device, threads=threads, region=_box(roi), domain=domain,  # type: ignore[arg-type]
        probabilities=probabilities, confidence=confidence, largest_component=not keep_all, suffix=suffix,
        task=load_task(task) if task else None,
        report=lambda name, done, total: line.show(f"{name}: slice {done} of {total}", last=done == total),
    )  # fmt: skip
    for outputs in written:
        print(outputs.labelmap)


@app.command()
def evaluate(
    prediction: Annotated[Path, typer.Option(help="A labelmap or a folder of them.")],
    reference: Annotated[Path, typer.Option(help="The same, matched by name.")],
    task: Annotated[str | None, typer.Option(help="Names the structures: abdomen, cardiac or a task file.")] = None,
    coding: Annotated[str | None, typer.Option(help="Label codes of the references, such as 'BTCV'.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table as .csv or .json.")] = None,
    legacy: Annotated[bool, typer.Option("--legacy", help="The paper's convention: voxels, mean of means.")] = False,
    tolerance: Annotated[float, typer.Option(help="Of surface Dice, in mm.")] = 2.0,
) -> None:
    """Score labelmaps against references: Dice, ASD, HD95, surface Dice, volumes."""
    from SIFASegmentationLib.evaluation import evaluate as run  # noqa: PLC0415

    table = run(prediction, reference, load_task(task) if task else None, coding, legacy, tolerance)
    print(table.text())
    if out is not None:
        table.write(out)


@app.command()
def phantoms(
    out: Annotated[Path, typer.Option(help="Folder for NAME_image.nii.gz and NAME_label.nii.gz.")],
    task: Annotated[str, typer.Option(help="abdomen or cardiac.")] = "abdomen",
    modality: Annotated[str, typer.Option(help="ct or mr.")] = "ct",
    count: Annotated[int, typer.Option(help="Number of patients.")] = 4,
    first_seed: Annotated[int, typer.Option(help="Seed of the first; the others follow.")] = 0,
) -> None:
    """Draw synthetic patients, to try things without data."""
    from .phantoms import write_cohort  # noqa: PLC0415

    for path in write_cohort(out, task, modality, range(first_seed, first_seed + count)):
        print(path)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("sifa-demo"),
    task: Annotated[str, typer.Option(help="abdomen or cardiac.")] = "abdomen",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of patients and training.")] = 0,
) -> None:
    """Show everything on synthetic patients within ten minutes: train, segment, score, and an HTML report."""
    from .demo import demo as run  # noqa: PLC0415

    run(out, task=task, device=device, seed=seed)


def main() -> None:
    """Entry point: exit code 0 on success, 2 on bad usage or input with one sentence on stderr, 1 on a fault."""
    try:
        app()  # Exits by itself, with 2 on bad usage.
    except InputError as error:
        print(f"sifa: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _run(job: Job, limit: float) -> None:
    from .devices import is_first_process  # noqa: PLC0415
    from .training import train as run  # noqa: PLC0415

    line = ProgressLine()
    with _stops_on_signals(job):
        state = run(job, time_limit_seconds=limit, report=line.event)
    if not is_first_process():
        return
    if state is State.STOPPED:
        print(f"{job.folder}: stopped and saved; `sifa resume {job.folder}` goes on, `sifa export` uses it as it is")
    else:
        print(f"{job.folder}: finished; next: sifa export {job.folder} --out BUNDLE")


def _await_job(folder: Path) -> Job:
    """The job that the first process of several makes."""
    for _ in range(600):
        if (folder / "job.json").exists():
            return Job(folder)
        time.sleep(0.1)
    raise InputError(f"{folder} has no job.json after a minute: is the disk shared by all machines?")


@contextmanager
def _stops_on_signals(job: Job) -> Iterator[None]:
    """Ctrl-C or a scheduler's SIGTERM saves and ends the job; a second one ends it at once."""

    def ask(number: int, _: Any) -> None:
        job.request_stop()
        print("\nstopping after this iteration; again to end at once", file=sys.stderr)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _seconds(duration: str | None) -> float:
    """`9m`, `2h30m`, `90s` or `90` (seconds) as seconds; infinity for None."""
    if duration is None:
        return math.inf
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", duration.strip())
    if not match or not any(match.groups()):
        raise InputError(f"--time-limit '{duration}' is no duration: write it as 90s, 9m or 2h30m.")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600.0 * hours + 60 * minutes + seconds


def _numbers(text: str, count: int, option: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise InputError(f"{option} '{text}' is not {count} numbers with commas between.")
    return values


def _pair(text: str | None, option: str) -> tuple[float, float] | None:
    if text is None:
        return None
    low, high = _numbers(text, 2, option)
    return low, high


def _box(text: str | None) -> BoxMM | None:
    if text is None:
        return None
    x0, x1, y0, y1, z0, z1 = _numbers(text, 6, "--roi")
    if not (x0 < x1 and y0 < y1 and z0 < z1):
        raise InputError(f"--roi '{text}' has no volume: give X0,X1,Y0,Y1,Z0,Z1, each lower bound first.")
    return BoxMM(minimum=(x0, y0, z0), maximum=(x1, y1, z1))


def _with_settings(settings: dict[str, Any], extra: list[str]) -> dict[str, Any]:
    """Settings with `a.b=value` texts in their place; values are checked by the configuration."""
    for text in extra:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set '{text}' is not NAME=VALUE: see `sifa settings`.")
        *groups, last = name.split(".")
        place = settings
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return settings
