"""Labels of one volume in a prepared data set, decided in the way that `sifa segment` does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from SIFASegmentationLib.appearance import decide_volume
from SIFASegmentationLib.components import keep_largest_components
from SIFASegmentationLib.preprocessing import Preprocessing

_ACROSS_MM = 384.0  # Field of view to assume where slices are stretched to the grid and their spacing is not known.


def as_segmented(
    probabilities: NDArray[np.float32], images: NDArray[np.float32], spacing: float, parts: Mapping[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Turn a network's class probabilities into a volume's labels.

    Args:
        probabilities: Class probabilities (n, K, H, W); overwritten.
        images: Slices (n, H, W) in [-1, 1].
        spacing: Pixel spacing of the slices, in mm.
        parts: Number of connected parts to keep of each structure, by label value (`keep_largest_components`).

    Returns:
        Labels (n, H, W) with the largest parts only, and the class probabilities (n, K, H, W) behind them, which are
        corrected by the volume's intensities.
    """
    decide_volume(probabilities, images, (spacing, spacing))
    labels: NDArray[np.uint8] = probabilities.argmax(1).astype(np.uint8)
    keep_largest_components(labels, parts)
    return labels, probabilities


def grid_spacing(preprocessing: Preprocessing) -> float:
    """Return the pixel spacing of a domain's slices, in mm; a rough value if volumes are stretched to the grid."""
    return preprocessing.spacing or _ACROSS_MM / preprocessing.size
