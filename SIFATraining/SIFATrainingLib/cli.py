"""The `sifa` command: reads arguments, calls the function behind each command, prints progress; computes nothing."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from SIFASegmentationLib import __version__
from SIFASegmentationLib.errors import InputError, system_fault
from SIFASegmentationLib.files import check_can_write, take_names_as_utf8
from SIFASegmentationLib.heartbeat import HEARTBEAT_FILE
from SIFASegmentationLib.jobs import CHECKPOINTS_FOLDER, ENDED, LOG_FILE, Job, State, is_job
from SIFASegmentationLib.scores import DEFAULT_TOLERANCE_MM, ScoreTable, check_suffix
from SIFASegmentationLib.structures import load_task

from .config import TrainingConfig, with_settings
from .console import ProgressLine, duration, output_copied_to, show_events
from .findings import print_warning, unused_volumes
from .options import (
    Batch,
    Device,
    Roi,
    Size,
    Width,
    checked_preparation,
    config_options,
    given,
    grid_of,
    named_preparation,
    names_volumes,
    parse_roi,
    parse_seconds,
    preparation_options,
    refuse_preparation,
    takes,
)
from .pace import work_of
from .variants import VARIANTS, choose_variants

if TYPE_CHECKING:
    from SIFASegmentationLib.segment_files import Outputs

STOPPED = 3
"""Exit code of work that was stopped, and saved, before its end."""

app = typer.Typer(
    name="sifa",
    help="Segment CT with labels of MR, or MR with labels of CT: SIFA (Chen et al., IEEE TMI 2020).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"sifa {__version__}")
        raise typer.Exit


@app.callback()
def _sifa(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What comes before a command."""


TimeLimit = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Stop and save after this long: 90s, 9m, 2h30m.")
]


@app.command()
@takes(volumes=preparation_options)
def prepare(
    volumes: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
) -> None:
    """Turn volumes of both domains into a prepared data set."""
    from .prepare import run_preparation  # noqa: PLC0415

    manifest = run_preparation(named_preparation(volumes), out, print, print_warning)
    grid = manifest.source.preprocessing
    spaced = f"{grid.spacing:g} mm" if grid.spacing else "stretched"
    print(
        f"{out}: {manifest.source.slices} source and {manifest.target.slices} target slices, {grid.plane}, "
        f"{grid.size} x {grid.size}, {spaced}"
    )


@app.command()
@takes(volumes=preparation_options, config=config_options)
def train(
    volumes: dict[str, Any],
    config: TrainingConfig,
    out: Annotated[Path, typer.Option(help="Job folder to make.")],
    prepared: Annotated[
        Path | None, typer.Argument(help="From `sifa prepare`; or name volumes by --source and --target.")
    ] = None,
    device: Device = "auto",
    baseline_iterations: Annotated[
        int, typer.Option(min=0, help="Train without adaptation for so many iterations first, to compare.")
    ] = 0,
    export: Annotated[bool, typer.Option("--export", help="Make a bundle at the end, in JOB/result/bundle.")] = False,
    initial: Annotated[
        Path | None, typer.Option(help="Bundle to start from, for the same structures and of the same width.")
    ] = None,
    time_limit: TimeLimit = None,
) -> None:
    """Train on a prepared data set or on volumes. The job can be stopped, resumed, watched and exported."""
    from .devices import choose_device  # noqa: PLC0415
    from .training import create_job, create_training_job, is_first_process  # noqa: PLC0415

    limit = parse_seconds(time_limit)
    if (prepared is None) != names_volumes(volumes):
        problem = "No training data was given" if prepared is None else "Two kinds of training data were given"
        raise InputError(problem, "give either a prepared data set, or volumes by --source and --target")
    options: dict[str, Any] = {
        "device": device, "baseline_iterations": baseline_iterations, "export": export, "initial": initial
    }  # fmt: skip
    if not is_first_process():
        _run(_await_job(out), limit)
        return
    # An unusable device is reported before there is a job folder that would have to be deleted.
    choose_device(device)
    if prepared is not None:
        refuse_preparation(volumes)
        job = create_job(prepared, out, config, **options)
    else:
        preparation = named_preparation(volumes).below(Path.cwd())
        # Volumes are only checked here by a single process: others would be waiting for the job, with a time limit.
        if _is_alone():
            preparation.cases()
        job = create_training_job(out, preparation, config, **options)
    _run(job, limit)


