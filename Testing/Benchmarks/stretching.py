"""Volumes stretched to the size that a benchmark needs."""

from __future__ import annotations

from scipy import ndimage

from SIFASegmentationLib.volumes import Geometry, Volume


def stretched(volume: Volume, shape: tuple[int, int, int]) -> Volume:
    """Resample a volume to another number of voxels (k, j, i) over the same extent.

    Nearest neighbours are used, so labelmaps stay labelmaps.
    """
    factors = [wanted / given for wanted, given in zip(shape, volume.array.shape, strict=True)]
    i, j, k = (size / factor for size, factor in zip(volume.geometry.spacing, reversed(factors), strict=True))
    geometry = Geometry(shape[::-1], (i, j, k), volume.geometry.origin, volume.geometry.direction)
    return Volume(ndimage.zoom(volume.array, factors, order=0), geometry, volume.name)
