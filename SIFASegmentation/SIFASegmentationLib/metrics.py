"""Scores of one structure in two masks on the same grid.

A mask's surface is the set of its voxels with at least one of their 6 neighbours outside it; everything beyond the
border of the array counts as outside. Surface distances run from each voxel of one surface to the nearest voxel of the
other, in both directions, and are pooled. The average, the percentile and surface Dice all come from this one set.

The cost depends on the structures, not on the volume: labelmaps are cropped to their labelled part and masks to their
bounding boxes, and distances come from a k-d tree over the surface voxels alone, without a search for voxels that lie
on both surfaces. The search is slow where surfaces are far apart, so it proceeds in portions: functions whose names end
in `_in_pieces` are generators that keep a window responsive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import nan

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from .boxes import common_box, labelled_box
from .scores import DEFAULT_TOLERANCE_MM, Scores
from .work import Work, at_once

Mask = NDArray[np.bool_]
Float64Array = NDArray[np.float64]

_PORTION = 500  # Points searched for at a time: some 50 ms where the surfaces are far apart, 1 ms where they are near.


def score_labelmaps_in_pieces(
    prediction: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    values: Iterable[int],
    *,
    tolerance: float = DEFAULT_TOLERANCE_MM,
    tolerances: Mapping[int, float] | None = None,
    legacy: bool = False,
) -> Work[dict[int, Scores]]:
    """Score each structure of two labelmaps, yielding several times within each structure.

    Args:
        prediction: Labels (k, j, i).
        reference: Labels (k, j, i) on the same grid.
        spacing: Voxel spacing along k, j, i, in mm.
        values: Label values of the structures.
        tolerance: Tolerance of surface Dice, in mm (voxels in the legacy mode).
        tolerances: Tolerances by label value, for structures that have their own.
        legacy: Follow the paper's convention: distances in voxels, ASD as the mean of the two directed means.

    Returns:
        Scores by label value.

    Raises:
        ValueError: The labelmaps differ in shape.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"labelmaps of shapes {prediction.shape} and {reference.shape}")
    values = list(values)
    labelled = common_box(labelled_box(prediction), labelled_box(reference))
    predicted, referred = prediction[labelled], reference[labelled]
    yield
    highest = max(values, default=1)
    boxes = [ndimage.find_objects(labels, highest) for labels in (predicted, referred)]
    scores = {}
    for value in values:
        where = common_box(boxes[0][value - 1], boxes[1][value - 1])
        yield
        its_own = (tolerances or {}).get(value, tolerance)
        scores[value] = yield from score_masks_in_pieces(
            predicted[where] == value, referred[where] == value, spacing, tolerance=its_own, legacy=legacy
        )
    return scores


score_labelmaps = at_once(score_labelmaps_in_pieces)
"""`score_labelmaps_in_pieces` as an ordinary function."""


def score_masks_in_pieces(
    prediction: Mask,
    reference: Mask,
    spacing: tuple[float, float, float],
    *,
    tolerance: float = DEFAULT_TOLERANCE_MM,
    legacy: bool = False,
) -> Work[Scores]:
    """Score one mask (k, j, i) against another, with the arguments of `score_labelmaps`.

    Everything beyond the border of the arrays counts as outside the masks.
    """
    sizes = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    ml = float(np.prod(spacing)) / 1000
    volumes = sizes[0] * ml, sizes[1] * ml
    difference = (sizes[0] - sizes[1]) / sizes[1] if sizes[1] else nan
    if not all(sizes):
        dice = 0.0 if any(sizes) else nan
        return Scores(dice, nan, nan, nan, *volumes, difference)
    dice = 2 * int(np.count_nonzero(prediction & reference)) / sum(sizes)
    yield
    one, other = yield from surface_distances_in_pieces(prediction, reference, (1.0, 1.0, 1.0) if legacy else spacing)
    pooled = np.concatenate([one, other])
    return Scores(
        dice=dice,
        asd=float((one.mean() + other.mean()) / 2 if legacy else pooled.mean()),
        hd95=float(np.percentile(pooled, 95)),
        surface_dice=float((pooled <= tolerance).mean()),
        prediction_ml=volumes[0],
        reference_ml=volumes[1],
        volume_difference=difference,
    )


score_masks = at_once(score_masks_in_pieces)
"""`score_masks_in_pieces` as an ordinary function."""


def surface_distances_in_pieces(
    first: Mask, second: Mask, spacing: tuple[float, float, float]
) -> Work[tuple[Float64Array, Float64Array]]:
    """Distances from each surface voxel of `first` to the surface of `second`, and the other way round.

    Args:
        first: Mask (k, j, i) with at least one voxel.
        second: Mask (k, j, i) on the same grid, with at least one voxel.
        spacing: Voxel spacing along k, j, i; the distances are in its unit.
    """
    surfaces = surface(first), surface(second)
    yield
    shared = surfaces[0] & surfaces[1]
    distances = []
    for searched, found in (surfaces, reversed(surfaces)):
        tree = KDTree(np.argwhere(found) * np.asarray(spacing), balanced_tree=False, compact_nodes=False)
        yield
        # The distance is 0 on voxels of both surfaces; only the others need a search.
        apart = np.argwhere(searched & ~shared) * np.asarray(spacing)
        all_of_them = np.zeros(int(np.count_nonzero(searched)))
        for start in range(0, len(apart), _PORTION):
            portion = apart[start : start + _PORTION]
            all_of_them[start : start + len(portion)], _ = tree.query(portion)
            yield
        distances.append(all_of_them)
    return distances[0], distances[1]


surface_distances = at_once(surface_distances_in_pieces)
"""`surface_distances_in_pieces` as an ordinary function."""


def surface(mask: Mask) -> Mask:
    """Voxels of a mask (k, j, i) with at least one of their 6 neighbours outside it."""
    inner = mask.copy()
    for axis in range(3):
        lower, upper = _halves(axis)
        inner[lower] &= mask[upper]
        inner[upper] &= mask[lower]
        inner[_plane(axis, 0)] = False
        inner[_plane(axis, -1)] = False
    return mask & ~inner


def _halves(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All but the last and all but the first plane along an axis."""
    before, after = [slice(None)] * 3, [slice(None)] * 3
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)


def _plane(axis: int, index: int) -> tuple[slice | int, ...]:
    where: list[slice | int] = [slice(None)] * 3
    where[axis] = index
    return tuple(where)
