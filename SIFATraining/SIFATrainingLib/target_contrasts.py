"""Relative brightness of a model's structures in the target's training volumes, which have no labels.

Most of these volumes are segmented well. So where the structures of a new volume differ from them, the model is
probably wrong: contrast-filled bowel mistaken for a kidney is brighter, relative to the other kidney, than any kidney.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from SIFASegmentationLib.contrasts import ContrastRanges, brightness, contrast_ranges

from .batches import as_slices
from .dataset import PreparedDataset
from .steps import Report, Step, say_nothing
from .volume_samples import sample_volumes
from .whole_volumes import as_segmented, grid_spacing


@torch.no_grad()
def measure_contrasts(
    segmentor: nn.Module,
    dataset: PreparedDataset,
    device: torch.device | None = None,
    report: Report = say_nothing,
) -> ContrastRanges:
    """Measure the usual ranges of brightness in the networks' unit, for volumes decided as `sifa segment` does.

    Args:
        segmentor: Maps slices (b, 1, H, W) to probabilities; in evaluation mode, on `device`.
        dataset: Prepared data set; its labels are not read.
        device: Device to compute on; the CPU if None.
        report: Called before each volume.
    """
    slices, entry, task = dataset.slices("target"), dataset.entry("target"), dataset.manifest.task
    spacing = grid_spacing(entry.preprocessing)
    samples = sample_volumes(entry.volumes)
    volumes = []
    for number, parts in enumerate(samples):
        report(Step(number, len(samples), f"measuring the structures, volume {number + 1} of {len(samples)}"))
        shown = [as_slices(torch.from_numpy(np.array(slices[part]))) for part in parts]
        probabilities = np.concatenate([segmentor(some.to(device)).cpu().numpy() for some in shown])
        images = torch.cat(shown)[:, 0].numpy()
        labels, _decided = as_segmented(probabilities, images, spacing, task.parts)
        volumes.append(brightness(images, labels, task))
    return contrast_ranges(volumes, task)