@app.command()
@takes(volumes=preparation_options, config=config_options)
def check(
    volumes: dict[str, Any],
    config: TrainingConfig,
    out: Annotated[Path, typer.Option(help="Where the job would be written.")] = Path(),
    device: Device = "auto",
    baseline_iterations: Annotated[int, typer.Option(min=0, help="As of `train`.")] = 0,
    more_slices: Annotated[int, typer.Option(min=0, help="Slices of further volumes that will be stored.")] = 0,
    more_bytes: Annotated[int, typer.Option(min=0, help="Bytes that will be written in addition to the job.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of level, subject, message, fix.")] = False,
) -> None:
    """Check before a training: packages, device, volumes, labels, memory, duration, disk.

    Takes the options of `prepare`, and those of `train` that say how to train. The volumes of one domain can be
    checked alone; without volumes, only the computer is checked. Exits with 2 if a training could not run.
    """
    from .preflight import check_computer, preflight  # noqa: PLC0415

    line = ProgressLine()
    if names_volumes(volumes):
        preparation, domain = checked_preparation(volumes)
        findings = preflight(
            preparation, config, device, out, domain=domain, baseline_iterations=baseline_iterations,
            more_slices=more_slices, more_bytes=more_bytes,
            report=lambda step: None if as_json else line.show(str(step), last=step.done + 1 == step.total),
        )  # fmt: skip
    else:
        task, size = grid_of(volumes)
        findings = check_computer(
            config, device, out, classes=task.classes, size=size, slices=more_slices,
            baseline_iterations=baseline_iterations, more_bytes=more_bytes,
        )  # fmt: skip
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.level:8}{finding}")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(2)


@app.command("run")
def run_job(
    job: Annotated[Path, typer.Argument(help="Job folder of a training.")],
    time_limit: TimeLimit = None,
) -> None:
    """Carry out the remaining steps of a job: prepare, train, export."""
    _run(Job(job), parse_seconds(time_limit))


@app.command()
def resume(
    job: Annotated[Path, typer.Argument(help="Job folder of a training that was stopped or cut off.")],
    time_limit: TimeLimit = None,
) -> None:
    """Go on from the last checkpoint; the same as `run`."""
    _run(Job(job), parse_seconds(time_limit))


@app.command()
def stop(job: Annotated[Path, typer.Argument(help="Job folder.")]) -> None:
    """Ask a training to finish the iteration or volume at hand, save and end."""
    opened = Job(job)
    if (state := opened.state()) in ENDED:
        raise InputError(f"The job {job} is {state}, there is nothing to stop")
    opened.request_stop()
    print(f"{job}: stop requested; it ends after the iteration or volume at hand and can be resumed")


@app.command()
def watch(job: Annotated[Path, typer.Argument(help="Job folder.")]) -> None:
    """Follow a training until it ends, from this machine or another that shares the disk."""
    show_events(Job(job))


@app.command()
def settings(
    preset: Annotated[str, typer.Option(help="recommended, or paper: the authors' choices.")] = "recommended",
) -> None:
    """List every setting of a training with its default and where it comes from."""
    from .config import describe, make_config  # noqa: PLC0415

    for name, default, description in describe(make_config(preset)):
        print(f"{name} = {default}\n    {description}")


