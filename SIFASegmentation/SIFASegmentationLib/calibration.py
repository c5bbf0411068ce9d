"""From the Dice that a model's probabilities let expect (`quality.ExpectedDice`) to an estimate with a band."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FiniteFloat

from .quality import Estimate

_LEAST = 0.005  # Dice are taken between this and 1 less this, where their logits are finite.
_BAND = (10.0, 90.0)  # Percentiles of the residuals: four of five true values lie between.


class QualityCalibration(BaseModel):
    """From the expected Dice to an estimate: logit(Dice) = offset + slope logit(expected), within `low` to `high`.

    Attributes:
        offset: Of the straight line.
        slope: Of the straight line.
        low: The residuals' 10th percentile, on the scale of logits.
        high: Their 90th.
        volumes: Number of volumes, in all damages, that it was found on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset: FiniteFloat
    slope: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    volumes: int

    def estimate(self, expected: float) -> Estimate:
        """The estimate for an expected Dice (`ExpectedDice`)."""
        middle = self.offset + self.slope * _logit(expected)
        dice, low, high = (float(1 / (1 + np.exp(-x))) for x in (middle, middle + self.low, middle + self.high))
        return Estimate(dice, low, high)


def fit_calibration(expected: Sequence[float], true: Sequence[float], volumes: int) -> QualityCalibration:
    """The calibration that pairs of expected and true Dice of structures come to, by least squares.

    Where the expected values hardly differ, the line keeps the slope 1. The slope is never negative.
    """
    x, y = (_logit(np.asarray(values, dtype=np.float64)) for values in (expected, true))
    spread = float(np.var(x))
    slope = max(0.0, float(np.mean((x - x.mean()) * (y - y.mean()))) / spread) if spread > 1e-3 else 1.0
    offset = float(y.mean() - slope * x.mean())
    low, high = np.percentile(y - offset - slope * x, _BAND)
    return QualityCalibration(offset=offset, slope=slope, low=min(0.0, low), high=max(0.0, high), volumes=volumes)


def _logit(dice: float | NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(dice, dtype=np.float64), _LEAST, 1 - _LEAST)
    logits: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return logits
