"""Measurement of how fast this machine trains and segments, for `sifa bench`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.preprocessing import check_size
from SIFASegmentationLib.segmentation import BATCH, device_of, start_session

from .config import TrainingConfig
from .devices import describe_device, give_back_memory, make_fabric, within_memory
from .estimate import Estimate, measure, wait
from .iteration import Batch
from .model import Model
from .onnx_model import fold_batch_norm, to_onnx

_MOST_STEPS = 50


@dataclass(frozen=True)
class Bench:
    """Measured speed and memory.

    Attributes:
        device: Device of the training, in words.
        steps: Number of full-size iterations that were timed, after one for warming up.
        seconds_per_iteration: Median time of these iterations.
        peak_bytes: GPU memory that torch had reserved at their peak, which is more than its tensors fill; None on other
            devices.
        estimate: Estimate from one small step, as in the check before a training.
        segmentation_device: Device on which ONNX Runtime ran: cpu or cuda.
        slices_per_second: Slices that E and C1 segment per second.
    """

    device: str
    steps: int
    seconds_per_iteration: float
    peak_bytes: int | None
    estimate: Estimate
    segmentation_device: str
    slices_per_second: float


def bench(
    config: TrainingConfig,
    *,
    classes: int,
    size: int,
    device: str = "auto",
    seconds: float = 20.0,
    report: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Train and segment random slices for a while.

    Args:
        config: Settings of the training.
        classes: K, the number of structures plus the background.
        size: Number of rows, and of columns, of the slices.
        device: auto, cuda, mps or cpu.
        seconds: Time to spend on training steps; at least one is timed, however long it takes.
        report: Called with what is measured next.

    Raises:
        InputError: The device can't be used, its memory is too small for a step, or the size is not valid.
    """
    check_size(size)
    return within_memory(
        lambda: _bench(config, classes, size, device, seconds, report),
        lambda: InputError(
            f"The memory of {device} does not hold batches of {config.batch} slices of {size} x {size} at width "
            f"{config.width:g}",
            "use a smaller batch, size or width",
        ),
    )


def _bench(
    config: TrainingConfig, classes: int, size: int, device: str, seconds: float, report: Callable[[str], None]
) -> Bench:
    report("one small step, for the estimate")
    estimate = measure(config, classes, size, device)
    fabric = make_fabric(device, config.precision)
    model = Model.create(classes, config, fabric.device)
    shape = (config.batch, 1, size, size)
    source, target = (torch.rand(shape, device=fabric.device) * 2 - 1 for _ in range(2))
    labels = torch.randint(0, classes, (config.batch, size, size), dtype=torch.uint8, device=fabric.device)

    def step() -> float:
        started = time.perf_counter()
        with fabric.autocast():
            model.iteration.step(Batch(source, labels, target))
        wait(fabric.device)
        return time.perf_counter() - started

    report(f"iterations of {config.batch} slices of {size} x {size}")
    step()
    if fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(fabric.device)
    times = [step()]
    while sum(times) < seconds and len(times) < _MOST_STEPS:
        times.append(step())
    peak = torch.cuda.max_memory_reserved(fabric.device) if fabric.device.type == "cuda" else None
    report("segmentation")
    where, slices = _segmentation_speed(model, size)
    return Bench(describe_device(fabric.device.type), len(times), median(times), peak, estimate, where, slices)


def _segmentation_speed(model: Model, size: int) -> tuple[str, float]:
    """Return the device of ONNX Runtime and the slices per second of the exported networks, best of three batches."""
    networks = model.networks.cpu().eval()
    give_back_memory()
    example = torch.rand(2, 1, size, size) * 2 - 1
    exported = to_onnx(fold_batch_norm(networks.segmentation_network()), example)
    session = start_session(exported, "auto")
    slices = np.random.default_rng(0).uniform(-1, 1, (BATCH, 1, size, size)).astype(np.float32)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        session.run(None, {"slices": slices})
        times.append(time.perf_counter() - started)
    return device_of(session), BATCH / min(times[1:])
