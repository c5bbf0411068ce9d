"""Probability maps of structures, kept compressed: most of a map is 0, so many maps fit in memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .preprocessing import Placement
from .structures import HIGHEST
from .volumes import Volume

_FASTEST = 1  # Level of compression; zeros shrink to almost nothing at any level.


class ProbabilityMaps(Mapping[str, Volume]):
    """Probability map of each structure by name, then the map of the highest probability of any class (`HIGHEST`).

    Maps are uint8, from 0 to 255 (probability 1), on the volume's grid. A map is decompressed at each access, so hold
    only one at a time.
    """

    def __init__(self, structures: Sequence[str], placement: Placement, name: str) -> None:
        """
        Args:
            structures: Names in the order of their values, from 1; if empty, there are no maps at all.
            placement: Placement of the volume.
            name: Name of the volume.
        """
        names = [*structures, HIGHEST] if structures else []
        self._slabs: dict[str, list[tuple[slice, tuple[int, ...], bytes]]] = {name: [] for name in names}
        self._placement = placement
        self._name = name

    def add(self, slab: slice, probabilities: NDArray[np.float32]) -> None:
        """Add class probabilities (b, K, rows, columns) on the field of view for the slices of `slab`."""
        for value, (name, slabs) in enumerate(self._slabs.items(), 1):
            shown = probabilities.max(axis=1) if name == HIGHEST else probabilities[:, value]
            rounded = np.rint(255 * shown).astype(np.uint8)
            slabs.append((slab, rounded.shape, zlib.compress(rounded.tobytes(), _FASTEST)))

    def __getitem__(self, structure: str) -> Volume:
        array, view = self._placement.canvas(np.uint8)
        if structure == HIGHEST:
            array.fill(255)
        for slab, shape, compressed in self._slabs[structure]:
            view[slab] = np.frombuffer(zlib.decompress(compressed), np.uint8).reshape(shape)
        return Volume(array, self._placement.geometry, f"{self._name} {structure}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._slabs)

    def __len__(self) -> int:
        return len(self._slabs)
