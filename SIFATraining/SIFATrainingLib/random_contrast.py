"""Slices of the same anatomy in contrasts that no scanner has, for segmentors that are to look at shapes.

Beyond the paper. A shallow network with random weights, new for every slice, maps intensities and textures to others
and leaves borders where they are: Xu et al., "Robust and generalizable visual representation learning via random
convolutions", ICLR 2021; with non-linearities, mixed into the original: Ouyang et al., "Causality-inspired
single-source domain generalization for medical image segmentation", IEEE TMI 2023.
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
"""Of intensities on the scale [-1, 1]: a slice of one intensity alone stays what it is."""


@torch.no_grad()
def in_random_contrast(slices: Tensor) -> Tensor:
    """Slices (n, 1, H, W) in [-1, 1], each in another contrast, from its least to its greatest intensity as before.

    Each is the mean of itself and of what a random network makes of it, at a weight that is uniform in [0, 1]. Float32
    (float64 for float64), contiguous in the channels-last order; drawn from torch's global generators.
    """
    count, _, height, width = slices.shape
    device = slices.device
    original = slices.to(torch.promote_types(slices.dtype, torch.float32))
    made = original.reshape(1, count, height, width)
    channels = 1
    # The slices are the groups of one convolution, so that each has weights of its own.
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
    """The weighted loss of segmentation in random contrasts; 0, and no terms, where its weight is 0.

    Args:
        networks: E, C1 and C2 are asked; E keeps no statistics of these slices.
        config: Its `loss_weights`.
        choices: Slices (B, 1, H, W) of the same anatomy; at each place in the batch one of them is taken at random.
        labels: Of all of them, (B, H, W).
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
    """Slices (n, 1, H, W) in a straight line to a least and a greatest value, which are the two of `span`."""
    least, greatest = slices.amin((1, 2, 3), keepdim=True), slices.amax((1, 2, 3), keepdim=True)
    return span[0] + (slices - least) / (greatest - least).clamp_min(_LEAST_SPAN) * (span[1] - span[0])
