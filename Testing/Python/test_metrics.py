"""Scores against values worked out by hand, and against medpy, MONAI and surface-distance."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
import surface_distance
import torch
from medpy.metric import binary as medpy
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage

from SIFASegmentationLib.metrics import (
    Mask,
    score_labelmaps,
    score_labelmaps_in_pieces,
    score_masks,
    surface,
    surface_distances,
)

SPACING = (5.0, 0.8, 1.3)


def blob(seed: int, shape: tuple[int, int, int] = (20, 40, 36)) -> Mask:
    """A random shape with several parts, some of which touch the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (2, 4, 4))
    return np.asarray(noise > np.quantile(noise, 0.8))


def voxel(*position: int) -> Mask:
    mask = np.zeros((6, 6, 6), bool)
    mask[position] = True
    return mask


def test_one_voxel_against_another_three_slices_away() -> None:
    scores = score_masks(voxel(1, 2, 2), voxel(4, 2, 2), (2.0, 1.0, 1.0))
    assert (scores.dice, scores.asd, scores.hd95, scores.surface_dice) == (0.0, 6.0, 6.0, 0.0)
    assert scores.prediction_ml == scores.reference_ml == pytest.approx(0.002)
    assert score_masks(voxel(1, 2, 2), voxel(4, 2, 2), (2.0, 1.0, 1.0), tolerance=6.0).surface_dice == 1.0


def test_distances_are_pooled_and_legacy_averages_the_directions() -> None:
    # P is one voxel, R the same voxel and one 4 mm away: distances 0 | 0, 4.
    prediction, reference = voxel(1, 1, 1), voxel(1, 1, 1) | voxel(1, 1, 3)
    scores = score_masks(prediction, reference, (1.0, 1.0, 2.0))
    assert scores.asd == pytest.approx(4 / 3)
    assert scores.dice == pytest.approx(2 / 3)
    assert scores.volume_difference == -0.5
    legacy = score_masks(prediction, reference, (1.0, 1.0, 2.0), legacy=True)
    assert legacy.asd == pytest.approx((0 + 2 / 2) / 2)
    # Distances are in voxels, so the spacing has no effect.
    assert legacy.hd95 == score_masks(prediction, reference, (1.0, 1.0, 7.0), legacy=True).hd95


def test_the_surface_of_a_cube_is_its_shell_and_the_border_counts_as_outside() -> None:
    cube = np.zeros((7, 7, 7), bool)
    cube[1:6, 1:6, 1:6] = True
    assert surface(cube).sum() == 5**3 - 3**3
    assert surface(np.ones((4, 4, 4), bool)).sum() == 4**3 - 2**3


@pytest.mark.parametrize(("p", "r"), [(False, False), (True, False), (False, True)])
def test_empty_masks_have_no_distances_and_a_dice_of_0_or_none(p: bool, r: bool) -> None:
    scores = score_masks(np.full((3, 3, 3), p), np.full((3, 3, 3), r), SPACING)
    assert isnan(scores.asd)
    assert isnan(scores.hd95)
    assert isnan(scores.surface_dice)
    assert isnan(scores.dice) if not (p or r) else scores.dice == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_equal_to_medpy(seed: int, spacing: tuple[float, float, float]) -> None:
    p, r = blob(seed), blob(seed) ^ (blob(seed + 100) & blob(seed + 200))
    scores = score_masks(p, r, spacing)
    assert scores.dice == pytest.approx(medpy.dc(p, r), rel=1e-6)
    assert scores.asd == pytest.approx(medpy.assd(p, r, spacing), rel=1e-6)
    assert scores.hd95 == pytest.approx(medpy.hd95(p, r, spacing), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_monai_but_for_the_pooling(seed: int) -> None:
    p, r = blob(seed), blob(seed + 50)
    scores = score_masks(p, r, SPACING)
    tensors = torch.from_numpy(p)[None, None], torch.from_numpy(r)[None, None]
    hd95 = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=list(SPACING))
    # MONAI takes the larger of the two directed percentiles; ours is that of the pooled distances, between the two.
    directed = [float(np.percentile(distances, 95)) for distances in surface_distances(p, r, SPACING)]
    assert max(directed) == pytest.approx(float(hd95), rel=1e-5)
    assert min(directed) <= scores.hd95 <= max(directed)
    monai = compute_surface_dice(*tensors, [2.0], include_background=True, spacing=list(SPACING))
    assert scores.surface_dice == pytest.approx(float(monai), abs=1e-6)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
def test_surface_dice_is_close_to_surface_distance() -> None:
    """That library places the surface between voxels and weighs it by area, which matters little for a large ball."""
    k, j, i = np.indices((64, 64, 64))
    ball = (k - 31) ** 2 + (j - 31) ** 2 + (i - 30) ** 2 < 24**2
    other = (k - 31) ** 2 + (j - 31) ** 2 + (i - 33) ** 2 < 23**2
    theirs = surface_distance.compute_surface_distances(ball, other, (1.0, 1.0, 1.0))
    expected = surface_distance.compute_surface_dice_at_tolerance(theirs, 2.0)
    assert 0.3 < expected < 0.9
    assert score_masks(ball, other, (1.0, 1.0, 1.0)).surface_dice == pytest.approx(expected, abs=0.05)


def test_swapping_prediction_and_reference_changes_nothing_but_volumes() -> None:
    p, r = blob(3), blob(4)
    one, other = score_masks(p, r, SPACING), score_masks(r, p, SPACING)
    assert (one.dice, one.surface_dice) == (other.dice, other.surface_dice)
    assert one.asd == pytest.approx(other.asd)
    assert one.prediction_ml == other.reference_ml


def test_structures_of_a_labelmap_are_scored_as_their_masks() -> None:
    p, r = (np.where(blob(s), 1, np.where(blob(s + 9), 3, 0)).astype(np.uint8) for s in (1, 2))
    scores = score_labelmaps(p, r, SPACING, [1, 2, 3])
    for value in (1, 3):
        assert scores[value] == score_masks(p == value, r == value, SPACING)
    assert isnan(scores[2].dice)


def test_a_structure_far_from_its_reference_is_scored_in_many_pieces() -> None:
    labels = np.zeros((2, 30, 90, 90), np.uint8)
    labels[0, 2:12, 3:33, 3:33] = 1
    labels[1, 16:28, 50:86, 48:88] = 1
    pieces = score_labelmaps_in_pieces(labels[0], labels[1], SPACING, [1])
    count = 0
    try:
        while True:
            next(pieces)
            count += 1
    except StopIteration as end:
        (scores,) = end.value.values()
    surfaces = [surface(some == 1) for some in labels]
    assert count > sum(int(some.sum()) for some in surfaces) / 500
    to = [ndimage.distance_transform_edt(~some, SPACING) for some in surfaces]
    pooled = np.concatenate([to[1][surfaces[0]], to[0][surfaces[1]]])
    assert scores.asd == pytest.approx(pooled.mean(), rel=1e-12)
    assert scores.hd95 == pytest.approx(np.percentile(pooled, 95), rel=1e-12)
