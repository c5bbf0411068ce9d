"""Segmentation by the product compared with a plain loop in torch, side by side in one run.

    python Testing/Benchmarks/segmentation.py > segmentation.md
    python Testing/Benchmarks/segmentation.py --large >> segmentation.md                      # memory
    python Testing/Benchmarks/segmentation.py --device cuda --whole > segmentation_cuda.md

The loop is what one would write first: the networks as trained, in float32, one slice of the whole grid at a time,
with the same processing before and after. The networks have full width and random weights, the volume is a synthetic
CT of 256 x 256 x 100 voxels.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnxruntime
import torch
from peak_memory import peak_gigabytes
from stretching import stretched

from SIFASegmentationLib import __version__, segmentation
from SIFASegmentationLib.bundle import (
    MODEL_FILE,
    BundleManifest,
    TrainingSummary,
    Verification,
    manifest_json,
    read_bundle,
)
from SIFASegmentationLib.bundle_files import MANIFEST_FILE
from SIFASegmentationLib.files import sha256
from SIFASegmentationLib.image_files import write_volume
from SIFASegmentationLib.phantoms import make_patient
from SIFASegmentationLib.preprocessing import Preprocessing, prepare_volume
from SIFASegmentationLib.segmentation import Segmentor
from SIFASegmentationLib.structures import load_task
from SIFASegmentationLib.volumes import Volume
from SIFASegmentationLib.winograd import FastModel
from SIFATrainingLib.devices import describe_device
from SIFATrainingLib.networks import Classifier, Encoder, SegmentationNetwork
from SIFATrainingLib.onnx_model import fold_batch_norm, largest_difference, to_onnx

TASK = load_task("abdomen")
SIZE, SPACING, SLICES = 256, 1.6, 100
FIRST_SLICE = """
import sys, time
started = float(sys.argv[3])
from SIFASegmentationLib.segment_files import Callbacks, segment_files
class Done(Exception): pass
def report(name, done, total):
    print(time.time() - started)
    raise Done
try:
    segment_files(sys.argv[1], [sys.argv[2]], sys.argv[4], device=sys.argv[5], callbacks=Callbacks(on_slices=report))
except Done:
    pass
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop-slices", type=int, default=20, help="Of the plain loop, whose time is extrapolated.")
    parser.add_argument("--whole", action="store_true", help="Also the seconds of 512 x 512 x 300 voxels.")
    parser.add_argument("--large", action="store_true", help="Instead, the peak memory of 1024 x 1024 x 1000 voxels.")
    arguments = parser.parse_args()
    print("\n# Memory of segmentation\n" if arguments.large else "# Segmentation\n")
    print(f"Made by `python Testing/Benchmarks/segmentation.py {' '.join(sys.argv[1:])}`, {date.today()}, "
          f"{platform.machine()}, {describe_device(arguments.device)}, onnxruntime {onnxruntime.__version__}, torch "
          f"{torch.__version__}.\n")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if arguments.large:
            measure_memory(Path(folder))
        else:
            measure_speed(arguments, Path(folder))


