"""The largest connected part of each structure, found in slabs: memory is that of a slab, not of the volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_SLAB_VOXELS = 2**26
_NEIGHBOURS = ndimage.generate_binary_structure(3, 3)  # By faces, edges and corners.

Numbers = NDArray[np.signedinteger[Any]]
"""Number of the part that a voxel belongs to, from 1; 0 outside."""


def keep_largest_components(labels: NDArray[np.uint8], values: Sequence[int]) -> dict[int, int]:
    """Of each structure keep the largest part connected by faces, edges or corners; the rest becomes 0, in place.

    Gives the number of voxels that became 0, by value.

    Args:
        labels: Labelmap (k, j, i).
        values: Of the structures; of two parts as large, the one that comes first in memory is kept.
    """
    removed = dict.fromkeys(values, 0)
    for value, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None and value in values:
            removed[value] = _keep_largest(labels[box], value)
    return removed


def _keep_largest(part: NDArray[np.uint8], value: int) -> int:
    thickness = max(1, _SLAB_VOXELS // part[0].size)
    starts = range(0, len(part), thickness)
    slabs = [part[start : start + thickness] for start in starts]
    # A structure in one slab, as most are, is numbered once.
    only = [_numbered(slabs[0], value)] if len(slabs) == 1 else None
    sizes: list[NDArray[np.int64]] = []
    joins: list[NDArray[np.int64]] = []
    before, offset = None, 0
    for numbers, count in only or _each(slabs, value):
        sizes.append(np.bincount(numbers.ravel(), minlength=count + 1)[1:])
        if before is not None:
            firsts = np.array([[offset - len(sizes[-2])], [offset]], np.int64)
            joins.append(_touching(before, numbers[0]) + firsts)
        before, offset = numbers[-1].copy(), offset + count
    if offset < 2:
        return 0
    whole = _joined(offset, joins)
    voxels = np.bincount(whole, weights=np.concatenate(sizes))
    kept = voxels.argmax() == whole
    offset = 0
    for slab, (numbers, count) in zip(slabs, only or _each(slabs, value), strict=True):
        # Number 0 is what has another value.
        lost = np.array([False, *~kept[offset : offset + count]])
        slab[lost[numbers]] = 0
        offset += count
    return int(voxels.sum() - voxels.max())


def _each(slabs: Sequence[NDArray[np.uint8]], value: int) -> Iterator[tuple[Numbers, int]]:
    return (_numbered(slab, value) for slab in slabs)


def _numbered(slab: NDArray[np.uint8], value: int) -> tuple[Numbers, int]:
    """The parts of a slab, numbered, and how many they are."""
    numbers, count = ndimage.label(slab == value, _NEIGHBOURS)
    return numbers, int(count)


def _touching(last: Numbers, first: Numbers) -> NDArray[np.int64]:
    """Pairs (2, n) of parts, from 0, in two planes (j, i) that lie on one another: those that touch."""
    rows, columns = last.shape
    padded = np.pad(first, 1)
    pairs = []
    for down in range(3):
        for right in range(3):
            moved = padded[down : down + rows, right : right + columns]
            both = (last > 0) & (moved > 0)
            pairs.append(np.stack([last[both], moved[both]]).astype(np.int64) - 1)
    touching: NDArray[np.int64] = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return touching


def _joined(count: int, joins: Sequence[NDArray[np.int64]]) -> NDArray[np.int32]:
    """For each of `count` parts the number of the whole that it belongs to, in the order of their first parts."""
    one, other = np.concatenate([np.empty((2, 0), np.int64), *joins], axis=1)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    _, whole = connected_components(graph, directed=False)
    result: NDArray[np.int32] = whole
    return result
