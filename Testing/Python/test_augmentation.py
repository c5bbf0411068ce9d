"""Random transforms of slices."""

from __future__ import annotations

import math

import pytest
import torch

from SIFATrainingLib.augmentation import (
    IntensityChanges,
    change_intensities,
    draw_affine,
    draw_intensity_changes,
    sampling_grid,
    warp_labels,
    warp_slices,
)
from SIFATrainingLib.config import NO_AUGMENTATION, AugmentationSettings, IntensityAugmentation


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_changes_nothing() -> None:
    slices = torch.rand(3, 1, 16, 16) * 2 - 1
    warped = warp_slices(slices, sampling_grid(draw_affine(3, NO_AUGMENTATION, seeded()), slices.shape))
    assert torch.allclose(warped, slices, atol=1e-5)
    changes = draw_intensity_changes(3, NO_AUGMENTATION, seeded())
    assert torch.allclose(change_intensities(slices, changes, torch.randn(slices.shape)), slices, atol=1e-6)


def test_labels_move_with_their_slices() -> None:
    labels = torch.zeros(8, 64, 64, dtype=torch.uint8)
    labels[:, 20:44, 24:50] = 3
    slices = torch.where(labels[:, None] > 0, 1.0, -1.0)
    grid = sampling_grid(draw_affine(8, AugmentationSettings(), seeded()), slices.shape)
    bright, labelled = warp_slices(slices, grid)[:, 0] > 0, warp_labels(labels, grid) == 3
    assert (bright != labelled).float().mean() < 0.01
    assert not torch.equal(labelled, labels == 3)


def test_a_quarter_turn_and_a_shift_are_what_they_say() -> None:
    slices = -torch.ones(1, 1, 8, 8)
    slices[0, 0, 0, 7] = 1
    turn = torch.tensor([[[math.cos(math.pi / 2), -math.sin(math.pi / 2), 0], [1.0, 0.0, 0.0]]])
    turned = warp_slices(slices, sampling_grid(turn, slices.shape))
    assert torch.allclose(turned, torch.rot90(slices, 1, (2, 3)), atol=1e-5) or torch.allclose(
        turned, torch.rot90(slices, -1, (2, 3)), atol=1e-5
    )
    shift = torch.tensor([[[1.0, 0.0, 2 / 8], [0.0, 1.0, 0.0]]])
    shifted = warp_slices(slices, sampling_grid(shift, slices.shape))
    assert shifted[0, 0, 0, 6] == 1
    assert (shifted == -1).sum() == 63


def test_parameters_stay_in_their_ranges() -> None:
    settings = AugmentationSettings(gamma=0.3, contrast=0.2, brightness=0.1, noise=0.05)
    t = draw_intensity_changes(2000, settings, seeded())
    assert math.exp(-0.3) <= t.gamma.min() < 0.8
    assert 1.2 < t.gamma.max() <= math.exp(0.3)
    assert 0.8 <= t.contrast.min() < t.contrast.max() <= 1.2
    assert t.brightness.abs().max() <= 0.1
    assert 0 <= t.noise.min() < t.noise.max() <= 0.05
    determinants = torch.linalg.det(draw_affine(2000, settings, seeded())[:, :, :2])
    assert 1 / 1.15**2 - 1e-4 <= determinants.min() < determinants.max() <= 1 / 0.85**2 + 1e-4


def test_intensities_stay_in_the_range_of_the_networks() -> None:
    slices = torch.rand(50, 1, 8, 8) * 2 - 1
    changes = draw_intensity_changes(50, IntensityAugmentation(noise=0.5), seeded())
    changed = change_intensities(slices, changes, torch.randn(slices.shape))
    assert changed.min() >= -1
    assert changed.max() <= 1


def test_the_same_seed_draws_the_same_transforms() -> None:
    one, other, third = (draw_affine(4, AugmentationSettings(), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_each_change_of_intensities_by_hand() -> None:
    slices = torch.full((4, 1, 1, 1), -0.5)
    changes = IntensityChanges(
        gamma=torch.tensor([2.0, 1, 1, 1]), contrast=torch.tensor([1, 0.5, 1, 1]),
        brightness=torch.tensor([0, 0, 0.25, 0]), noise=torch.tensor([0, 0, 0, 0.1]),
    )  # fmt: skip
    changed = change_intensities(slices, changes, torch.full_like(slices, 2.0)).flatten().tolist()
    assert changed == pytest.approx([2 * 0.25**2 - 1, -0.25, -0.25, -0.3])


def test_turns_shears_and_shifts_stay_in_their_ranges() -> None:
    def drawn(**given: float) -> torch.Tensor:
        return draw_affine(2000, NO_AUGMENTATION.model_copy(update=given), torch.Generator().manual_seed(0))

    turned, sheared, shifted = drawn(rotation_degrees=15), drawn(shear_degrees=5), drawn(translation=0.05)
    assert 14.8 < torch.atan2(turned[:, 1, 0], turned[:, 0, 0]).rad2deg().abs().max() <= 15.001
    assert 4.9 < sheared[:, 0, 1].atan().rad2deg().abs().max() <= 5.001
    assert 0.098 < shifted[:, :, 2].abs().max() <= 0.1001
