"""Random transforms of slices, in batches, on the device that trains.

The parameters of each slice are drawn on the host for the batch of all processes together, and each process takes
its share: a run with a given seed shows the networks the same slices on one process or on many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .config import AugmentationSettings, IntensityAugmentation
from .transfer import moved


@dataclass(frozen=True)
class IntensityChanges:
    """What happens to the intensities of each of n slices.

    Attributes:
        gamma: (n,), exponent on the scale [0, 1].
        contrast: (n,), factor about mid-grey.
        brightness: (n,), offset on the scale [-1, 1].
        noise: (n,), standard deviation on the scale [-1, 1].
    """

    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    noise: Tensor

    def share(self, start: int, stop: int, device: torch.device) -> IntensityChanges:
        """Those of slices `start` up to and without `stop`, on a device."""
        parts = (self.gamma, self.contrast, self.brightness, self.noise)
        return IntensityChanges(*(moved(part[start:stop], device) for part in parts))


def draw_affine(count: int, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Affine maps of `count` slices (n, 2, 3), each parameter uniform in its range.

    Each is from an output position to the input position, both in [-1, 1] (x, y) over the slice.
    """
    angle = _uniform(math.radians(settings.rotation_degrees), count, generator)
    scale = 1 + _uniform(settings.scaling, count, generator)
    shear = torch.tan(_uniform(math.radians(settings.shear_degrees), count, generator))
    # A shift of half the slice is 1 on the scale [-1, 1].
    shift = torch.stack([_uniform(2 * settings.translation, count, generator) for _ in range(2)], 1)
    cosine, sine = angle.cos(), angle.sin()
    turned = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    sheared = torch.eye(2).repeat(count, 1, 1)
    sheared[:, 0, 1] = shear
    linear = turned @ sheared / scale[:, None, None]
    return torch.cat([linear, shift[:, :, None]], 2)


def draw_intensity_changes(count: int, settings: IntensityAugmentation, generator: torch.Generator) -> IntensityChanges:
    """Changes of `count` slices, each parameter uniform in its range."""
    return IntensityChanges(
        gamma=_uniform(settings.gamma, count, generator).exp(),
        contrast=1 + _uniform(settings.contrast, count, generator),
        brightness=_uniform(settings.brightness, count, generator),
        noise=settings.noise * torch.rand(count, generator=generator),
    )


def _uniform(limit: float, count: int, generator: torch.Generator) -> Tensor:
    return limit * (2 * torch.rand(count, generator=generator) - 1)


def sampling_grid(affine: Tensor, shape: torch.Size) -> Tensor:
    """Where each output pixel of slices (n, 1, H, W) comes from: (n, H, W, 2), for slices and labels alike."""
    return functional.affine_grid(affine, list(shape), align_corners=False)


def warp_slices(slices: Tensor, grid: Tensor) -> Tensor:
    """Slices (n, 1, H, W) in [-1, 1] resampled linearly; what comes from outside is air, -1."""
    return functional.grid_sample(slices + 1, grid, mode="bilinear", align_corners=False) - 1


def warp_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Labels (n, H, W) resampled by nearest neighbour; what comes from outside is background, 0."""
    warped = functional.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return warped[:, 0].to(labels.dtype)


def change_intensities(slices: Tensor, changes: IntensityChanges, noise: Tensor) -> Tensor:
    """Gamma, contrast, brightness and noise on slices (n, 1, H, W) in [-1, 1]; the result is clipped to [-1, 1].

    Args:
        slices: The slices.
        changes: Of as many slices.
        noise: Standard normal, shape of the slices.
    """

    def each(parameter: Tensor) -> Tensor:
        return parameter[:, None, None, None]

    bent = 2 * ((slices + 1) / 2).clamp(0, 1) ** each(changes.gamma) - 1
    changed = bent * each(changes.contrast) + each(changes.brightness) + noise * each(changes.noise)
    return changed.clamp(-1, 1)
