"""Pseudo-labels of the target's slices: what the moving average, the teacher, predicts for each volume as a whole.

A teacher that labels slice by slice is confident about much that the rest of the volume contradicts: bowel as bright
as liver, or a spleen on the right. So it segments whole volumes, as `sifa segment` does: its batch norm is adapted to
the target's slices without augmentation, each volume's intensities decide where it is uncertain
(`SIFASegmentationLib.appearance`), and of each structure only the largest part is kept, or as many as it has. E and
C1, trained on these labels, make the next ones better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from SIFASegmentationLib.pipeline import in_threads

from . import distributed
from .batches import as_slices
from .config import SelfTrainingSettings, TrainingConfig
from .dataset import PreparedDataset, VolumeEntry
from .devices import free_bytes, processes_sharing
from .losses import IGNORED
from .networks import SegmentationNetwork
from .reestimation import reestimated
from .steps import ending
from .whole_volumes import as_segmented, grid_spacing

_LEAST = 0.5  # Probability of a class that may count; the confidence, should that be lower.
_ROUNDING = 1e-6  # Of a probability that was added to a class.
_THREADS = 4  # Each with the probabilities of a volume in memory.
_BYTES = 20  # Of memory for each of these, at the most: themselves, and what is made of them.
_MEMORY_SHARE = 0.5  # Of the free memory, for all threads.


@dataclass(frozen=True)
class TargetLabels:
    """Labels of the target's slices, of all or of the first volumes.

    Attributes:
        slices: Labels (n, size, size), `IGNORED` where they are in doubt; of no meaning in volumes not labelled yet.
        volumes: How many of the target's volumes are labelled.
    """

    slices: NDArray[np.uint8]
    volumes: int


_Predicted = tuple[VolumeEntry, NDArray[np.float32], NDArray[np.float32]]
"""A volume, the teacher's probabilities (n, K, size, size) and the slices (n, size, size) themselves."""


@torch.no_grad()
def label_target(
    teacher: SegmentationNetwork,
    dataset: PreparedDataset,
    config: TrainingConfig,
    device: torch.device,
    begun: TargetLabels | None = None,
    must_end: Callable[[], bool] = lambda: False,
) -> TargetLabels:
    """Label the target's volumes, or go on with that, up to the last one or until it must end.

    Of many processes each labels its share of the volumes, and all get the labels of all.

    Args:
        teacher: The moving average; only asked.
        dataset: Its target slices are read, and nothing else of the target.
        config: Its batch and `self_training`.
        device: Of the teacher.
        begun: What the same teacher had labelled when it had to end.
        must_end: Asked before each volume, by all processes equally often; must say the same in all.

    Raises:
        EndedError: It had to end before the first volume, while the batch norm was averaged.
    """
    slices, entry = dataset.slices("target"), dataset.entry("target")
    asked = reestimated(teacher, slices, config.batch, device, report=ending(must_end)).eval()
    spacing, parts = grid_spacing(entry.preprocessing), dataset.manifest.task.parts
    labels = np.zeros(slices.shape, np.uint8)
    done = first = begun.volumes if begun is not None else 0

    def predictions() -> Iterator[_Predicted]:
        nonlocal done
        # A volume for each process at a time; one that gets none of the last asks whether to end all the same.
        while done < len(entry.volumes) and not must_end():
            mine = entry.volumes[done : done + distributed.world_size()][distributed.rank() :][:1]
            done = min(done + distributed.world_size(), len(entry.volumes))
            for volume in mine:
                images = as_slices(torch.from_numpy(np.array(slices[volume.start : volume.stop])))
                probable = torch.cat([asked(some.to(device)).cpu() for some in images.split(config.batch)])
                yield volume, probable.numpy(), images[:, 0].numpy()

    def label(predicted: _Predicted) -> tuple[VolumeEntry, NDArray[np.uint8]]:
        volume, probable, images = predicted
        return volume, label_volume(probable, images, spacing, parts, config.self_training)

    # While a GPU predicts, a volume can be decided about, whatever torch's own threads are.
    threads = min(_THREADS, max(torch.get_num_threads(), 1 if device.type == "cpu" else 2), _fitting(dataset))
    for volume, of_volume in in_threads(label, predictions(), threads):
        labels[volume.start : volume.stop] = of_volume
    labels = distributed.sum_of(labels, device)
    if begun is not None:
        before = slice(entry.volumes[first].start)
        labels[before] = begun.slices[before]
    return TargetLabels(labels, done)


def _fitting(dataset: PreparedDataset) -> int:
    """How many volumes can be decided about at a time in the memory that is free; one at least."""
    longest = max(volume.stop - volume.start for volume in dataset.entry("target").volumes)
    pixels = longest * dataset.entry("target").preprocessing.size ** 2
    cpu = torch.device("cpu")
    share = _MEMORY_SHARE * free_bytes(cpu) / processes_sharing(cpu)
    return max(1, int(share / (pixels * dataset.classes * _BYTES)))


def label_volume(
    probabilities: NDArray[np.float32],
    images: NDArray[np.float32],
    spacing: float,
    parts: Mapping[int, int],
    settings: SelfTrainingSettings,
) -> NDArray[np.uint8]:
    """Labels (n, H, W) of the slices of one volume, `IGNORED` where they are in doubt.

    Args:
        probabilities, images, spacing, parts: As of `as_segmented`; the teacher's probabilities, used up.
        settings: Confidence and share, see `confident_labels`.
    """
    believed, decided = as_segmented(probabilities, images, spacing, parts)
    confident = confident_labels(torch.from_numpy(decided), settings).numpy()
    labels: NDArray[np.uint8] = np.where(confident == IGNORED, np.uint8(IGNORED), believed)
    return labels


def confident_labels(probabilities: Tensor, settings: SelfTrainingSettings) -> Tensor:
    """Labels (B, H, W), uint8, of the pixels that the teacher is sure of, `IGNORED` elsewhere.

    A pixel counts where the probability of its class is at least `settings.confidence`, or is among the highest
    `settings.kept` of those of all pixels of its class (Zou et al., "Domain adaptation for semantic segmentation via
    class-balanced self-training", ECCV 2018), so that small structures are not crowded out. But not where it is below
    one half: a patient without a spleen has no surest half of it.

    Args:
        probabilities: The teacher's, (B, K, H, W), of a batch or of a volume.
        settings: Confidence and share.
    """
    sure, labels = probabilities.max(1)
    classes = torch.arange(probabilities.shape[1], device=probabilities.device)
    # One sort by class, then probability, which is never 0; and no number that the host would have to wait for.
    ordered = (labels + sure).flatten().sort().values
    counts = (labels.flatten()[:, None] == classes).sum(0)
    first = counts.cumsum(0) - counts
    ranks = first + ((1 - settings.kept) * counts).long()
    thresholds = (ordered[ranks.clamp(max=ordered.numel() - 1)] - classes).clamp(_LEAST, settings.confidence)
    return torch.where(sure + _ROUNDING >= thresholds[labels], labels, IGNORED).to(torch.uint8)
