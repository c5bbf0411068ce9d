"""Labels of one volume's slices of a prepared set, decided about as `sifa segment` decides about a volume."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from SIFASegmentationLib.appearance import decide_volume
from SIFASegmentationLib.components import keep_largest_components
from SIFASegmentationLib.preprocessing import Preprocessing

_ACROSS_MM = 384.0  # A field of view, where slices are stretched to the grid and their spacing is not known.


def as_segmented(
    probabilities: NDArray[np.float32], images: NDArray[np.float32], spacing: float, parts: Mapping[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What a volume is segmented to.

    Args:
        probabilities: (n, K, H, W) of the network; used up.
        images: The slices, (n, H, W) in [-1, 1].
        spacing: Of their pixels, in mm.
        parts: How many each structure has at most, by value (`keep_largest_components`).

    Returns:
        Labels (n, H, W), the largest parts alone, and the probabilities (n, K, H, W) that they come from: with the
        intensities' say.
    """
    decide_volume(probabilities, images, (spacing, spacing))
    labels: NDArray[np.uint8] = probabilities.argmax(1).astype(np.uint8)
    keep_largest_components(labels, parts)
    return labels, probabilities


def grid_spacing(preprocessing: Preprocessing) -> float:
    """Distance of the pixels of a domain's slices, in mm; about that, where each volume is stretched to the grid."""
    return preprocessing.spacing or _ACROSS_MM / preprocessing.size
