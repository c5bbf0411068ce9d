"""Estimates of a training's time and memory, from steps measured on the device itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import TRANSLATING_METHODS, TrainingConfig, labels_target_at, main_iterations
from .devices import make_fabric
from .iteration import Batch
from .model import Model

# The step is the smallest that shows what the device can do; with fewer pixels, a GPU would only wait for its driver.
_SIDE = {"cuda": 256, "mps": 256, "cpu": 128}
_SLICES = {"cuda": 4, "mps": 2, "cpu": 2}  # Number of slices of that side; smaller ones are more.
# Factor for gradients and buffers besides the tensors kept for the backward pass. On a CPU, peaks of resident memory
# were 1.3 to 1.8 times the size of those tensors (all schedules, widths 0.25 to 1, 128 and 256 pixels).
_BEYOND_KEPT = 1.5


@dataclass(frozen=True)
class Estimate:
    """Rough estimate of what a training will need.

    Attributes:
        device: cpu, cuda or mps.
        measured: The step that was measured, in words.
        seconds_per_iteration: Time of an iteration with the batch of the settings.
        fixed_bytes: Memory that does not depend on the batch: weights, gradients, optimisers, average, pools, labels of
            the target.
        slice_bytes: Additional memory for one more slice of each domain in a batch.
        weight_bytes: Size of all networks' weights, float32.
        checkpoint_bytes: Size of a checkpoint on disk.
    """

    device: str
    measured: str
    seconds_per_iteration: float
    fixed_bytes: float
    slice_bytes: float
    weight_bytes: int
    checkpoint_bytes: int

    def memory_bytes(self, batch: int) -> float:
        """Return the memory needed with `batch` slices of each domain."""
        return self.fixed_bytes + batch * self.slice_bytes

    def largest_batch(self, free_bytes: float) -> int:
        """Return the largest batch that fits into `free_bytes`; 0 if none does."""
        return max(0, int((free_bytes - self.fixed_bytes) / self.slice_bytes))


def measure(config: TrainingConfig, classes: int, size: int, device: str = "auto", target_slices: int = 0) -> Estimate:
    """Run a step with few slices, possibly smaller ones, and scale the result by the number of pixels.

    Args:
        config: Settings of the training.
        classes: K, the number of structures plus the background.
        size: Number of rows, and of columns, of the training's slices.
        device: auto, cuda, mps or cpu.
        target_slices: Number of the target's slices, for which self-training may keep labels.

    Raises:
        InputError: The device can't be used.
        RuntimeError: The device's memory is too small even for this step (`devices.out_of_memory`).
    """
    fabric = make_fabric(device, config.precision)
    kind = fabric.device.type
    small = min(size, _SIDE[kind])
    batch = max(2, min(config.batch, _SLICES[kind] * _SIDE[kind] ** 2 // small**2))
    # Pools are counted separately below, at the full size of the slices.
    model = Model.create(classes, config.model_copy(update={"pool": 0}), fabric.device)
    kept = {}
    seconds = 0.0
    # The steps with half the batch show how much each slice adds, and warm up. On a GPU the first step of each shape is
    # repeated, since it tries out kernels, which takes time and memory of its own.
    for count in (batch // 2, batch // 2, batch, batch) if kind == "cuda" else (batch // 2, batch):
        slices = torch.rand(count, 1, small, small, device=fabric.device) * 2 - 1
        labels = torch.zeros(count, small, small, dtype=torch.uint8, device=fabric.device)
        with fabric.autocast(), _kept_bytes(model, fabric.device) as total:
            wait(fabric.device)
            started = time.perf_counter()
            model.iteration.step(Batch(slices, labels, slices))
            wait(fabric.device)
            seconds = time.perf_counter() - started
        kept[count] = total[0]
    pixels = (size / small) ** 2
    each = (kept[batch] - kept[batch // 2]) / (batch - batch // 2)
    beyond = 1.0 if kind == "cuda" else _BEYOND_KEPT
    weights, averaged, state = _sizes(model)
    pools = 2 * config.pool * size**2 * 4 if config.method in TRANSLATING_METHODS else 0
    taught = target_slices * size**2 if labels_target_at(config, main_iterations(config)) else 0
    # Weights, gradients and Adam's two moments; then the average, the pools, the labels that self-training makes for
    # the target's slices, and what in the measured steps did not grow with the batch.
    fixed = 4 * weights + averaged + pools + taught + max(0.0, kept[batch] - batch * each)
    return Estimate(
        device=kind,
        measured=f"one step of {batch} slices of {small} x {small} on {kind}",
        seconds_per_iteration=seconds / batch * config.batch * pixels,
        fixed_bytes=fixed,
        slice_bytes=max(1.0, beyond * each * pixels),
        weight_bytes=weights,
        checkpoint_bytes=state + pools + taught,
    )


@contextmanager
def _kept_bytes(model: Model, device: torch.device) -> Iterator[list[float]]:
    """Measure the bytes that the block allocates at its peak (CUDA), or keeps for its backward passes (elsewhere).

    Yields:
        A list whose single element holds the number once the block has ended.
    """
    total = [0.0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield total
        total[0] = float(torch.cuda.max_memory_allocated(device) - before)
        return
    tally = _Tally({parameter.untyped_storage().data_ptr() for parameter in model.networks.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Kept(tensor, tally), lambda kept: kept.tensor):
        yield total
    total[0] = float(tally.peak)


class _Tally:
    """Counts the bytes of kept storages, now and at the peak; several tensors can share a storage."""

    def __init__(self, ignored: set[int]) -> None:
        """`ignored` holds the addresses of storages that exist anyway, and don't count."""
        self.peak = 0
        self._now, self._ignored, self._users = 0, ignored, Counter[int]()

    def change(self, tensor: Tensor, by: int) -> None:
        """Add (1) or remove (-1) a user of a tensor's storage."""
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address in self._ignored:
            return
        before = self._users[address]
        self._users[address] += by
        if before == 0 or self._users[address] == 0:
            self._now += by * storage.nbytes()
            self.peak = max(self.peak, self._now)


class _Kept:
    """A tensor kept for a backward pass, counted until its graph releases it."""

    def __init__(self, tensor: Tensor, tally: _Tally) -> None:
        self.tensor, self._tally = tensor, tally
        tally.change(tensor, 1)

    def __del__(self) -> None:
        self._tally.change(self.tensor, -1)


def _sizes(model: Model) -> tuple[int, int, int]:
    """Return the bytes of the networks' weights, of their average, and of a checkpoint without pools."""
    weights = sum(tensor.nbytes for tensor in model.networks.state_dict().values())
    averaged = sum(tensor.nbytes for tensor in model.average.state_dict().values()) if model.average else 0
    return weights, averaged, sum(tensor.nbytes for tensor in _tensors(model.state_dict()))


def _tensors(state: object) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _tensors(part)


def wait(device: torch.device) -> None:
    """Wait until the device has finished all work queued on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
