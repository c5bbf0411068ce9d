"""Connected components of each structure, found slab by slab, so that memory does not grow with the volume."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .boxes import boxes_of_values
from .work import Work, at_once, result_of

_SLAB_VOXELS = 2**26
_PIECE_VOXELS = 2**19  # Size of a slab that is numbered in one piece of work, while a window waits.
_LARGE_PART = 0.2  # Fraction of the largest part's size; smaller parts count as islands.
_NEIGHBOURS = ndimage.generate_binary_structure(3, 3)  # Connected by faces, edges and corners.

Numbers = NDArray[np.signedinteger[Any]]
"""Number of the part that each voxel belongs to, from 1; 0 outside the structure."""


def keep_largest_components(labels: NDArray[np.uint8], parts: Mapping[int, int]) -> dict[int, int]:
    """Keep only the largest connected parts of each structure, in place; the rest becomes 0.

    Parts are connected by faces, edges or corners.

    Args:
        labels: Labelmap (k, j, i).
        parts: Number of parts to keep by label value, 0 for all. Among parts of equal size, the first in memory is
            kept.

    Returns:
        Number of voxels that became 0, by value.
    """
    removed = dict.fromkeys(parts, 0)
    for value, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None and parts.get(value):
            removed[value] = _keep_largest(labels[box], value, parts[value])
    return removed


def fill_holes(labels: NDArray[np.uint8], values: Iterable[int]) -> dict[int, int]:
    """Fill the background that each structure encloses on all sides, in place; enclosed other structures stay.

    Where structures enclose one another, a hole goes to the innermost structure around it.

    Args:
        labels: Labelmap (k, j, i).
        values: Label values of the structures.

    Returns:
        Number of voxels filled, by value.
    """
    filled = dict.fromkeys(values, 0)
    boxes = {value: box for value, box in enumerate(ndimage.find_objects(labels), 1) if box is not None}
    # A structure inside another has the smaller bounding box, and so comes first.
    for value, box in sorted(boxes.items(), key=lambda item: labels[item[1]].size):
        if value in filled:
            part = labels[box]
            holes = ndimage.binary_fill_holes(part == value) & (part == 0)
            part[holes] = value
            filled[value] = int(np.count_nonzero(holes))
    return filled


def large_parts(sizes: NDArray[np.int64]) -> int:
    """Count the parts of a structure that are too large to be mere islands, given the number of voxels of each."""
    return int((sizes >= _LARGE_PART * sizes.max()).sum())


def component_sizes_in_pieces(labels: NDArray[np.uint8]) -> Work[dict[int, NDArray[np.int64]]]:
    """Count the voxels of each connected part, for each value but 0 in a labelmap (k, j, i).

    Yields after every thin slab.
    """
    sizes = {}
    for value, box in sorted((yield from boxes_of_values(labels)).items()):
        _whole, sizes[value] = yield from _measured(_each(_slabs(labels[box], _PIECE_VOXELS), value))
    return sizes


component_sizes = at_once(component_sizes_in_pieces)


def _keep_largest(part: NDArray[np.uint8], value: int, count: int) -> int:
    slabs = _slabs(part, _SLAB_VOXELS)
    # Most structures fit one slab, whose numbering then serves both passes.
    only = [_numbered(slabs[0], value)] if len(slabs) == 1 else None
    whole, voxels = result_of(_measured(only or _each(slabs, value)))
    if len(voxels) <= count:
        return 0
    largest = np.argsort(-voxels, kind="stable")[:count]
    kept = np.isin(whole, largest)
    offset = 0
    for slab, (numbers, found) in zip(slabs, only or _each(slabs, value), strict=True):
        # Number 0 stands for voxels of other values, which stay.
        lost = np.array([False, *~kept[offset : offset + found]])
        slab[lost[numbers]] = 0
        offset += found
    return int(voxels.sum() - voxels[largest].sum())


def _slabs(part: NDArray[np.uint8], voxels: int) -> list[NDArray[np.uint8]]:
    thickness = max(1, voxels // part[0].size)
    return [part[start : start + thickness] for start in range(0, len(part), thickness)]


def _measured(slabs: Iterable[tuple[Numbers, int]]) -> Work[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Join the parts of successive slabs to wholes, yielding after every slab.

    Returns:
        For each part of each slab, in order, the index of the whole that it belongs to; and the number of voxels of
        each whole.
    """
    sizes: list[NDArray[np.int64]] = []
    joins: list[NDArray[np.int64]] = []
    before, offset = None, 0
    for numbers, count in slabs:
        sizes.append(np.bincount(numbers.ravel(), minlength=count + 1)[1:])
        if before is not None:
            firsts = np.array([[offset - len(sizes[-2])], [offset]], np.int64)
            joins.append(_touching(before, numbers[0]) + firsts)
        before, offset = numbers[-1].copy(), offset + count
        yield
    whole = _joined(offset, joins)
    return whole, np.bincount(whole, weights=np.concatenate(sizes)).astype(np.int64)


def _each(slabs: Sequence[NDArray[np.uint8]], value: int) -> Iterator[tuple[Numbers, int]]:
    return (_numbered(slab, value) for slab in slabs)


def _numbered(slab: NDArray[np.uint8], value: int) -> tuple[Numbers, int]:
    """Number the connected parts of a value in a slab, and count them."""
    numbers, count = ndimage.label(slab == value, _NEIGHBOURS)
    return numbers, int(count)


def _touching(last: Numbers, first: Numbers) -> NDArray[np.int64]:
    """Pairs (2, n) of touching parts, counted from 0, in two adjacent planes (j, i)."""
    rows, columns = last.shape
    padded = np.pad(first, 1).astype(np.int64)
    base = padded.max() + 1
    of_last, found = last.astype(np.int64) * base, []
    for down in range(3):
        for right in range(3):
            codes = (of_last + padded[down : down + rows, right : right + columns]).ravel()
            # Adjacent pixels mostly have the same pair, so keeping only the changes leaves little to sort.
            found.append(codes[np.diff(codes, prepend=-1) != 0])
    pairs: NDArray[np.int64] = np.stack(np.divmod(np.unique(np.concatenate(found)), base))
    return pairs[:, (pairs > 0).all(axis=0)] - 1


def _joined(count: int, joins: Sequence[NDArray[np.int64]]) -> NDArray[np.int32]:
    """Return the index of the whole that each of `count` parts belongs to; wholes are ordered by their first parts."""
    one, other = np.concatenate([np.empty((2, 0), np.int64), *joins], axis=1)
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    _, whole = connected_components(graph, directed=False)
    result: NDArray[np.int32] = whole
    return result
