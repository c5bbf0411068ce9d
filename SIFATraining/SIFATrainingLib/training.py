"""A training as a job: prepare, train without adaptation for comparison, train, export.

```
prepared/       the data set, if the job prepares it
baseline/       a nested job: the training without adaptation, if asked for
checkpoints/    previews/
result/bundle/  the model, if asked for
```

Whatever of these exists already is not made again, so a job that was stopped, killed or failed continues where it
ended. Nothing here imports torch before the job reports that it is preparing, so those who watch see it start at once.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SIFASegmentationLib.bundle_files import is_bundle
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import BUNDLE_FOLDER, Job, State, is_job
from SIFASegmentationLib.structures import Task

from .config import TrainingConfig, baseline_config, labelled_domain
from .dataset import DOMAINS, PreparedDataset
from .findings import Finding
from .initial import read_initial
from .interruption import interrupt_postponed
from .prepare import Preparation, run_preparation
from .specification import BASELINE_FOLDER, KIND, PREPARED_FOLDER, InitialModel, TrainingSpecification
from .steps import Emit, EndedError, Step

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_SECONDS_TO_WAIT = 60  # How long the other processes wait for the first one to appear.


def create_job(
    prepared: str | Path,
    folder: str | Path,
    config: TrainingConfig,
    device: str = "auto",
    *,
    baseline_iterations: int = 0,
    export: bool = False,
    bundle_name: str | None = None,
    initial: str | Path | None = None,
) -> Job:
    """Create a queued training job on the data set `prepared`; for the other arguments see `create_training_job`.

    Raises:
        InputError: The data set can't be used for `config.method`, the networks can't start from `initial`, or the
            folder is not empty.
    """
    prepared, folder = Path(prepared), Path(folder)
    dataset = PreparedDataset(prepared)
    for domain in DOMAINS:
        dataset.slices(domain)
    dataset.labels(labelled_domain(config))
    specification = TrainingSpecification(
        config=config,
        device=device,
        prepared=prepared.resolve(),
        prepared_from_here=_relative(prepared, folder),
        fingerprint=dataset.fingerprint,
        baseline_iterations=baseline_iterations,
        export=export,
        bundle_name=bundle_name,
        initial=_initial_model(initial, dataset.manifest.task, config),
    )
    return Job.create(folder, KIND, specification.model_dump(mode="json"))


def create_training_job(
    folder: str | Path,
    preparation: Preparation,
    config: TrainingConfig,
    device: str = "auto",
    *,
    baseline_iterations: int = 0,
    export: bool = True,
    bundle_name: str | None = None,
    initial: str | Path | None = None,
) -> Job:
    """Create a queued job that does everything, from volumes to a bundle.

    Args:
        folder: Job folder to make. Relative paths in the preparation are relative to it, so volumes can be added to it
            later and the whole folder can be moved.
        preparation: From `make_preparation`; its task is read now, its volumes when the job runs.
        config: Every setting of the training.
        device: auto, cuda, mps or cpu.
        baseline_iterations: Iterations of a training without adaptation that comes first, for comparison; 0 for none.
        export: Make a bundle at the end, in `result/bundle`.
        bundle_name: Name shown in lists of models; made of task, method and date unless given.
        initial: Bundle whose weights the networks start with, except the baseline's; random weights unless given.

    Raises:
        InputError: The method needs target labels and the preparation has none, the networks can't start from
            `initial`, or the folder is not empty.
    """
    if labelled_domain(config) == "target" and not preparation.target_labels:
        raise InputError(f"The method {config.method} needs target labels", "prepare them with --target-labels")
    task = preparation.loaded_task()
    specification = TrainingSpecification(
        config=config,
        device=device,
        preparation=preparation.model_copy(update={"task": task}),
        baseline_iterations=baseline_iterations,
        export=export,
        bundle_name=bundle_name,
        initial=_initial_model(initial, task, config),
    )
    return Job.create(folder, KIND, specification.model_dump(mode="json"))


def is_first_process() -> bool:
    """Return whether this process is the one that writes; works before any process group exists."""
    return os.environ.get("RANK", "0") == "0"


def train(
    job: Job,
    *,
    time_limit_seconds: float = math.inf,
    report: Emit | None = None,
    must_stop: Callable[[], bool] = lambda: False,
) -> State:
    """Carry out the remaining steps of a training job, until it is finished, stopped or out of time.

    Ctrl-C in a script or a notebook stops the job too, and raises `KeyboardInterrupt` once it is saved; pressed again,
    it ends the training at once.

    Args:
        job: From `create_job` or `create_training_job`. Under `torchrun`, all processes must call this.
        time_limit_seconds: Time after which the job is saved and ends as `stopped`, as on request.
        report: Called in the first process with the kind and data of each event.
        must_stop: Asked whether to save and end, in addition to the job's own stop request: before each iteration, and
            before each volume or batch of the work before, between and after iterations.

    Returns:
        `FINISHED` or `STOPPED`.

    Raises:
        InputError: Another process works on the job, a volume can't be used, the data set has changed, a loss is not
            finite, or memory does not suffice.
        KeyboardInterrupt: Ctrl-C was pressed, and the caller has not installed a handler for it.
    """
    specification = TrainingSpecification.of(job)
    if job.state() is State.FINISHED and (not specification.export or is_bundle(job.folder / BUNDLE_FOLDER)):
        # A stop may have been requested during the last iteration.
        if is_first_process():
            job.withdraw_stop()
        return State.FINISHED
    deadline = time.monotonic() + time_limit_seconds
    with interrupt_postponed() as interrupted:
        run = _Run(job, specification, deadline, report, lambda: must_stop() or interrupted())
        return run.lead() if is_first_process() else run.follow()


class _Run:
    """One process's part in one run of a job."""

    def __init__(
        self,
        job: Job,
        specification: TrainingSpecification,
        deadline: float,
        report: Emit | None,
        must_stop: Callable[[], bool],
    ) -> None:
        self.job, self.specification, self.deadline, self.report = job, specification, deadline, report
        self.must_stop = must_stop

    def lead(self) -> State:
        """Do the first process's part: every step, while marked as the process at work on the job."""
        # A stop requested before the job's first run is meant for this run, any other for one that has ended.
        starts = self.job.state() is State.QUEUED
        with self.job.at_work():
            if not starts:
                self.job.withdraw_stop()
            self.emit_state(State.PREPARING)
            state = self._do_all()
            self.emit_state(state)
        return state

    def _do_all(self) -> State:
        try:
            self._prepare()
            state = self._train()
            if state is State.FINISHED and self.specification.export:
                self._export()
        except EndedError:
            return State.STOPPED
        return state

    def follow(self) -> State:
        """Do any other process's part: wait for the data set, then train.

        Raises:
            InputError: The first process does not appear.
        """
        # The heartbeat may be left from a killed run: only a change shows that the first process is there.
        before = self.job.last_beat()
        seen, started = False, time.monotonic()
        while not self.specification.prepared.exists():
            time.sleep(0.2)
            alive = self.job.is_alive() and self.job.last_beat() != before
            if seen and not alive:
                return State.STOPPED
            if not alive and time.monotonic() - started > _SECONDS_TO_WAIT:
                raise InputError(f"No process prepares {self.job.folder}", "is the disk shared by all machines?")
            seen = seen or alive
        return self._train()

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """Append an event to the job's events, and report it."""
        self.job.emit(kind, **data)
        if self.report is not None:
            self.report(kind, data)

    def emit_state(self, state: State) -> None:
        """Emit a change of state."""
        self.emit("state", {"state": str(state)})

    def must_end(self) -> bool:
        """Return whether a stop was requested or the time is over."""
        return self.must_stop() or self.job.stop_requested or time.monotonic() > self.deadline

    def _must_end_or(self, nested: Job) -> bool:
        """Return whether this job must end or a stop of the nested one was requested, which ends both."""
        return self.must_end() or nested.stop_requested

    def _prepare(self) -> None:
        preparation = self.specification.preparation
        if preparation is not None and not self.specification.prepared.exists():
            report = partial(self._report_step, "preparing")
            run_preparation(preparation, self.specification.prepared, report, self._warn)

    def _warn(self, finding: Finding) -> None:
        self.emit("warning", {"message": str(finding)})

    def _report_step(self, stage: str, step: Step) -> None:
        if self.must_end():
            raise EndedError
        self.emit("progress", step.event(stage))

    def _train(self) -> State:
        from . import distributed  # noqa: PLC0415
        from .devices import give_back_memory, make_fabric, unusable_gpu  # noqa: PLC0415

        specification = self.specification
        dataset = specification.dataset(self.job)
        fabric = make_fabric(specification.device, specification.config.precision)
        if fabric.global_rank == 0:
            if specification.device == "auto" and (fault := unusable_gpu()):
                self.emit("warning", {"message": f"{fault}. The training runs on the CPU."})
            self.emit_state(State.RUNNING)
        # Now that the process group exists, the first process is certainly the one at work on the job. It may not get
        # to report the failure of another process.
        with nullcontext() if is_first_process() else self.job.failing_with_it():
            state = self._train_stages(dataset, fabric)
        # Only one process exports.
        distributed.leave()
        give_back_memory()
        return state

    def _train_stages(self, dataset: PreparedDataset, fabric: Fabric) -> State:
        specification, first = self.specification, fabric.global_rank == 0
        if specification.baseline_iterations:
            emit = _staged(self.emit, "baseline", f"{BASELINE_FOLDER}/") if first else _silent
            if self._train_baseline(dataset, fabric, emit) is State.STOPPED:
                return State.STOPPED
        emit = _staged(self.emit, "training") if first else _silent
        initial = specification.initial.folder if specification.initial is not None else None
        return self._loop(dataset, fabric, self.job.folder, specification.config, emit, initial)

    def _train_baseline(self, dataset: PreparedDataset, fabric: Fabric, emit: Emit) -> State:
        """Train without adaptation in a nested job; this job shows the nested job's events too, except its states."""
        folder = self.job.folder / BASELINE_FOLDER
        specification = self.specification
        config = baseline_config(specification.config, specification.baseline_iterations)
        if fabric.global_rank > 0:
            return self._loop(dataset, fabric, folder, config, emit)
        baseline = _baseline_job(folder, specification)
        own = _staged(lambda kind, data: baseline.emit(kind, **data), "training")

        def emit_twice(kind: str, data: dict[str, Any]) -> None:
            own(kind, data)
            emit(kind, data)

        baseline.withdraw_stop()
        with baseline.at_work():
            baseline.emit_state(State.RUNNING)
            asked = partial(self._must_end_or, baseline)
            state = self._loop(dataset, fabric, folder, config, emit_twice, must_end=asked)
            baseline.emit_state(state)
        return state

    def _loop(
        self,
        dataset: PreparedDataset,
        fabric: Fabric,
        folder: Path,
        config: TrainingConfig,
        emit: Emit,
        initial: Path | None = None,
        must_end: Callable[[], bool] | None = None,
    ) -> State:
        from .loop import Loop  # noqa: PLC0415

        return Loop(dataset, config, fabric, folder, emit, must_end or self.must_end, initial).run()

    def _export(self) -> None:
        from .export import export  # noqa: PLC0415

        self.emit_state(State.EXPORTING)
        export(
            self.job.folder,
            self.job.folder / BUNDLE_FOLDER,
            name=self.specification.bundle_name,
            device=self.specification.device,
            report=partial(self._report_step, "exporting"),
        )
        self.emit("result", {"bundle": BUNDLE_FOLDER})


