"""How good a segmentation probably is, when there is no reference to score it against.

If the class probabilities behind a segmentation were perfectly calibrated, its expected Dice would be 2 sum(p over the
predicted pixels) / (number of predicted pixels + sum(p over all pixels)). They are the probabilities after the
correction by the volume's intensities (`appearance`), which resolves uncertain borders. They are not perfectly
calibrated: how the expected Dice relates to the true one is fitted at export, on the labelled slices translated to the
target's appearance and corrupted in several ways, and stored in the bundle as a `calibration.QualityCalibration`. No
target labels are used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """Estimated Dice of one structure in one volume, and the band that contains the true Dice four times out of five.

    All values are in [0, 1].
    """

    dice: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.dice:.2f} ({self.low:.2f}-{self.high:.2f})"


class ExpectedDice:
    """Accumulates a volume's expected Dice slab by slab.

    Attributes:
        predicted: Number of pixels predicted as each class so far, (K,).
    """

    def __init__(self, classes: int) -> None:
        """`classes` is K, the number of structures plus the background."""
        self.predicted = np.zeros(classes, np.int64)
        self._probable = np.zeros(classes)
        self._probable_in_predicted = np.zeros(classes)

    def add(self, probabilities: NDArray[np.float32], labels: NDArray[np.integer]) -> None:
        """Add slices by their class probabilities (b, K, rows, columns) and labels (b, rows, columns)."""
        classes = len(self.predicted)
        self._probable += probabilities.sum(axis=(0, 2, 3), dtype=np.float64)
        self.predicted += np.bincount(labels.ravel(), minlength=classes)
        top = probabilities.max(axis=1)
        self._probable_in_predicted += np.bincount(labels.ravel(), weights=top.ravel(), minlength=classes)

    def of_structures(self) -> NDArray[np.float64]:
        """Return the expected Dice of classes 1 to K - 1; 0 for one that is neither predicted nor probable anywhere."""
        sizes = self.predicted + self._probable
        expected = np.divide(2 * self._probable_in_predicted, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        structures: NDArray[np.float64] = expected[1:]
        return structures
