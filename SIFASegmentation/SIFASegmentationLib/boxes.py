"""Boxes of arrays, and what is labelled in them: looking at no more than that is what makes the rest quick."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .work import Work

Box = tuple[slice, ...]
_MOST_VOXELS = 2**28  # Of a grid that holds two labelmaps, or twice one's own, if that is more.
_SLACK = 1e-3  # Of a voxel: what rounding does to a grid's edges.
_PLANES = 16  # Whose parts are looked for in one piece.


def labelled_box(labels: NDArray[np.integer]) -> Box | None:
    """The smallest box of labels (k, j, i) that holds all that are not 0; None if there are none."""
    k = _span([plane.any() for plane in labels])
    if k is None:
        return None
    j = _span(labels[k].any(axis=(0, 2)))
    i = _span(labels[k, j].any(axis=(0, 1))) if j is not None else None
    return (k, j, i) if j is not None and i is not None else None


def common_box(one: Box | None, other: Box | None) -> Box:
    """The smallest box that holds two others, either of which may be none; an empty one for two that are."""
    if one is None or other is None:
        return one or other or (slice(0, 0),) * 3
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def boxes_of_values(labels: NDArray[Any]) -> Work[dict[int, Box]]:
    """The smallest box of labels (k, j, i), integers of up to 16 bits, that holds a value, for each of them above 0;
    some planes a piece."""
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
    """The boxes of values in arrays; one that holds many is looked through once."""

    def __init__(self) -> None:
        # With the arrays, so that no other comes to lie in their place.
        self._known: dict[object, tuple[NDArray[Any], dict[int, Box]]] = {}

    def of(self, array: NDArray[Any], value: int) -> Work[Box | None]:
        """The smallest box of an array (k, j, i) that holds all that have a value; None if none has it."""
        if value <= 0 or array.dtype.kind not in "iu" or array.dtype.itemsize > 2:
            return labelled_box((array == value).view(np.uint8))
        place = array.__array_interface__["data"][0], array.shape, array.strides
        if place not in self._known:
            self._known[place] = array, (yield from boxes_of_values(array))
        return self._known[place][1].get(value)


def covered_voxels(points: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The voxels that lie between points (n, 3) of a grid, whose voxel (0, 0, 0) has its centre at the origin: the
    first one, and the one after the last."""
    faces = points + 0.5
    first, end = np.floor(faces.min(0) + _SLACK), np.ceil(faces.max(0) - _SLACK)
    return first.astype(np.int64), end.astype(np.int64)


def is_too_wide(size: Iterable[int], own_size: Iterable[int]) -> bool:
    """Whether a grid that is made to hold two labelmaps is so much larger than one's own that the two can't be of one
    volume: those of two frames of coordinates would need any number of voxels.
    """
    return math.prod(size) > max(_MOST_VOXELS, 2 * math.prod(own_size))


def values_in(labels: NDArray[np.generic]) -> list[int]:
    """The values in labels (k, j, i), sorted."""
    values: set[int] = set()
    for plane in labels:
        flat = plane.ravel()
        # Each value ends somewhere: sorting those few voxels takes a tenth of the time of sorting all.
        ends = np.append(flat[:-1] != flat[1:], True)
        values.update(map(int, np.unique(flat[ends]).tolist()))
    return sorted(values)


def _span(labelled: ArrayLike) -> slice | None:
    """From the first to the last that is true."""
    found = np.flatnonzero(labelled).tolist()
    return slice(found[0], found[-1] + 1) if found else None
