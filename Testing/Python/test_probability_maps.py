"""Probability maps of many structures, kept compressed."""

from __future__ import annotations

import tracemalloc

import numpy as np

from SIFASegmentationLib.preprocessing import Preprocessing, place_volume
from SIFASegmentationLib.probability_maps import ProbabilityMaps
from SIFASegmentationLib.regions import BoxMM
from SIFASegmentationLib.volumes import Geometry, Volume

GEOMETRY = Geometry((64, 48, 40), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
VOLUME = Volume(np.zeros(GEOMETRY.shape, np.int16), GEOMETRY, "patient")


def test_maps_lie_where_their_slabs_were_put() -> None:
    region = BoxMM(minimum=(10, 5, 8), maximum=(40, 30, 60))
    placement = place_volume(VOLUME, Preprocessing(size=32, spacing=1.5), region)
    slices, rows, columns = placement.field_of_view.shape
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), (slices, rows, columns)).astype(np.float32)
    probabilities = probabilities.transpose(0, 3, 1, 2)
    maps = ProbabilityMaps(["liver", "spleen"], placement, "patient")
    for start in range(0, slices, 5):
        maps.add(slice(start, min(start + 5, slices)), probabilities[start : start + 5])
    assert list(maps) == ["liver", "spleen", "highest"]
    assert not ProbabilityMaps([], placement, "patient")
    shown = [*probabilities.transpose(1, 0, 2, 3)[1:], probabilities.max(1)]
    for name, expected in zip(maps, shown, strict=True):
        volume = maps[name]
        assert (volume.geometry, volume.name) == (GEOMETRY, f"patient {name}")
        assert (placement.view(volume.array) == np.rint(255 * expected)).all()
        outside = volume.array.copy()
        placement.view(outside)[...] = 0
        # Outside the field of view, background has probability 1.
        assert set(np.unique(outside)) <= ({0, 255} if name == "highest" else {0})


def test_a_hundred_structures_do_not_take_a_hundred_volumes() -> None:
    placement = place_volume(VOLUME, Preprocessing(size=64, spacing=1.0, field_of_view="full"))
    maps = ProbabilityMaps([f"structure {number}" for number in range(100)], placement, "patient")
    tracemalloc.start()
    for start in range(0, 40, 4):
        probabilities = np.zeros((4, 101, 48, 64), np.float32)
        probabilities[:, 0] = 1
        probabilities[:, 1 + start, 10:20, 10:20] = 0.7
        maps.add(slice(start, start + 4), probabilities)
    del probabilities
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 5 * VOLUME.array.size, "in bytes: a map is one byte a voxel"
    assert maps["structure 8"].array.max() == 178  # 0.7 of 255
