"""Check whether a labelmap and an image lie on the same grid, and bring the labelmap onto the image's grid."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .image_files import from_image, to_image
from .volumes import Geometry, Volume

# Tolerance in voxels, at the outer corners, where errors of spacing and direction have added up: far more than the
# rounding of NIfTI's 32-bit floats, and a tenth of what would move a label.
_SAME_VOXEL = 0.05


def same_grid(a: Geometry, b: Geometry) -> bool:
    """Whether two grids are the same, apart from rounding in files."""
    return grid_difference(a, b) is None


def grid_difference(a: Geometry, b: Geometry) -> str | None:
    """The difference of two grids in words, such as `size (4, 4, 2) and (4, 4, 3)`.

    None if they are the same, apart from rounding in files.
    """
    if a.size != b.size:
        return f"size {a.size} and {b.size}"
    if _apart(a, b) <= _SAME_VOXEL:
        return None
    # Name the property that contributes most to the difference.
    changed = {name: replace(a, **{name: getattr(b, name)}) for name in ("spacing", "direction", "origin")}
    name = max(changed, key=lambda name: _apart(a, changed[name]))
    unit = "" if name == "direction" else " mm"
    return f"{name} {_rounded(getattr(a, name))} and {_rounded(getattr(b, name))}{unit}"


def check_same_grid(labelmap: Volume, image: Volume) -> None:
    """Check that a labelmap lies on the grid of its image.

    Raises:
        InputError: It does not; the message names both, and what differs.
    """
    difference = grid_difference(labelmap.geometry, image.geometry)
    if difference is not None:
        raise InputError(
            f"The labelmap {labelmap.name} and the image {image.name} lie on different grids ({difference})",
            "resample the labelmap to the image",
        )


def match_grid(labelmap: Volume, image: Volume) -> Volume:
    """Bring a labelmap onto its image's grid without interpolation.

    Axes in another order or direction are turned; a labelmap that was cropped, as Slicer saves segmentations, is put
    back into place.

    Raises:
        InputError: Its voxels are not those of the image, or labelled voxels lie outside the image; names both.
    """
    if same_grid(labelmap.geometry, image.geometry):
        return labelmap
    turned = _turned(labelmap, image.geometry)
    if same_grid(turned.geometry, image.geometry):
        return turned
    if _is_cropped(turned, image.geometry):
        return resample_labelmap(turned, image.geometry)
    check_same_grid(labelmap, image)
    return labelmap


def resample_labelmap(labelmap: Volume, geometry: Geometry) -> Volume:
    """Resample a labelmap to another grid by nearest neighbour; 0 outside its own grid."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    resampler.SetSize(geometry.size)
    resampler.SetOutputSpacing(geometry.spacing)
    resampler.SetOutputOrigin(geometry.origin)
    resampler.SetOutputDirection(geometry.direction)
    return Volume(sitk.GetArrayFromImage(resampler.Execute(to_image(labelmap))), geometry, labelmap.name)


def _turned(volume: Volume, other: Geometry) -> Volume:
    """Reorder and flip the axes of a volume to come nearest to those of another grid; no voxel moves in space.

    The volume is returned as it is if two of its axes are nearest to the same axis of the other.
    """
    own = volume.geometry
    cosines = other.direction_matrix.T @ own.direction_matrix
    axes = np.abs(cosines).argmax(axis=1).tolist()
    if sorted(axes) != [0, 1, 2]:
        return volume
    flips = (cosines[range(3), axes] < 0).tolist()
    return from_image(sitk.Flip(sitk.PermuteAxes(to_image(volume), axes), flips), volume.name)


def _is_cropped(labelmap: Volume, whole: Geometry) -> bool:
    """Whether a labelmap differs in size from `whole`, its voxels are voxels of `whole`, and all labels lie inside."""
    own = labelmap.geometry
    # The same size at another place is a wrong origin rather than a crop.
    if own.size == whole.size:
        return False
    start = np.rint(whole.index_of(np.array([own.origin]))[0])
    x, y, z = (whole.direction_matrix @ (start * whole.spacing) + whole.origin).tolist()
    if not same_grid(own, replace(whole, size=own.size, origin=(x, y, z))):
        return False
    for axis, (first, size) in enumerate(zip(start, whole.size, strict=True)):
        labelled = np.flatnonzero(labelmap.array.any(axis=tuple({0, 1, 2} - {2 - axis}))) + first
        if labelled.size and (labelled[0] < 0 or labelled[-1] >= size):
            return False
    return True


def _apart(a: Geometry, b: Geometry) -> float:
    """Greatest distance of the outer corners of two grids of equal size, along any axis of `a`, in voxels of `a`."""
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in a.size))))
    return float(np.abs(a.index_of(corners @ b.axes_mm.T + b.origin) - corners).max())


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values)
