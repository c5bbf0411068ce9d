"""The training loop: from a prepared data set to checkpoints, in a job folder.

Every random number follows from seed, process and iteration, so a training that was stopped and resumed ends with
the weights of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import Job, State

from . import distributed
from .checkpoints import CheckpointError, checkpoint_paths, load_checkpoint, save_checkpoint
from .config import SEGMENTATION_METHODS, TrainingConfig
from .dataset import BatchSource, PreparedDataset, seed_iteration
from .devices import free_bytes, make_fabric, out_of_memory
from .ema import MovingAverage
from .iteration import Batch, Iteration, Losses, make_iteration
from .networks import Networks
from .previews import draw_preview, write_preview

Report = Callable[[str, dict[str, Any]], None]
"""Gets kind and data of each event, beside the events file."""

DATA_SHARE = 0.4  # Of the free memory; the networks need the rest.


@dataclass(frozen=True)
class TrainingSpecification:
    """job.json of a training: the data set, its fingerprint, every setting, and where to run."""

    prepared: Path
    fingerprint: str
    config: TrainingConfig
    device: str = "auto"

    def to_json(self) -> dict[str, Any]:
        """As plain data for `Job.create`."""
        return {
            "prepared": str(self.prepared),
            "fingerprint": self.fingerprint,
            "config": self.config.model_dump(),
            "device": self.device,
        }

    @classmethod
    def of(cls, job: Job) -> TrainingSpecification:
        """That of a job.

        Raises:
            InputError: The job is no training.
        """
        if job.kind != "train":
            raise InputError(f"{job.folder} is no training but '{job.kind}': give the folder that `sifa train` made.")
        plain = job.specification
        return cls(
            Path(plain["prepared"]),
            plain["fingerprint"],
            TrainingConfig.model_validate(plain["config"]),
            plain["device"],
        )


def create_job(prepared: Path, folder: Path, config: TrainingConfig, device: str = "auto") -> Job:
    """A new training job, queued.

    Raises:
        InputError: The data set can't be used for `config.method`, or the folder is not empty.
    """
    dataset = PreparedDataset(prepared)
    for domain in ("source", "target"):
        dataset.slices(domain)
    dataset.labels(labelled_domain(config))
    specification = TrainingSpecification(Path(prepared).resolve(), dataset.fingerprint, config, device)
    return Job.create(folder, "train", specification.to_json())


def labelled_domain(config: TrainingConfig) -> Literal["source", "target"]:
    """Whose labels the method trains on."""
    return "target" if config.method == "supervised" else "source"


def train(
    job: Job, *, time_limit_seconds: float = math.inf, devices: int = 1, report: Report | None = None
) -> State:
    """Train from the last checkpoint on (from the start if there is none) until done, stopped or out of time.

    Args:
        job: From `create_job`.
        time_limit_seconds: After this the training ends as `stopped`, saved, as on request.
        devices: Processes on this machine; `torchrun` starts and counts them itself.
        report: Called with each event's kind and data.

    Returns:
        `FINISHED` or `STOPPED`.

    Raises:
        InputError: Another process works on the job, the data set has changed, a loss is not a number, or memory
            does not suffice.
    """
    deadline = time.monotonic() + time_limit_seconds
    specification = TrainingSpecification.of(job)
    fabric = make_fabric(specification.device, specification.config.precision, devices)
    if fabric.global_rank > 0:
        return _Training(specification, fabric, job, _silent).run(deadline)
    job.withdraw_stop()
    with job.at_work():

        def emit(kind: str, data: dict[str, Any]) -> None:
            job.emit(kind, **data)
            if report is not None:
                report(kind, data)

        emit("state", {"state": str(State.PREPARING)})
        state = _Training(specification, fabric, job, emit).run(deadline)
        emit("state", {"state": str(state)})
    return state


def _silent(kind: str, data: dict[str, Any]) -> None:
    """Reports of the processes other than the first."""


@dataclass
class Model:
    """Everything that learns, and its moving average."""

    networks: Networks
    iteration: Iteration
    average: MovingAverage | None

    @classmethod
    def create(cls, classes: int, config: TrainingConfig, device: torch.device) -> Model:
        """Fresh networks from the seed."""
        torch.manual_seed(config.seed)
        networks = Networks(classes, config.width, config.decoder_dropout)
        networks = networks.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = MovingAverage(averaged_modules(networks), config.ema_decay) if config.ema_decay else None
        return cls(networks, make_iteration(networks, config), average)

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {
            "networks": self.networks.state_dict(),
            "iteration": self.iteration.state_dict(),
            "average": self.average.state_dict() if self.average else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.networks.load_state_dict(state["networks"])
        self.iteration.load_state_dict(state["iteration"])
        if self.average:
            self.average.load_state_dict(state["average"])


def averaged_modules(networks: Networks) -> nn.ModuleDict:
    """E and C1: what is exported, and so what is averaged."""
    return nn.ModuleDict({"encoder": networks.encoder, "classifier": networks.classifier})


@dataclass
class _LossLog:
    """Losses of the iterations since the last report, left on the device until then."""

    names: list[str] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    def add(self, losses: Losses) -> None:
        self.names = list(losses)
        self.rows.append(torch.stack([loss.float() for loss in losses.values()]))

    def flush(self, iteration: int) -> dict[str, float]:
        """Means by name over the rows so far, the last of which is `iteration` (counted from 1).

        Raises:
            InputError: A loss was not finite; names it and its first iteration.
        """
        values = torch.stack(self.rows).cpu()
        self.rows.clear()
        bad = torch.nonzero(~torch.isfinite(values))
        if len(bad):
            row, column = (int(index) for index in bad[0])
            first = iteration - len(values) + row + 1
            raise InputError(
                f"The loss '{self.names[column]}' was not a number at iteration {first}: resume from the last "
                "checkpoint with --precision float32, or train with a lower --learning-rate."
            )
        return dict(zip(self.names, values.mean(0).tolist(), strict=True))


class _Training:
    """One process's part in a run of the loop."""

    def __init__(self, specification: TrainingSpecification, fabric: Fabric, job: Job, emit: Report) -> None:
        self.config, self.fabric, self.job, self.emit = specification.config, fabric, job, emit
        self.dataset = PreparedDataset(specification.prepared)
        if self.dataset.fingerprint != specification.fingerprint:
            raise InputError(
                f"{specification.prepared} has changed since the job {job.folder} was made: start a new training."
            )
        self.batches = BatchSource(
            self.dataset,
            labelled_domain(self.config),
            self.config.augmentation,
            batch=self.config.batch,
            seed=self.config.seed,
            device=fabric.device,
            processes=fabric.world_size,
            rank=fabric.global_rank,
            budget_bytes=DATA_SHARE * free_bytes(fabric.device),
        )

    def run(self, deadline: float) -> State:
        """The loop, until the last iteration, a stop request or the deadline."""
        config = self.config
        model = Model.create(self.dataset.classes, config, self.fabric.device)
        done = self._restore(model)
        preview = self.batches.preview()
        losses = _LossLog()
        started, started_at = time.monotonic(), done
        self._say("state", state=str(State.RUNNING))
        while done < config.iterations:
            if self._must_end(deadline):
                # Before the checkpoint: weights that a loss has spoilt must not take the place of good ones.
                self._report(losses, done, started, started_at)
                self._checkpoint(model, done)
                return State.STOPPED
            losses.add(self._step(model, done))
            done += 1
            last = done == config.iterations
            saves = last or done % config.checkpoint_every == 0
            if saves or done % config.log_every == 0:
                self._report(losses, done, started, started_at)
            if last or done % config.preview_every == 0:
                self._preview(model.networks, preview, done)
            if saves:
                self._checkpoint(model, done)
        return State.FINISHED

    def _step(self, model: Model, done: int) -> Losses:
        seed_iteration(self.config.seed, done, self.fabric.global_rank)
        try:
            with self.fabric.autocast():
                losses = model.iteration.step(self.batches.batch(done))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise self._memory_error(error) from error
        if model.average:
            model.average.update(averaged_modules(model.networks), done)
        return losses

    def _memory_error(self, error: RuntimeError) -> InputError:
        """What to say when memory has run out; finds the largest batch that would have fitted by trying."""
        # The traceback keeps the tensors of the failed step alive.
        error.__traceback__ = None
        largest = largest_batch(self._fits, self.config.batch - 1)
        device = self.fabric.device
        if largest == 0:
            return InputError(f"The memory of {device} does not hold even a batch of 1: use a smaller size or width.")
        return InputError(
            f"The memory of {device} does not hold a batch of {self.config.batch}: use --batch {largest}, the largest "
            "that fits."
        )

    def _fits(self, batch: int) -> bool:
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        config = self.config.model_copy(update={"batch": batch})
        size = self.dataset.manifest.source.preprocessing.size
        slices = torch.zeros(batch, 1, size, size, device=self.fabric.device)
        try:
            model = Model.create(self.dataset.classes, config, self.fabric.device)
            with self.fabric.autocast():
                model.iteration.step(Batch(slices, slices[:, 0].to(torch.uint8), slices))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return False
        return True

    def _must_end(self, deadline: float) -> bool:
        wanted = self.job.stop_requested or time.monotonic() > deadline
        return distributed.any_process(wanted, self.fabric.device)

    def _restore(self, model: Model) -> int:
        """Load the newest checkpoint that is whole; the number of iterations that it has behind it."""
        for path in reversed(checkpoint_paths(self.job.folder / "checkpoints")):
            try:
                state = load_checkpoint(path, self.fabric.device)
            except InputError as error:
                self._say("warning", message=str(error))
                continue
            model.load_state_dict(state["model"])
            return int(state["done"])
        return 0

    def _checkpoint(self, model: Model, done: int) -> None:
        if self.fabric.global_rank > 0:
            return
        try:
            state = {"done": done, "model": model.state_dict()}
            save_checkpoint(self.job.folder / "checkpoints", done, state)
        except CheckpointError as error:
            # The last checkpoint of a run must be there; until then the disk may be emptied.
            if done == self.config.iterations or self.job.stop_requested:
                raise InputError(f"{error}, then resume the job.") from error
            self._say("warning", message=f"{error}; the training goes on, with the checkpoint before kept.")

    def _report(self, losses: _LossLog, done: int, started: float, started_at: int) -> None:
        """Losses and progress after `done` iterations of a run that began at `started` (s) with `started_at` done."""
        if not losses.rows:
            return
        means = losses.flush(done)
        # After the flush, which waits for the device.
        seconds = (time.monotonic() - started) / (done - started_at)
        self._say("losses", iteration=done, losses=means)
        self._say(
            "progress",
            iteration=done,
            iterations=self.config.iterations,
            seconds_per_iteration=seconds,
            eta_seconds=seconds * (self.config.iterations - done),
        )

    def _preview(self, networks: Networks, preview: Batch, done: int) -> None:
        if self.fabric.global_rank > 0:
            return
        colors = [structure.color for structure in self.dataset.manifest.task.structures]
        translates = self.config.method not in SEGMENTATION_METHODS
        path = self.job.folder / "previews" / f"iteration_{done:08d}.png"
        write_preview(path, draw_preview(networks, preview, colors, translates=translates))
        self._say("preview", iteration=done, file=f"previews/{path.name}")

    def _say(self, kind: str, **data: Any) -> None:
        self.emit(kind, data)


def largest_batch(fits: Callable[[int], bool], limit: int) -> int:
    """The largest batch from 1 to `limit` that fits, by bisection; 0 if none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
