"""One iteration of SIFA: which loss moves which network, in which order.

Symbols as in Chen et al., IEEE TMI 2020: x_s, y_s labelled source, x_t target, x_st = G_t(x_s), x_ts = U(E(x_t)),
x_sts = U(E(x_st)), x_tst = G_t(x_ts). In the code: `target_like` x_st, `source_like` x_ts, `source_cycle` x_sts,
`target_cycle` x_tst.

| moved          | by                                                                                          |
|----------------|---------------------------------------------------------------------------------------------|
| G_t            | 10 cyc_s + 10 cyc_t + adv(D_t); beyond the paper, structure (`structure.py`)                 |
| D_t            | real x_t against pooled x_st                                                                |
| E, C1, C2      | seg1 + 0.1 seg2 + 0.1 (10 cyc_s + 10 cyc_t + adv_s) + 0.1 adv_p1 + 0.01 adv_p2 + 0.1 adv_aux; |
|                | beyond the paper, seg1 + 0.1 seg2 in random contrasts (`random_contrast.py`)                 |
| U              | 10 cyc_s + 10 cyc_t + adv_s                                                                 |
| D_s            | real x_s against pooled x_ts; auxiliary: x_sts as 1 against pooled x_ts as 0                |
| D_p1, D_p2     | prediction on x_st as 1 against prediction on x_t as 0                                      |

The segmentation loss never moves G_t; adv_aux moves E alone; adv_p moves E and the classifiers through x_t.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .config import TrainingConfig
from .iteration import Batch, Losses
from .losses import cycle_loss
from .networks import Networks
from .players import Player, adversary, gradients_in_groups, load_optimiser_states, optimiser_states
from .pool import ImagePool
from .prediction_alignment import PredictionAlignment
from .random_contrast import loss_in_random_contrast
from .structure import structure_loss


class AdaptationIteration(PredictionAlignment):
    """One iteration of SIFA and of its ablations that translate images."""

    def __init__(self, networks: Networks, config: TrainingConfig) -> None:
        super().__init__(networks, config)
        self.generator = adversary([networks.generator], config)
        self.target_discriminator = adversary([networks.target_discriminator], config)
        self.decoder = adversary([networks.decoder], config)
        self.source_discriminator = adversary([networks.source_discriminator], config)
        self.target_like_pool = ImagePool(config.pool)
        self.source_like_pool = ImagePool(config.pool)

    def step(self, batch: Batch) -> Losses:
        """Update all networks once, in the order of `config.schedule`, and return the losses."""
        return self._sequential(batch) if self.config.schedule == "sequential" else self._simultaneous(batch)

    def _sequential(self, batch: Batch) -> Losses:
        """Update in the paper's order: G_t, D_t, (E, C1, C2), U, D_s, (D_p1, D_p2), each using the networks so far.

        D_t and D_s see the fakes with which G_t and U were just updated; D_s sees x_sts made by the updated U.
        """
        n, w, x_s, x_t = self.networks, self.config.loss_weights, batch.source, batch.target

        # E and U don't change while G_t and D_t are updated, so one pass over x_t serves both G_t's step and E's own.
        features_t, lower_t = n.encoder(x_t, tracking=True)
        source_like = n.decoder(features_t, x_t)
        target_like = n.generator(x_s)
        features_st, _ = n.encoder(target_like)
        source_cycle = n.decoder(features_st, target_like)
        cycles, losses = self._cycles(x_s, source_cycle, x_t, n.generator(source_like.detach()))
        fooled = self.adversarial.generator(n.target_discriminator(target_like))
        losses["adversarial_target"] = fooled.detach()
        structure, terms = self._structure(target_like, x_s)
        losses |= terms
        self.generator.move(self.generator.gradients(cycles + fooled + structure))
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
        further, terms = loss_in_random_contrast(n, self.config, [x_s, target_like], batch.labels)
        losses |= terms
        total = heads + w.encoder_image * image + w.auxiliary * auxiliary + further
        self.segmentor.move(self.segmentor.gradients(total))

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
        """Take all gradients from one forward pass; each loss moves the same networks as in the paper's order.

        The graph is cut at the target-like slice and at E's outputs. One backward pass of the image losses gives the
        gradients of G_t and U, and those at the cuts. E receives the latter, weighted, plus those of segmentation and
        feature alignment at its outputs.
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
        structure, terms = self._structure(target_like, x_s)
        losses |= terms

        generator = self.generator.parameters
        of_generator, of_decoder, (at_target_like, at_features_st, at_features_t) = gradients_in_groups(
            cycles + fooled_target + fooled_source + structure,
            generator,
            self.decoder.parameters,
            (target_like, features_st, features_t),
            retain_graph=True,
        )
        # Through E, G_t receives the gradient of the image losses alone, at full weight.
        (through_encoder,) = torch.autograd.grad(encoded_st[0], target_like, at_features_st, retain_graph=True)
        through_target_like = torch.autograd.grad(made, generator, at_target_like + through_encoder)
        (auxiliary_at_features_t,) = torch.autograd.grad(w.auxiliary * auxiliary, features_t)

        predictions = self._predict(features_st, lower_st, features_t, lower_t)
        loss, terms = self._heads(predictions, batch.labels)
        of_classifiers, heads_at_st, heads_at_t = gradients_in_groups(
            loss,
            [*n.classifier.parameters(), *n.lower_classifier.parameters()],
            (features_st, lower_st),
            (features_t, lower_t),
        )
        of_encoder = torch.autograd.grad(
            [*encoded_st, *encoded_t],
            list(n.encoder.parameters()),
            [
                heads_at_st[0] + w.encoder_image * at_features_st,
                heads_at_st[1],
                heads_at_t[0] + w.encoder_image * at_features_t + auxiliary_at_features_t,
                heads_at_t[1],
            ],
        )

        self.generator.move(torch._foreach_add(of_generator, through_target_like))
        further, contrast_terms = loss_in_random_contrast(n, self.config, [x_s, target_like], batch.labels)
        losses |= terms | contrast_terms
        moves: tuple[Tensor, ...] = (*of_encoder, *of_classifiers)
        if contrast_terms:
            moves = torch._foreach_add(moves, self.segmentor.gradients(further))
        self.segmentor.move(moves)
        self.decoder.move(of_decoder)
        losses |= self._move_target_discriminator(x_t, target_like)
        losses |= self._move_source_discriminator(x_s, source_cycle, source_like)
        return losses | self._move_prediction_discriminators(predictions)

    def _cycles(self, x_s: Tensor, source_cycle: Tensor, x_t: Tensor, target_cycle: Tensor) -> tuple[Tensor, Losses]:
        source, target = cycle_loss(source_cycle, x_s), cycle_loss(target_cycle, x_t)
        total = self.config.loss_weights.cycle * (source + target)
        return total, {"cycle_source": source.detach(), "cycle_target": target.detach()}

    def _structure(self, target_like: Tensor, x_s: Tensor) -> tuple[Tensor, Losses]:
        """Return the weighted structure loss and its entry for the losses; 0 and no entry if its weight is 0."""
        weight = self.config.loss_weights.structure
        if weight == 0:
            return target_like.new_zeros(()), {}
        loss = structure_loss(target_like, x_s)
        return weight * loss, {"structure": loss.detach()}

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

    def players(self) -> dict[str, Player]:
        return {
            "generator": self.generator,
            "target_discriminator": self.target_discriminator,
            "segmentor": self.segmentor,
            "decoder": self.decoder,
            "source_discriminator": self.source_discriminator,
            "prediction_discriminators": self.prediction_discriminators,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimisers": optimiser_states(self.players()),
            "pools": [self.target_like_pool.state_dict(), self.source_like_pool.state_dict()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_optimiser_states(self.players(), state["optimisers"])
        for pool, kept in zip((self.target_like_pool, self.source_like_pool), state["pools"], strict=True):
            pool.load_state_dict(kept)
