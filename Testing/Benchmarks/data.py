"""The cost of feeding the networks: host memory, share of an iteration, and streaming from disk.

    python Testing/Benchmarks/data.py --out DIR > data.md                                   # CPU
    python Testing/Benchmarks/data.py --out DIR --device cuda --width 1 --batch 8 > data_cuda.md

Forty synthetic volumes of 512 x 512 x 100 voxels (copies of four, which makes no difference here) go through `sifa
prepare` and `sifa train` in separate processes, whose peak resident memory is recorded. Then iterations are timed in
this process, with all slices on the device and with a budget for a tenth of them, in alternating rounds.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import torch
from peak_memory import peak_gigabytes
from stretching import stretched

from SIFASegmentationLib.image_files import write_volume
from SIFASegmentationLib.phantoms import make_patient
from SIFATrainingLib.batches import BatchSource
from SIFATrainingLib.config import make_config
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.devices import describe_device, make_fabric
from SIFATrainingLib.estimate import wait
from SIFATrainingLib.model import Model

VOLUMES = 20  # Number per domain.
VOXELS = (100, 512, 512)
DRAWN = 2  # Number of different volumes per domain.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Some 6 GB; made, and removed at the end.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=5, help="Of a round.")
    arguments = parser.parse_args()
    out: Path = arguments.out
    print("# What feeding the networks costs\n")
    print(f"Made by `python Testing/Benchmarks/data.py {' '.join(sys.argv[1:])}`, {date.today()}, "
          f"{describe_device(arguments.device)}, {platform.machine()}, torch {torch.__version__}. "
          f"{2 * VOLUMES} volumes of {' x '.join(map(str, VOXELS[::-1]))} voxels, grid 256 x 256.\n")  # fmt: skip
    draw(out)
    files = ["--source", str(out / "mr"), "--target", str(out / "ct"), "--target-window=-150,300"]
    prepared = peak_gigabytes("prepare", *files, "--out", str(out / "prepared"))
    settings = ["--width", str(arguments.width), "--batch", str(arguments.batch), "--device", arguments.device]
    trained = peak_gigabytes("train", str(out / "prepared"), "--out", str(out / "job"), "--iterations", "5", *settings)
    dataset = PreparedDataset(out / "prepared")
    slices = len(dataset.slices("source")) + len(dataset.slices("target"))
    size = sum(path.stat().st_size for path in (out / "prepared").iterdir()) / 1e9
    print("| what | measured |\n|---|---|")
    print(f"| slices prepared, and their size on disk | {slices:,}, {size:.2f} GB |")
    print(f"| peak memory of `sifa prepare` | {prepared:.1f} GB |")
    print(f"| peak memory of `sifa train`, width {arguments.width:g}, batch {arguments.batch} | {trained:.1f} GB |")
    for line in time_batches(arguments, dataset):
        print(line)
    shutil.rmtree(out)


def draw(out: Path) -> None:
    """Write the volumes, and the labels of those of the source."""
    for modality in ("mr", "ct"):
        for seed in range(DRAWN):
            image, label = make_patient("abdomen", modality, seed, size=256)
            parts = [(image, "image"), *([(label, "label")] if modality == "mr" else [])]
            for volume, kind in parts:
                first = out / modality / f"{modality}_{seed:02}_{kind}.nii.gz"
                write_volume(stretched(volume, VOXELS), first)
                for copy in range(seed + DRAWN, VOLUMES, DRAWN):
                    shutil.copyfile(first, first.with_name(f"{modality}_{copy:02}_{kind}.nii.gz"))


def time_batches(arguments: argparse.Namespace, dataset: PreparedDataset) -> list[str]:
    """Time iterations and return the lines of the table about them."""
    config = make_config(width=arguments.width, batch=arguments.batch)
    fabric = make_fabric(arguments.device, config.precision)
    model = Model.create(dataset.classes, config, fabric.device)
    stored = sum(dataset.slices(domain).nbytes for domain in ("source", "target")) + dataset.labels("source").nbytes

    def source(budget: float) -> BatchSource:
        return BatchSource(
            dataset, "source", config.augmentation, batch=config.batch, seed=0, device=fabric.device,
            budget_bytes=budget,
        )  # fmt: skip

    def seconds(batches: BatchSource, first: int, *, steps: bool) -> float:
        wait(fabric.device)
        started = time.perf_counter()
        for iteration in range(first, first + arguments.iterations):
            batch = batches.batch(iteration)
            if steps:
                with fabric.autocast():
                    model.iteration.step(batch)
        wait(fabric.device)
        return (time.perf_counter() - started) / arguments.iterations

    resident, streamed = source(float("inf")), source(stored / 10)
    seconds(resident, 0, steps=True)
    rounds: dict[str, list[float]] = {"batch": [], "resident": [], "streamed": []}
    for number in range(arguments.rounds):
        first = number * arguments.iterations
        rounds["batch"].append(seconds(resident, first, steps=False))
        rounds["resident"].append(seconds(resident, first, steps=True))
        rounds["streamed"].append(seconds(streamed, first, steps=True))
    batch, alone, disk = (statistics.median(rounds[name]) for name in ("batch", "resident", "streamed"))
    return [
        f"| an iteration, slices on the device | {alone:.3f} s |",
        f"| of which fetching and augmenting the slices | {1000 * batch:.1f} ms, {100 * batch / alone:.1f} % |",
        f"| an iteration, slices streamed (the budget holds a tenth of them) | {disk:.3f} s, "
        f"{100 * (disk / alone - 1):+.1f} % |",
    ]


if __name__ == "__main__":
    main()