@app.command()
def export(
    jobs: Annotated[
        list[Path],
        typer.Argument(metavar="JOB...", help="Job folder with a checkpoint; several give an ensemble (their mean)."),
    ],
    out: Annotated[Path, typer.Option(help="Bundle to make or replace: a folder, or a file NAME.zip.")],
    name: Annotated[str | None, typer.Option(help="What lists of models show.")] = None,
    weights: Annotated[str, typer.Option(help="average (moving average of the weights) or raw.")] = "average",
    baseline: Annotated[
        Path | None, typer.Option(help="Job trained without_adaptation, whose model is included for comparison.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Make a bundle of the last checkpoint: ONNX model, weights, manifest."""
    from .export import export as run  # noqa: PLC0415

    line = ProgressLine()
    bundle = run(
        jobs[0], out, others=jobs[1:], name=name, weights=weights, baseline=baseline, device=device,
        report=lambda step: line.show(str(step)),
    )  # fmt: skip
    check, training = bundle.manifest.verification, bundle.manifest.training
    line.show(
        f"{out}: {bundle.manifest.name}; ONNX against torch on {check.slices} slices: probabilities differ by at most "
        f"{check.largest_difference:.1e}",
        last=True,
    )
    if training.iterations < (planned := training.settings["iterations"]):
        print(
            f"The training has not finished: this is its model after {training.iterations:,} of {planned:,} iterations"
        )


@app.command()
def segment(
    bundle: Annotated[Path, typer.Argument(help="From `sifa export`: a folder or a zip file.")],
    volumes: Annotated[
        list[Path], typer.Argument(metavar="VOLUME...", help="Files, DICOM folders, folders of them, a CSV.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the labelmaps.")],
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 for all cores.")] = 0,
    roi: Roi = None,
    domain: Annotated[str, typer.Option(help="Preprocess as the model's target or source volumes.")] = "target",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write a probability map per structure, and of the highest.")
    ] = False,
    confidence: Annotated[bool, typer.Option("--confidence", help="Also a CSV of each slice's confidence.")] = False,
    no_appearance: Annotated[
        bool,
        typer.Option("--no-appearance", help="Skip the correction by each volume's intensities; no estimated Dice."),
    ] = False,
    keep_all: Annotated[
        bool,
        typer.Option("--keep-all", help="Keep all parts of a structure, not only the largest; no Dice is estimated."),
    ] = False,
    holes: Annotated[
        bool, typer.Option("--fill-holes", help="Fill background that is completely enclosed by a structure.")
    ] = False,
    refine: Annotated[bool, typer.Option("--refine", help="Finer borders, in twice the time.")] = False,
    suffix: Annotated[str, typer.Option("--format", help=".nii.gz, .nrrd, .mha, or .seg.nrrd for Slicer.")] = ".nii.gz",
    task: Annotated[str | None, typer.Option(help="Reject a bundle that is not for this task's structures.")] = None,
    baseline: Annotated[
        bool | None,
        typer.Option(
            "--baseline/--no-baseline",
            help="Also segment without adaptation, into OUT/baseline, in twice the time; by default if the bundle can.",
        ),
    ] = None,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Leave out volumes that OUT has results of, made with the same bundle and options: to go on after an "
            "interruption.",
        ),
    ] = False,
) -> None:
    """Segment volumes with a bundle; each labelmap on its volume's own grid."""
    from SIFASegmentationLib.segment_files import Callbacks, OutputOptions, segment_files  # noqa: PLC0415
    from SIFASegmentationLib.segmentation_options import SegmentationOptions  # noqa: PLC0415

    if domain not in ("source", "target"):
        raise InputError(f"The domain '{domain}' is unknown", "choose target or source")
    options = SegmentationOptions(
        domain,  # type: ignore[arg-type]
        appearance=not no_appearance,
        largest_component=not keep_all,
        fill_holes=holes,
        refine=refine,
        probabilities=probabilities,
    )
    for path in volumes:
        for finding in unused_volumes(str(path), path):
            print_warning(finding)
    shown = _SegmentedVolumes()
    made = segment_files(
        bundle,
        volumes,
        out,
        options,
        outputs=OutputOptions(confidence=confidence, suffix=suffix, baseline=baseline),
        device=device,
        threads=threads,
        region=parse_roi(roi),
        task=load_task(task) if task else None,
        skip_existing=skip_existing,
        callbacks=Callbacks(
            on_volume=shown.volume, on_slices=shown.slices, on_outputs=_show_outputs, on_refused=_show_refused
        ),
    )
    if not made:
        print(f"{out} has the results of all volumes already")


class _SegmentedVolumes:
    """Progress line of `sifa segment`."""

    def __init__(self) -> None:
        self._line, self._which = ProgressLine(), ""

    def volume(self, number: int, count: int) -> None:
        self._which = f"volume {number} of {count}, " if count > 1 else ""

    def slices(self, name: str, done: int, total: int) -> None:
        self._line.show(f"{self._which}{name}: slice {done} of {total}", last=done == total)


def _show_refused(_image: Path, error: InputError) -> None:
    print(f"sifa: {error}", file=sys.stderr, flush=True)


def _show_outputs(outputs: Outputs) -> None:
    print(outputs.labelmap)
    if outputs.estimates:
        estimates = ", ".join(f"{name} {estimate}" for name, estimate in outputs.estimates.items())
        print(f"  estimated Dice: {estimates}")
    for warning in outputs.warnings:
        print(f"  {warning}")
    if outputs.baseline is not None:
        print(outputs.baseline)


