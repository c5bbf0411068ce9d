"""Pseudo-labels of the target's slices, which a teacher, the moving average of E and C1, predicts for whole volumes.

A teacher that labels slice by slice is confident about much that the rest of the volume contradicts, such as bowel as
bright as liver, or a spleen on the right. So it segments whole volumes, as `sifa segment` does: its batch norm is
adapted to the target's slices without augmentation, each volume's intensities decide where it is uncertain
(`SIFASegmentationLib.appearance`), and only the largest part of each structure is kept, or as many as it has. E and
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

_LEAST = 0.5  # Lowest probability at which a pixel may count, unless the confidence is lower still.
_ROUNDING = 1e-6  # Rounding error of a probability that was added to the number of its class.
_THREADS = 4  # Largest number of threads; each holds the probabilities of one volume in memory.
_BYTES = 20  # Largest memory per probability, including all that is computed from it.
_MEMORY_SHARE = 0.5  # Share of the free memory for all threads together.


@dataclass(frozen=True)
class TargetLabels:
    """Labels of the target's slices, in all volumes or only the first ones.

    Attributes:
        slices: Labels (n, size, size), `IGNORED` where in doubt; meaningless in volumes that are not labelled yet.
        volumes: Number of volumes labelled so far, in the data set's order.
    """

    slices: NDArray[np.uint8]
    volumes: int


_Predicted = tuple[VolumeEntry, NDArray[np.float32], NDArray[np.float32]]
"""A volume, the teacher's class probabilities (n, K, size, size), and the slices (n, size, size) in [-1, 1]."""


@torch.no_grad()
def label_target(
    teacher: SegmentationNetwork,
    dataset: PreparedDataset,
    config: TrainingConfig,
    device: torch.device,
    begun: TargetLabels | None = None,
    must_end: Callable[[], bool] = lambda: False,
) -> TargetLabels:
    """Label the target's volumes, or the rest of them, until all are labelled or it must end.

    With several processes, each labels its share of the volumes, and all get the labels of all.

    Args:
        teacher: Moving average of E and C1; left unchanged.
        dataset: Prepared data set; of the target, only the slices are read.
        config: Every setting of the training.
        device: Device of the teacher.
        begun: Labels from an earlier call with the same teacher that had to end.
        must_end: Asked before each batch of the batch norm and each volume, equally often in all processes; must give
            all of them the same answer.

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
        # Each round has one volume per process; processes without one in the last round ask whether to end as well.
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

    # While a GPU predicts one volume, the CPU can label another, even if torch itself has only one thread.
    threads = min(_THREADS, max(torch.get_num_threads(), 1 if device.type == "cpu" else 2), _fitting(dataset))
    for volume, of_volume in in_threads(label, predictions(), threads):
        labels[volume.start : volume.stop] = of_volume
    labels = distributed.sum_of(labels, device)
    if begun is not None:
        before = slice(entry.volumes[first].start)
        labels[before] = begun.slices[before]
    return TargetLabels(labels, done)


def _fitting(dataset: PreparedDataset) -> int:
    """Return how many volumes can be labelled at a time in the free memory; at least 1."""
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
    """Label the slices of one volume.

    Args:
        probabilities: The teacher's class probabilities (n, K, H, W); overwritten.
        images: Slices (n, H, W) in [-1, 1].
        spacing: Pixel spacing of the slices, in mm.
        parts: Number of connected parts to keep of each structure, by label value.
        settings: Confidence and share, see `confident_labels`.

    Returns:
        Labels (n, H, W), `IGNORED` where in doubt.
    """
    believed, decided = as_segmented(probabilities, images, spacing, parts)
    confident = confident_labels(torch.from_numpy(decided), settings).numpy()
    labels: NDArray[np.uint8] = np.where(confident == IGNORED, np.uint8(IGNORED), believed)
    return labels


def confident_labels(probabilities: Tensor, settings: SelfTrainingSettings) -> Tensor:
    """Label the pixels that the teacher is sure of.

    A pixel counts if the probability of its class is at least `settings.confidence`, or is among the highest share
    `settings.kept` of all pixels of its class (Zou et al., "Domain adaptation for semantic segmentation via
    class-balanced self-training", ECCV 2018), so that small structures are not crowded out. This share leaves out
    probabilities below one half: in a patient without a spleen, even the surest spleen pixels must not count.

    Args:
        probabilities: The teacher's class probabilities (B, K, H, W), of a batch or of a volume.
        settings: Confidence and share.

    Returns:
        Labels (B, H, W), uint8, `IGNORED` where the teacher is not sure.
    """
    sure, labels = probabilities.max(1)
    classes = torch.arange(probabilities.shape[1], device=probabilities.device)
    # A single sort orders the pixels by class, then by probability, which is never 0. No value is copied to the host,
    # which would have to wait for it.
    ordered = (labels + sure).flatten().sort().values
    counts = (labels.flatten()[:, None] == classes).sum(0)
    first = counts.cumsum(0) - counts
    ranks = first + ((1 - settings.kept) * counts).long()
    thresholds = (ordered[ranks.clamp(max=ordered.numel() - 1)] - classes).clamp(_LEAST, settings.confidence)
    return torch.where(sure + _ROUNDING >= thresholds[labels], labels, IGNORED).to(torch.uint8)
