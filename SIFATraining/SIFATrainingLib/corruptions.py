"""Labelled slices made hard to segment, in ways in which an unknown modality could be: to calibrate estimates.

A model trained with random contrasts tolerates changes of all intensities. What it does not tolerate is a structure
that looks like its neighbours: so the intensities of single structures are shifted as well, which requires their
labels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_LEVELS = 8  # Of a random map of intensities, linear in between.
_SHIFT = 0.5  # Of a structure, on the scale [0, 1].
_EDGE = 3  # Pixels over which a shift fades.
_SHADES, _SHADING = 4, 1.2  # Random factors along a side, and their greatest logarithm.
_NOISE = 0.2

_Corruption = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""Slices (b, 1, H, W) in [0, 1], their labels (b, H, W), the strength in (0, 1], a generator of the CPU; slices."""


def corrupted(slices: Tensor, labels: Tensor, kind: int, strength: float) -> Tensor:
    """Slices as they are for strength 0, hardly to be known for 1: the kind says how, and all slices get the same.

    Args:
        slices: (b, 1, H, W) in [-1, 1].
        labels: Of the slices, (b, H, W), integers, on their device.
        kind: Any number; there are as many ways as `KINDS`, and each number has its own random values.
        strength: In [0, 1].
    """
    if strength == 0:
        return slices
    # Of the CPU, whatever the device: the same corruptions everywhere.
    generator = torch.Generator().manual_seed(kind)
    shown = (slices.clamp(-1, 1) + 1) / 2
    for corruption in _CORRUPTIONS[kind % KINDS]:
        shown = corruption(shown, labels, strength, generator)
    return 2 * shown.clamp(0, 1) - 1


def _blur(shown: Tensor, _labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Blurred, then noisy."""
    blurred = _mean_around(shown, 2 * round(3 * strength) + 1)
    return blurred + _NOISE * strength * torch.randn(shown.shape, generator=generator).to(shown.device)


def _remap(shown: Tensor, _labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Mixed with a random map of intensities, which need not be monotone."""
    levels = torch.rand(_LEVELS, generator=generator).to(shown.device)
    # The darkest stays dark: it is the air around the body.
    levels[0] = 0.0
    position = shown.clamp(0, 1) * (_LEVELS - 1)
    below = position.floor().clamp(max=_LEVELS - 2).long()
    return torch.lerp(shown, torch.lerp(levels[below], levels[below + 1], position - below), strength)


def _shift_structures(shown: Tensor, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each structure lighter or darker by itself; what is around them stays."""
    shifts = _SHIFT * strength * (2 * torch.rand(256, generator=generator).to(shown.device) - 1)
    shifts[0] = 0.0
    return shown + _mean_around(shifts[labels.long()][:, None], _EDGE)


def _shade(shown: Tensor, _labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Lighter here and darker there, smoothly, as by a coil."""
    coarse = 2 * torch.rand(1, 1, _SHADES, _SHADES, generator=generator).to(shown.device) - 1
    field = functional.interpolate(coarse, shown.shape[-2:], mode="bicubic", align_corners=True)
    return shown * torch.exp(_SHADING * strength * field)


def _mean_around(values: Tensor, size: int) -> Tensor:
    """Mean over size x size pixels, size odd; at the border over those that are there."""
    return functional.avg_pool2d(values, size, stride=1, padding=size // 2, count_include_pad=False)


_CORRUPTIONS: tuple[tuple[_Corruption, ...], ...] = (
    (_blur,),
    (_remap,),
    (_shift_structures,),
    (_shade,),
    (_remap, _shift_structures),
    (_shade, _shift_structures),
)
KINDS = len(_CORRUPTIONS)
"""Ways in which slices are corrupted."""
