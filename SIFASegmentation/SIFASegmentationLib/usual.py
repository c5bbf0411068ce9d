"""Usual ranges, into which most volumes of a training fall; segmentations far outside them are doubted (`doubts`).

Few volumes say little about what is usual. The organs of two patients easily differ by more than the doubts tolerate,
so the range of a single patient would cast doubt on many good segmentations of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .positions import PositionRange
from .volumes import Triple

MillilitreRange = tuple[float, float]

FEWEST = 5
"""Smallest number of volumes whose range is taken for the usual one as it is."""

_PERCENTILES = (5.0, 95.0)  # Ends of the usual range; a few volumes with wrong labels hardly affect them.
_FEW_WIDER = 2.0  # Factor by which the range of fewer than `FEWEST` volumes is widened at either end.


def usual_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the 5th and 95th percentiles, between which most of the values lie."""
    low, high = np.percentile(values, _PERCENTILES).tolist()
    return low, high


def volume_ranges(volumes_ml: Sequence[Mapping[str, float]]) -> dict[str, MillilitreRange]:
    """Return the usual range of each structure's volume, by name, in ml.

    Only volumes that have the structure count, so volumes without a spleen don't make it usual to have none, and one
    shrunken kidney does not make such kidneys usual. With fewer than `FEWEST` of them, the range is widened by a
    factor of two at either end: structures that are missing or far too large are still reported.

    Args:
        volumes_ml: For each volume, the volumes of the structures by name, in ml; 0 for a structure that is absent.
    """
    ranges = {}
    for name in volumes_ml[0] if volumes_ml else {}:
        if there := [one[name] for one in volumes_ml if one[name] > 0]:
            low, high = usual_range(there)
            wider = _FEW_WIDER if len(there) < FEWEST else 1.0
            ranges[name] = (low / wider, high * wider)
    return ranges


def position_ranges(positions_mm: Sequence[Mapping[str, Triple]]) -> dict[str, PositionRange]:
    """Return the usual range of each structure's position along each axis, by name, in mm.

    Empty if fewer than `FEWEST` volumes have positions.

    Args:
        positions_mm: For each volume, the result of `positions.positions_mm`, which may be empty.
    """
    known = [one for one in positions_mm if one]
    if len(known) < FEWEST:
        return {}
    ranges = {}
    for name in known[0]:
        low, high = np.percentile([one[name] for one in known], _PERCENTILES, axis=0).tolist()
        ranges[name] = (tuple(low), tuple(high))
    return ranges
