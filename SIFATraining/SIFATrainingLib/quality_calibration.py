"""What a model's own probabilities say about its Dice, found on volumes whose labels are known: the source's.

The source's slices are drawn in the target's look, as the model saw them in training, and damaged, so that the model
is good on some and bad on others; expected and true Dice of each structure in each volume give the calibration.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from SIFASegmentationLib.calibration import QualityCalibration, fit_calibration
from SIFASegmentationLib.quality import ExpectedDice

from .batches import as_slices
from .dataset import DomainName, PreparedDataset, VolumeEntry
from .steps import Report, Step, say_nothing

_MOST_VOLUMES = 24
_MOST_SLICES = 16  # Of each, spread over it.
_BATCH = 8
_STRENGTHS = (0.0, 0.3, 0.6, 1.0)
_LEVELS = 8  # Of a random map of intensities, linear in between.


@torch.no_grad()
def calibrate_quality(
    segmentor: nn.Module,
    dataset: PreparedDataset,
    labelled: DomainName,
    generator: nn.Module | None,
    device: torch.device | None = None,
    report: Report = say_nothing,
) -> QualityCalibration:
    """Expected against true Dice on the labelled volumes.

    Args:
        segmentor: Slices (b, 1, H, W) to probabilities, in `eval`, on `device`.
        dataset: With the labels of the domain `labelled`.
        labelled: Whose labels the training had.
        generator: G_t, which draws them in the target's look, on `device`; None where the model has not seen that.
        device: The CPU unless given.
        report: Told of each volume.
    """
    slices, labels = dataset.slices(labelled), dataset.labels(labelled)
    volumes = dataset.entry(labelled).volumes
    chosen = np.unique(np.linspace(0, len(volumes) - 1, min(_MOST_VOLUMES, len(volumes))).astype(int))
    expected: list[float] = []
    true: list[float] = []
    for number, index in enumerate(chosen):
        report(Step(number, len(chosen), f"calibrating the estimates, volume {number + 1} of {len(chosen)}"))
        parts = _parts(volumes[index])
        given = [as_slices(torch.from_numpy(np.array(slices[part]))).to(device) for part in parts]
        drawn = given if generator is None else [generator(some) for some in given]
        # A damage for each volume in turn, and each in another strength.
        for strength in _STRENGTHS:
            gathered, counts = ExpectedDice(dataset.classes), np.zeros((3, dataset.classes))
            for part, shown in zip(parts, drawn, strict=True):
                probabilities = segmentor(_damaged(shown, number, strength)).cpu().numpy()
                gathered.add(probabilities)
                counts += _counts(probabilities.argmax(1), labels[part], dataset.classes)
            overlap, predicted, truth = counts[:, 1:]
            present = predicted + truth > 0
            expected += gathered.of_structures()[present].tolist()
            true += (2 * overlap[present] / (predicted + truth)[present]).tolist()
    return fit_calibration(expected, true, len(chosen) * len(_STRENGTHS))


def _parts(volume: VolumeEntry) -> list[NDArray[np.int64]]:
    """Slices of a volume, spread over it, by batches."""
    last = volume.stop - 1
    spread = np.unique(np.linspace(volume.start, last, min(_MOST_SLICES, volume.stop - volume.start)).astype(np.int64))
    return np.split(spread, range(_BATCH, len(spread), _BATCH))


def _damaged(slices: Tensor, kind: int, strength: float) -> Tensor:
    """Slices (b, 1, H, W) in [-1, 1], as they are for strength 0, hardly to be known for 1.

    Two of three kinds mix them with a random map of intensities, which need not be monotone: to the network that is a
    modality that it does not know. The others are blurred, then noisy.
    """
    if strength == 0:
        return slices
    # Of the CPU, whatever the device: the same damages everywhere.
    generator = torch.Generator().manual_seed(kind)
    shown = (slices.clamp(-1, 1) + 1) / 2
    if kind % 3:
        levels = torch.rand(_LEVELS, generator=generator).to(slices.device)
        # The darkest stays dark: it is the air around the body.
        levels[0] = 0.0
        position = shown * (_LEVELS - 1)
        below = position.floor().clamp(max=_LEVELS - 2).long()
        mapped = torch.lerp(levels[below], levels[below + 1], position - below)
        shown = torch.lerp(shown, mapped, strength)
    else:
        size = 2 * round(3 * strength) + 1
        shown = functional.avg_pool2d(shown, size, stride=1, padding=size // 2, count_include_pad=False)
        shown = shown + 0.2 * strength * torch.randn(shown.shape, generator=generator).to(slices.device)
    return 2 * shown.clamp(0, 1) - 1


def _counts(predicted: NDArray[np.int64], labels: NDArray[np.uint8], classes: int) -> NDArray[np.float64]:
    """Pixels (3, K) that are of a class in both, in the prediction, in the labels."""
    both = predicted[predicted == labels]
    parts = (both, predicted, labels)
    return np.stack([np.bincount(part.ravel(), minlength=classes).astype(np.float64) for part in parts])
