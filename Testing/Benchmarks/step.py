"""A training step of the product and the authors' seven passes (`reference_step.py`), compared side by side in one run.

    python Testing/Benchmarks/step.py > step.md                                   # CPU: 128 x 128, batch 2
    python Testing/Benchmarks/step.py --device cuda --size 256 --batch 8 > step_cuda.md

Every variant computes the same losses on the same slices, with networks of the same width. Rounds of all variants
alternate, so that a slowdown of the machine affects all of them; a variant's time is its median. The arithmetic of a
step is counted by torch's formulas (`flop_registry`), and the machine's rate is measured with matrix products in the
same precision. torch's profiler tells the share of a step spent in convolutions, which do nearly all of the arithmetic.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch
from reference_step import ReferenceStep
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from SIFATrainingLib.config import TrainingConfig, make_config
from SIFATrainingLib.devices import computes_in_bfloat16, describe_device, make_fabric
from SIFATrainingLib.estimate import wait
from SIFATrainingLib.iteration import Batch
from SIFATrainingLib.model import Model
from SIFATrainingLib.networks import InstanceNorm, Networks

CLASSES = 5
MATRIX = {"cpu": 2048, "cuda": 8192}  # Rows of the square matrices used to measure the machine's rate.


@dataclass
class Variant:
    """One way to do a training step, and its measurements."""

    name: str
    precision: str
    step: Callable[[], object]
    seconds: list[float]
    flop: float = 0.0
    peak_bytes: int = 0
    convolving: float = 0.0  # Share of the time spent in convolutions.

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class FlopCounter(TorchDispatchMode):
    """Counts the operations of convolutions and matrix products, in forward and backward passes.

    torch's own `FlopCounterMode` can't be used, since its hooks on modules fail in `torch.autograd.grad`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


COURSES = (
    ("sequential", "sequential", 0.0),
    ("simultaneous", "simultaneous", 0.0),
    ("simultaneous, and random contrasts", "simultaneous", 1.0),
)
"""The product's steps: name, schedule, and weight of the segmentation in random contrasts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="In a round of a variant.")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    variants = make_variants(arguments, device)
    for variant in variants:
        print(f"warming up: {variant.name}", file=sys.stderr)
        with FlopCounter() as counter:
            variant.step()
        variant.flop = float(counter.total)
        variant.peak_bytes = peak_bytes(variant.step, device)
    for number in range(arguments.rounds):
        for variant in variants:
            variant.seconds.append(seconds_of(variant.step, arguments.steps, device))
            print(f"round {number + 1}: {variant.name}: {variant.seconds[-1]:.3f} s", file=sys.stderr)
    for variant in variants:
        variant.convolving = share_of_convolutions(variant.step, device)
    rates = {precision: matrix_rate(precision, device) for precision in dict.fromkeys(v.precision for v in variants)}
    print("\n".join(report(arguments, variants, rates)))


def make_variants(arguments: argparse.Namespace, device: torch.device) -> list[Variant]:
    """Make the reference in float32, and the product's steps in every precision that the device computes in."""
    torch.manual_seed(0)
    batch = random_batch(arguments, device)
    laid_out = channels_last(batch)
    settings = {"width": arguments.width, "batch": arguments.batch}
    plain = Networks(CLASSES, arguments.width).to(device)
    for module in plain.modules():
        if isinstance(module, InstanceNorm):
            module.__class__ = nn.InstanceNorm2d  # Torch's own, without the product's shortcut.
    reference = ReferenceStep(plain, make_config("paper", **settings))
    variants = [Variant("reference: seven passes", "float32", lambda: reference.step(batch), [])]
    for precision in ("float32", "bfloat16") if computes_in_bfloat16(device.type) else ("float32",):
        for name, schedule, weight in COURSES:
            weights = {"random_contrast": weight}
            config = make_config(schedule=schedule, precision=precision, loss_weights=weights, **settings)
            variants.append(Variant(name, precision, _product_step(config, laid_out, device), []))
    return variants


def random_batch(arguments: argparse.Namespace, device: torch.device) -> Batch:
    """Make a batch of random slices, in torch's default layout."""
    shape = (arguments.batch, 1, arguments.size, arguments.size)
    slices = [torch.rand(shape, device=device) * 2 - 1 for _ in range(2)]
    labels = torch.randint(0, CLASSES, (shape[0], *shape[2:]), dtype=torch.uint8, device=device)
    return Batch(slices[0], labels, slices[1])


def channels_last(batch: Batch) -> Batch:
    """Return the batch in channels-last order, in which the product trains."""
    source, target = (x.contiguous(memory_format=torch.channels_last) for x in (batch.source, batch.target))
    return Batch(source, batch.labels, target)


def _product_step(config: TrainingConfig, batch: Batch, device: torch.device) -> Callable[[], None]:
    model = Model.create(CLASSES, config, device)
    fabric = make_fabric(device.type, config.precision)

    def step() -> None:
        with fabric.autocast():
            model.iteration.step(batch)

    return step


def seconds_of(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Return the seconds of one step, as the mean over `steps`."""
    wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return (time.perf_counter() - started) / steps


def share_of_convolutions(step: Callable[[], object], device: torch.device) -> float:
    """Return the share of a step's time that the device spends in convolutions, forward and backward."""
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device.type == "cuda")]) as profiler:
        step()
        wait(device)
    times = {
        event.key: event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        for event in profiler.key_averages()
        if event.key.startswith("aten::")
    }
    return sum(time for key, time in times.items() if "convolution" in key) / sum(times.values())


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the peak memory of a step on the device, in bytes; 0 on a CPU, where torch does not count it."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    step()
    wait(device)
    return torch.cuda.max_memory_allocated(device)


def matrix_rate(precision: str, device: torch.device) -> float:
    """Return what the machine can do: floating-point operations per second of a product of large square matrices."""
    rows = MATRIX[device.type]
    a, b = (torch.randn(rows, rows, device=device).to(getattr(torch, precision)) for _ in range(2))
    return 2 * rows**3 / min(seconds_of(lambda: torch.mm(a, b), 1, device) for _ in range(10))


def report(arguments: argparse.Namespace, variants: list[Variant], rates: dict[str, float]) -> list[str]:
    """Return the table as lines of Markdown."""
    reference = variants[0].median
    lines = [
        "# A training step against the authors' seven passes\n",
        f"Made by `python Testing/Benchmarks/step.py {' '.join(sys.argv[1:])}`, {date.today()}, "
        f"{describe_device(arguments.device)}, {platform.machine()}, torch "
        f"{torch.__version__}.",
        f"Slices of {arguments.size} x {arguments.size}, batch {arguments.batch}, width {arguments.width:g}; medians "
        f"of {arguments.rounds} rounds.",
        f"Matrix products: {', '.join(f'{rate / 1e9:,.0f} GFLOP/s in {name}' for name, rate in rates.items())}.\n",
        "| step | precision | seconds | times as fast as the reference | GFLOP | GFLOP/s | share of the matrix rate | "
        "time in convolutions | their share of the matrix rate | memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for v in variants:
        rate = v.flop / v.median
        share = rate / rates[v.precision]
        memory = f"{v.peak_bytes / 1e9:.1f} GB" if v.peak_bytes else "-"
        lines.append(
            f"| {v.name} | {v.precision} | {v.median:.3f} | {reference / v.median:.2f} | {v.flop / 1e9:,.0f} | "
            f"{rate / 1e9:,.0f} | {100 * share:.0f} % | {100 * v.convolving:.0f} % | "
            f"{100 * share / v.convolving:.0f} % | {memory} |"
        )
    return lines


if __name__ == "__main__":
    main()
