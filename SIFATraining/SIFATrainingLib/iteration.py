"""One iteration of training: which loss moves which network, in which order.

Symbols as in Chen et al., IEEE TMI 2020: x_s, y_s labelled source, x_t target, x_st = G_t(x_s), x_ts = U(E(x_t)),
x_sts = U(E(x_st)), x_tst = G_t(x_ts). In the code: `target_like` x_st, `source_like` x_ts, `source_cycle` x_sts,
`target_cycle` x_tst.

| moved          | by                                                                                          |
|----------------|---------------------------------------------------------------------------------------------|
| G_t            | 10 cyc_s + 10 cyc_t + adv(D_t)                                                              |
| D_t            | real x_t against pooled x_st                                                                |
| E, C1, C2      | seg1 + 0.1 seg2 + 0.1 (10 cyc_s + 10 cyc_t + adv_s) + 0.1 adv_p1 + 0.01 adv_p2 + 0.1 adv_aux |
| U              | 10 cyc_s + 10 cyc_t + adv_s                                                                 |
| D_s            | real x_s against pooled x_ts; auxiliary: x_sts as 1 against pooled x_ts as 0                |
| D_p1, D_p2     | prediction on x_st as 1 against prediction on x_t as 0                                      |

The segmentation loss never moves G_t; adv_aux moves E alone; adv_p moves E and the classifiers through x_t.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from . import distributed
from .config import SEGMENTATION_METHODS, TrainingConfig
from .losses import (
    AdversarialLoss,
    LeastSquaresAdversarial,
    LogAdversarial,
    cycle_loss,
    segmentation_loss,
)
from .networks import Networks
from .pool import ImagePool

Losses = dict[str, Tensor]
"""Losses by name, detached scalars, unweighted."""

ADVERSARIAL_LOSSES: dict[str, type[AdversarialLoss]] = {
    "least_squares": LeastSquaresAdversarial,
    "log": LogAdversarial,
}


@dataclass(frozen=True)
class Batch:
    """Slices of one iteration: source and target (B, 1, H, W) in [-1, 1], labels of the source (B, H, W)."""

    source: Tensor
    labels: Tensor
    target: Tensor


class Iteration(Protocol):
    """What the training loop asks of a method."""

    def step(self, batch: Batch) -> Losses:
        """Update the networks once."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Optimisers and pools, for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...