@app.command()
def evaluate(
    prediction: Annotated[Path, typer.Option(help="A labelmap or a folder of them; masks in a folder are one.")],
    reference: Annotated[Path, typer.Option(help="The same, matched by name.")],
    task: Annotated[str | None, typer.Option(help="Names the structures: abdomen, cardiac or a task file.")] = None,
    coding: Annotated[str | None, typer.Option(help="Coding of the references, such as 'BTCV', and of masks.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table as .csv or .json.")] = None,
    legacy: Annotated[bool, typer.Option("--legacy", help="The paper's convention: voxels, mean of means.")] = False,
    tolerance: Annotated[float, typer.Option(help="Tolerance of the surface Dice, in mm.")] = DEFAULT_TOLERANCE_MM,
) -> None:
    """Score labelmaps against references: Dice, ASD, HD95, surface Dice, volumes."""
    from SIFASegmentationLib.evaluation import SomePairsRefusedError  # noqa: PLC0415
    from SIFASegmentationLib.evaluation import evaluate as run  # noqa: PLC0415

    if out is not None:
        check_suffix(out)
        check_can_write(out.parent)
    line = ProgressLine()

    def report(subject: str, done: int, pairs: int) -> None:
        if pairs > 1:
            line.show(f"{subject}: pair {done} of {pairs}", last=done == pairs)

    try:
        table = run(prediction, reference, task, coding, legacy, tolerance, report=report)
    except SomePairsRefusedError as error:
        if error.table.rows:
            _show_scores(error.table, out)
        raise
    _show_scores(table, out)


def _show_scores(table: ScoreTable, out: Path | None) -> None:
    print(table.text())
    if out is not None:
        table.write(out)


@app.command("compare")
@takes(volumes=preparation_options)
def compare_methods(
    volumes: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder to make, or one to go on with.")],
    row: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW",
            help=f"A row of the table, can be repeated; all unless given: {', '.join(v.name for v in VARIANTS)}.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="TITLE: NAME=VALUE ...", help="A further row: SIFA with these settings. Can be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Train each row with so many seeds.")] = 1,
    first_seed: Annotated[int, typer.Option(metavar="N", min=0, help="The first of them; the others follow.")] = 0,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also add, for each row, the ensemble of its models of all seeds.")
    ] = False,
    odd: Annotated[
        list[str] | None,
        typer.Option(metavar="PATIENT", help="Atypical scored patient, also reported apart. Can be repeated."),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Iterations of the rows that adapt; those of the preset unless given.")
    ] = None,
    bound_iterations: Annotated[
        int | None, typer.Option(min=1, help="Those of the rows that train on labels alone; the same unless given.")
    ] = None,
    width: Width = None,
    batch: Batch = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of all rows; `sifa settings`.")
    ] = None,
    device: Device = "auto",
    time_limit: TimeLimit = None,
) -> None:
    """Compare methods on one task: without adaptation, the ablations, SIFA, supervised; Dice, ASD, gap closed.

    Takes the options of `prepare`. The scored volumes are those of --test, or the target's --hold-out; their labels
    are read for scoring only. Finished work is not repeated: a comparison continues where it left off. Its tables
    cover all rows that have scores, including those of earlier calls.
    """
    from .compare import StoppedError, compare  # noqa: PLC0415
    from .comparison_report import markdown, write_comparison  # noqa: PLC0415

    line = ProgressLine()
    preparation = named_preparation(volumes)
    try:
        with _stops_on_signals(partial(_stop_comparison, out)):
            comparison = compare(
                out, preparation, choose_variants(row or (), also or ()),
                common=with_settings(given(width=width, batch=batch), setting or []), iterations=iterations,
                bound_iterations=bound_iterations or iterations,
                seeds=range(first_seed, first_seed + seeds), ensemble=ensemble, odd=odd or (),
                device=device, time_limit_seconds=parse_seconds(time_limit), report=line.event_of,
            )  # fmt: skip
        stopped = ""
    except StoppedError as error:
        comparison, stopped = error.comparison, str(error)
    if comparison.results:
        write_comparison(out, comparison, preparation.target_coding)
        print(markdown(comparison))
        print(f"{out / 'comparison.html'} has pictures")
    if stopped:
        print(stopped)
        sys.exit(STOPPED)


