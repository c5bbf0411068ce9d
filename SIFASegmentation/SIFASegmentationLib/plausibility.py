"""Checks, before segmentation and without labels, of whether a volume is like those that a model was trained for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .intensity import ROBUST_RANGE, IntensitySettings
from .preprocessing import Placement, Preprocessing, place_volume, sample_z_scores
from .regions import BoxMM
from .volumes import Volume

_RANGE_TOLERANCE = 0.35  # Tolerated deviation, as a share of the training volumes' range of z-scores.
_CT_AIR_HU = -500  # Every CT with air around the body has lower values.
_SMALL_SHARE = 0.4  # Share of the grid's width; anything smaller is a limb, or a crop.
LARGE_SHARE = 1.15
"""Width relative to the networks' grid beyond which parts of the body lie outside it."""

_SHOWN = 3  # Largest number of names of volumes in a sentence.
_UNLIKE_SPACING = 2  # Tolerated factor between a spacing and those of the training volumes.


def unlike_training(volume: Volume, preprocessing: Preprocessing, region: BoxMM | None = None) -> list[str]:
    """Return sentences about what makes a volume unlike the training volumes; none if nothing does.

    Args:
        volume: Volume to be segmented.
        preprocessing: Preprocessing of the model's domain, from its manifest.
        region: Field of view, mm, LPS; found automatically unless given.

    Raises:
        InputError: The region lies outside the volume, or the volume is constant.
    """
    sentences = []
    placement = place_volume(volume, preprocessing, region)
    if preprocessing.spacing is not None:
        share = max(placement.extent_mm) / (preprocessing.size * preprocessing.spacing)
        if share > LARGE_SHARE:
            sentences.append(
                f"{volume.name} is {max(placement.extent_mm):.0f} mm wide, the model sees "
                f"{preprocessing.size * preprocessing.spacing:.0f} mm: choose a region of interest."
            )
        elif share < _SMALL_SHARE:
            sentences.append(
                f"{volume.name} is {max(placement.extent_mm):.0f} mm wide, less than half of what the model was "
                "trained on: check that it shows the same part of the body."
            )
    sentences += _unlike_spacings(volume.name, placement, preprocessing)
    intensity = preprocessing.intensity
    if intensity.window is not None and float(volume.array.min()) > _CT_AIR_HU:
        sentences.append(
            f"{volume.name} has no voxel below {_CT_AIR_HU}, the model expects CT in Hounsfield units: check that it "
            "has the right modality and is rescaled to HU."
        )
    if _is_spread_unlike(volume, placement, intensity):
        sentences.append(
            f"{volume.name} has intensities distributed unlike those of the training volumes: check its modality and "
            "sequence."
        )
    return sentences


def _is_spread_unlike(volume: Volume, placement: Placement, intensity: IntensitySettings) -> bool:
    """Return whether a volume's range of z-scores differs from that of the domain's volumes."""
    scores = sample_z_scores(volume, placement, intensity)
    if not intensity.clip:  # The domain's range then comes from its darkest and brightest voxels, which may be few.
        return False
    low, high = np.percentile(scores, ROBUST_RANGE)
    tolerance = _RANGE_TOLERANCE * (intensity.z_high - intensity.z_low)
    return bool(max(abs(low - intensity.z_low), abs(high - intensity.z_high)) > tolerance)


def doubt_about_window(lowest: Sequence[float], window: tuple[float, float] | None) -> str:
    """Return what speaks against the clipping chosen for the volumes of one modality; empty if nothing does.

    Args:
        lowest: Smallest value of each volume.
        window: CT window in Hounsfield units; None if volumes are clipped to percentiles.
    """
    if window is None and 2 * sum(value < _CT_AIR_HU for value in lowest) > len(lowest):
        return f"most volumes go below {_CT_AIR_HU}, as CT in Hounsfield units does, but no CT window is set"
    # In CT that was clipped already, no air may be left, but fat lies below 0 too.
    if window is not None and 2 * sum(value >= 0 for value in lowest) > len(lowest):
        return "most volumes have no value below 0, unlike CT in Hounsfield units, but a CT window is set"
    return ""


def doubt_about_mixture(lowest: Sequence[tuple[str, float]]) -> str:
    """Return what speaks against all volumes being of one modality; empty if nothing does.

    Args:
        lowest: Name and smallest value of each volume.
    """
    like_ct = [name for name, value in lowest if value < _CT_AIR_HU]
    others = [name for name, value in lowest if value >= _CT_AIR_HU]
    if not like_ct or not others:
        return ""
    few, many, go = (like_ct, others, "go") if len(like_ct) <= len(others) else (others, like_ct, "do not go")
    shown = ", ".join(few[:_SHOWN]) + (", ..." if len(few) > _SHOWN else "")
    return (
        f"{len(few)} of {len(few) + len(many)} volumes {go} below {_CT_AIR_HU}, as CT in Hounsfield units does, "
        f"unlike the others: {shown}"
    )


def _unlike_spacings(name: str, placement: Placement, preprocessing: Preprocessing) -> list[str]:
    """Return sentences about unusual slice spacing and coarse pixels; finer pixels lose no information."""
    between_slices, *between_pixels = placement.spacings
    sentences = []
    if preprocessing.slice_spacings is not None:
        near, far = preprocessing.slice_spacings
        if not near / _UNLIKE_SPACING <= between_slices <= far * _UNLIKE_SPACING:
            sentences.append(
                f"{name} has slices {between_slices:.3g} mm apart, the model was trained on {_range(near, far)} mm: "
                "check the plane and the series."
            )
    if preprocessing.pixel_spacings is not None:
        near, far = preprocessing.pixel_spacings
        if max(between_pixels) > far * _UNLIKE_SPACING:
            sentences.append(
                f"{name} has pixels of {max(between_pixels):.3g} mm, the model was trained on {_range(near, far)} mm: "
                "load a series of higher resolution."
            )
    return sentences


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