def measure_speed(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure and print the table of times."""
    torch_model, bundle = make_bundle(folder / "bundle", arguments.width)
    volume = synthetic_volume()
    path = folder / "volume.nii.gz"
    write_volume(volume, path)
    segmentor = Segmentor(read_bundle(bundle), arguments.device)
    with plain_convolutions():
        direct = Segmentor(read_bundle(bundle), arguments.device)
    torch_model.to(arguments.device)
    rounds: dict[str, list[float]] = {"loop": [], "direct": [], "product": []}
    for _ in range(arguments.rounds):
        rounds["loop"].append(seconds_of_loop(torch_model, volume, segmentor, arguments))
        rounds["direct"].append(seconds_of_product(direct, volume))
        rounds["product"].append(seconds_of_product(segmentor, volume))
    best = {name: min(seconds) for name, seconds in rounds.items()}
    flop = 2 * 29.12e9 * arguments.width**2 * SLICES
    size = " x ".join(map(str, volume.geometry.size))
    print(f"A volume of {size} voxels, width {arguments.width:g}. Best of {arguments.rounds} rounds that alternate.\n")
    print("| what | seconds | times as fast as the loop | GFLOP/s of plain convolutions |\n|---|---|---|---|")
    labels = {
        "loop": f"plain loop of torch ({arguments.loop_slices} slices, scaled to {SLICES})",
        "direct": "ONNX Runtime, batches, batch norm folded",
        "product": f"the product: the same{', with the filtering of Winograd' if arguments.device == 'cpu' else ''}",
    }
    for name, label in labels.items():
        print(f"| {label} | {best[name]:.1f} | {best['loop'] / best[name]:.2f} | {flop / best[name] / 1e9:.0f} |")
    first = first_slice(bundle, path, folder, arguments.device)
    print(f"\nFrom the start of a process to its first slices (a batch of {segmentation.BATCH}): {first:.1f} s.")
    if arguments.whole:
        whole, seconds = synthetic_volume(512, 300), []
        for _ in range(arguments.rounds):
            started = time.perf_counter()
            write_volume(segmentor.segment(whole).labelmap, folder / "whole.nii.gz")
            seconds.append(time.perf_counter() - started)
        print(f"\n512 x 512 x 300 voxels resampled, predicted, resampled back and written: {min(seconds):.1f} s.")


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Within the block, sessions keep the model's own convolutions."""
    with patch.object(segmentation, "with_fast_convolutions", lambda model: FastModel(model, {})):
        yield


def make_bundle(folder: Path, width: float) -> tuple[SegmentationNetwork, Path]:
    """Make networks with random weights and their bundle; return both, the bundle as its folder."""
    torch.manual_seed(0)
    encoder = Encoder(width)
    model = SegmentationNetwork(encoder, Classifier(encoder.channels, len(TASK.structures) + 1)).eval()
    onnx = to_onnx(fold_batch_norm(model), torch.rand(2, 1, SIZE, SIZE))
    folder.mkdir()
    (folder / MODEL_FILE).write_bytes(onnx)
    preprocessing = Preprocessing(size=SIZE, spacing=SPACING)
    manifest = BundleManifest(
        name="random weights", created=datetime.now(UTC).isoformat(), sifa_version=__version__, task=TASK,
        domain="target", preprocessing={"source": preprocessing, "target": preprocessing},
        training=TrainingSummary(
            method="sifa", iterations=0, source_volumes=(), target_volumes=(), losses={}, settings={}
        ),
        verification=Verification(
            slices=1, largest_difference=largest_difference(onnx, model, torch.rand(1, 1, SIZE, SIZE))
        ),
        files={MODEL_FILE: sha256(folder / MODEL_FILE)},
    )  # fmt: skip
    (folder / MANIFEST_FILE).write_text(manifest_json(manifest), encoding="utf-8")
    return model, folder


def synthetic_volume(rows: int = SIZE, slices: int = SLICES) -> Volume:
    """Make a synthetic abdominal CT of rows x rows x slices voxels."""
    image, _ = make_patient("abdomen", "ct", 0, size=min(rows, SIZE))
    return stretched(image, (slices, rows, rows))


@torch.no_grad()
def seconds_of_loop(
    model: SegmentationNetwork, volume: Volume, segmentor: Segmentor, arguments: argparse.Namespace
) -> float:
    """Return the seconds that the plain loop takes for all slices, extrapolated from some of them."""
    prepared = prepare_volume(volume, segmentor.manifest.preprocessing["target"])
    labels, view = prepared.placement.canvas(np.uint8)
    started = time.perf_counter()
    for index in range(arguments.loop_slices):
        slices = torch.from_numpy(prepared.batch(index, index + 1))[:, None].to(arguments.device)
        probabilities = model(slices).cpu().numpy()
        view[index : index + 1] = prepared.placement.restore_probabilities(probabilities).argmax(1)
    assert labels.shape == volume.array.shape
    return (time.perf_counter() - started) / arguments.loop_slices * len(prepared)


def seconds_of_product(segmentor: Segmentor, volume: Volume) -> float:
    """Return the seconds that the product takes for a volume."""
    started = time.perf_counter()
    segmentor.segment(volume)
    return time.perf_counter() - started


def first_slice(bundle: Path, volume: Path, folder: Path, device: str) -> float:
    """Return the seconds from the start of a process until it has segmented its first slices."""
    command = [sys.executable, "-c", FIRST_SLICE, str(bundle), str(volume), repr(time.time()), str(folder / "out")]
    done = subprocess.run([*command, device], check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure_memory(folder: Path) -> None:
    """Measure and print the peak memory of `sifa segment` on a large volume, with a model of an eighth of the width."""
    _, bundle = make_bundle(folder / "narrow", 0.125)
    path = folder / "large.nii.gz"
    write_volume(synthetic_volume(1024, 1000), path)
    peak = peak_gigabytes("segment", str(bundle), str(path), "--out", str(folder / "out"), "--device", "cpu")
    print(f"Of a process that segments 1024 x 1024 x 1000 voxels of int16, from file to file: {peak:.1f} GB at most.")


if __name__ == "__main__":
    main()
