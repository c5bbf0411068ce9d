"""Preview strips: one PNG that shows what the networks make of a slice of each domain.

First row: source, target-like, reconstructed, and the source's labels. Second row: target, source-like, reconstructed,
and the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from SIFASegmentationLib.files import write_atomically

from .iteration import Batch
from .networks import Networks

Color = tuple[int, int, int]


@torch.no_grad()
def draw_preview(networks: Networks, batch: Batch, colors: Sequence[Color], *, translates: bool) -> NDArray[np.uint8]:
    """Draw a strip of the batch's first slice of each domain.

    Args:
        networks: All networks. They are used in evaluation mode; their mode is restored afterwards.
        batch: At least one slice of each domain.
        colors: RGB colours (0 to 255) of the structures 1, 2, ...
        translates: Whether the method trains G_t and U; if not, columns 2 and 3 are left out.

    Returns:
        RGB image (2 H, 4 W, 3), or (2 H, 2 W, 3) without translation.
    """
    was_training = networks.training
    networks.eval()
    try:
        if not translates:
            rows = [
                [_gray(batch.source), _overlay(batch.source, batch.labels, colors)],
                [_gray(batch.target), _overlay(batch.target, _predicted(networks, batch.target), colors)],
            ]
        else:
            target_like = networks.generator(batch.source)
            source_cycle = networks.decoder(networks.encoder(target_like)[0], target_like)
            features, _ = networks.encoder(batch.target)
            source_like = networks.decoder(features, batch.target)
            target_cycle = networks.generator(source_like)
            predicted = networks.classifier(features).argmax(1)
            rows = [
                [*map(_gray, (batch.source, target_like, source_cycle)), _overlay(batch.source, batch.labels, colors)],
                [*map(_gray, (batch.target, source_like, target_cycle)), _overlay(batch.target, predicted, colors)],
            ]
    finally:
        networks.train(was_training)
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def write_preview(path: Path, strip: NDArray[np.uint8]) -> None:
    """Write a strip as PNG; make the folder if needed."""
    path.parent.mkdir(exist_ok=True)
    with write_atomically(path) as partial:
        Image.fromarray(strip).save(partial)


def _predicted(networks: Networks, slices: Tensor) -> Tensor:
    features, _ = networks.encoder(slices)
    logits: Tensor = networks.classifier(features)
    return logits.argmax(1)


def _gray(slices: Tensor) -> NDArray[np.uint8]:
    """Return the first of slices (B, 1, H, W) in [-1, 1] as an image (H, W, 3)."""
    values = ((slices[0, 0].float().cpu().numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return np.repeat(values[:, :, np.newaxis], 3, axis=2)


def _overlay(slices: Tensor, labels: Tensor, colors: Sequence[Color]) -> NDArray[np.uint8]:
    """Return the first slice with its labels (B, H, W), half transparent, as an image (H, W, 3)."""
    image = _gray(slices)
    palette = np.array([(0, 0, 0), *colors], np.float32)
    values = labels[0].cpu().numpy()
    mixed = 0.5 * image + 0.5 * palette[values]
    return np.where(values[:, :, np.newaxis] > 0, mixed.round().astype(np.uint8), image)
