"""Calibration of the expected Dice (`quality.ExpectedDice`): an estimate of Dice with an interval, the band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from .quality import Estimate
from .schema import Frozen

_LEAST = 0.005  # Dice is clipped to this distance from 0 and 1, so that its logit is finite.
_BAND = (5.0, 95.0)  # Percentiles of the residuals; see `fit_calibration`.


class QualityCalibration(Frozen):
    """Linear calibration on the logit scale: logit(Dice) = offset + slope logit(expected), with a band around it.

    Attributes:
        offset: Offset of the line, for structures without one of their own.
        slope: Slope of the line.
        low: Lower end of the band relative to the line, on the logit scale.
        high: Upper end of the band relative to the line, on the logit scale.
        offsets: Offsets by name of the structure: the model is less sure of the borders of small structures than it is
            accurate there. Empty in older bundles.
        volumes: Number of volumes that the calibration was fitted on, each in all corruptions.
        of_decided: Whether it was fitted on probabilities after their correction by intensities (`appearance`). In
            older bundles it was fitted on the model's own probabilities; nothing is then estimated.
    """

    offset: FiniteFloat
    slope: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    offsets: dict[str, FiniteFloat] = Field(default_factory=dict)
    volumes: int
    of_decided: bool = False

    def estimate(self, expected: float, structure: str) -> Estimate:
        """Estimate the Dice of a structure from its expected Dice (`ExpectedDice`), in [0, 1]."""
        middle = self.offsets.get(structure, self.offset) + self.slope * _logit(expected)
        dice, low, high = (float(1 / (1 + np.exp(-x))) for x in (middle, middle + self.low, middle + self.high))
        return Estimate(dice, low, high)


@dataclass(frozen=True)
class CalibrationCase:
    """Expected and true Dice of a structure in a volume whose labels are known.

    Attributes:
        structure: Name of the structure.
        group: Number of the volume; its corruptions share it, since they are not independent of one another.
        expected: Expected Dice from the probabilities, in [0, 1].
        true: Dice against the labels, in [0, 1].
    """

    structure: str
    group: int
    expected: float
    true: float


def fit_calibration(known: Sequence[CalibrationCase], volumes: int) -> QualityCalibration:
    """Fit a calibration to expected and true Dice by least squares: one slope, and an offset for each structure.

    The slope is 1 if the expected values hardly differ, and never negative. The band has to hold for unseen volumes, so
    it comes from the residuals of each group from the line fitted to all other groups; a single group is compared with
    its own line. The band contains nine of ten residuals in order to contain four of five on the target, which differs
    more from the source than corruptions differ from one another.

    Args:
        known: At least one case.
        volumes: Number of volumes that the cases come from, for the record.
    """
    x, y = (_logit(np.array([getattr(one, name) for one in known])) for name in ("expected", "true"))
    structures = np.array([one.structure for one in known])
    groups = np.array([one.group for one in known])
    slope, offset, offsets = _line(x, y, structures)
    residuals = []
    for group in np.unique(groups):
        left_out = groups == group
        kept = left_out if left_out.all() else ~left_out
        its_slope, its_offset, its_offsets = _line(x[kept], y[kept], structures[kept])
        middle = [its_offsets.get(structure, its_offset) for structure in structures[left_out]]
        residuals.append(y[left_out] - middle - its_slope * x[left_out])
    low, high = np.percentile(np.concatenate(residuals), _BAND)
    return QualityCalibration(
        offset=offset,
        slope=slope,
        low=min(0.0, low),
        high=max(0.0, high),
        offsets=offsets,
        volumes=volumes,
        of_decided=True,
    )


_Floats = NDArray[np.float64]


def _line(x: _Floats, y: _Floats, structures: NDArray[np.str_]) -> tuple[float, float, dict[str, float]]:
    """Fit a line; return its slope within structures, the mean offset, and the offset of each structure by name."""
    means = {name: (x[structures == name].mean(), y[structures == name].mean()) for name in np.unique(structures)}
    of_x, of_y = np.array([means[name] for name in structures]).T
    spread = float(np.mean((x - of_x) ** 2))
    slope = max(0.0, float(np.mean((x - of_x) * (y - of_y))) / spread) if spread > 1e-3 else 1.0
    offsets = {str(name): float(mean_y - slope * mean_x) for name, (mean_x, mean_y) in means.items()}
    return slope, float(y.mean() - slope * x.mean()), offsets


def _logit(dice: float | _Floats) -> _Floats:
    clipped = np.clip(np.asarray(dice, dtype=np.float64), _LEAST, 1 - _LEAST)
    logits: _Floats = np.log(clipped / (1 - clipped))
    return logits
