"""Bounding boxes of the labelled voxels of arrays; other functions are fast because they look only inside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .work import Work

Box = tuple[slice, ...]
_MOST_VOXELS = 2**28  # Limit for a grid that holds two labelmaps, unless twice the number of the own grid is more.
_SLACK = 1e-3  # In voxels: rounding error of a grid's edges.
_PLANES = 16  # Planes searched in one piece of work.


def labelled_box(labels: NDArray[np.integer]) -> Box | None:
    """Bounding box of all non-zero labels (k, j, i); None if there are none."""
    k = _span([plane.any() for plane in labels])
    if k is None:
        return None
    j = _span(labels[k].any(axis=(0, 2)))
    i = _span(labels[k, j].any(axis=(0, 1))) if j is not None else None
    return (k, j, i) if j is not None and i is not None else None


def common_box(one: Box | None, other: Box | None) -> Box:
    """Smallest box that contains both boxes, either of which may be None; an empty box if both are."""
    if one is None or other is None:
        return one or other or (slice(0, 0),) * 3
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def boxes_of_values(labels: NDArray[Any]) -> Work[dict[int, Box]]:
    """Bounding box of each value above 0 in labels (k, j, i) of up to 16 bits, by value.

    Yields after every few planes.
    """
    from scipy import ndimage  # noqa: PLC0415  not every Slicer has it

    boxes: dict[int, Box] = {}
    if labels.size == 0:
        return boxes
    for first in range(0, len(labels), _PLANES):
        found = ndimage.find_objects(labels[first : first + _PLANES])
        for value, box in enumerate(found, 1):
            if box is not None:
                k, j, i = box
                moved = slice(k.start + first, k.stop + first), j, i
                boxes[value] = common_box(boxes.get(value), moved)
        yield
    return boxes


class ValueBoxes:
    """Cache of the bounding boxes of values in arrays: each array is searched once for all of its values."""

    def __init__(self) -> None:
        # The arrays are kept as well, so that no other array can take their place in memory.
        self._known: dict[object, tuple[NDArray[Any], dict[int, Box]]] = {}

    def of(self, array: NDArray[Any], value: int) -> Work[Box | None]:
        """Bounding box of all voxels of an array (k, j, i) that have a value; None if none has it."""
        if value <= 0 or array.dtype.kind not in "iu" or array.dtype.itemsize > 2:
            return labelled_box((array == value).view(np.uint8))
        place = array.__array_interface__["data"][0], array.shape, array.strides
        if place not in self._known:
            self._known[place] = array, (yield from boxes_of_values(array))
        return self._known[place][1].get(value)


def covered_voxels(points: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the range of voxels that the bounding box of some points covers.

    Args:
        points: Continuous voxel indices (n, 3); whole numbers are the centres of voxels.

    Returns:
        The first voxel (3,), and the one after the last (3,).
    """
    faces = points + 0.5
    first, end = np.floor(faces.min(0) + _SLACK), np.ceil(faces.max(0) - _SLACK)
    return first.astype(np.int64), end.astype(np.int64)


def is_too_wide(size: Iterable[int], own_size: Iterable[int]) -> bool:
    """Whether a grid made to hold two labelmaps is too large, compared with the own grid of one of them.

    Labelmaps in different coordinate frames can't belong to the same volume, and would need any number of voxels.
    """
    return math.prod(size) > max(_MOST_VOXELS, 2 * math.prod(own_size))


def values_in(labels: NDArray[np.generic]) -> list[int]:
    """Return the distinct values in labels (k, j, i), sorted."""
    values: set[int] = set()
    for plane in labels:
        flat = plane.ravel()
        # Every value occurs at the end of a run; sorting only these voxels takes a tenth of the time of sorting all.
        ends = np.append(flat[:-1] != flat[1:], True)
        values.update(map(int, np.unique(flat[ends]).tolist()))
    return sorted(values)


def _span(labelled: ArrayLike) -> slice | None:
    """Return the range from the first to the last true element; None if there is none."""
    found = np.flatnonzero(labelled).tolist()
    return slice(found[0], found[-1] + 1) if found else None
