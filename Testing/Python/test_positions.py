"""Positions of structures relative to one another."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from SIFASegmentationLib.image_files import image_geometry, to_image
from SIFASegmentationLib.positions import positions_mm
from SIFASegmentationLib.structures import load_task
from SIFASegmentationLib.volumes import Geometry, Volume


@given(seed=st.integers(0, 99), axes=st.permutations([0, 1, 2]), signs=st.tuples(*[st.sampled_from([-1, 1])] * 3))
@settings(max_examples=20, deadline=None)
def test_positions_are_the_same_in_whatever_order_voxels_are_stored(
    seed: int, axes: list[int], signs: tuple[int, int, int]
) -> None:
    task, rng = load_task("abdomen"), np.random.default_rng(seed)
    array = np.zeros((8, 10, 12), np.uint8)
    for value in (1, 2, 3, 4):
        k, j, i = rng.integers(0, (6, 8, 10))
        array[k : k + 2, j : j + 2, i : i + 2] = value
    if len(np.unique(array)) < 5:
        return
    geometry = Geometry((12, 10, 8), (1.5, 1.0, 4.0), (10.0, -20.0, 30.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    labelmap = Volume(array, geometry, "patient")
    expected = positions_mm(labelmap, task)
    # The expected position is computed by its definition, voxel by voxel.
    centres = [np.argwhere(array == value).mean(0)[::-1] * geometry.spacing for value in (1, 2, 3, 4)]
    assert expected["spleen"] == pytest.approx(centres[3] - np.mean(centres[:3], 0))
    image = sitk.PermuteAxes(sitk.Flip(to_image(labelmap), [sign < 0 for sign in signs]), axes)
    found = positions_mm(Volume(sitk.GetArrayFromImage(image), image_geometry(image), "patient"), task)
    for name, way in expected.items():
        assert found[name] == pytest.approx(way)


def test_without_one_structure_no_position_is_said() -> None:
    task = load_task("abdomen")
    array = np.zeros((4, 8, 8), np.uint8)
    array[0, 0, 0], array[1, 2, 2], array[2, 4, 4] = 1, 2, 3
    geometry = Geometry((8, 8, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert positions_mm(Volume(array, geometry, "patient"), task) == {}
    array[3, 6, 6] = 4
    assert set(positions_mm(Volume(array, geometry, "patient"), task)) == {s.name for s in task.structures}