@app.command()
def phantoms(
    out: Annotated[Path, typer.Option(help="Folder for NAME_image.nii.gz and NAME_label.nii.gz.")],
    task: Annotated[str, typer.Option(help="abdomen or cardiac.")] = "abdomen",
    modality: Annotated[str, typer.Option(help="ct or mr.")] = "ct",
    count: Annotated[int, typer.Option(min=1, help="Number of patients.")] = 4,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first; the others follow.")] = 0,
) -> None:
    """Draw synthetic patients, to try things without data."""
    from SIFASegmentationLib.phantoms import write_cohort  # noqa: PLC0415

    for path in write_cohort(out, task, modality, range(first_seed, first_seed + count)):
        print(path)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("sifa-demo"),
    task: Annotated[str, typer.Option(help="abdomen or cardiac.")] = "abdomen",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of patients and training.")] = 0,
) -> None:
    """Show everything on synthetic patients within ten minutes: train, segment, score, and an HTML report."""
    from .demo import demo as run  # noqa: PLC0415

    run(out, task=task, device=device, seed=seed)


@app.command("bench")
@takes(config=config_options)
def bench_machine(
    config: TrainingConfig,
    task: Annotated[str | None, typer.Option(help="Preset or file; its number of structures counts.")] = None,
    size: Size = None,
    device: Device = "auto",
    seconds: Annotated[float, typer.Option(help="Time to spend on iterations; at least one is done.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure this machine: time and memory of an iteration, of a whole training, and speed of segmentation.

    Takes the options of `train` that say how to train.
    """
    from .bench import bench as run  # noqa: PLC0415

    chosen, grid = grid_of(given(task=task, size=size))
    found = run(
        config, classes=chosen.classes, size=grid, device=device, seconds=seconds,
        report=lambda text: print(f"measuring {text}", file=sys.stderr),
    )  # fmt: skip
    if as_json:
        print(json.dumps(asdict(found)))
        return
    estimate = found.estimate
    peak = "" if found.peak_bytes is None else f", {found.peak_bytes / 1e9:.2g} GB of its memory"
    whole = found.seconds_per_iteration * work_of(config, config.iterations)
    print(
        f"training on {found.device}: {found.seconds_per_iteration:.3g} s per iteration of {config.batch} slices of "
        f"{grid} x {grid}, width {config.width:g} (median of {found.steps}){peak}\n"
        f"{config.iterations:,} iterations: {duration(whole)}\n"
        f"the check before a training would say: {estimate.seconds_per_iteration:.3g} s and "
        f"{estimate.memory_bytes(config.batch) / 1e9:.2g} GB (from {estimate.measured})\n"
        f"segmentation on {found.segmentation_device}: {found.slices_per_second:.3g} slices a second, 100 slices in "
        f"{100 / found.slices_per_second:.2g} s"
    )


def main() -> None:
    """Entry point. Exit codes: 0 on success, 2 on bad usage or input with one sentence on stderr, `STOPPED`, 128 plus a
    signal's number, 1 on a fault."""
    take_names_as_utf8()
    _make_output_safe()
    # Like Ctrl-C, these signals raise an exception, so that half-written files are removed.
    for number in _end_signals():
        signal.signal(number, _end)
    try:
        app()  # Exits by itself, with 2 on bad usage.
    except InputError as error:
        print(f"sifa: {error}", file=sys.stderr)
        _exit(2)
    except Exception as error:
        if (fault := system_fault(error) or _not_installed(error)) is not None:
            print(f"sifa: {fault}", file=sys.stderr)
            _exit(2)
        traceback.print_exc()
        _exit(1)


def _not_installed(error: Exception) -> InputError | None:
    """Return the error to show if a package for training is not installed; None for any other error."""
    from .preflight import TRAINING_PACKAGES  # noqa: PLC0415

    packages = {**TRAINING_PACKAGES, "matplotlib": "matplotlib"}  # Used only by reports.
    if not isinstance(error, ModuleNotFoundError) or error.name not in packages:
        return None
    return InputError(
        f"{packages[error.name]}, which training and exporting need, is not installed",
        "install SIFA with [training], see its README",
    )


def _make_output_safe() -> None:
    """Make sure that missing output streams, or characters that they can't show, raise no error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  for good
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _exit(code: int) -> NoReturn:
    """Exit after an error.

    If other processes train with this one, exit at once: torch would wait for them at exit, while they wait for this.
    """
    if not _is_alone():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _is_alone() -> bool:
    """Return whether this process trains alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def _run(job: Job, limit: float) -> None:
    """Carry out the remaining steps of a job, with progress shown here and kept in the job's log."""
    # Imported before the job starts, since a missing package must not count as a failure of the job.
    from . import devices  # noqa: F401, PLC0415
    from .training import is_first_process  # noqa: PLC0415
    from .training import train as run  # noqa: PLC0415

    first, asked = is_first_process(), threading.Event()

    def stop() -> bool:
        # Not through the job's stop file: this process may not be the one at work on the job.
        asked.set()
        return True

    kept = output_copied_to(job.folder / LOG_FILE) if first else nullcontext()
    with kept, _stops_on_signals(stop):
        state = run(job, time_limit_seconds=limit, report=ProgressLine().event, must_stop=asked.is_set)
    if not first:
        return
    if state is State.STOPPED:
        saved = any((job.folder / CHECKPOINTS_FOLDER).glob("*.pt"))
        print(
            f"{job.folder}: stopped; `sifa resume {job.folder}` goes on"
            + (", `sifa export` uses it as it is" if saved else "")
        )
        if _is_alone():  # `torchrun` would take the exit code for a failure.
            sys.exit(STOPPED)
    elif (result := job.last("result")) is not None:
        print(f"{job.folder}: finished; the model is {job.folder / result.data['bundle']}")
    else:
        print(f"{job.folder}: finished; next: sifa export {job.folder} --out BUNDLE")


def _await_job(folder: Path) -> Job:
    """Wait for the job that the first of several processes creates.

    Raises:
        InputError: There is none after a minute.
    """
    for _ in range(600):
        if is_job(folder):
            return Job(folder)
        time.sleep(0.1)
    raise InputError(f"{folder} has no job.json after a minute", "is the disk shared by all machines?")


def _stop_comparison(out: Path) -> bool:
    """Ask the training that this process is running for a comparison to save and end; return whether there is one."""
    for path in out.glob(f"*/seed_*/job/{HEARTBEAT_FILE}"):
        try:
            job = Job(path.parent)
        except InputError:
            # A damaged job of another row.
            continue
        beat = job.last_beat()
        if beat is not None and (beat["host"], beat["process"]) == (socket.gethostname(), os.getpid()):
            job.request_stop()
            return True
    return False


def _end(number: int, _frame: Any) -> NoReturn:
    """End as Ctrl-C does."""
    _take_once(number)
    sys.exit(128 + number)


def _take_once(number: int) -> None:
    """Let the next signal of this kind end the process; ignore it instead if it may arrive twice by itself.

    A closing terminal and its shell both send SIGHUP, and a scheduler and `torchrun` both signal every process. Ending
    at the second signal would then lose what is being saved.
    """
    again = signal.SIG_IGN if number == getattr(signal, "SIGHUP", None) or not _is_alone() else signal.SIG_DFL
    signal.signal(number, again)


def _end_signals() -> list[int]:
    """Return the signals that end this process: SIGTERM and, except on Windows, SIGUSR1 and SIGHUP.

    Schedulers send SIGTERM, or SIGUSR1 as a warning; a closing terminal sends SIGHUP. Signals that are ignored, as
    SIGHUP is under `nohup`, are left out.
    """
    others = [getattr(signal, name) for name in ("SIGUSR1", "SIGHUP") if hasattr(signal, name)]
    return [signal.SIGTERM, *(number for number in others if signal.getsignal(number) != signal.SIG_IGN)]


@contextmanager
def _stops_on_signals(stop: Callable[[], bool]) -> Iterator[None]:
    """In the block, have Ctrl-C and the signals of `_end_signals` call `stop`, which asks the work to save and end.

    A second signal, or one for which `stop` returns False since there is nothing to save, ends the process at once.
    """

    def ask(number: int, _: Any) -> None:
        if not stop():
            sys.exit(128 + number)
        with suppress(OSError):  # The terminal may be closed.
            print("\nstopping after the iteration or volume at hand; again to end at once", file=sys.stderr)
        _take_once(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, *_end_signals())}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
