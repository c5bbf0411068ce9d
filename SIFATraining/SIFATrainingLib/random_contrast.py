"""Slices of unchanged anatomy in random contrasts, so that the segmentor learns to rely on shapes.

Beyond the paper. A shallow network with random weights, drawn anew for every slice, changes intensities and textures
but leaves borders in place: Xu et al., "Robust and generalizable visual representation learning via random
convolutions", ICLR 2021. The non-linearities and the mixing with the original are those of Ouyang et al.,
"Causality-inspired single-source domain generalization for medical image segmentation", IEEE TMI 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .config import TrainingConfig
from .iteration import Losses
from .networks import Networks
from .supervision import supervise

_LAYERS, _CHANNELS, _KERNELS = 4, 2, (1, 3)
_SLOPE = 0.1
_LEAST_SPAN = 1e-5
"""Least range of intensities to divide by, on the scale [-1, 1], so that a constant slice stays as it is."""


@torch.no_grad()
def in_random_contrast(slices: Tensor) -> Tensor:
    """Give each slice a random contrast, but keep its least and greatest intensity.

    Each slice is mixed with the output of a random network for it, with a share that is uniform in [0, 1]. Random
    numbers come from torch's global generators.

    Args:
        slices: (n, 1, H, W) in [-1, 1].

    Returns:
        Slices of the same shape, in float32 (float64 for float64), contiguous in channels-last order.
    """
    count, _, height, width = slices.shape
    device = slices.device
    original = slices.to(torch.promote_types(slices.dtype, torch.float32))
    made = original.reshape(1, count, height, width)
    channels = 1
    # Each slice is one group of a grouped convolution, and so has its own weights.
    with torch.autocast(device.type, enabled=False):
        for layer in range(_LAYERS):
            last = layer == _LAYERS - 1
            size = _KERNELS[int(torch.randint(len(_KERNELS), ()))]
            following = 1 if last else _CHANNELS
            weight = torch.randn(count * following, channels, size, size, device=device).to(original)
            bias = torch.randn(count * following, device=device).to(original)
            bordered = functional.pad(made, [size // 2] * 4, mode="replicate")
            made = functional.conv2d(bordered, weight, bias, groups=count)
            if not last:
                made = functional.leaky_relu(made, _SLOPE)
            channels = following
    share = torch.rand(count, 1, 1, 1, device=device).to(original)
    mixed = torch.lerp(original, _spanning(made.reshape(original.shape), original.new_tensor((-1.0, 1.0))), share)
    span = torch.stack([original.amin((1, 2, 3), keepdim=True), original.amax((1, 2, 3), keepdim=True)])
    return _spanning(mixed, span).contiguous(memory_format=torch.channels_last)


def loss_in_random_contrast(
    networks: Networks, config: TrainingConfig, choices: Sequence[Tensor], labels: Tensor
) -> tuple[Tensor, Losses]:
    """Segmentation loss of slices in random contrasts.

    Args:
        networks: E, C1 and C2 are used; E's running statistics are not updated.
        config: Provides `loss_weights` and `probability_floor`.
        choices: Batches (B, 1, H, W) of the same anatomy, such as x_s and x_st; each slice comes from a random one.
        labels: Labels (B, H, W) that all of them share.

    Returns:
        The weighted loss, and the unweighted loss of C1 by name; 0 and no names if the weight is 0.
    """
    weight = config.loss_weights.random_contrast
    if weight == 0:
        return torch.zeros((), device=labels.device), {}
    count, device = len(labels), labels.device
    taken = torch.randint(len(choices), (count,), device=device)
    offered = torch.stack([choice.detach().to(choices[0].dtype) for choice in choices])
    slices = offered[taken, torch.arange(count, device=device)]
    loss, segmentation, _ = supervise(networks, config, networks.encoder(in_random_contrast(slices)), labels)
    return weight * loss, {"random_contrast": segmentation.detach()}


def _spanning(slices: Tensor, span: Tensor) -> Tensor:
    """Rescale each of slices (n, 1, H, W) linearly, so that its least and greatest value become those of `span`."""
    least, greatest = slices.amin((1, 2, 3), keepdim=True), slices.amax((1, 2, 3), keepdim=True)
    return span[0] + (slices - least) / (greatest - least).clamp_min(_LEAST_SPAN) * (span[1] - span[0])
