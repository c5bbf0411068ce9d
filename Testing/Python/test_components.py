"""The largest connected parts of each structure, whether they are found in one slab or in many."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from SIFASegmentationLib import components
from SIFASegmentationLib.components import component_sizes, fill_holes, keep_largest_components
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.structures import load_task


def test_parts_touching_at_a_corner_are_one() -> None:
    labels = np.zeros((4, 6, 8), np.uint8)
    labels[0:3, 0:3, 0:3] = 1
    labels[3, 5, 7] = 1
    labels[0, 5, 0:2] = 2
    labels[1, 4, 2] = 2  # Connected by a corner.
    labels[3, 0, 7] = 3
    assert {value: sorted(sizes) for value, sizes in component_sizes(labels).items()} == {1: [1, 27], 2: [3], 3: [1]}
    expected = labels.copy()
    expected[3, 5, 7] = 0
    assert keep_largest_components(labels, dict.fromkeys((1, 2, 3, 4), 1)) == {1: 1, 2: 0, 3: 0, 4: 0}
    assert np.array_equal(labels, expected)


def test_a_structure_keeps_as_many_parts_as_it_has() -> None:
    labels = np.zeros((1, 4, 12), np.uint8)
    labels[0, 0:3, 0:2] = labels[0, 0:4, 4:6] = labels[0, 1, 8:11] = 1
    for parts, removed in ((1, 9), (2, 3), (3, 0), (4, 0), (0, 0)):
        kept = labels.copy()
        assert keep_largest_components(kept, {1: parts}) == {1: removed}
        assert (kept == 1).sum() == (labels == 1).sum() - removed
        assert (kept[0, :, 4:6] == 1).all()


def test_a_task_says_how_many_parts_a_structure_has(tmp_path: Path) -> None:
    assert load_task("abdomen").parts == {1: 1, 2: 1, 3: 1, 4: 1}
    content = json.loads(load_task("abdomen").model_dump_json())
    for structure in content["structures"]:
        # As in all older files.
        del structure["parts"]
    content["structures"][1]["parts"] = 2
    path = tmp_path / "task.json"
    path.write_text(json.dumps(content))
    assert load_task(path).parts == {1: 1, 2: 2, 3: 1, 4: 1}
    content["structures"][1]["parts"] = -1
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"task\.json is not a valid task \(structures\.1\.parts, "):
        load_task(path)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), density=st.floats(0.02, 0.6), voxels=st.sampled_from([1, 60, 200, 2**26]),
    kept=st.integers(0, 3),
)  # fmt: skip
def test_slabs_make_no_difference(seed: int, density: float, voxels: int, kept: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((9, 7, 8)) < density).astype(np.uint8) * rng.integers(1, 4, (9, 7, 8), np.uint8)
    before, expected = labels.copy(), labels.copy()
    for value in (1, 3):
        parts, count = ndimage.label(labels == value, np.ones((3, 3, 3)))
        if kept:
            largest = sorted(range(1, count + 1), key=lambda part: -(parts == part).sum())[:kept]
            expected[(parts > 0) & ~np.isin(parts, largest)] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "_SLAB_VOXELS", voxels)
        patch.setattr(components, "_PIECE_VOXELS", voxels)
        sizes = component_sizes(before)
        removed = keep_largest_components(labels, {1: kept, 3: kept})
    assert np.array_equal(labels, expected)
    for value in (1, 3):
        parts, count = ndimage.label(before == value, np.ones((3, 3, 3)))
        assert sorted(sizes.get(value, [])) == sorted(np.bincount(parts.ravel(), minlength=count + 1)[1:])
    assert removed == {value: int((before == value).sum() - (labels == value).sum()) for value in (1, 3)}


def test_holes_are_filled_in_three_dimensions() -> None:
    labels = np.zeros((7, 9, 9), np.uint8)
    labels[1:6, 1:8, 1:8] = 2
    labels[2:4, 2:4, 2:4] = 0  # Enclosed.
    labels[3, 5, 5] = 1  # Enclosed, and another structure.
    labels[4:, 6, 6] = 0  # Open to the outside.
    labels[6, 0, 0] = 3
    before = labels.copy()
    assert fill_holes(labels, (1, 2, 3)) == {1: 0, 2: 8, 3: 0}
    assert (labels[2:4, 2:4, 2:4] == 2).all()
    changed = labels != before
    assert changed.sum() == 8
    # In 2D, this would be a hole in each plane.
    tunnel = np.full((3, 5, 5), 1, np.uint8)
    tunnel[:, 2, 2] = 0
    assert fill_holes(tunnel, (1,)) == {1: 0}
    assert fill_holes(before, (1, 3)) == {1: 0, 3: 0}


def test_a_hole_within_a_structure_within_another_is_the_inner_ones() -> None:
    labels = np.zeros((11, 11, 11), np.uint8)
    labels[1:10, 1:10, 1:10] = 1
    labels[3:8, 3:8, 3:8] = 2
    labels[4:7, 4:7, 4:7] = 0
    assert fill_holes(labels, (1, 2)) == {1: 0, 2: 27}
    assert labels[5, 5, 5] == 2


@pytest.mark.parametrize("seed", range(5))
def test_filling_holes_is_what_scipy_fills_of_each_structure_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.where(ndimage.gaussian_filter(rng.normal(size=(14, 15, 16)), 1) > 0, 1 + seed % 2, 0).astype(np.uint8)
    wanted = np.where(ndimage.binary_fill_holes(labels > 0), labels.max(), 0)
    fill_holes(labels, (1, 2))
    assert np.array_equal(labels, wanted)
