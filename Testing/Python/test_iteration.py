"""Which loss moves which network: both schedules against gradients taken loss by loss, one network at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from SIFATrainingLib.adaptation import AdaptationIteration
from SIFATrainingLib.config import METHOD_SETTINGS, SEGMENTATION_METHODS, TrainingConfig, make_config
from SIFATrainingLib.iteration import Batch
from SIFATrainingLib.losses import LeastSquaresAdversarial, LogAdversarial, cycle_loss, segmentation_loss
from SIFATrainingLib.methods import make_iteration
from SIFATrainingLib.networks import Networks
from SIFATrainingLib.players import Player
from SIFATrainingLib.prediction_alignment import OutputAlignmentIteration
from SIFATrainingLib.structure import structure_loss

CLASSES = 3
GROUPS = {
    "generator": ["generator"],
    "target_discriminator": ["target_discriminator"],
    "segmentor": ["encoder", "classifier", "lower_classifier"],
    "decoder": ["decoder"],
    "source_discriminator": ["source_discriminator"],
    "prediction_discriminators": ["prediction_discriminator", "lower_prediction_discriminator"],
}


def small_networks() -> Networks:
    torch.manual_seed(3)
    networks = Networks(CLASSES, width=0.0625, decoder_dropout=0.0).double()
    # Weights are larger than the authors' initial ones, so that every path has a gradient worth comparing.
    for parameter in networks.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.08)
    return networks


def small_batch() -> Batch:
    torch.manual_seed(4)
    return Batch(
        torch.rand(2, 1, 32, 32).double() * 2 - 1,
        torch.randint(0, CLASSES, (2, 32, 32)),
        torch.rand(2, 1, 32, 32).double() * 2 - 1,
    )


def config(*, loss_weights: Mapping[str, float] | None = None, **settings: object) -> TrainingConfig:
    """Settings without anything random in the iteration."""
    weights = {"random_contrast": 0.0, **(loss_weights or {})}
    return make_config(width=0.0625, batch=2, pool=0, decoder_dropout=0.0, loss_weights=weights, **settings)


def parameters_of(networks: Networks, group: str) -> list[nn.Parameter]:
    return [p for name in GROUPS[group] for p in networks.get_submodule(name).parameters()]


def losses_as_in_the_sheet(n: Networks, batch: Batch) -> dict[str, Tensor]:
    """The loss that each group minimises, from one plain forward pass (method, section 3)."""
    gan = LeastSquaresAdversarial()
    x_s, y_s, x_t = batch.source, batch.labels, batch.target
    x_st = n.generator(x_s)
    f_st, l_st = n.encoder(x_st)
    f_t, l_t = n.encoder(x_t)
    x_sts, x_ts = n.decoder(f_st, x_st), n.decoder(f_t, x_t)
    x_tst = n.generator(x_ts)
    cycles = 10 * cycle_loss(x_sts, x_s) + 10 * cycle_loss(x_tst, x_t)
    adv_t = gan.generator(n.target_discriminator(x_st))
    scores = n.source_discriminator(x_ts)
    adv_s, aux = gan.generator(scores[:, :1]), gan.generator(scores[:, 1:])
    p_t, q_t = n.classifier(f_t), n.lower_classifier(l_t)
    p_st, q_st = n.classifier(f_st), n.lower_classifier(l_st)
    adv_p1 = gan.generator(n.prediction_discriminator(p_t))
    adv_p2 = gan.generator(n.lower_prediction_discriminator(q_t))
    seg = segmentation_loss(p_st, y_s) + 0.1 * segmentation_loss(q_st, y_s)
    real, cycled, fake = (n.source_discriminator(x.detach()) for x in (x_s, x_sts, x_ts))
    return {
        "generator": cycles + adv_t,
        "target_discriminator": gan.discriminator(n.target_discriminator(x_t), n.target_discriminator(x_st.detach())),
        "segmentor": seg + 0.1 * (cycles + adv_s) + 0.1 * adv_p1 + 0.01 * adv_p2 + 0.1 * aux,
        "decoder": cycles + adv_s,
        "source_discriminator": gan.discriminator(real[:, :1], fake[:, :1])
        + gan.discriminator(cycled[:, 1:], fake[:, 1:]),
        "prediction_discriminators": gan.discriminator(
            n.prediction_discriminator(p_st.detach()), n.prediction_discriminator(p_t.detach())
        )
        + gan.discriminator(
            n.lower_prediction_discriminator(q_st.detach()), n.lower_prediction_discriminator(q_t.detach())
        ),
    }


def expected_gradients(networks: Networks, group: str) -> Sequence[Tensor]:
    loss = losses_as_in_the_sheet(networks, small_batch())[group]
    return torch.autograd.grad(loss, parameters_of(networks, group))


class Recorder:
    """Replacement of an optimiser's step that records the gradients, and moves the group only if asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, iteration: AdaptationIteration, *, moving: bool) -> None:
        self.order: list[str] = []
        self.gradients: dict[str, list[Tensor]] = {}
        self.before: dict[str, Networks] = {}
        groups = {id(getattr(iteration, name)): name for name in GROUPS}
        original = Player.move

        def move(player: Player, gradients: Sequence[Tensor]) -> None:
            name = groups[id(player)]
            self.order.append(name)
            self.gradients[name] = [g.clone() for g in gradients]
            self.before[name] = copy.deepcopy(iteration.networks)
            if moving:
                original(player, gradients)

        monkeypatch.setattr(Player, "move", move)


