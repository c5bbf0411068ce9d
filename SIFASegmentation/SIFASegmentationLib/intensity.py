"""Voxel values to the range of the networks, [-1, 1].

Clip (percentiles of the volume, or a window in HU), z-score, linear map, by default with clip. All statistics are
those of the field of view. The bounds of the last map belong to the domain: the same for every volume of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat, model_validator

from .errors import InputError
from .schema import Frozen

AIR_HU = -1024
"""What lies below, in CT, is padding around the reconstruction circle."""

ROBUST_RANGE, FULL_RANGE = (0.1, 99.9), (0.0, 100.0)
"""Percentiles of a domain's z-scores that may become -1 and 1: by default, and in the authors' code."""

_PADDING_SHARE = 0.5  # Of what lies below, of one value: else it is no padding, nor a CT.
_SAMPLE_VOXELS = 2**21  # Percentiles of so many voxels are those of the volume for all that matters.
_RANGE_VOXELS = 2**17  # A volume's share of the voxels that set the range of its domain.

Float32Array = NDArray[np.float32]


class IntensitySettings(Frozen):
    """How the voxels of one domain become network inputs; stored with the model.

    Attributes:
        percentiles: Clip each volume to these percentiles of its own, 0 to 100. The paper's cardiac data had the top
            2 % cut: (0, 98).
        window: Clip to these values (HU) instead; then `percentiles` has no effect.
        z_low: z-score that becomes -1.
        z_high: z-score that becomes 1.
        clip: Clip what lies beyond these two to [-1, 1]. The authors' code does not.
    """

    percentiles: tuple[float, float] = (0.5, 99.5)
    window: tuple[FiniteFloat, FiniteFloat] | None = None
    z_low: FiniteFloat = -2.0
    z_high: FiniteFloat = 3.0
    clip: bool = True

    @model_validator(mode="after")
    def _are_in_order(self) -> Self:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError("percentiles must be two numbers from 0 to 100, the lower one first")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError("window must be two numbers in HU, the lower one first")
        if not self.z_low < self.z_high:
            raise ValueError("z_low must be less than z_high")
        return self

    def bounded(self, x: Float32Array) -> Float32Array:
        """Network inputs, clipped to [-1, 1] in place where these settings clip."""
        return np.clip(x, -1, 1, out=x) if self.clip else x


@dataclass(frozen=True)
class IntensityStatistics:
    """What was measured in one field of view: clipping bounds, then mean and standard deviation after the clip."""

    low: float
    high: float
    mean: float
    std: float

    def z_scores(self, voxels: NDArray[Any]) -> Float32Array:
        """Clipped and z-scored voxels."""
        z = np.clip(voxels.astype(np.float32), self.low, self.high)
        z -= np.float32(self.mean)
        z /= np.float32(self.std)
        return z

    def normalize(self, voxels: NDArray[Any], settings: IntensitySettings) -> Float32Array:
        """Voxels in [-1, 1], or about so where `settings` clip nothing."""
        x = self.z_scores(voxels)
        x -= np.float32(settings.z_low)
        x *= np.float32(2 / (settings.z_high - settings.z_low))
        x -= np.float32(1)
        return settings.bounded(x)


def measure(voxels: NDArray[Any], settings: IntensitySettings, name: str) -> IntensityStatistics:
    """Statistics of a field of view (slice, row, column); large ones are measured on every n-th row and column.

    Raises:
        InputError: The voxels are constant after the clip; the message names the volume.
    """
    sample = _sample(voxels).astype(np.float64)
    if settings.window is None:
        _take_padding_for_air(sample)
    low, high = settings.window or np.percentile(sample, settings.percentiles)
    np.clip(sample, low, high, out=sample)
    mean, std = float(sample.mean()), float(sample.std())
    if std <= 1e-6 * max(abs(low), abs(high)):
        raise InputError(
            f"The volume {name} is constant ({mean:g}) inside its field of view",
            "check the image, the window and the region of interest",
        )
    return IntensityStatistics(float(low), float(high), mean, std)


def _take_padding_for_air(sample: NDArray[np.float64]) -> None:
    """Raise the padding of a CT to air, in place: -2000 or -3024 in the corners would spread the intensities of all."""
    below = sample < AIR_HU
    if below.any() and np.mean(sample[below] == sample.min()) > _PADDING_SHARE:
        np.maximum(sample, AIR_HU, out=sample)


def z_score_sample(voxels: NDArray[Any], settings: IntensitySettings, name: str) -> Float32Array:
    """Some z-scores of a field of view (slice, row, column), for `estimate_intensity_range`; raises as `measure`.

    Where nothing is to be clipped to the domain's range, they are the least and the greatest.
    """
    statistics = measure(voxels, settings, name)
    if not settings.clip:
        return statistics.z_scores(np.array([statistics.low, statistics.high]))
    sample = _sample(voxels).ravel()
    step = ceil(sample.size / _RANGE_VOXELS)
    return statistics.z_scores(sample[::step])


def estimate_intensity_range(
    samples: Iterable[NDArray[np.floating[Any]]], percentiles: tuple[float, float] = ROBUST_RANGE
) -> tuple[float, float]:
    """z_low and z_high of a domain: percentiles over its training volumes.

    Args:
        samples: For each volume its z-scored, clipped voxels, from `z_score_sample`.
        percentiles: 0 to 100, the lower one first.
    """
    low, high = np.percentile(np.concatenate([np.ravel(sample) for sample in samples]), percentiles)
    return float(low), float(high)


def _sample(voxels: NDArray[Any]) -> NDArray[Any]:
    """Every n-th row and column of all slices: a view, and the same voxels however the array is stored."""
    step = ceil((voxels.size / _SAMPLE_VOXELS) ** 0.5)
    return voxels[:, ::step, ::step]
