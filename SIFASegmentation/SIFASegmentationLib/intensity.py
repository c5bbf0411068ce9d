"""Normalisation of voxel values to the networks' range, [-1, 1].

Values are clipped (to percentiles of the volume, or to a window in HU), z-scored, and mapped linearly to [-1, 1], by
default with a second clip. All statistics are those of the field of view. The bounds of the linear map are the same
for all volumes of a domain.
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
"""Least value of air in CT; lower values are padding around the reconstruction circle."""

ROBUST_RANGE, FULL_RANGE = (0.1, 99.9), (0.0, 100.0)
"""Percentiles of a domain's z-scores that are mapped to -1 and 1: by default, and in the authors' code."""

# Share of the values below air that must be equal to be padding; otherwise the volume is not a padded CT.
_PADDING_SHARE = 0.5
_SAMPLE_VOXELS = 2**21  # The percentiles of this many voxels are close enough to those of the whole volume.
_RANGE_VOXELS = 2**17  # Voxels that each volume contributes to the intensity range of its domain.

Float32Array = NDArray[np.float32]


class IntensitySettings(Frozen):
    """How the voxels of one domain become network inputs; stored with the model.

    Attributes:
        percentiles: Clip each volume to these percentiles of its own values, 0 to 100. The paper's cardiac data had the
            top 2 % cut: (0, 98).
        window: Clip to these values (HU) instead; `percentiles` then has no effect.
        z_low: z-score that is mapped to -1.
        z_high: z-score that is mapped to 1.
        clip: Clip z-scores beyond these two to [-1, 1]. The authors' code does not.
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
        """Clip network inputs to [-1, 1] in place, if these settings clip."""
        return np.clip(x, -1, 1, out=x) if self.clip else x


@dataclass(frozen=True)
class IntensityStatistics:
    """Statistics of one field of view: clipping bounds, and mean and standard deviation after clipping."""

    low: float
    high: float
    mean: float
    std: float

    def z_scores(self, voxels: NDArray[Any]) -> Float32Array:
        """Clip voxels and turn them into z-scores."""
        z = np.clip(voxels.astype(np.float32), self.low, self.high)
        z -= np.float32(self.mean)
        z /= np.float32(self.std)
        return z

    def normalize(self, voxels: NDArray[Any], settings: IntensitySettings) -> Float32Array:
        """Normalise voxels to [-1, 1], or approximately if the settings do not clip."""
        x = self.z_scores(voxels)
        x -= np.float32(settings.z_low)
        x *= np.float32(2 / (settings.z_high - settings.z_low))
        x -= np.float32(1)
        return settings.bounded(x)


def measure(voxels: NDArray[Any], settings: IntensitySettings, name: str) -> IntensityStatistics:
    """Measure the statistics of a field of view (slice, row, column); of a large one, on every n-th row and column.

    Raises:
        InputError: The voxels are constant after clipping; the message calls the volume `name`.
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
    """Raise the padding of a CT to air, in place: values such as -3024 in the corners would distort the statistics."""
    below = sample < AIR_HU
    if below.any() and np.mean(sample[below] == sample.min()) > _PADDING_SHARE:
        np.maximum(sample, AIR_HU, out=sample)


def z_score_sample(voxels: NDArray[Any], settings: IntensitySettings, name: str) -> Float32Array:
    """Sample z-scores (m,) of a field of view (slice, row, column), for `estimate_intensity_range`.

    If the settings do not clip to the domain's range, these are only the least and the greatest z-score.

    Raises:
        InputError: The voxels are constant after clipping, as in `measure`.
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
    """Estimate `z_low` and `z_high` of a domain as percentiles over its training volumes.

    Args:
        samples: z-scores of each volume, from `z_score_sample`.
        percentiles: Lower and upper percentile, 0 to 100.
    """
    low, high = np.percentile(np.concatenate([np.ravel(sample) for sample in samples]), percentiles)
    return float(low), float(high)


def _sample(voxels: NDArray[Any]) -> NDArray[Any]:
    """A view of every n-th row and column of all slices; which voxels these are does not depend on memory order."""
    step = ceil((voxels.size / _SAMPLE_VOXELS) ** 0.5)
    return voxels[:, ::step, ::step]
