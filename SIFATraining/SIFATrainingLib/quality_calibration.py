"""Fit how the Dice expected from a model's probabilities relates to the true Dice, on the labelled source.

The source's slices are translated to the target's appearance, as the model saw them in training, and corrupted, so that
the model is good on some and bad on others (`corruptions.py`). The expected and true Dice of each structure in each
volume give the calibration. Everything is done as when a volume is segmented, but on the networks' grid, since a
prepared data set does not contain the volume's own, finer grid. So where a volume's intensities help a lot, estimates
tend to be too low rather than too high.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from SIFASegmentationLib.calibration import CalibrationCase, QualityCalibration, fit_calibration
from SIFASegmentationLib.quality import ExpectedDice
from SIFASegmentationLib.segmentation_options import Domain
from SIFASegmentationLib.structures import Task

from .batches import as_slices
from .corruptions import corrupted
from .dataset import PreparedDataset
from .steps import Report, Step, say_nothing
from .volume_samples import sample_volumes
from .whole_volumes import as_segmented, grid_spacing

_STRENGTHS = (0.0, 0.3, 0.6, 1.0)


@torch.no_grad()
def calibrate_quality(
    segmentor: nn.Module,
    dataset: PreparedDataset,
    labelled: Domain,
    generator: nn.Module | None,
    device: torch.device | None = None,
    report: Report = say_nothing,
) -> QualityCalibration | None:
    """Calibrate the expected Dice by the true Dice on the labelled volumes.

    Args:
        segmentor: Maps slices (b, 1, H, W) to class probabilities (b, K, H, W); in `eval` mode, on `device`.
        dataset: Prepared data set with labels of the domain `labelled`.
        labelled: Domain whose labels the training used.
        generator: G_t, which translates slices to the target's appearance, on `device`; None if the model was not
            trained on translated slices.
        device: Device to compute on; the CPU unless given.
        report: Called before each volume.

    Returns:
        The calibration; None if no structure is labelled or found in any of the sampled slices.
    """
    slices, labels = dataset.slices(labelled), dataset.labels(labelled)
    samples = sample_volumes(dataset.entry(labelled).volumes)
    task, spacing = dataset.manifest.task, grid_spacing(dataset.entry(labelled).preprocessing)
    known: list[CalibrationCase] = []
    for number, parts in enumerate(samples):
        report(Step(number, len(samples), f"calibrating the estimates, volume {number + 1} of {len(samples)}"))
        given = [as_slices(torch.from_numpy(np.array(slices[part]))).to(device) for part in parts]
        drawn = given if generator is None else [generator(some) for some in given]
        labelled_as = [torch.from_numpy(np.array(labels[part])).to(device) for part in parts]
        truth = labels[np.concatenate(parts)]
        # The kinds of corruption take turns from volume to volume; each volume is corrupted with every strength.
        for strength in _STRENGTHS:
            shown = _corrupted(drawn, labelled_as, number, strength)
            seen = shown if generator is None else _corrupted(given, labelled_as, number, strength)
            probabilities = np.concatenate([segmentor(one).cpu().numpy() for one in shown])
            # Not the slices that G_t draws: they are smoother than any scan, so their intensities would say less.
            images = np.concatenate([one[:, 0].cpu().numpy() for one in seen])
            found, decided = as_segmented(probabilities, images, spacing, task.parts)
            known += _cases(number, decided, found, truth, task)
    return fit_calibration(known, len(samples) * len(_STRENGTHS)) if known else None


def _cases(
    number: int, decided: NDArray[np.float32], found: NDArray[np.uint8], truth: NDArray[np.uint8], task: Task
) -> Iterator[CalibrationCase]:
    """Yield the expected and true Dice of each structure that is found or labelled in a volume.

    Args:
        number: Number of the volume.
        decided: Class probabilities (n, K, H, W) from `as_segmented`.
        found: Labels (n, H, W) from `as_segmented`.
        truth: True labels (n, H, W).
        task: Task of the labels.
    """
    expected = _expected_dice(decided)
    overlap, predicted, true = _counts(found, truth, decided.shape[1])
    for structure in task.structures:
        value = structure.value
        if size := predicted[value] + true[value]:
            dice = float(2 * overlap[value] / size)
            yield CalibrationCase(structure.name, number, float(expected[value - 1]), dice)


def _expected_dice(decided: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the structures' expected Dice (K - 1,), from probabilities (n, K, H, W) corrected by intensities."""
    gathered = ExpectedDice(decided.shape[1])
    gathered.add(decided, decided.argmax(1))
    return gathered.of_structures()


def _corrupted(batches: list[Tensor], labels: list[Tensor], kind: int, strength: float) -> list[Tensor]:
    """Corrupt all batches of slices in the same way; see `corrupted`."""
    return [corrupted(one, own, kind, strength) for one, own in zip(batches, labels, strict=True)]


def _counts(predicted: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int) -> NDArray[np.float64]:
    """Count the pixels of each class: in both labelmaps, in the prediction, and in the labels; (3, K)."""
    both = predicted[predicted == labels]
    parts = (both, predicted, labels)
    return np.stack([np.bincount(part.ravel(), minlength=classes).astype(np.float64) for part in parts])
