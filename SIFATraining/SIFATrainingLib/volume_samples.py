"""Sample of a prepared set's volumes and slices, enough to see how a model does on the whole set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .dataset import VolumeEntry

BATCH = 8
_MOST_VOLUMES = 24
_MOST_SLICES = 24  # Per volume, spread over it; close enough to one another for parts to stay connected.


def sample_volumes(volumes: Sequence[VolumeEntry]) -> list[list[NDArray[np.int64]]]:
    """Choose volumes spread over a set, and slices spread over each of them.

    Returns:
        For each chosen volume, the indices of its slices, in batches of up to `BATCH`.
    """
    chosen = np.unique(np.linspace(0, len(volumes) - 1, min(_MOST_VOLUMES, len(volumes))).astype(int))
    return [_batches(volumes[index]) for index in chosen]


def _batches(volume: VolumeEntry) -> list[NDArray[np.int64]]:
    count = min(_MOST_SLICES, volume.stop - volume.start)
    spread = np.unique(np.linspace(volume.start, volume.stop - 1, count).astype(np.int64))
    return np.split(spread, range(BATCH, len(spread), BATCH))
