"""Corruptions that make labelled slices hard to segment, as another modality might be, to calibrate estimates of Dice.

A model trained with random contrasts tolerates changes that affect all intensities, but not structures that look like
their neighbours. So the intensities of single structures are shifted as well, which requires their labels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_LEVELS = 8  # Number of nodes of a random map of intensities, which is linear in between.
_SHIFT = 0.5  # Largest shift of a structure, on the scale [0, 1].
_EDGE = 3  # Number of pixels over which a shift fades.
_SHADES, _SHADING = 4, 1.2  # Number of random factors along each side, and their largest logarithm.
_NOISE = 0.2

_Corruption = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""Function of slices (b, 1, H, W) in [0, 1], their labels (b, H, W), a strength in (0, 1] and a generator on the CPU;
returns corrupted slices, not yet clipped to [0, 1]."""


def corrupted(slices: Tensor, labels: Tensor, kind: int, strength: float) -> Tensor:
    """Corrupt slices, all in the same way.

    Args:
        slices: (b, 1, H, W) in [-1, 1].
        labels: Labels of the slices, (b, H, W), integers, on the same device.
        kind: Any number. Modulo `KINDS` it selects the corruption; it also seeds the random values.
        strength: From 0, unchanged, to 1, hardly recognisable.

    Returns:
        Slices (b, 1, H, W) in [-1, 1].
    """
    if strength == 0:
        return slices
    # Random numbers come from the CPU, so that corruptions are the same on every device.
    generator = torch.Generator().manual_seed(kind)
    shown = (slices.clamp(-1, 1) + 1) / 2
    for corruption in _CORRUPTIONS[kind % KINDS]:
        shown = corruption(shown, labels, strength, generator)
    return 2 * shown.clamp(0, 1) - 1


def _blur(shown: Tensor, _labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Blur, then add noise."""
    blurred = _mean_around(shown, 2 * round(3 * strength) + 1)
    return blurred + _NOISE * strength * torch.randn(shown.shape, generator=generator).to(shown.device)


def _remap(shown: Tensor, _labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Mix with a random map of intensities, which need not be monotone."""
    levels = torch.rand(_LEVELS, generator=generator).to(shown.device)
    # The darkest intensity stays dark, since it is the air around the body.
    levels[0] = 0.0
    position = shown.clamp(0, 1) * (_LEVELS - 1)
    below = position.floor().clamp(max=_LEVELS - 2).long()
    return torch.lerp(shown, torch.lerp(levels[below], levels[below + 1], position - below), strength)


def _shift_structures(shown: Tensor, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Make each structure lighter or darker on its own; the background stays as it is."""
    shifts = _SHIFT * strength * (2 * torch.rand(256, generator=generator).to(shown.device) - 1)
    shifts[0] = 0.0
    return shown + _mean_around(shifts[labels.long()][:, None], _EDGE)


def _shade(shown: Tensor, _labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiply by a smooth random field, like the bias field of a coil."""
    coarse = 2 * torch.rand(1, 1, _SHADES, _SHADES, generator=generator).to(shown.device) - 1
    field = functional.interpolate(coarse, shown.shape[-2:], mode="bicubic", align_corners=True)
    return shown * torch.exp(_SHADING * strength * field)


def _mean_around(values: Tensor, size: int) -> Tensor:
    """Return the mean over size x size pixels, size odd; at the border, over the pixels within the image."""
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
"""Number of ways in which slices are corrupted."""
