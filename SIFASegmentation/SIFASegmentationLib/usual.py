"""What is usual: ranges that most volumes of a training have, beyond which a segmentation is doubted (`doubts`).

A few volumes say little of it. The organs of two patients easily differ by more than doubts allow for, so that with the
range of one patient many a good segmentation of another would be doubted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .positions import PositionRange
from .volumes import Triple

MillilitreRange = tuple[float, float]

FEWEST = 5
"""Volumes from which on their range is the usual one."""

_PERCENTILES = (5.0, 95.0)  # Between these lies what most have, also where labels, or a model, are wrong about some.
_FEW_WIDER = 2.0  # Times the largest volume of fewer than `FEWEST`, and a part of the smallest.


def usual_range(values: Sequence[float]) -> tuple[float, float]:
    """Range that most of the values have."""
    low, high = np.percentile(values, _PERCENTILES).tolist()
    return low, high


def volume_ranges(volumes_ml: Sequence[Mapping[str, float]]) -> dict[str, MillilitreRange]:
    """Of each structure, the range that most volumes with it had: one shrunken kidney does not make such kidneys usual,
    nor do volumes without a spleen make it usual to have none.

    Where fewer than `FEWEST` have a structure, it is wider, twofold at either end: what is missing, or far too large,
    is told of all the same.

    Args:
        volumes_ml: Of each volume, the structures' own by name, in ml; 0 where one is not there.
    """
    ranges = {}
    for name in volumes_ml[0] if volumes_ml else {}:
        if there := [one[name] for one in volumes_ml if one[name] > 0]:
            low, high = usual_range(there)
            wider = _FEW_WIDER if len(there) < FEWEST else 1.0
            ranges[name] = (low / wider, high * wider)
    return ranges


def position_ranges(positions_mm: Sequence[Mapping[str, Triple]]) -> dict[str, PositionRange]:
    """Of each structure, axis by axis, the range of its position in most volumes; empty where fewer than `FEWEST` tell.

    Args:
        positions_mm: Of each volume, see `positions`; empty where it tells nothing.
    """
    known = [one for one in positions_mm if one]
    if len(known) < FEWEST:
        return {}
    ranges = {}
    for name in known[0]:
        low, high = np.percentile([one[name] for one in known], _PERCENTILES, axis=0).tolist()
        ranges[name] = (tuple(low), tuple(high))
    return ranges
