"""The training loop: from a prepared data set to checkpoints.

Seed, process and iteration determine every random number, so a training that was stopped and resumed ends with the same
weights as an uninterrupted one. This holds for a single process: with several, only the first one's pools of fakes are
saved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import CHECKPOINTS_FOLDER, PREVIEWS_FOLDER, State

from . import distributed
from .batches import BatchSource, seed_iteration
from .checkpoints import CheckpointError, checkpoint_paths, load_checkpoint, loading_from, save_checkpoint
from .config import (
    TRANSLATING_METHODS,
    TrainingConfig,
    labelled_domain,
    labels_target_at,
    main_iterations,
    segmented_domain,
)
from .dataset import PreparedDataset
from .devices import free_bytes, out_of_memory, processes_sharing, within_memory
from .initial import read_initial
from .iteration import Batch, Losses
from .loss_log import LossLog
from .model import Model
from .monitoring import Monitor
from .networks import Networks, SegmentationNetwork
from .pace import Pace
from .previews import draw_preview, write_preview
from .pseudo_labels import TargetLabels, label_target
from .reestimation import reestimated
from .steps import Emit, EndedError, ending

DATA_SHARE = 0.4  # Largest share of the free memory that slices may take; the networks need the rest.
# Batches for the batch norm of a monitored model; an export takes more, which changes Dice by a fraction of a point.
_WATCHED_BATCHES = 16


def learning_rate(config: TrainingConfig, done: int) -> float:
    """Return the learning rate of the iteration after `done` others: constant at first, then falling linearly to 0."""
    falling = config.decay_share * config.iterations
    return config.learning_rate * min(1.0, (config.iterations - done) / max(falling, 1.0))


class Loop:
    """One process's part in a run of the training loop."""

    def __init__(
        self,
        dataset: PreparedDataset,
        config: TrainingConfig,
        fabric: Fabric,
        folder: Path,
        emit: Emit,
        must_end: Callable[[], bool],
        initial: Path | None = None,
    ) -> None:
        """
        Args:
            dataset: Prepared data set.
            config: Every setting of the training.
            fabric: Lightning Fabric, already launched; gives device, precision and processes.
            folder: Folder of `checkpoints` and `previews`; training continues from the last checkpoint in it.
            emit: Called with losses, progress, previews, scores of the monitor volumes, and warnings.
            must_end: Asked whether to save and end: before each iteration, and before each volume or batch of the work
                between two iterations.
            initial: Bundle whose weights the networks start with; random weights unless given.
        """
        self.dataset, self.config, self.fabric, self.folder, self.emit = dataset, config, fabric, folder, emit
        self.must_end, self.initial = must_end, initial
        self.pseudo_labels: NDArray[np.uint8] | None = None
        # Work that a stop interrupted: the labelling of the target's slices, and a score of the monitor volumes.
        self.begun_labels: TargetLabels | None = None
        self.owes_score = False
        share = DATA_SHARE / processes_sharing(fabric.device)
        self.batches = within_memory(lambda: self._batches(share * free_bytes(fabric.device)), self._too_full)

    def _batches(self, budget_bytes: float) -> BatchSource:
        return BatchSource(
            self.dataset,
            labelled_domain(self.config),
            self.config.augmentation,
            batch=self.config.batch,
            seed=self.config.seed,
            device=self.fabric.device,
            processes=self.fabric.world_size,
            rank=self.fabric.global_rank,
            budget_bytes=budget_bytes,
        )

    def run(self) -> State:
        """Train from the last checkpoint to the last iteration (`FINISHED`), or until it must end (`STOPPED`).

        Raises:
            InputError: A loss is not finite, memory does not suffice, the last checkpoint of the run can't be written,
                the weights of `initial` can't be used, or not all processes can read the same checkpoint.
        """
        config = self.config
        model, done = self._start()
        if done == 0 and self.initial is not None:
            _, weights = read_initial(self.initial, self.dataset.manifest.task, config)
            model.start_from(weights)
        preview, monitor = self.batches.preview(), self._monitor()
        losses = LossLog()
        pace = Pace(config, done)
        try:
            if monitor is not None and self.owes_score:
                self._watch(model, monitor, done)
                self._checkpoint(model, done, last=False)
            while done < config.iterations:
                self._end_if_asked()
                if model.average is not None and labels_target_at(config, done):
                    self._label_target(model.average.average)
                losses.add(self._step(model, done))
                done += 1
                last = done == config.iterations
                saves = last or done % config.checkpoint_every == 0
                # Self-training has other losses, which can't be averaged with those before it.
                if saves or done % config.log_every == 0 or done == main_iterations(config):
                    self._report(losses, done, pace)
                if last or done % config.preview_every == 0:
                    self._preview(model.networks, preview, done)
                if monitor is not None and (last or done % config.monitor_every == 0):
                    self._watch(model, monitor, done)
                if saves:
                    self._checkpoint(model, done, last=last)
        except EndedError:
            # Report first, which raises if a loss is not finite: spoilt weights must not replace good ones.
            self._report(losses, done, pace)
            self._checkpoint(model, done, last=True)
            return State.STOPPED
        return State.FINISHED

    def _all_must_end(self) -> bool:
        """Return whether to save and end, agreed by all processes; each must call this equally often."""
        return distributed.any_process(self.must_end(), self.fabric.device)

    def _end_if_asked(self) -> None:
        if self._all_must_end():
            raise EndedError

    def _start(self) -> tuple[Model, int]:
        """Return the model and its number of completed iterations: from the last checkpoint, or fresh with 0."""

        def start() -> tuple[Model, int]:
            model = Model.create(self.dataset.classes, self.config, self.fabric.device)
            return model, self._restore(model)

        model, done = within_memory(start, self._too_full)
        if not distributed.is_same_everywhere(done, self.fabric.device):
            raise InputError(
                f"Not all processes can read the last checkpoint in {self.folder / CHECKPOINTS_FOLDER}",
                "check the disk that they share, then resume",
            )
        return model, done

    def _too_full(self) -> InputError:
        return InputError(
            f"The memory of {self.fabric.device} does not hold the networks",
            "close other programs that use it and resume, or start a new training with a smaller width",
        )

    def _step(self, model: Model, done: int) -> Losses:
        config, step = self.config, model.iteration.step
        if config.decay_share:
            for player in model.iteration.players().values():
                player.set_learning_rate(learning_rate(config, done))
        if model.self_training is not None and done >= main_iterations(config):
            step = model.self_training.step

        def learn() -> Losses:
            seed_iteration(config.seed, done, self.fabric.global_rank)
            # Outside the autocast: augmentation moves slices by coordinates, for which bfloat16 is too coarse.
            batch = self.batches.batch(done)
            with self.fabric.autocast():
                return step(batch)

        losses = self._within_memory(learn, model)
        if model.average:
            model.average.update(model.networks.segmentation_network(), done)
        return losses

    def _within_memory(self, learn: Callable[[], Losses], model: Model) -> Losses:
        """Call `learn`; if the device can't hold both the slices and a batch, read slices from the disk from now on.

        `learn` is then called once more, so networks that were updated before memory ran out are updated twice.

        Raises:
            InputError: The device can't hold a batch by itself; names the largest that fits, with a single process.
        """
        # With several processes, a second try would wait for the others, which are elsewhere in the iteration.
        if not self.batches.resident or self.fabric.world_size > 1:
            return within_memory(learn, lambda: self._batch_too_large(model))
        try:
            return learn()
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            error.__traceback__ = None  # The traceback keeps the tensors of the failed step alive.
        self.batches = self._batches(0)
        if self.pseudo_labels is not None:
            self.batches.set_pseudo_labels(self.pseudo_labels)
        self._say("warning", message="The device's memory does not hold all slices: they are read from the disk.")
        return within_memory(learn, lambda: self._batch_too_large(model))

    def _label_target(self, teacher: SegmentationNetwork) -> None:
        """Have a teacher label the target's slices; self-training learns these labels from now on.

        Raises:
            EndedError: It had to end before all volumes were labelled.
            InputError: Memory does not hold the largest of the target's volumes.
        """

        volumes = len(self.dataset.entry("target").volumes)

        def label() -> TargetLabels:
            with self.fabric.autocast():
                labels = label_target(
                    teacher, self.dataset, self.config, self.fabric.device, self.begun_labels, self._all_must_end
                )
            if labels.volumes == volumes:
                self._set_pseudo_labels(labels.slices)
            return labels

        labels = within_memory(
            label,
            lambda: InputError(
                "The memory does not hold the largest of the target volumes while self-training labels it",
                "free some and resume, or start a new training with --set self_training.labellings=0 or a smaller size",
            ),
        )
        self.begun_labels = labels if labels.volumes < volumes else None
        if self.begun_labels is not None:
            raise EndedError

    def _set_pseudo_labels(self, labels: NDArray[np.uint8]) -> None:
        """Set the labels of the target's slices, and keep them for checkpoints, since their teacher changes later."""
        self.pseudo_labels = labels
        self.batches.set_pseudo_labels(labels)

    def _batch_too_large(self, model: Model) -> InputError:
        """Return the error for a batch that is too large; finds the largest batch that fits by trying.

        The trials spoil `model`, whose training is over: another model would need memory of its own.
        """
        device = self.fabric.device
        if self.fabric.world_size > 1:
            # A trial would wait for the other processes, which are elsewhere in the iteration.
            return InputError(
                f"The memory of {device} does not hold a batch of {self.config.batch} for each process",
                "start a new training with a smaller batch",
            )
        largest = largest_batch(lambda batch: self._fits(model, batch), self.config.batch - 1)
        if largest == 0:
            return InputError(
                f"The memory of {device} does not hold even a batch of 1",
                "start a new training with a smaller size or width",
            )
        return InputError(
            f"The memory of {device} does not hold a batch of {self.config.batch}",
            f"start a new training with a batch of {largest}, the largest that fits",
        )

    def _fits(self, model: Model, batch: int) -> bool:
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        size = self.dataset.manifest.source.preprocessing.size
        slices = torch.zeros(batch, 1, size, size, device=self.fabric.device)
        try:
            with self.fabric.autocast():
                model.iteration.step(Batch(slices, slices[:, 0].to(torch.uint8), slices))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return False
        return True

    def _restore(self, model: Model) -> int:
        """Load the newest intact checkpoint; return its number of completed iterations, 0 if there is none."""
        for path in reversed(checkpoint_paths(self.folder / CHECKPOINTS_FOLDER)):
            try:
                state = load_checkpoint(path, self.fabric.device)
            except InputError as error:
                self._say("warning", message=str(error))
                continue
            with loading_from(path):
                model.load_state_dict(state["model"])
            if "pseudo_labels" in state:
                self._set_pseudo_labels(state["pseudo_labels"].cpu().numpy())
            if "begun_labels" in state:
                self.begun_labels = TargetLabels(state["begun_labels"].cpu().numpy(), state["begun_volumes"])
            self.owes_score = state.get("owes_score", False)
            return int(state["done"])
        return 0

    def _checkpoint(self, model: Model, done: int, *, last: bool) -> None:
        if self.fabric.global_rank > 0:
            return
        try:
            state: dict[str, Any] = {"done": done, "model": model.state_dict(), "owes_score": self.owes_score}
            if self.pseudo_labels is not None:
                state["pseudo_labels"] = torch.from_numpy(self.pseudo_labels)
            if self.begun_labels is not None:
                state["begun_labels"] = torch.from_numpy(self.begun_labels.slices)
                state["begun_volumes"] = self.begun_labels.volumes
            save_checkpoint(self.folder / CHECKPOINTS_FOLDER, done, state)
        except CheckpointError as error:
            # A run must end with a checkpoint; until then, somebody may still free disk space.
            if last:
                raise InputError(error.problem, f"{error.advice}, then resume the job") from error
            self._say("warning", message=f"{error} Training continues; the previous checkpoint is kept.")

    def _report(self, losses: LossLog, done: int, pace: Pace) -> None:
        """Emit losses and progress after `done` iterations.

        Raises:
            InputError: A loss is not finite.
        """
        if not losses.rows:
            return
        means = losses.flush(done)
        # Measured after the flush, which waits for the device.
        seconds, left = pace.report(done)
        self._say("losses", iteration=done, losses=means)
        self._say(
            "progress",
            iteration=done,
            iterations=self.config.iterations,
            seconds_per_iteration=seconds,
            eta_seconds=left,
        )

    def _preview(self, networks: Networks, preview: Batch, done: int) -> None:
        if self.fabric.global_rank > 0:
            return
        colors = [structure.color for structure in self.dataset.manifest.task.structures]
        translates = self.config.method in TRANSLATING_METHODS
        path = self.folder / PREVIEWS_FOLDER / f"iteration_{done:08d}.png"
        strip = draw_preview(networks, preview, colors, translates=translates)
        try:
            write_preview(path, strip)
        except OSError as error:
            # A missing picture must not end a training; a full disk is reported when a checkpoint is saved.
            self._say("warning", message=f"the preview of iteration {done} can't be written ({error.strerror})")
        else:
            self._say("preview", iteration=done, file=f"{PREVIEWS_FOLDER}/{path.name}")

    def _monitor(self) -> Monitor | None:
        """Return the monitor, or None if the data set has no monitor set."""
        if self.dataset.manifest.monitor is None:
            return None
        return Monitor(self.dataset, self.config.batch, self.fabric.device)

    def _watch(self, model: Model, monitor: Monitor, done: int) -> None:
        """Emit the Dice that the model would have if it were exported now; all processes must call this.

        Raises:
            EndedError: It had to end before the Dice was known; `owes_score` then stays set.
        """
        config, device = self.config, self.fabric.device

        def dice() -> dict[str, float] | None:
            network = model.exported()
            if config.reestimate_batch_norm:
                slices, count = self.dataset.slices(segmented_domain(config)), _WATCHED_BATCHES * config.batch
                network = reestimated(network, slices, config.batch, device, count, ending(self._all_must_end))
            return monitor.dice(network, self.must_end) if self.fabric.global_rank == 0 else {}

        self.owes_score = True
        with self.fabric.autocast():
            told = within_memory(dice, self._too_full)
        if distributed.any_process(told is None, device):
            raise EndedError
        self.owes_score = False
        if self.fabric.global_rank == 0:
            self._say("monitor", iteration=done, dice=told)

    def _say(self, kind: str, **data: Any) -> None:
        self.emit(kind, data)


def largest_batch(fits: Callable[[int], bool], limit: int) -> int:
    """Find the largest batch from 1 to `limit` that fits, by bisection; 0 if none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