@pytest.mark.parametrize("schedule", ["simultaneous", "sequential"])
def test_every_group_gets_the_gradient_of_its_own_losses(monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    networks = small_networks()
    iteration = AdaptationIteration(networks, config(schedule=schedule))
    recorder = Recorder(monkeypatch, iteration, moving=False)
    iteration.step(small_batch())
    assert set(recorder.order) == set(GROUPS)
    for group in GROUPS:
        for ours, expected in zip(recorder.gradients[group], expected_gradients(networks, group), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("schedule", ["simultaneous", "sequential"])
def test_structure_moves_the_generator_alone(monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    networks, batch = small_networks(), small_batch()
    iteration = AdaptationIteration(networks, config(schedule=schedule, loss_weights={"structure": 3.0}))
    recorder = Recorder(monkeypatch, iteration, moving=False)
    losses = iteration.step(batch)
    loss = structure_loss(networks.generator(batch.source), batch.source)
    assert float(losses["structure"]) == pytest.approx(loss.item())
    more = torch.autograd.grad(3.0 * loss, parameters_of(networks, "generator"))
    for group in GROUPS:
        expected = list(expected_gradients(networks, group))
        if group == "generator":
            expected = [a + b for a, b in zip(expected, more, strict=True)]
        for ours, theirs in zip(recorder.gradients[group], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_sequential_updates_in_the_order_of_the_paper_each_from_what_the_last_became(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    networks = small_networks()
    iteration = AdaptationIteration(networks, config(schedule="sequential"))
    recorder = Recorder(monkeypatch, iteration, moving=True)
    iteration.step(small_batch())
    assert recorder.order == list(GROUPS)
    for group in ("generator", "target_discriminator", "segmentor", "decoder"):
        expected = expected_gradients(_as_seen_by(recorder, group), group)
        for ours, theirs in zip(recorder.gradients[group], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def _as_seen_by(recorder: Recorder, group: str) -> Networks:
    """The networks as a group's step sees them; D_t judges slices that G_t made before its own step."""
    networks = recorder.before[group]
    if group == "target_discriminator":
        networks.generator.load_state_dict(recorder.before["generator"].generator.state_dict())
    return networks


def test_in_bfloat16_too_sequential_updates_see_what_the_last_became() -> None:
    """Autocast keeps copies of the weights, which must not outlive a step."""
    changes = []
    for mixed in (False, True):
        torch.manual_seed(3)
        networks, batch, drawn = Networks(CLASSES, width=0.125, decoder_dropout=0.0), small_batch(), []
        source = batch.source.float()

        def keep(
            _module: nn.Module, given: tuple[Tensor], made: Tensor, *, of: Tensor = source, into: list[Tensor] = drawn
        ) -> None:
            if given[0] is of:
                into.append(made.detach().float())

        networks.generator.register_forward_hook(keep)
        iteration = AdaptationIteration(networks, config(schedule="sequential"))
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            iteration.step(Batch(source, batch.labels, batch.target.float()))
        before, after = drawn
        changes.append(float((after - before).abs().max()))
    exact, rounded = changes
    assert exact > 0.1
    # How much rounding adds depends on the processor; a copy from before the step would not have moved at all.
    assert rounded > exact / 2


@pytest.mark.parametrize("schedule", ["simultaneous", "sequential"])
def test_the_segmentation_loss_never_moves_the_generator(monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    gradients = []
    for weight in (1.0, 100.0):
        iteration = AdaptationIteration(
            small_networks(), config(schedule=schedule, loss_weights={"segmentation": weight})
        )
        recorder = Recorder(monkeypatch, iteration, moving=False)
        iteration.step(small_batch())
        gradients.append(recorder.gradients)
        monkeypatch.undo()
    for group in GROUPS:
        same = all(torch.equal(a, b) for a, b in zip(gradients[0][group], gradients[1][group], strict=True))
        assert same == (group != "segmentor"), group


@pytest.mark.parametrize("method", sorted(set(METHOD_SETTINGS) - SEGMENTATION_METHODS))
def test_ablations_leave_their_discriminators_alone(method: str) -> None:
    networks = small_networks()
    before = copy.deepcopy(networks)
    losses = make_iteration(networks, config(method=method)).step(small_batch())
    off = {name for name, weight in METHOD_SETTINGS[method]["loss_weights"].items() if weight == 0}
    for weight, discriminator in (
        ("prediction", "prediction_discriminator"),
        ("lower_prediction", "lower_prediction_discriminator"),
    ):
        moved = any(
            not torch.equal(a, b)
            for a, b in zip(
                networks.get_submodule(discriminator).parameters(),
                before.get_submodule(discriminator).parameters(),
                strict=True,
            )
        )
        assert moved == (weight not in off)
        assert (weight in losses) == (weight not in off)


@pytest.mark.parametrize("method", ["without_adaptation", "supervised"])
def test_bounds_move_the_segmentor_alone(method: str) -> None:
    networks = small_networks()
    before = copy.deepcopy(networks)
    make_iteration(networks, config(method=method)).step(small_batch())
    for name, after in networks.named_parameters():
        moved = not torch.equal(after, before.get_parameter(name))
        assert moved == name.startswith(("encoder", "classifier", "lower_classifier")), name


def test_output_alignment_aligns_predictions_on_the_slices_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    networks, batch, gan = small_networks(), small_batch(), LeastSquaresAdversarial()
    features_s, lower_s = networks.encoder(batch.source)
    features_t, lower_t = networks.encoder(batch.target)
    p_s, q_s = networks.classifier(features_s), networks.lower_classifier(lower_s)
    p_t, q_t = networks.classifier(features_t), networks.lower_classifier(lower_t)
    judge, lower_judge = networks.prediction_discriminator, networks.lower_prediction_discriminator
    expected = {
        "segmentor": segmentation_loss(p_s, batch.labels)
        + 0.1 * segmentation_loss(q_s, batch.labels)
        + 0.1 * gan.generator(judge(p_t))
        + 0.01 * gan.generator(lower_judge(q_t)),
        "prediction_discriminators": gan.discriminator(judge(p_s.detach()), judge(p_t.detach()))
        + gan.discriminator(lower_judge(q_s.detach()), lower_judge(q_t.detach())),
    }
    gradients = {group: torch.autograd.grad(loss, parameters_of(networks, group)) for group, loss in expected.items()}
    iteration = OutputAlignmentIteration(networks, config(method="output_alignment"))
    found: list[tuple[Player, Sequence[Tensor]]] = []
    monkeypatch.setattr(Player, "move", lambda player, its: found.append((player, its)))
    iteration.step(batch)
    assert [player for player, _ in found] == [iteration.segmentor, iteration.prediction_discriminators]
    for (_, ours), theirs in zip(found, gradients.values(), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_bound_does_not_look_at_the_target() -> None:
    one, other = small_networks(), small_networks()
    batch = small_batch()
    make_iteration(one, config(method="without_adaptation")).step(batch)
    make_iteration(other, config(method="without_adaptation")).step(Batch(batch.source, batch.labels, -batch.target))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_losses_are_reported_by_name_and_finite() -> None:
    losses = make_iteration(small_networks(), config()).step(small_batch())
    assert {"segmentation", "cycle_source", "cycle_target", "adversarial_target", "prediction"} <= set(losses)
    assert all(torch.isfinite(loss) and not loss.requires_grad for loss in losses.values())


@pytest.mark.parametrize("schedule", ["simultaneous", "sequential"])
def test_losses_in_bfloat16_are_those_of_float32(schedule: str) -> None:
    """Holds for each loss, above all the GAN's, for fresh networks and during steps; weights stay in float32."""
    followed = []
    for mixed in (False, True):
        torch.manual_seed(3)
        networks = Networks(CLASSES, width=0.125, decoder_dropout=0.0)
        iteration = make_iteration(networks, config(schedule=schedule))
        batch = small_batch()
        single = Batch(batch.source.float(), batch.labels, batch.target.float())
        losses = []
        for _ in range(5):
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                losses.append(iteration.step(single))
        followed.append(losses)
        assert all(parameter.dtype == torch.float32 for parameter in networks.parameters())
    for number, (exact, rounded) in enumerate(zip(*followed, strict=True)):
        # Adam's first steps are as large for a gradient that is only rounding as for any other, so weights diverge, by
        # amounts that depend on the processor.
        allowed = 0.04 * (2 + number)
        assert {"adversarial_target", "target_discriminator", "prediction_discriminator"} <= set(exact)
        for name, value in exact.items():
            assert rounded[name].dtype == torch.float32, name
            assert float(rounded[name]) == pytest.approx(float(value), rel=allowed, abs=allowed / 10), name


@pytest.mark.parametrize("schedule", ["simultaneous", "sequential"])
@pytest.mark.parametrize("statistics", ["target", "mixed"])
def test_whose_slices_move_the_running_statistics(schedule: str, statistics: str) -> None:
    networks, batch = small_networks(), small_batch()
    convolution, norm = networks.encoder.lower[:2]
    of_target = 0.1 * convolution(batch.target).mean((0, 2, 3)).detach()
    AdaptationIteration(networks, config(schedule=schedule, batch_norm_statistics=statistics)).step(batch)
    assert torch.allclose(norm.running_mean, of_target, atol=1e-7) == (statistics == "target")


def test_options_of_the_adversaries_reach_them(monkeypatch: pytest.MonkeyPatch) -> None:
    n, batch, gan = small_networks(), small_batch(), LogAdversarial()
    chosen = config(adversarial="log", prediction_input="softmax", decoupled_weight_decay=True)
    iteration = AdaptationIteration(n, chosen)
    Recorder(monkeypatch, iteration, moving=False)
    losses = iteration.step(batch)
    shown = (n.generator(batch.source), batch.target)
    real, fake = (n.prediction_discriminator(n.classifier(n.encoder(x)[0]).softmax(1)) for x in shown)
    assert float(losses["prediction"]) == pytest.approx(gan.generator(fake).item())
    assert float(losses["prediction_discriminator"]) == pytest.approx(gan.discriminator(real, fake).item())
    assert isinstance(iteration.segmentor.optimiser, torch.optim.AdamW)
