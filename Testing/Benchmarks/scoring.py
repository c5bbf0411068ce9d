"""Scores of real labelmaps compared with medpy, MONAI and surface-distance: differences in value, and speed.

    python Testing/Benchmarks/scoring.py LABELMAP ... --large > scoring.md

Each labelmap is a reference; its prediction is the same labelmap, moved and with a ragged surface. `--large` adds a
synthetic abdomen of 512 x 512 x 300 voxels. Every library scores the same boolean arrays on one thread.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medpy.metric import binary as medpy
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_dice import compute_surface_dice
from monai.metrics.surface_distance import compute_average_surface_distance
from numpy.typing import NDArray
from scipy import ndimage
from stretching import stretched

from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.metrics import Mask, score_labelmaps, surface_distances
from SIFASegmentationLib.phantoms import make_patient
from SIFASegmentationLib.scores import Scores
from SIFASegmentationLib.volumes import Volume

Spacing = tuple[float, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelmaps", nargs="*", type=Path)
    parser.add_argument("--large", action="store_true", help="Also a synthetic one of 512 x 512 x 300 voxels.")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print("# Scores of real labelmaps against other libraries\n")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("medpy", "monai", "surface-distance", "scipy"))
    print(f"Made by `Testing/Benchmarks/scoring.py LABELMAP ... --large`, {date.today()}, {platform.machine()}, one")
    print(f"thread; {libraries}.")
    print("Differences are the largest over the structures: relative for medpy and for MONAI's HD95 (the larger of the")
    print("two directed percentiles, ours computed likewise), absolute for surface Dice (MONAI counts voxels as we do;")
    print("surface-distance weighs by area). Times are of all structures of a labelmap together.\n")
    print("| labelmap | size | Dice, ASD, HD95 to medpy | HD95 to MONAI | surface Dice to MONAI | to surface-distance "
          "| ours, s | medpy / ours | MONAI / ours |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for path in arguments.labelmaps:
        print(row(path.name, read_volume(path)), flush=True)
    if arguments.large:
        print(row("synthetic abdomen", large_labelmap()), flush=True)


def large_labelmap() -> Volume:
    """Return the labels of a synthetic abdomen, 512 x 512 x 300 voxels."""
    _, labels = make_patient("abdomen", "ct", 0, size=512)
    return stretched(labels, (300, 512, 512))


def row(name: str, volume: Volume) -> str:
    """Score one labelmap and return its line of the table."""
    reference = volume.array.astype(np.uint8)
    i, j, k = volume.geometry.spacing
    spacing = (k, j, i)
    prediction = disturbed(reference, seed=len(name))
    values = [int(value) for value in np.unique(reference) if value]
    ours, seconds = timed(lambda: score_labelmaps(prediction, reference, spacing, values))
    masks = {value: (prediction == value, reference == value) for value in values}
    theirs, medpy_seconds = timed(lambda: {value: by_medpy(*masks[value], spacing) for value in values})
    monai, monai_seconds = timed(lambda: {value: by_monai(*masks[value], spacing) for value in values})
    to_medpy = max(relative(ours[v], theirs[v]) for v in values)
    to_monai = max(abs(max(directed_hd95(*masks[v], spacing)) / monai[v][0] - 1) for v in values)
    surface_dice = max(abs(ours[v].surface_dice - monai[v][1]) for v in values)
    area = max(abs(ours[v].surface_dice - by_surface_distance(*masks[v], spacing)) for v in values)
    size = " x ".join(map(str, volume.geometry.size))
    return (
        f"| {name} | {size} | {to_medpy:.0e} | {to_monai:.0e} | {surface_dice:.0e} | {area:.3f} | {seconds:.2f} | "
        f"{medpy_seconds / seconds:.0f} | {monai_seconds / seconds:.1f} |"
    )


def disturbed(labels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Disturb a labelmap to look like a network's: moved by a voxel or two, with ragged surfaces."""
    rng = np.random.default_rng(seed)
    field = [ndimage.gaussian_filter(rng.normal(size=labels.shape), (1, 4, 4)) for _ in range(3)]
    moved = [grid + 2.0 * f / f.std() for grid, f in zip(np.indices(labels.shape, np.float32), field, strict=True)]
    moved[1] += 2
    result: NDArray[np.uint8] = ndimage.map_coordinates(labels, moved, order=0, mode="nearest")
    return result


def by_medpy(prediction: Mask, reference: Mask, spacing: Spacing) -> tuple[float, float, float]:
    """Return Dice, ASD and HD95 of medpy."""
    return (
        float(medpy.dc(prediction, reference)),
        float(medpy.assd(prediction, reference, spacing)),
        float(medpy.hd95(prediction, reference, spacing)),
    )


def by_monai(prediction: Mask, reference: Mask, spacing: Spacing) -> tuple[float, float]:
    """Return HD95 and surface Dice of MONAI; Dice and ASD are computed too, so that times are for the same scores."""
    tensors = torch.from_numpy(prediction)[None, None], torch.from_numpy(reference)[None, None]
    settings: dict[str, Any] = {"include_background": True, "spacing": list(spacing)}
    compute_dice(*tensors)
    compute_average_surface_distance(*tensors, symmetric=True, **settings)
    hd95 = compute_hausdorff_distance(*tensors, percentile=95, **settings)
    return float(hd95), float(compute_surface_dice(*tensors, [2.0], **settings))


def by_surface_distance(prediction: Mask, reference: Mask, spacing: Spacing) -> float:
    """Return the surface Dice at 2 mm of surface-distance."""
    import surface_distance  # noqa: PLC0415  imports with a warning that is filtered by now

    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return float(surface_distance.compute_surface_dice_at_tolerance(distances, 2.0))


def directed_hd95(prediction: Mask, reference: Mask, spacing: Spacing) -> list[float]:
    """Return the 95th percentiles of our distances in either direction, in mm."""
    return [float(np.percentile(some, 95)) for some in surface_distances(prediction, reference, spacing)]


def relative(ours: Scores, theirs: tuple[float, float, float]) -> float:
    """Return the largest relative difference of Dice, ASD and HD95."""
    pairs = zip((ours.dice, ours.asd, ours.hd95), theirs, strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of `work` and the seconds it took."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


if __name__ == "__main__":
    main()
