"""Random contrasts: other intensities with the same borders and the same range; and the loss based on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quick import quick_config
from SIFATrainingLib import random_contrast
from SIFATrainingLib.config import baseline_config, make_config
from SIFATrainingLib.iteration import Batch
from SIFATrainingLib.losses import segmentation_loss
from SIFATrainingLib.methods import make_iteration
from SIFATrainingLib.networks import Networks
from SIFATrainingLib.prediction_alignment import PredictionAlignment
from SIFATrainingLib.random_contrast import in_random_contrast, loss_in_random_contrast
from SIFATrainingLib.self_training import SelfTrainingIteration

REACH = 4
"""Distance in pixels up to which a pixel affects new intensities: at most four layers of 3 x 3."""


def halves(count: int) -> Tensor:
    """Slices (count, 1, 32, 32): dark on the left, bright on the right."""
    slices = torch.full((count, 1, 32, 32), -0.8)
    slices[..., 16:] = 0.6
    return slices


def test_intensities_change_and_their_span_does_not() -> None:
    torch.manual_seed(0)
    slices = torch.rand(8, 1, 32, 32) * torch.linspace(0.2, 1.8, 8)[:, None, None, None] - 0.9
    changed = in_random_contrast(slices)
    assert changed.shape == slices.shape
    for least_or_greatest in (torch.amin, torch.amax):
        torch.testing.assert_close(least_or_greatest(changed, (1, 2, 3)), least_or_greatest(slices, (1, 2, 3)))
    assert bool(((changed - slices).abs().mean((1, 2, 3)) > 0.01).all())


def test_each_slice_has_its_own_contrast_and_a_seed_repeats_them() -> None:
    torch.manual_seed(1)
    same = torch.rand(1, 1, 32, 32).repeat(4, 1, 1, 1)
    first = in_random_contrast(same)
    assert all(not torch.allclose(first[0], other, atol=0.01) for other in first[1:])
    torch.manual_seed(1)
    torch.rand(1, 1, 32, 32)
    assert in_random_contrast(same).equal(first)


def test_borders_stay_and_nothing_appears_away_from_them() -> None:
    torch.manual_seed(2)
    changed = in_random_contrast(halves(64))
    for side in (changed[..., : 16 - REACH], changed[..., 16 + REACH :]):
        assert float((side.amax((1, 2, 3)) - side.amin((1, 2, 3))).max()) < 1e-4
    # The contrast is inverted in some slices, which changes of gamma, contrast or brightness can't do.
    turned = changed[:, 0, 16, 0] > changed[:, 0, 16, -1]
    assert 0 < int(turned.sum()) < 64


def test_a_slice_of_one_intensity_stays_as_it_is() -> None:
    torch.manual_seed(3)
    flat = torch.full((4, 1, 16, 16), -1.0)
    torch.testing.assert_close(in_random_contrast(flat), flat)


def test_half_precision_outside_makes_no_difference() -> None:
    slices = torch.rand(2, 1, 16, 16)
    torch.manual_seed(4)
    expected = in_random_contrast(slices)
    torch.manual_seed(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = in_random_contrast(slices)
    assert found.dtype == torch.float32
    assert found.equal(expected)
    assert in_random_contrast(slices.to(torch.bfloat16)).dtype == torch.float32
    assert in_random_contrast(slices.double()).dtype == torch.float64


def test_the_loss_is_that_of_one_of_the_choices_at_each_place(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    shown: list[Tensor] = []

    def record(slices: Tensor) -> Tensor:
        shown.append(slices)
        return -slices

    monkeypatch.setattr(random_contrast, "in_random_contrast", record)
    config = quick_config(batch=32, loss_weights={"random_contrast": 3.0})
    networks = Networks(3, config.width, 0.0)
    choices = [torch.full((32, 1, 16, 16), 0.25), torch.full((32, 1, 16, 16), 0.5, requires_grad=True)]
    labels = torch.randint(0, 3, (32, 16, 16))
    loss, terms = loss_in_random_contrast(networks, config, choices, labels)
    assert set(shown[0].flatten(1).unique(dim=1).flatten().tolist()) == {0.25, 0.5}
    assert not shown[0].requires_grad
    features, lower = networks.encoder(-shown[0])
    own = segmentation_loss(networks.classifier(features), labels)
    torch.testing.assert_close(terms["random_contrast"], own.detach())
    torch.testing.assert_close(loss, 3 * (own + 0.1 * segmentation_loss(networks.lower_classifier(lower), labels)))


def test_self_training_shows_a_share_of_the_slices_so(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(6)
    monkeypatch.setattr("SIFATrainingLib.self_training.in_random_contrast", lambda slices: slices + 10)
    for share, expected in ((0.0, {0}), (1.0, {1}), (0.5, {0, 1})):
        quiet = {"gamma": 0.0, "contrast": 0.0, "brightness": 0.0, "noise": 0.0}
        config = quick_config(self_training={"random_contrast": share, **quiet})
        networks = Networks(3, config.width, 0.0)
        alignment = PredictionAlignment(networks, config)
        last_part = SelfTrainingIteration(networks, config, alignment.segmentor, networks.segmentation_network())
        slices = torch.zeros(32, 1, 16, 16)
        moved = (last_part._changed(slices)[:, 0, 0, 0] > 5).int()
        assert set(moved.tolist()) == expected
        assert not slices.any()


def test_the_bounds_do_without_unless_asked() -> None:
    recommended = make_config("recommended")
    assert recommended.loss_weights.random_contrast > 0
    assert recommended.decay_share > 0
    for bound in (
        baseline_config(recommended, 10),
        *(make_config(method=m) for m in ("without_adaptation", "supervised")),
    ):
        assert (bound.loss_weights.random_contrast, bound.decay_share) == (0, 0)
    assert baseline_config(recommended, 10).iterations == 10
    asked = make_config(method="without_adaptation", loss_weights={"random_contrast": 2.0})
    assert asked.loss_weights.random_contrast == 2
    paper = make_config("paper")
    assert (paper.loss_weights.random_contrast, paper.self_training.share, paper.decay_share) == (0, 0, 0)


@pytest.mark.parametrize("method", ["without_adaptation", "output_alignment", "sifa", "prior_sifa"])
@pytest.mark.parametrize("schedule", ["simultaneous", "sequential"])
def test_methods_report_the_loss_and_move_by_it(method: str, schedule: str) -> None:
    moved = []
    for weight in (0.0, 1.0):
        torch.manual_seed(7)
        config = quick_config(method=method, schedule=schedule, loss_weights={"random_contrast": weight})
        networks = Networks(3, config.width, 0.0)
        batch = Batch(torch.rand(2, 1, 32, 32), torch.randint(0, 3, (2, 32, 32)), torch.rand(2, 1, 32, 32))
        torch.manual_seed(8)
        losses = make_iteration(networks, config).step(batch)
        assert ("random_contrast" in losses) == (weight > 0)
        moved.append(dict(networks.named_parameters()))
    for name in moved[0]:
        if name.startswith(("encoder", "classifier")):
            if moved[0][name].ndim > 1:
                assert not torch.equal(moved[0][name], moved[1][name]), name
        elif name.startswith("generator"):
            torch.testing.assert_close(moved[0][name], moved[1][name])
