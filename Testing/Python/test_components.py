"""The largest connected part of each structure, whether it is found in one slab or in many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from SIFASegmentationLib import components
from SIFASegmentationLib.components import keep_largest_components


def test_by_hand() -> None:
    labels = np.zeros((4, 6, 8), np.uint8)
    labels[0:3, 0:3, 0:3] = 1
    labels[3, 5, 7] = 1
    labels[0, 5, 0:2] = 2
    labels[1, 4, 2] = 2  # Connected by a corner.
    labels[3, 0, 7] = 3
    expected = labels.copy()
    expected[3, 5, 7] = 0
    assert keep_largest_components(labels, [1, 2, 3, 4]) == {1: 1, 2: 0, 3: 0, 4: 0}
    assert np.array_equal(labels, expected)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0.02, 0.6), voxels=st.sampled_from([1, 60, 200, 2**26]))
def test_slabs_make_no_difference(seed: int, density: float, voxels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((9, 7, 8)) < density).astype(np.uint8) * rng.integers(1, 4, (9, 7, 8), np.uint8)
    before, expected = labels.copy(), labels.copy()
    for value in (1, 3):
        parts, count = ndimage.label(labels == value, np.ones((3, 3, 3)))
        if count:
            largest = np.bincount(parts.ravel())[1:].argmax() + 1
            expected[(parts > 0) & (parts != largest)] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "_SLAB_VOXELS", voxels)
        removed = keep_largest_components(labels, [1, 3])
    assert np.array_equal(labels, expected)
    assert removed == {value: int((before == value).sum() - (labels == value).sum()) for value in (1, 3)}
