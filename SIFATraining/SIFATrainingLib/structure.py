"""A structure-preserving loss for G_t, beyond the paper: edges stay in place, whatever their contrast becomes.

Adversarial and cycle losses let G_t move an organ's border, or invent tissue that D_t accepts, as long as U can undo
it. The labels of x_s are then wrong for x_st, and the segmentor learns where organs usually end, not where they do.
The modality-independent neighbourhood descriptor (MIND; Heinrich et al., Medical Image Analysis 16, 2012) measures how
similar each pixel's surroundings are to its neighbours', on a local scale, and so hardly depends on contrast. As a loss
for CycleGAN: Yang et al., "Unpaired brain MR-to-CT synthesis using a structure-constrained CycleGAN", 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_DISTANCE = 2
"""Distance of the neighbours in pixels: the borders that matter are one or two pixels wide."""
_OFFSETS = ((0, _DISTANCE), (0, -_DISTANCE), (_DISTANCE, 0), (-_DISTANCE, 0))
_PATCH = 3
_LEAST_VARIANCE = 2e-3
"""Least V in `mind`, for intensities in [-1, 1]: where patches differ by less, there is only noise."""


def mind(images: Tensor) -> Tensor:
    """Similarity of each pixel's patch to those of its four neighbours.

    It is exp(-D / V), where D is the mean squared difference of two patches of 3 x 3 pixels, and V the mean of D over
    the neighbours.

    Args:
        images: (B, 1, H, W) in [-1, 1].

    Returns:
        (B, 4, H, W) in [0, 1], in float32 (float64 for float64).
    """
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    height, width = images.shape[-2:]
    bordered = functional.pad(images, [_DISTANCE] * 4, mode="replicate")
    neighbours = torch.cat(
        [
            bordered[..., _DISTANCE + down : _DISTANCE + down + height, _DISTANCE + right : _DISTANCE + right + width]
            for down, right in _OFFSETS
        ],
        dim=1,
    )
    differences = functional.avg_pool2d(
        (neighbours - images).square(), _PATCH, stride=1, padding=_PATCH // 2, count_include_pad=False
    )
    return torch.exp(-differences / differences.mean(1, keepdim=True).clamp_min(_LEAST_VARIANCE))


def structure_loss(made: Tensor, original: Tensor) -> Tensor:
    """Mean absolute difference between the descriptors of images and of their originals, both (B, 1, H, W)."""
    return functional.l1_loss(mind(made), mind(original))
