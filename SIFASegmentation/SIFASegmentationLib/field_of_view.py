"""The part of a volume that the networks see: the body, found automatically, or a box given by the user."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .boxes import covered_voxels
from .errors import InputError
from .intensity import AIR_HU
from .orientation import Orientation
from .regions import BoxMM
from .volumes import Geometry

_COARSE_PIXELS = 128  # The body is searched for on slices of at most this size ...
_COARSE_SLICES = 64  # ... and on at most this many of them.
_LEAST_AREA = 0.05  # What takes a smaller share of the slice is not the body.
_LARGE_COMPONENT = 0.25  # Size relative to the largest, for a second leg, or a heart separate from the chest wall.


@dataclass(frozen=True)
class VoxelBox:
    """A box of voxels of an oriented array (slice, row, column), from `start` to `stop` (exclusive)."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        slices, rows, columns = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return slices, rows, columns

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box into an oriented array."""
        a, b, c = (slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))
        return a, b, c


def whole_box(oriented: NDArray[Any]) -> VoxelBox:
    """The whole oriented array."""
    slices, rows, columns = oriented.shape
    return VoxelBox((0, 0, 0), (slices, rows, columns))


def region_box(region: BoxMM, geometry: Geometry, orientation: Orientation, name: str) -> VoxelBox:
    """Box of the voxels that a region touches: the bounding box of its 8 corners in voxel space, clipped to the volume.

    Raises:
        InputError: The region lies outside the volume; the message calls the volume `name`.
    """
    corners = np.array(list(product(*zip(region.minimum, region.maximum, strict=True))))
    first, end = covered_voxels(geometry.index_of(corners))
    low, high = np.clip(first, 0, geometry.size), np.clip(end, 0, geometry.size)
    if (low >= high).any():
        raise InputError(
            f"The region of interest from {region.minimum} to {region.maximum} mm (LPS) lies outside the volume {name}",
            "move it into the volume",
        )
    start, stop, size, flipped = (
        orientation.reorder((int(low[0]), int(low[1]), int(low[2]))),
        orientation.reorder((int(high[0]), int(high[1]), int(high[2]))),
        orientation.reorder(geometry.size),
        orientation.flipped,
    )
    ends = [(n - b, n - a) if flip else (a, b) for a, b, n, flip in zip(start, stop, size, flipped, strict=True)]
    (a0, b0), (a1, b1), (a2, b2) = ends
    return VoxelBox((a0, a1, a2), (b0, b1, b2))


def body_box(oriented: NDArray[Any]) -> VoxelBox:
    """Bounding box of the body in rows and columns, with all slices and a margin of two coarse pixels.

    On a coarse copy, the body is what remains above a threshold between the background and Otsu's threshold after
    opening, which removes the table and noise, in the largest components. If no body is found, the box is the whole
    array.

    Args:
        oriented: Array (slice, row, column) of CT in HU or windowed, or of MR; any real data type.
    """
    whole = whole_box(oriented)
    factors = [ceil(n / _COARSE_PIXELS) for n in oriented.shape[1:]]
    coarse = _coarse(oriented, factors[0], factors[1])
    body = _large_components(_opened(coarse > _background_threshold(coarse)))
    start, stop = list(whole.start), list(whole.stop)
    for axis, factor in zip((1, 2), factors, strict=True):
        occupied = np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis})))
        if not occupied.size:
            return whole
        start[axis] = max(0, int(occupied[0] - 2) * factor)
        stop[axis] = min(whole.stop[axis], int(occupied[-1] + 3) * factor)
    box = VoxelBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    enough = box.shape[1] * box.shape[2] >= _LEAST_AREA * whole.shape[1] * whole.shape[2]
    return box if enough else whole


def _coarse(oriented: NDArray[Any], row_factor: int, column_factor: int) -> NDArray[np.float32]:
    """Means over blocks of pixels on every n-th slice; the last row and column are repeated to fill blocks."""
    step = ceil(oriented.shape[0] / _COARSE_SLICES)
    means = []
    for pixels in oriented[::step]:
        rows, columns = pixels.shape
        padding = ((0, -rows % row_factor), (0, -columns % column_factor))
        padded = np.pad(pixels.astype(np.float32), padding, mode="edge")
        blocks = padded.reshape(padded.shape[0] // row_factor, row_factor, -1, column_factor)
        means.append(blocks.mean(axis=(1, 3)))
    coarse: NDArray[np.float32] = np.stack(means)
    return np.maximum(coarse, AIR_HU, out=coarse)


def _background_threshold(values: NDArray[np.float32]) -> float:
    """Threshold half-way between the mean of Otsu's darker class and Otsu's threshold, so that dim tissue is body.

    Both are computed on square roots of the values above the lowest. Otherwise, where fluid or kidneys are many times
    as bright as the rest, as in fat-suppressed MR, the threshold would lie above fat, muscle and liver.
    Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979), 62-66.
    """
    low, high = np.percentile(values, (0.5, 99.5))
    if low == high:
        return float(high)
    counts, edges = np.histogram(np.sqrt(np.clip(values, low, high) - low), bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = values.size - below
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / below
    mean_above = (sums[-1] - sums[:-1]) / above
    split = int(np.argmax(below * above * (mean_above - mean_below) ** 2))
    background = float(mean_below[split])
    root = background + 0.5 * (float(edges[split + 1]) - background)
    return float(low) + root**2


def _opened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Opening by 3x3 pixels in each slice; what touches the border of the slice is assumed to continue beyond it."""
    square = np.ones((1, 3, 3), dtype=bool)
    eroded = ndimage.binary_erosion(mask, square, border_value=1)
    opened: NDArray[np.bool_] = ndimage.binary_dilation(eroded, square)
    return opened


def _large_components(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The 3D components whose size is at least a quarter of the largest's."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = (sizes > 0) & (sizes >= _LARGE_COMPONENT * sizes.max())
    components: NDArray[np.bool_] = large[labels]
    return components
