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

from .config import AugmentationSettings


@dataclass(frozen=True)
class Transforms:
    """What happens to each of n slices.

    Attributes:
        affine: (n, 2, 3), from an output position to the input position, both in [-1, 1] (x, y) over the slice.
        gamma: (n,), exponent on the scale [0, 1].
        contrast: (n,), factor about mid-grey.
        brightness: (n,), offset on the scale [-1, 1].
        noise: (n,), standard deviation on the scale [-1, 1].
    """

    affine: Tensor
    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    noise: Tensor

    def share(self, start: int, stop: int, device: torch.device) -> Transforms:
        """Those of slices `start` up to and without `stop`, on a device."""
        parts = (self.affine, self.gamma, self.contrast, self.brightness, self.noise)
        return Transforms(*(part[start:stop].to(device) for part in parts))


def draw_transforms(count: int, settings: AugmentationSettings, generator: torch.Generator) -> Transforms:
    """Transforms of `count` slices, each parameter uniform in its range (`AugmentationSettings`)."""

    def uniform(limit: float) -> Tensor:
        return limit * (2 * torch.rand(count, generator=generator) - 1)

    angle = uniform(math.radians(settings.rotation_degrees))
    scale = 1 + uniform(settings.scaling)
    shear = torch.tan(uniform(math.radians(settings.shear_degrees)))
    # A shift of half the slice is 1 on the scale [-1, 1].
    shift = torch.stack([uniform(2 * settings.translation), uniform(2 * settings.translation)], 1)
    cosine, sine = angle.cos(), angle.sin()
    turned = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    sheared = torch.eye(2).repeat(count, 1, 1)
    sheared[:, 0, 1] = shear
    linear = turned @ sheared / scale[:, None, None]
    return Transforms(
        affine=torch.cat([linear, shift[:, :, None]], 2),
        gamma=uniform(settings.gamma).exp(),
        contrast=1 + uniform(settings.contrast),
        brightness=uniform(settings.brightness),
        noise=settings.noise * torch.rand(count, generator=generator),
    )


def sampling_grid(transforms: Transforms, shape: torch.Size) -> Tensor:
    """Where each output pixel of slices (n, 1, H, W) comes from: (n, H, W, 2), for slices and labels alike."""
    return functional.affine_grid(transforms.affine, list(shape), align_corners=False)


def warp_slices(slices: Tensor, grid: Tensor) -> Tensor:
    """Slices (n, 1, H, W) in [-1, 1] resampled linearly; what comes from outside is air, -1."""
    return functional.grid_sample(slices + 1, grid, mode="bilinear", align_corners=False) - 1


def warp_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Labels (n, H, W) resampled by nearest neighbour; what comes from outside is background, 0."""
    warped = functional.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return warped[:, 0].to(labels.dtype)


def change_intensities(slices: Tensor, transforms: Transforms, noise: Tensor) -> Tensor:
    """Gamma, contrast, brightness and noise on slices (n, 1, H, W) in [-1, 1]; the result is clipped to [-1, 1].

    Args:
        slices: The slices.
        transforms: Of as many slices.
        noise: Standard normal, shape of the slices.
    """

    def each(parameter: Tensor) -> Tensor:
        return parameter[:, None, None, None]

    bent = 2 * ((slices + 1) / 2).clamp(0, 1) ** each(transforms.gamma) - 1
    changed = bent * each(transforms.contrast) + each(transforms.brightness) + noise * each(transforms.noise)
    return changed.clamp(-1, 1)
