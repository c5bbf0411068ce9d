"""Intensity-based correction: a volume's own intensities decide where the networks are uncertain.

What the networks predict for a new volume, even one of a modality without labels, is mostly right: enough to estimate
the intensity distribution of each structure in this volume, which then decides where the structure ends. This is the
expectation-maximisation of Van Leemput et al., "Automated model-based tissue classification of MR images of the
brain", IEEE TMI 1999, with the networks' probabilities in place of the atlas, and histograms in place of normal
distributions. Nothing is assumed about the modality, so the result is the same in any contrast (Puonti et al.,
NeuroImage 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float32Array = NDArray[np.float32]

_BINS, _SMOOTHING = 64, 2.0  # Of the histograms over [-1, 1], and the standard deviation of their smoothing, in bins.
_FLOOR = 1e-3  # Added to a histogram, as a share of its mean: no intensity is impossible.
_ITERATIONS = 3
_SURE = 0.9  # Probability from which a pixel tells what its structure looks like; the surest half does in any case.
_AROUND_MM = 24.0  # The background that a structure is told from lies within so much of one.
_LEAST_PIXELS = 20  # Fewer tell nothing.
_SAMPLE = 2**24  # Probabilities, of all classes; more change nothing.
_SMOOTHED_MM = 2.0  # Standard deviation of what is averaged in the end, against the noise of single pixels.
_SLAB = 16  # Slices of a volume in memory that are decided at a time.
_DOUBT = 0.01  # Where nothing is more probable, nothing is to be decided.


@dataclass(frozen=True)
class Appearance:
    """How likely each intensity is in each class of one volume.

    Attributes:
        likelihoods: (bins, K), bins spread evenly over [-1, 1]; each column sums to about 1.
    """

    likelihoods: Float32Array

    def applied(self, probabilities: Float32Array, images: Float32Array) -> Float32Array:
        """Class probabilities (b, K, H, W), times what the intensities (b, H, W) in [-1, 1] say, with sum 1 again."""
        bins = _bins(images)
        told = np.stack([column[bins] for column in self.likelihoods.T], axis=1)
        told *= probabilities
        told /= told.sum(axis=1, keepdims=True)
        return told

    def decide(self, probabilities: Float32Array, images: Float32Array, spacings: tuple[float, float]) -> None:
        """As `applied`, then averaged over a few millimetres, in place; outside of `doubtful_box` nothing changes.

        Args:
            probabilities: (b, K, H, W).
            images: (b, H, W) in [-1, 1].
            spacings: Of rows and columns, in mm.
        """
        box = doubtful_box(probabilities)
        if box[0].start < box[0].stop:
            told = self.applied(probabilities[..., *box], images[:, *box])
            probabilities[..., *box] = _smoothed(told, spacings)


def decide_volume(probabilities: Float32Array, images: Float32Array, spacings: tuple[float, float]) -> None:
    """Let the intensities of a volume in memory, all its slices on one grid, decide about it, in place.

    Args:
        probabilities: (n, K, H, W), class 0 the background.
        images: (n, H, W) in [-1, 1].
        spacings: Of rows and columns, in mm.
    """
    step = sampling_step(len(images), probabilities.shape[1], images.shape[-1])
    sample = (..., slice(None, None, step), slice(None, None, step))
    rows, columns = spacings
    appearance = learn_appearance(probabilities[sample], images[sample], (step * rows, step * columns))
    for start in range(0, len(images), _SLAB):
        slab = slice(start, start + _SLAB)
        appearance.decide(probabilities[slab], images[slab], spacings)


def doubtful_box(probabilities: Float32Array) -> tuple[slice, slice]:
    """Rows and columns outside of which everything is background, in all slices (b, K, H, W)."""
    probable = np.argwhere((probabilities[:, 1:] > _DOUBT).any(axis=(0, 1)))
    return _span(probable[:, 0]), _span(probable[:, 1])


def sampling_step(slices: int, classes: int, size: int) -> int:
    """Of how many rows and columns one is enough to learn from, in so many slices of `size` squared."""
    return ceil(sqrt(slices * classes * size**2 / _SAMPLE))


def learn_appearance(prior: Float32Array, images: Float32Array, spacings: tuple[float, float]) -> Appearance:
    """The appearance of a volume.

    A structure that was hardly found anywhere is taken to look as what is around: its intensities then decide nothing.

    Args:
        prior: Class probabilities of all its slices, (n, K, H, W), class 0 the background.
        images: The slices, (n, H, W) in [-1, 1].
        spacings: Of rows and columns, in mm.
    """
    bins = _bins(images).ravel()
    rows, columns = (2 * round(_AROUND_MM / spacing) + 1 for spacing in spacings)
    around = rows, columns
    appearance = _appearance_by(prior, bins, around)
    for _ in range(_ITERATIONS - 1):
        appearance = _appearance_by(appearance.applied(prior, images), bins, around)
    return appearance


def _appearance_by(posterior: Float32Array, bins: NDArray[np.uint8], around: tuple[int, int]) -> Appearance:
    """By class probabilities (n, K, H, W) of pixels in these bins; the background counts `around` structures."""
    near = ndimage.maximum_filter(posterior[:, 0] < 1 / 2, (3, *around))
    weights = [np.where(near, posterior[:, 0], 0), *_sure(posterior)]
    columns = [np.bincount(bins, weight.ravel(), _BINS).astype(np.float64) for weight in weights]
    columns = [columns[0], *(c if c.sum() >= _LEAST_PIXELS else columns[0] for c in columns[1:])]
    return Appearance(np.stack([_distribution(column) for column in columns], axis=1))


def _sure(posterior: Float32Array) -> Iterator[Float32Array]:
    """Of each structure its probability (n, H, W) in the pixels that show what it looks like, 0 in the others."""
    labels = posterior.argmax(axis=1)
    for value in range(1, posterior.shape[1]):
        probability, predicted = posterior[:, value], labels == value
        least = min(_SURE, float(np.median(probability[predicted]))) if predicted.any() else _SURE
        yield np.where(probability >= least, probability, 0)


def _bins(images: Float32Array) -> NDArray[np.uint8]:
    """Bin of each intensity."""
    scaled = (images + np.float32(1)) * np.float32(_BINS / 2)
    bins: NDArray[np.uint8] = np.clip(scaled, 0, _BINS - 1).astype(np.uint8)
    return bins


def _distribution(counts: NDArray[np.float64]) -> Float32Array:
    """A smooth histogram (bins,) with sum 1; even where nothing was counted."""
    smooth = ndimage.gaussian_filter1d(counts, _SMOOTHING, mode="nearest")
    smooth += _FLOOR * smooth.mean() if smooth.any() else 1
    distribution: Float32Array = (smooth / smooth.sum()).astype(np.float32)
    return distribution


def _smoothed(values: Float32Array, spacings: tuple[float, float]) -> Float32Array:
    """Images (..., H, W) averaged with the standard deviation `_SMOOTHED_MM` along either axis."""
    for axis, spacing in zip((-2, -1), spacings, strict=True):
        values = ndimage.correlate1d(values, _kernel(spacing), axis=axis, mode="nearest")
    return values


def _kernel(spacing: float) -> NDArray[np.float64]:
    """Weights of an average, of odd length and symmetric, so that nothing moves by half a pixel.

    Two boxes of 2r + 1 and 2r + 3 pixels, with the variances r (r + 1) / 3 and (r + 1) (r + 2) / 3, mixed to the
    variance that is wanted.
    """
    variance = (_SMOOTHED_MM / spacing) ** 2
    radius = int((sqrt(12 * variance + 1) - 1) / 2)
    smaller, larger = radius * (radius + 1) / 3, (radius + 1) * (radius + 2) / 3
    share = (variance - smaller) / (larger - smaller)
    kernel = np.full(2 * radius + 3, share / (2 * radius + 3))
    kernel[1:-1] += (1 - share) / (2 * radius + 1)
    return kernel


def _span(indices: NDArray[np.int64]) -> slice:
    """From the least to the greatest."""
    return slice(int(indices.min()), int(indices.max()) + 1) if len(indices) else slice(0, 0)
