"""Bounding boxes of labels, and scores of arrays that are cropped to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from SIFASegmentationLib.boxes import (
    boxes_of_values,
    common_box,
    covered_voxels,
    is_too_wide,
    labelled_box,
    values_in,
)
from SIFASegmentationLib.evaluation import score_pair
from SIFASegmentationLib.metrics import score_labelmaps, score_masks
from SIFASegmentationLib.volumes import Geometry, Volume
from SIFASegmentationLib.work import result_of

SHAPE = (9, 10, 11)


def volume(array: np.ndarray) -> Volume:
    size = (array.shape[2], array.shape[1], array.shape[0])
    return Volume(array, Geometry(size, (0.5, 0.75, 2.0), (1.0, 2.0, 3.0), (1, 0, 0, 0, 1, 0, 0, 0, 1)), "one")


def test_the_box_is_the_smallest_that_holds_all_labels() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    assert labelled_box(labels) is None
    labels[2, 3, 4] = 7
    assert labelled_box(labels) == (slice(2, 3), slice(3, 4), slice(4, 5))
    labels[8, 0, 10] = 1
    box = labelled_box(labels)
    assert box == (slice(2, 9), slice(0, 4), slice(4, 11))
    assert common_box(box, (slice(0, 3), slice(1, 9), slice(5, 6))) == (slice(0, 9), slice(0, 9), slice(4, 11))
    assert common_box(None, box) == common_box(box, None) == box
    assert labels[common_box(None, None)].shape == (0, 0, 0)
    assert values_in(labels) == [0, 1, 7]


@pytest.mark.parametrize("empty", ["neither", "prediction", "reference", "both"])
def test_rows_of_a_pair_are_the_scores_of_whole_labelmaps(empty: str) -> None:
    rng = np.random.default_rng(3)
    labelmaps = []
    for name in ("prediction", "reference"):
        labels = np.zeros(SHAPE, np.uint8)
        if empty not in (name, "both"):
            labels[2:8, 1:9, 3:10] = rng.integers(0, 3, (6, 8, 7))
        labelmaps.append(labels)
    names = {1: "liver", 2: "spleen", 3: "kidney"}
    rows = score_pair("one", volume(labelmaps[0]), volume(labelmaps[1]), names, notes=("known",))
    together = score_labelmaps(labelmaps[0], labelmaps[1], (2.0, 0.75, 0.5), names)
    for row, (value, name) in zip(rows, names.items(), strict=True):
        expected = score_masks(labelmaps[0] == value, labelmaps[1] == value, (2.0, 0.75, 0.5))
        assert row.structure == name
        assert repr(row.scores) == repr(together[value]) == repr(expected)
    assert rows[2].note == "both empty; known"
    assert score_labelmaps(labelmaps[0], labelmaps[1], (2.0, 0.75, 0.5), []) == {}


TURNED = (0.6, -0.8, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("seed", range(6))
def test_what_a_cropped_prediction_leaves_out_is_missed(seed: int) -> None:
    """The scores are those on the whole grid, wherever the prediction was cropped and however the volume lies."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, SHAPE).astype(np.uint8)
    k, j, i = (slice(*sorted(rng.choice(size + 1, 2, replace=False).tolist())) for size in SHAPE)
    whole = np.zeros_like(truth)
    whole[k, j, i] = truth[k, j, i]
    geometry = replace(volume(truth).geometry, direction=TURNED)
    reference = Volume(truth, geometry, "reference")
    start = np.array([i.start, j.start, k.start])
    size = (i.stop - i.start, j.stop - j.start, k.stop - k.start)
    x, y, z = (geometry.axes_mm @ start + geometry.origin).tolist()
    cropped = Volume(whole[k, j, i], replace(geometry, size=size, origin=(x, y, z)), "cropped")
    names = {1: "liver", 2: "spleen"}
    expected = score_pair("one", Volume(whole, geometry, "whole"), reference, names)
    found = score_pair("one", cropped, reference, names)
    assert [repr(row.scores) for row in found] == [repr(row.scores) for row in expected]
    assert "was extended" in found[0].note


def test_labelmaps_of_two_places_have_nothing_in_common() -> None:
    here = volume(np.ones(SHAPE, np.uint8))
    far = replace(here, geometry=replace(here.geometry, origin=(1e5, 1e5, 1e5)))
    (row,) = score_pair("one", here, far, {1: "liver"})
    assert row.scores.dice == 0
    assert row.note.endswith("the two lie far apart: check that they are of the same volume")


def test_a_large_volume_may_be_widened_as_a_small_one() -> None:
    large = (1024, 1024, 400)
    assert not is_too_wide((1024, 1024, 401), large)
    assert not is_too_wide((512, 512, 300), (10, 10, 10))
    assert is_too_wide((1024, 1024, 400), (10, 10, 10))
    assert is_too_wide((1024, 1024, 801), large)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("planes", [1, 15, 16, 17, 40])
def test_boxes_of_values_are_those_of_each_alone(planes: int, dtype: type[np.integer]) -> None:
    random = np.random.default_rng(planes)
    labels = np.where(random.random((planes, 9, 7)) < 0.01, random.integers(0, 200, (planes, 9, 7)), 0).astype(dtype)
    labels[0, 0, 0] = labels[-1, -1, -1] = 250
    expected = {value: labelled_box((labels == value).view(np.uint8)) for value in values_in(labels) if value}
    assert len(expected) > 1 or planes == 1
    assert result_of(boxes_of_values(labels)) == expected
    assert len(list(boxes_of_values(labels))) == -(-planes // 16)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-20, 20)] * 3), min_size=1, max_size=5))
def test_covered_voxels_hold_all_points_and_no_plane_more(points: list[tuple[float, float, float]]) -> None:
    first, end = covered_voxels(np.array(points))
    low, high = np.min(points, 0), np.max(points, 0)
    # Voxel n extends from n - 0.5 to n + 0.5.
    assert (first - 0.5 <= low + 2e-3).all()
    assert (end - 0.5 >= high - 2e-3).all()
    assert (first + 0.5 > low).all()
    assert (end - 1.5 < high).all() or (high == low).any()


def test_faces_on_the_borders_of_voxels_take_no_other_voxel() -> None:
    first, end = covered_voxels(np.array([[-0.5 - 1e-6, 1.5 + 1e-6, 2.5], [3.5 + 1e-6, 4.5 - 1e-6, 5.5]]))
    assert first.tolist() == [0, 2, 3]
    assert end.tolist() == [4, 5, 6]
