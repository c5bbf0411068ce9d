"""Intensity-based correction: a volume's own intensities decide where the networks are uncertain.

The networks' prediction for a new volume, even one of a modality without labels, is mostly right. That is enough to
estimate the intensity distribution of each structure in this volume, which then decides where the structure ends. This
is the expectation-maximisation of Van Leemput et al., "Automated model-based tissue classification of MR images of the
brain", IEEE TMI 1999, with the networks' probabilities in place of the atlas, and histograms in place of normal
distributions. Nothing is assumed about the modality, so it works in any contrast (Puonti et al., NeuroImage 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float32Array = NDArray[np.float32]

_BINS, _SMOOTHING = 64, 2.0  # Bins of the histograms over [-1, 1]; standard deviation of their smoothing, in bins.
_FLOOR = 1e-3  # Added to a histogram, as a share of its mean, so that no intensity is impossible.
_ITERATIONS = 3
_SURE = 0.9  # Pixels of at least this probability show what a structure looks like; the surest half always does.
_AROUND_MM = 24.0  # Only background within this distance of a structure counts as background.
_LEAST_PIXELS = 20  # A structure with a smaller sum of probabilities has no histogram of its own.
_SAMPLE = 2**24  # Number of probabilities, over all classes, to learn from; more make no difference.
_SMOOTHED_MM = 2.0  # Standard deviation of the final averaging, which suppresses the noise of single pixels.
_SLAB = 16  # Slices corrected at a time in `decide_volume`.
_DOUBT = 0.01  # Where no structure is more probable than this, nothing changes.


@dataclass(frozen=True)
class Appearance:
    """How likely each intensity is in each class of one volume.

    Attributes:
        likelihoods: Array (bins, K) for bins of equal width over [-1, 1]; each column sums to about 1.
    """

    likelihoods: Float32Array

    def applied(self, probabilities: Float32Array, images: Float32Array) -> Float32Array:
        """Class probabilities (b, K, H, W) times the likelihoods of intensities (b, H, W) in [-1, 1], renormalised."""
        bins = _bins(images)
        told = np.stack([column[bins] for column in self.likelihoods.T], axis=1)
        told *= probabilities
        told /= told.sum(axis=1, keepdims=True)
        return told

    def decide(self, probabilities: Float32Array, images: Float32Array, spacings: tuple[float, float]) -> None:
        """Correct class probabilities as in `applied` and average them over a few millimetres, in place.

        Outside `doubtful_box`, nothing changes.

        Args:
            probabilities: Class probabilities (b, K, H, W).
            images: Intensities (b, H, W) in [-1, 1].
            spacings: Spacing of rows and columns, in mm.
        """
        box = doubtful_box(probabilities)
        if box[0].start < box[0].stop:
            told = self.applied(probabilities[..., *box], images[:, *box])
            probabilities[..., *box] = _smoothed(told, spacings)


def decide_volume(probabilities: Float32Array, images: Float32Array, spacings: tuple[float, float]) -> None:
    """Learn the appearance of a volume in memory and correct its class probabilities by it, in place.

    Args:
        probabilities: Class probabilities (n, K, H, W) of all slices; class 0 is the background.
        images: Intensities (n, H, W) in [-1, 1].
        spacings: Spacing of rows and columns, in mm.
    """
    step = sampling_step(len(images), probabilities.shape[1], images.shape[-1])
    sample = (..., slice(None, None, step), slice(None, None, step))
    rows, columns = spacings
    appearance = learn_appearance(probabilities[sample], images[sample], (step * rows, step * columns))
    for start in range(0, len(images), _SLAB):
        slab = slice(start, start + _SLAB)
        appearance.decide(probabilities[slab], images[slab], spacings)


def doubtful_box(probabilities: Float32Array) -> tuple[slice, slice]:
    """Rows and columns that contain every probable structure pixel of class probabilities (b, K, H, W)."""
    probable = np.argwhere((probabilities[:, 1:] > _DOUBT).any(axis=(0, 1)))
    return _span(probable[:, 0]), _span(probable[:, 1])


def sampling_step(slices: int, classes: int, size: int) -> int:
    """Step n such that every n-th row and column of `slices` slices (size, size) is enough to learn from."""
    return ceil(sqrt(slices * classes * size**2 / _SAMPLE))


def learn_appearance(prior: Float32Array, images: Float32Array, spacings: tuple[float, float]) -> Appearance:
    """Learn the appearance of a volume by expectation-maximisation.

    A structure that was hardly found anywhere is given the appearance of the background around structures, so that its
    intensities decide nothing.

    Args:
        prior: Class probabilities (n, K, H, W) of all slices; class 0 is the background.
        images: Intensities (n, H, W) in [-1, 1].
        spacings: Spacing of rows and columns, in mm.
    """
    bins = _bins(images).ravel()
    rows, columns = (2 * round(_AROUND_MM / spacing) + 1 for spacing in spacings)
    around = rows, columns
    appearance = _appearance_by(prior, bins, around)
    for _ in range(_ITERATIONS - 1):
        appearance = _appearance_by(appearance.applied(prior, images), bins, around)
    return appearance


def _appearance_by(posterior: Float32Array, bins: NDArray[np.uint8], around: tuple[int, int]) -> Appearance:
    """Appearance from class probabilities (n, K, H, W) of pixels with these bins.

    Background counts only within a window of `around` rows and columns about a structure, in adjacent slices too.
    """
    near = ndimage.maximum_filter(posterior[:, 0] < 1 / 2, (3, *around))
    weights = [np.where(near, posterior[:, 0], 0), *_sure(posterior)]
    columns = [np.bincount(bins, weight.ravel(), _BINS).astype(np.float64) for weight in weights]
    columns = [columns[0], *(c if c.sum() >= _LEAST_PIXELS else columns[0] for c in columns[1:])]
    return Appearance(np.stack([_distribution(column) for column in columns], axis=1))


def _sure(posterior: Float32Array) -> Iterator[Float32Array]:
    """For each structure, its probability (n, H, W) in the pixels that show what it looks like, 0 elsewhere."""
    labels = posterior.argmax(axis=1)
    for value in range(1, posterior.shape[1]):
        probability, predicted = posterior[:, value], labels == value
        least = min(_SURE, float(np.median(probability[predicted]))) if predicted.any() else _SURE
        yield np.where(probability >= least, probability, 0)


def _bins(images: Float32Array) -> NDArray[np.uint8]:
    """Histogram bin of each intensity."""
    scaled = (images + np.float32(1)) * np.float32(_BINS / 2)
    bins: NDArray[np.uint8] = np.clip(scaled, 0, _BINS - 1).astype(np.uint8)
    return bins


def _distribution(counts: NDArray[np.float64]) -> Float32Array:
    """Smoothed histogram (bins,) with sum 1; uniform if nothing was counted."""
    smooth = ndimage.gaussian_filter1d(counts, _SMOOTHING, mode="nearest")
    smooth += _FLOOR * smooth.mean() if smooth.any() else 1
    distribution: Float32Array = (smooth / smooth.sum()).astype(np.float32)
    return distribution


def _smoothed(values: Float32Array, spacings: tuple[float, float]) -> Float32Array:
    """Images (..., H, W) averaged along both axes with standard deviation `_SMOOTHED_MM`."""
    for axis, spacing in zip((-2, -1), spacings, strict=True):
        values = ndimage.correlate1d(values, _kernel(spacing), axis=axis, mode="nearest")
    return values


def _kernel(spacing: float) -> NDArray[np.float64]:
    """Averaging kernel of odd length and symmetric, so that nothing moves by half a pixel.

    Two boxes of 2r + 1 and 2r + 3 pixels, with variances r (r + 1) / 3 and (r + 1) (r + 2) / 3, are mixed to reach the
    variance of `_SMOOTHED_MM`.
    """
    variance = (_SMOOTHED_MM / spacing) ** 2
    radius = int((sqrt(12 * variance + 1) - 1) / 2)
    smaller, larger = radius * (radius + 1) / 3, (radius + 1) * (radius + 2) / 3
    share = (variance - smaller) / (larger - smaller)
    kernel = np.full(2 * radius + 3, share / (2 * radius + 3))
    kernel[1:-1] += (1 - share) / (2 * radius + 1)
    return kernel


def _span(indices: NDArray[np.int64]) -> slice:
    """Range from the least to the greatest index; empty if there is none."""
    return slice(int(indices.min()), int(indices.max()) + 1) if len(indices) else slice(0, 0)
