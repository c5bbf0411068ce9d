"""A structure-preserving term for G_t, beyond the paper: edges stay where they are, whatever their contrast becomes.

Adversarial and cycle losses let G_t move an organ's border, or invent tissue that D_t likes, as long as U can undo it;
the labels of x_s are then wrong for x_st, and the segmentor learns where organs usually end, not where they do end.
The modality-independent neighbourhood descriptor (MIND; Heinrich et al., Medical Image Analysis 16, 2012) says how like
its neighbours each pixel is, on a scale of its own, and so is the same for an image and its copy in another contrast;
as a loss for CycleGAN: Yang et al., "Unpaired brain MR-to-CT synthesis using a structure-constrained CycleGAN", 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_DISTANCE = 2
"""Of the neighbours, in pixels: the borders that matter are a pixel or two wide."""
_OFFSETS = ((0, _DISTANCE), (0, -_DISTANCE), (_DISTANCE, 0), (-_DISTANCE, 0))
_PATCH = 3
_LEAST_VARIANCE = 2e-3
"""On the scale [-1, 1]: where patches differ by less, there is noise and no structure."""


def mind(images: Tensor) -> Tensor:
    """How like its four neighbours each pixel's patch is: (B, 4, H, W) in [0, 1] of images (B, 1, H, W) in [-1, 1].

    exp(-D / V), D being the mean squared difference of two patches of 3 x 3, V its mean over the neighbours.
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
    """Mean absolute difference of the descriptors of an image and of what it was made from, both (B, 1, H, W)."""
    return functional.l1_loss(mind(made), mind(original))
