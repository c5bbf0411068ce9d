"""Mapping of array axes to anatomical axes and back, by views.

An oriented array has axes (slice, row, column):

| plane    | slices go       | rows go               | columns go            |
|----------|-----------------|-----------------------|-----------------------|
| axial    | to superior     | anterior to posterior | patient right to left |
| coronal  | to posterior    | superior to inferior  | patient right to left |
| sagittal | to patient left | superior to inferior  | anterior to posterior |
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from .volumes import Geometry

Plane = Literal["axial", "coronal", "sagittal"]
_T = TypeVar("_T")

_LEFT, _POSTERIOR, _SUPERIOR = np.eye(3)
_DIRECTIONS: dict[Plane, tuple[NDArray[np.float64], ...]] = {
    "axial": (_SUPERIOR, _POSTERIOR, _LEFT),
    "coronal": (_POSTERIOR, -_SUPERIOR, _LEFT),
    "sagittal": (_LEFT, -_SUPERIOR, _POSTERIOR),
}


@dataclass(frozen=True)
class Orientation:
    """A permutation and flips of the axes of an array (k, j, i).

    Attributes:
        axes: Array axes that become slice, row, column.
        flipped: Whether slice, row, column run against the direction of their array axis.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """View (slice, row, column) of an array (k, j, i). Writing to the view writes to the array."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return array.transpose(self.axes)[steps]

    def reorder(self, ijk: tuple[_T, _T, _T]) -> tuple[_T, _T, _T]:
        """Values given for i, j, k, such as spacings, in the order slice, row, column."""
        a, b, c = (ijk[2 - axis] for axis in self.axes)
        return a, b, c


def nearest_orientation(geometry: Geometry, plane: Plane) -> Orientation:
    """The orientation that brings a volume's axes nearest to the anatomical axes of a plane.

    Axes are matched one to one so that the sum of the absolute cosines between them is greatest. An oblique volume
    stays oblique: nothing is resampled.
    """
    cosines = np.stack(_DIRECTIONS[plane]) @ geometry.direction_matrix
    targets = np.arange(3)
    best = max(permutations(range(3)), key=lambda ijk: float(np.abs(cosines[targets, list(ijk)]).sum()))
    a, b, c = best
    flips = cosines[targets, list(best)] < 0
    return Orientation((2 - a, 2 - b, 2 - c), (bool(flips[0]), bool(flips[1]), bool(flips[2])))
