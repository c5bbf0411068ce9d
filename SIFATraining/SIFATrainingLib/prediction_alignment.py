"""Alignment of predictions by D_p1 and D_p2 (FA-P1, FA-P2): part of SIFA, and a method in its own right.

| moved      | by                                                    |
|------------|-------------------------------------------------------|
| E, C1, C2  | seg1 + 0.1 seg2 + 0.1 adv_p1 + 0.01 adv_p2             |
| D_p1, D_p2 | prediction on x_s as 1 against prediction on x_t as 0 |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainingConfig
from .iteration import Batch, Losses
from .losses import AdversarialLoss, LeastSquaresAdversarial, LogAdversarial, segmentation_loss
from .networks import Networks
from .players import Player, adversary, load_optimiser_states, optimiser_states, segmentor
from .random_contrast import loss_in_random_contrast

ADVERSARIAL_LOSSES: dict[str, type[AdversarialLoss]] = {
    "least_squares": LeastSquaresAdversarial,
    "log": LogAdversarial,
}


@dataclass(frozen=True)
class Predictions:
    """Class logits (B, K, H, W) of C1 and C2 (`lower_`) on x_st and on x_t."""

    st: Tensor
    lower_st: Tensor
    t: Tensor
    lower_t: Tensor


class PredictionAlignment:
    """Base of all methods that align predictions: trains E, C1 and C2 against D_p1 and D_p2 (FA-P1, FA-P2)."""

    def __init__(self, networks: Networks, config: TrainingConfig) -> None:
        self.networks, self.config = networks, config
        self.adversarial = ADVERSARIAL_LOSSES[config.adversarial]()
        self.segmentor = segmentor(networks, config)
        self.prediction_discriminators = adversary(
            [networks.prediction_discriminator, networks.lower_prediction_discriminator], config
        )

    @property
    def _tracks_both(self) -> bool:
        return self.config.batch_norm_statistics == "mixed"

    def _predict(self, features_st: Tensor, lower_st: Tensor, features_t: Tensor, lower_t: Tensor) -> Predictions:
        n = self.networks
        return Predictions(
            n.classifier(features_st),
            n.lower_classifier(lower_st),
            n.classifier(features_t),
            n.lower_classifier(lower_t),
        )

    def _heads(self, predictions: Predictions, labels: Tensor) -> tuple[Tensor, Losses]:
        """Return the weighted sum and the unweighted values of the losses of both classifiers.

        They are segmentation of x_st, and the adversarial losses of the predictions on x_t against D_p1 and D_p2.
        """
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
        """Return what D_p sees of a prediction: its logits, or their softmax."""
        return torch.softmax(logits, 1) if self.config.prediction_input == "softmax" else logits

    def _judge(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of real and fake images, without gradients to the networks that made them.

        One pass serves both, since instance norm treats each image alone.
        """
        scores = discriminator(torch.cat([real.detach(), fake.detach()]))
        return scores[: len(real)], scores[len(real) :]

    def _move_prediction_discriminators(self, predictions: Predictions) -> Losses:
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


class OutputAlignmentIteration(PredictionAlignment):
    """Alignment of predictions alone (Tsai et al., CVPR 2018): x_s takes the place of x_st, without translation."""

    def step(self, batch: Batch) -> Losses:
        """Update E, C1 and C2, then the discriminators of predictions, and return the losses."""
        n = self.networks
        encoded_s = n.encoder(batch.source, tracking=self._tracks_both)
        encoded_t = n.encoder(batch.target, tracking=True)
        predictions = self._predict(*encoded_s, *encoded_t)
        loss, losses = self._heads(predictions, batch.labels)
        further, terms = loss_in_random_contrast(n, self.config, [batch.source], batch.labels)
        self.segmentor.move(self.segmentor.gradients(loss + further))
        return losses | terms | self._move_prediction_discriminators(predictions)

    def state_dict(self) -> dict[str, Any]:
        return {"optimisers": optimiser_states(self.players())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_optimiser_states(self.players(), state["optimisers"])

    def players(self) -> dict[str, Player]:
        return {"segmentor": self.segmentor, "prediction_discriminators": self.prediction_discriminators}
