"""Random transforms of batches of slices, on the training device.

The parameters are drawn on the host, for the slices of all processes together, and each process takes its share: with
a given seed, the networks see the same slices however many processes train.
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
    """Parameters of the intensity changes of n slices.

    Attributes:
        gamma: (n,), exponent for intensities on the scale [0, 1].
        contrast: (n,), factor about mid-grey.
        brightness: (n,), offset for intensities on the scale [-1, 1].
        noise: (n,), standard deviation of the noise on the scale [-1, 1].
    """

    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    noise: Tensor

    def share(self, start: int, stop: int, device: torch.device) -> IntensityChanges:
        """Return the parameters of slices `start` to `stop` (exclusive), on a device."""
        parts = (self.gamma, self.contrast, self.brightness, self.noise)
        return IntensityChanges(*(moved(part[start:stop], device) for part in parts))


def draw_affine(count: int, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Draw affine maps (n, 2, 3) for `count` slices, each parameter uniform in its range.

    Each maps an output position to an input position; both are (x, y) in [-1, 1] over the slice.
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
    """Draw the intensity changes of `count` slices, each parameter uniform in its range (gamma: its logarithm)."""
    return IntensityChanges(
        gamma=_uniform(settings.gamma, count, generator).exp(),
        contrast=1 + _uniform(settings.contrast, count, generator),
        brightness=_uniform(settings.brightness, count, generator),
        noise=settings.noise * torch.rand(count, generator=generator),
    )


def _uniform(limit: float, count: int, generator: torch.Generator) -> Tensor:
    return limit * (2 * torch.rand(count, generator=generator) - 1)


def sampling_grid(affine: Tensor, shape: torch.Size) -> Tensor:
    """Return the input position (n, H, W, 2) of each output pixel of slices (n, 1, H, W), and of their labels."""
    return functional.affine_grid(affine, list(shape), align_corners=False)


def warp_slices(slices: Tensor, grid: Tensor) -> Tensor:
    """Resample slices (n, 1, H, W) in [-1, 1] linearly; beyond the border is air, -1."""
    return functional.grid_sample(slices + 1, grid, mode="bilinear", align_corners=False) - 1


def warp_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Resample labels (n, H, W) by nearest neighbour; beyond the border is background, 0."""
    warped = functional.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return warped[:, 0].to(labels.dtype)


def change_intensities(slices: Tensor, changes: IntensityChanges, noise: Tensor) -> Tensor:
    """Apply gamma, contrast, brightness and noise to slices, and clip the result to [-1, 1].

    Args:
        slices: (n, 1, H, W) in [-1, 1].
        changes: Parameters for each of the n slices.
        noise: Standard normal values in the shape of the slices.
    """

    def each(parameter: Tensor) -> Tensor:
        return parameter[:, None, None, None]

    bent = 2 * ((slices + 1) / 2).clamp(0, 1) ** each(changes.gamma) - 1
    changed = bent * each(changes.contrast) + each(changes.brightness) + noise * each(changes.noise)
    return changed.clamp(-1, 1)
