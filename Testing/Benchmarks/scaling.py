"""How well several processes train together: slices per second of N processes against N times those of one.

    python Testing/Benchmarks/scaling.py > scaling.md                              # two processes of one thread each
    python Testing/Benchmarks/scaling.py --device cuda --width 1 --batch 8 --size 256 --processes 2 > scaling_cuda.md

Every process runs the product's iterations on a batch of the same size, as `torchrun -m SIFATrainingLib train` does.
Rounds of one process, of all side by side without communication, and of all together alternate: what the second
lose against the first is due to the machine (shared memory, caches, cores), what the third lose against the second to
the product.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from unittest.mock import patch

import torch
from step import CLASSES, channels_last, random_batch, seconds_of
from torch import distributed
from torch import multiprocessing as mp

from SIFATrainingLib.config import make_config
from SIFATrainingLib.devices import describe_device
from SIFATrainingLib.model import Model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4, help="Slices of each domain in every process.")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="In a round.")
    work = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, (work, folder), nprocs=work.processes)
        (alone, apart, together), messages = torch.load(Path(folder) / "measured.pt")
    print("\n".join(report(work, alone, apart, together)))
    print(f"\nIn an iteration each process sends {len(messages)} messages, {sum(messages) / 1e6:.1f} MB in all, "
          f"{sum(size < 1e5 for size in messages)} of them smaller than 0.1 MB.")  # fmt: skip


def run(rank: int, work: argparse.Namespace, folder: str) -> None:
    """Measure in one of the processes.

    The first writes the seconds of a step by round, for each of the three ways, and the sizes of its messages.
    """
    device = torch.device(work.device, rank if work.device == "cuda" else None)
    if work.device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    step = make_step(work, device)
    step()
    seconds: list[list[float]] = [[], [], []]
    for number in range(work.rounds + 1):
        waiting(folder, work, rank, f"alone_{number}")
        if rank == 0:
            seconds[0].append(seconds_of(step, work.steps, device))
        waiting(folder, work, rank, f"apart_{number}")
        seconds[1].append(seconds_of(step, work.steps, device))
        waiting(folder, work, rank, f"together_{number}")
        distributed.init_process_group(
            "nccl" if work.device == "cuda" else "gloo", init_method=f"file://{folder}/rendezvous_{number}",
            rank=rank, world_size=work.processes,
        )  # fmt: skip
        messages = messages_of(step)
        seconds[2].append(seconds_of(step, work.steps, device))
        distributed.destroy_process_group()
    if rank == 0:
        # The first round is for warming up.
        torch.save(([measured[1:] for measured in seconds], messages), Path(folder) / "measured.pt")


def messages_of(step: Callable[[], object]) -> list[int]:
    """Run a step and return the size in bytes of each message that it sends."""
    sizes: list[int] = []
    all_reduce = distributed.all_reduce

    def counted(tensor: torch.Tensor) -> None:
        sizes.append(tensor.numel() * tensor.element_size())
        all_reduce(tensor)

    with patch.object(distributed, "all_reduce", counted):
        step()
    return sizes


def waiting(folder: str, work: argparse.Namespace, rank: int, name: str) -> None:
    """Wait until all processes have called this with `name`.

    Files are used rather than a process group, since with a group the processes would train together.
    """
    (Path(folder) / f"{name}_{rank}").touch()
    while not all((Path(folder) / f"{name}_{other}").exists() for other in range(work.processes)):
        time.sleep(0.002)


def make_step(work: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    """Return a function that runs an iteration of the product on random slices."""
    config = make_config(width=work.width, batch=work.batch)
    batch = channels_last(random_batch(work, device))
    model = Model.create(CLASSES, config, device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            model.iteration.step(batch)

    return step


def report(work: argparse.Namespace, alone: list[float], apart: list[float], together: list[float]) -> list[str]:
    """Return the table as lines of Markdown."""
    one = statistics.median(alone)
    rows = [
        ("one process alone", 1, one),
        (f"{work.processes} processes, each for itself", work.processes, statistics.median(apart)),
        (f"{work.processes} processes, one training", work.processes, statistics.median(together)),
    ]
    lines = [
        "# Several processes\n",
        f"Made by `python {' '.join(['Testing/Benchmarks/scaling.py', *sys.argv[1:]])}`, {date.today()}, "
        f"{describe_device(work.device) if work.device == 'cuda' else 'cpu: one thread a process'}, "
        f"{platform.machine()}, torch {torch.__version__}.",
        f"{work.batch} slices of {work.size} x {work.size} a process, width {work.width:g}; medians of {work.rounds} "
        "rounds that alternate.\n",
        "| what | seconds of an iteration | slices a second | efficiency |",
        "|---|---|---|---|",
    ]
    for name, processes, seconds in rows:
        speed = processes * work.batch / seconds
        lines.append(f"| {name} | {seconds:.3f} | {speed:.2f} | {100 * one / seconds:.0f} % |")
    return lines


if __name__ == "__main__":
    main()
