"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from SIFATrainingLib.losses import (
    LeastSquaresAdversarial,
    LogAdversarial,
    cycle_loss,
    segmentation_loss,
    soft_dice_loss,
    weighted_cross_entropy,
)

# Two classes, four pixels: three of class 0, one of class 1; probabilities 1/2 everywhere.
EVEN = torch.zeros(1, 2, 2, 2)
LABELS = torch.tensor([[[0, 0], [0, 1]]])


def test_cycle_is_the_mean_absolute_error() -> None:
    assert cycle_loss(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 1.0])).item() == pytest.approx(1.25)


def test_the_least_squares_loss_by_hand() -> None:
    loss = LeastSquaresAdversarial()
    assert loss.generator(torch.tensor([0.0, 3.0])).item() == pytest.approx((1 + 4) / 2)
    real, fake = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 0.0])
    assert loss.discriminator(real, fake).item() == pytest.approx(0.5 * (0.5 + 2.0))


def test_the_log_loss_is_log_2_when_undecided() -> None:
    loss = LogAdversarial()
    assert loss.generator(torch.zeros(3)).item() == pytest.approx(math.log(2))
    assert loss.discriminator(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(math.log(2))


def test_cross_entropy_weighs_a_class_by_one_minus_its_share() -> None:
    expected = (3 * (1 - 0.75) + 1 * (1 - 0.25)) * math.log(2) / 4
    assert weighted_cross_entropy(EVEN, LABELS).item() == pytest.approx(expected)


def test_a_floor_on_probabilities_kills_the_gradient_of_confident_mistakes() -> None:
    wrong = torch.zeros(1, 2, 1, 1)
    wrong[:, 1] = 20.0
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    # A class that is alone has weight 0, so a pixel of class 1 is added.
    logits = torch.cat([wrong, wrong], 3).requires_grad_()
    both = torch.cat([labels, labels + 1], 2)
    (floored,) = torch.autograd.grad(weighted_cross_entropy(logits, both, 0.005), logits)
    (exact,) = torch.autograd.grad(weighted_cross_entropy(logits, both), logits)
    assert floored[..., 0].abs().max() == 0
    assert exact[..., 0].abs().max() > 0.1


def test_dice_counts_the_background_and_the_whole_batch() -> None:
    # Class 0: 2 * 1.5 / (1 + 3); class 1: 2 * 0.5 / (1 + 1).
    expected = 1 - (3 / 4 + 1 / 2) / 2
    assert soft_dice_loss(EVEN, LABELS).item() == pytest.approx(expected, abs=1e-6)
    twice = soft_dice_loss(EVEN.repeat(2, 1, 1, 1), LABELS.repeat(2, 1, 1))
    assert twice.item() == pytest.approx(expected, abs=1e-6)


def test_segmentation_is_their_sum_and_vanishes_for_the_truth() -> None:
    logits = 50 * torch.nn.functional.one_hot(LABELS, 2).movedim(-1, 1).float()
    assert segmentation_loss(EVEN, LABELS).item() == pytest.approx(
        (weighted_cross_entropy(EVEN, LABELS) + soft_dice_loss(EVEN, LABELS)).item()
    )
    assert segmentation_loss(logits, LABELS).item() == pytest.approx(0, abs=1e-5)


def test_log_by_sign() -> None:
    loss, high, low = LogAdversarial(), torch.full((2,), 2.0), torch.full((2,), -2.0)
    assert loss.generator(high).item() == pytest.approx(math.log1p(math.exp(-2)))
    assert loss.discriminator(high, low).item() == pytest.approx(math.log1p(math.exp(-2)))
    assert loss.discriminator(low, high).item() == pytest.approx(math.log1p(math.exp(2)))
