"""Separable linear interpolation between two grids with the same centre, as one dense matrix per axis.

Matrix products run at the full speed of the hardware, and the same two functions serve images, labels and
probabilities, in both directions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


def linear_weights(source_size: int, source_spacing: float, target_size: int, target_spacing: float) -> Float32Array:
    """Weights (target, source) of linear interpolation along one axis between grids with the same centre.

    The triangular kernel extends one source pixel to each side, or one target pixel if that is larger, which prevents
    aliasing. Rows sum to 1; rows of target pixels whose centre lies outside the source's pixels are zero.

    Args:
        source_size: Number of source pixels along the axis.
        source_spacing: Spacing of the source pixels, in mm.
        target_size: Number of target pixels along the axis.
        target_spacing: Spacing of the target pixels, in mm.
    """
    offsets_mm = (np.arange(target_size) - (target_size - 1) / 2) * target_spacing
    centres = offsets_mm / source_spacing + (source_size - 1) / 2
    support = max(1.0, target_spacing / source_spacing)
    distances = np.abs(np.arange(source_size) - centres[:, np.newaxis])
    weights = np.maximum(0.0, 1.0 - distances / support)
    inside = np.abs(centres - (source_size - 1) / 2) <= source_size / 2 + 1e-6
    weights[~inside] = 0.0
    weights[inside] /= weights[inside].sum(axis=1, keepdims=True)
    return weights.astype(np.float32)


def resample(images: Float32Array, row_weights: Float32Array, column_weights: Float32Array) -> Float32Array:
    """Resample images (..., rows, columns) to another grid (..., target rows, target columns)."""
    resampled: Float32Array = np.matmul(np.matmul(row_weights, images), column_weights.T, dtype=np.float32)
    return resampled