def _initial_model(given: str | Path | None, task: Task, config: TrainingConfig) -> InitialModel | None:
    if given is None:
        return None
    folder = Path(given)
    name, _ = read_initial(folder, task, config)
    return InitialModel(folder=folder.resolve(), name=name)


def _relative(path: Path, folder: Path) -> str | None:
    """Return `path` relative to `folder`, which need not exist, with slashes; None across drives of Windows."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return None


def _baseline_job(folder: Path, specification: TrainingSpecification) -> Job:
    """Return the nested job that trains without adaptation; created unless it exists."""
    if is_job(folder):
        return Job(folder)
    own = specification.preparation is not None
    nested = TrainingSpecification(
        config=baseline_config(specification.config, specification.baseline_iterations),
        device=specification.device,
        prepared=Path("..") / PREPARED_FOLDER if own else specification.prepared,
        prepared_from_here=None if own else _relative(specification.prepared, folder),
        fingerprint=specification.fingerprint,
    )
    return Job.create(folder, KIND, nested.model_dump(mode="json"))


def _staged(emit: Emit, stage: str, folder: str = "") -> Emit:
    """Wrap `emit` to add the stage to all events but warnings, and to put `folder` before the names of files."""

    def emit_staged(kind: str, data: dict[str, Any]) -> None:
        if kind != "warning":
            data = {"stage": stage, **data}
        if "file" in data:
            data = {**data, "file": folder + data["file"]}
        emit(kind, data)

    return emit_staged


def _silent(kind: str, data: dict[str, Any]) -> None:
    """Emit nothing: for the processes other than the first."""