class _Player:
    """Networks that move together, and their optimiser."""

    def __init__(self, parameters: Iterable[nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
        self.parameters = list(parameters)
        self.optimiser = optimiser

    def gradients(self, loss: Tensor, *, retain_graph: bool = False) -> Sequence[Tensor]:
        """Gradients of `loss` for this player's parameters alone."""
        return torch.autograd.grad(loss, self.parameters, retain_graph=retain_graph, materialize_grads=True)

    def move(self, gradients: Sequence[Tensor]) -> None:
        """One step of the optimiser."""
        for parameter, gradient in zip(self.parameters, distributed.average_gradients(gradients), strict=True):
            parameter.grad = gradient
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def _adversary(modules: Iterable[nn.Module], config: TrainingConfig) -> _Player:
    """G_t, U and the discriminators: Adam with beta1 0.5, no weight decay."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return _Player(parameters, torch.optim.Adam(parameters, config.learning_rate, betas=(0.5, 0.999), fused=True))


def _segmentor(networks: Networks, config: TrainingConfig) -> _Player:
    """E, C1 and C2: Adam with beta1 0.9; weight decay on the weights of convolutions only."""
    parameters = networks.segmentor_parameters()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    make = torch.optim.AdamW if config.decoupled_weight_decay else torch.optim.Adam
    return _Player(parameters, make(groups, config.learning_rate, betas=(0.9, 0.999), fused=True))


class SegmentationIteration:
    """E, C1 and C2 on labelled slices of one domain: the bounds of the paper's tables, and nothing of the target."""

    def __init__(self, networks: Networks, config: TrainingConfig) -> None:
        self.networks, self.config = networks, config
        self.player = _segmentor(networks, config)

    def step(self, batch: Batch) -> Losses:
        n, w, floor = self.networks, self.config.loss_weights, self.config.probability_floor
        features, lower = n.encoder(batch.source, tracking=True)
        segmentation = segmentation_loss(n.classifier(features), batch.labels, floor)
        lower_segmentation = segmentation_loss(n.lower_classifier(lower), batch.labels, floor)
        self.player.move(
            self.player.gradients(w.segmentation * segmentation + w.lower_segmentation * lower_segmentation)
        )
        return {"segmentation": segmentation.detach(), "lower_segmentation": lower_segmentation.detach()}

    def state_dict(self) -> dict[str, Any]:
        return {"optimisers": {"segmentor": self.player.optimiser.state_dict()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.player.optimiser.load_state_dict(state["optimisers"]["segmentor"])


@dataclass(frozen=True)
class _Predictions:
    """Class logits of C1 and C2 on x_st and on x_t."""

    st: Tensor
    lower_st: Tensor
    t: Tensor
    lower_t: Tensor


class AdaptationIteration:
    """SIFA, and those of its ablations that translate images."""

    def __init__(self, networks: Networks, config: TrainingConfig) -> None:
        self.networks, self.config = networks, config
        self.adversarial = ADVERSARIAL_LOSSES[config.adversarial]()
        self.generator = _adversary([networks.generator], config)
        self.target_discriminator = _adversary([networks.target_discriminator], config)
        self.segmentor = _segmentor(networks, config)
        self.decoder = _adversary([networks.decoder], config)
        self.source_discriminator = _adversary([networks.source_discriminator], config)
        self.prediction_discriminators = _adversary(
            [networks.prediction_discriminator, networks.lower_prediction_discriminator], config
        )
        self.target_like_pool = ImagePool(config.pool)
        self.source_like_pool = ImagePool(config.pool)

    def step(self, batch: Batch) -> Losses:
        return self._sequential(batch) if self.config.schedule == "sequential" else self._simultaneous(batch)

    def _sequential(self, batch: Batch) -> Losses:
        """The paper's order: G_t, D_t, (E, C1, C2), U, D_s, (D_p1, D_p2), each seeing what the last one became."""
        n, w, x_s, x_t = self.networks, self.config.loss_weights, batch.source, batch.target

        # E and U stand still while G_t and D_t move: one pass over x_t serves G_t's step and E's own.
        features_t, lower_t = n.encoder(x_t, tracking=True)
        source_like = n.decoder(features_t, x_t)
        target_like = n.generator(x_s)
        features_st, _ = n.encoder(target_like)
        source_cycle = n.decoder(features_st, target_like)
        cycles, losses = self._cycles(x_s, source_cycle, x_t, n.generator(source_like.detach()))
        fooled = self.adversarial.generator(n.target_discriminator(target_like))
        losses["adversarial_target"] = fooled.detach()
        self.generator.move(self.generator.gradients(cycles + fooled))
        losses |= self._move_target_discriminator(x_t, target_like)

        with torch.no_grad():
            target_like = n.generator(x_s)
        features_st, lower_st = n.encoder(target_like, tracking=self._tracks_both)
        source_cycle = n.decoder(features_st, target_like)
        cycles, _ = self._cycles(x_s, source_cycle, x_t, n.generator(source_like))
        scores = n.source_discriminator(source_like)
        image = cycles + self.adversarial.generator(scores[:, :1])
        auxiliary = self.adversarial.generator(scores[:, 1:])
        heads, terms = self._heads(self._predict(features_st, lower_st, features_t, lower_t), batch.labels)
        losses |= terms | {"auxiliary": auxiliary.detach()}
        self.segmentor.move(self.segmentor.gradients(heads + w.encoder_image * image + w.auxiliary * auxiliary))

        with torch.no_grad():
            features_st, lower_st = n.encoder(target_like)
            features_t, lower_t = n.encoder(x_t)
            predictions = self._predict(features_st, lower_st, features_t, lower_t)
        source_cycle, source_like = n.decoder(features_st, target_like), n.decoder(features_t, x_t)
        cycles, _ = self._cycles(x_s, source_cycle, x_t, n.generator(source_like))
        fooled = self.adversarial.generator(n.source_discriminator(source_like)[:, :1])
        losses["adversarial_source"] = fooled.detach()
        self.decoder.move(self.decoder.gradients(cycles + fooled))

        with torch.no_grad():
            source_cycle = n.decoder(features_st, target_like)
        losses |= self._move_source_discriminator(x_s, source_cycle, source_like)
        return losses | self._move_prediction_discriminators(predictions)

    def _simultaneous(self, batch: Batch) -> Losses:
        """All gradients from one forward pass, each loss moving the same networks as in the paper's order.

        The graph is cut at the target-like slice and at E's outputs. One backward of the image losses gives G_t and
        U their gradients, and the gradients at the cuts; E's own gradient is that one, weighted, plus those of
        segmentation and feature alignment at the same place.
        """
        n, w, x_s, x_t = self.networks, self.config.loss_weights, batch.source, batch.target

        made = n.generator(x_s)
        target_like = made.detach().requires_grad_()
        encoded_st = n.encoder(target_like, tracking=self._tracks_both)
        encoded_t = n.encoder(x_t, tracking=True)
        features_st, lower_st = (tap.detach().requires_grad_() for tap in encoded_st)
        features_t, lower_t = (tap.detach().requires_grad_() for tap in encoded_t)
        source_cycle, source_like = n.decoder(features_st, target_like), n.decoder(features_t, x_t)

        cycles, losses = self._cycles(x_s, source_cycle, x_t, n.generator(source_like))
        fooled_target = self.adversarial.generator(n.target_discriminator(target_like))
        scores = n.source_discriminator(source_like)
        fooled_source = self.adversarial.generator(scores[:, :1])
        auxiliary = self.adversarial.generator(scores[:, 1:])
        losses["adversarial_target"] = fooled_target.detach()
        losses["adversarial_source"] = fooled_source.detach()
        losses["auxiliary"] = auxiliary.detach()

        generator, decoder = self.generator.parameters, self.decoder.parameters
        image = torch.autograd.grad(
            cycles + fooled_target + fooled_source,
            [*generator, *decoder, target_like, features_st, features_t],
            retain_graph=True,
        )
        at_target_like, at_features_st, at_features_t = image[-3:]
        # What reaches G_t through E is the gradient of the image losses alone, at their full weight.
        (through_encoder,) = torch.autograd.grad(encoded_st[0], target_like, at_features_st, retain_graph=True)
        through_target_like = torch.autograd.grad(made, generator, at_target_like + through_encoder)
        (auxiliary_at_features_t,) = torch.autograd.grad(w.auxiliary * auxiliary, features_t)

        predictions = self._predict(features_st, lower_st, features_t, lower_t)
        loss, terms = self._heads(predictions, batch.labels)
        classifiers = [*n.classifier.parameters(), *n.lower_classifier.parameters()]
        heads = torch.autograd.grad(
            loss, [*classifiers, features_st, lower_st, features_t, lower_t], materialize_grads=True
        )
        heads_at_features_st, heads_at_lower_st, heads_at_features_t, heads_at_lower_t = heads[-4:]
        encoder = torch.autograd.grad(
            [*encoded_st, *encoded_t],
            list(n.encoder.parameters()),
            [
                heads_at_features_st + w.encoder_image * at_features_st,
                heads_at_lower_st,
                heads_at_features_t + w.encoder_image * at_features_t + auxiliary_at_features_t,
                heads_at_lower_t,
            ],
        )

        after_generator = len(generator)
        self.generator.move([a + b for a, b in zip(image, through_target_like, strict=False)])
        self.segmentor.move([*encoder, *heads[:-4]])
        self.decoder.move(image[after_generator:-3])
        losses |= terms | self._move_target_discriminator(x_t, target_like)
        losses |= self._move_source_discriminator(x_s, source_cycle, source_like)
        return losses | self._move_prediction_discriminators(predictions)

    @property
    def _tracks_both(self) -> bool:
        return self.config.batch_norm_statistics == "mixed"

    def _cycles(self, x_s: Tensor, source_cycle: Tensor, x_t: Tensor, target_cycle: Tensor) -> tuple[Tensor, Losses]:
        source, target = cycle_loss(source_cycle, x_s), cycle_loss(target_cycle, x_t)
        total = self.config.loss_weights.cycle * (source + target)
        return total, {"cycle_source": source.detach(), "cycle_target": target.detach()}

    def _predict(self, features_st: Tensor, lower_st: Tensor, features_t: Tensor, lower_t: Tensor) -> _Predictions:
        n = self.networks
        return _Predictions(
            n.classifier(features_st),
            n.lower_classifier(lower_st),
            n.classifier(features_t),
            n.lower_classifier(lower_t),
        )

    def _heads(self, predictions: _Predictions, labels: Tensor) -> tuple[Tensor, Losses]:
        """Segmentation of x_st by both classifiers, and their predictions on x_t against D_p1 and D_p2."""
        n, w, floor = self.networks, self.config.loss_weights, self.config.probability_floor
        terms = {
            "segmentation": (w.segmentation, segmentation_loss(predictions.st, labels, floor)),
            "lower_segmentation": (
                w.lower_segmentation,
                segmentation_loss(predictions.lower_st, labels, floor),
            ),
        }
        if w.prediction:
            scores = n.prediction_discriminator(self._shown(predictions.t))
            terms["prediction"] = (w.prediction, self.adversarial.generator(scores))
        if w.lower_prediction:
            scores = n.lower_prediction_discriminator(self._shown(predictions.lower_t))
            terms["lower_prediction"] = (w.lower_prediction, self.adversarial.generator(scores))
        total = torch.stack([weight * loss for weight, loss in terms.values()]).sum()
        return total, {name: loss.detach() for name, (_, loss) in terms.items()}

    def _shown(self, logits: Tensor) -> Tensor:
        """What D_p sees of a prediction."""
        return torch.softmax(logits, 1) if self.config.prediction_input == "softmax" else logits

    def _judge(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of real and fake slices, without a gradient to their makers. Instance norm lets one pass do both."""
        scores = discriminator(torch.cat([real.detach(), fake.detach()]))
        return scores[: len(real)], scores[len(real) :]

    def _move_target_discriminator(self, x_t: Tensor, target_like: Tensor) -> Losses:
        fakes = self.target_like_pool.exchange(target_like)
        loss = self.adversarial.discriminator(*self._judge(self.networks.target_discriminator, x_t, fakes))
        self.target_discriminator.move(self.target_discriminator.gradients(loss))
        return {"target_discriminator": loss.detach()}

    def _move_source_discriminator(self, x_s: Tensor, source_cycle: Tensor, source_like: Tensor) -> Losses:
        fakes = self.source_like_pool.exchange(source_like)
        scores = self.networks.source_discriminator(torch.cat([x_s, source_cycle.detach(), fakes]))
        real, cycled, faked = scores.split(len(x_s))
        main = self.adversarial.discriminator(real[:, :1], faked[:, :1])
        auxiliary = self.adversarial.discriminator(cycled[:, 1:], faked[:, 1:])
        loss = main + auxiliary if self.config.loss_weights.auxiliary else main
        self.source_discriminator.move(self.source_discriminator.gradients(loss))
        return {"source_discriminator": main.detach(), "auxiliary_discriminator": auxiliary.detach()}

    def _move_prediction_discriminators(self, predictions: _Predictions) -> Losses:
        n, w = self.networks, self.config.loss_weights
        losses: Losses = {}
        if w.prediction:
            judged = self._judge(n.prediction_discriminator, self._shown(predictions.st), self._shown(predictions.t))
            losses["prediction_discriminator"] = self.adversarial.discriminator(*judged)
        if w.lower_prediction:
            lower_st, lower_t = self._shown(predictions.lower_st), self._shown(predictions.lower_t)
            judged = self._judge(n.lower_prediction_discriminator, lower_st, lower_t)
            losses["lower_prediction_discriminator"] = self.adversarial.discriminator(*judged)
        if losses:
            total = torch.stack(list(losses.values())).sum()
            self.prediction_discriminators.move(self.prediction_discriminators.gradients(total))
        return {name: loss.detach() for name, loss in losses.items()}

    def _players(self) -> dict[str, _Player]:
        return {
            "generator": self.generator,
            "target_discriminator": self.target_discriminator,
            "segmentor": self.segmentor,
            "decoder": self.decoder,
            "source_discriminator": self.source_discriminator,
            "prediction_discriminators": self.prediction_discriminators,
        }

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """One for each group of networks that move together."""
        return [player.optimiser for player in self._players().values()]

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimisers": {name: player.optimiser.state_dict() for name, player in self._players().items()},
            "pools": [self.target_like_pool.state_dict(), self.source_like_pool.state_dict()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, player in self._players().items():
            player.optimiser.load_state_dict(state["optimisers"][name])
        for pool, kept in zip((self.target_like_pool, self.source_like_pool), state["pools"], strict=True):
            pool.load_state_dict(kept)


def make_iteration(networks: Networks, config: TrainingConfig) -> Iteration:
    """The iteration of `config.method` over `networks`."""
    if config.method in SEGMENTATION_METHODS:
        return SegmentationIteration(networks, config)
    return AdaptationIteration(networks, config)
