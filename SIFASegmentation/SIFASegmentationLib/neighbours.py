"""The slices on either side that a model sees with each slice, as further channels.

Slices lie 1 to 10 mm apart, as each protocol has it, and each modality has its own. So what is seen is not the next
slice but the one nearest to a distance in mm: the same surroundings in all volumes of both domains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from .preprocessing import Float32Array, PreparedVolume


def channels_of(distance_mm: float) -> int:
    """Slices that the networks see at a time: one, or three where there is a distance; the middle one is meant."""
    return 3 if distance_mm > 0 else 1


def stack_indices(start: int, stop: int, distance_mm: float, slice_mm: float) -> NDArray[np.int64]:
    """Which slices are seen with each slice of a volume, (n, channels): at its ends the last that there is.

    Args:
        start: The volume's first slice.
        stop: The one after its last.
        distance_mm: To the slices on either side; 0 for none.
        slice_mm: Distance of the volume's slices.
    """
    own = np.arange(start, stop)
    if channels_of(distance_mm) == 1:
        return own[:, np.newaxis]
    step = max(1, round(distance_mm / slice_mm))
    return np.clip(np.stack([own - step, own, own + step], axis=1), start, stop - 1)


def stacked(
    prepared: PreparedVolume, slabs: Iterable[slice], distance_mm: float
) -> Iterator[tuple[slice, Float32Array]]:
    """Slab by slab the network inputs (b, channels, size, size) in [-1, 1]; each slice is computed once.

    Args:
        prepared: The volume.
        slabs: All its slices, in order.
        distance_mm: To the slices on either side; 0 for none.
    """
    indices = stack_indices(0, len(prepared), distance_mm, prepared.placement.spacings[0])
    first, last = 0, 0
    known = prepared.batch(0, 0)
    for slab in slabs:
        wanted = indices[slab]
        low, high = int(wanted.min()), int(wanted.max()) + 1
        known = np.concatenate([known[low - first :], prepared.batch(last, high)])
        first, last = low, high
        yield slab, known[wanted - first]
