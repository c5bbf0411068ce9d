"""The authors' schedule written as plainly as possible: seven separate passes, each computing all that it needs anew.

It is the baseline for the product's speed (`step.py`) and the reference for its sequential schedule
(`Testing/Python/test_reference_step.py`): the same weights, batch and seed must give the same new weights. It uses
float32, the default memory layout and plain Adam, and takes 9 forward passes of G_t, 11 of E and 7 of U.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from SIFATrainingLib.config import TrainingConfig
from SIFATrainingLib.iteration import Batch
from SIFATrainingLib.losses import LeastSquaresAdversarial, cycle_loss, segmentation_loss
from SIFATrainingLib.networks import Networks
from SIFATrainingLib.pool import ImagePool


class ReferenceStep:
    """One iteration in the order of the paper: G_t, D_t, (E, C1, C2), U, D_s, D_p1, D_p2."""

    def __init__(self, networks: Networks, config: TrainingConfig) -> None:
        """Take loss weights, learning rate, weight decay and pools from `config`.

        Whatever its other settings, the adversarial losses are least squares, and D_p sees logits.
        """
        self.n, self.w = networks, config.loss_weights
        self.gan = LeastSquaresAdversarial()
        self.target_like_pool, self.source_like_pool = ImagePool(config.pool), ImagePool(config.pool)

        def adam(*modules: nn.Module, beta: float = 0.5, decay: float = 0.0) -> torch.optim.Adam:
            parameters = [p for module in modules for p in module.parameters()]
            convolutions, others = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
            groups = [{"params": convolutions, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
            return torch.optim.Adam(groups, config.learning_rate, betas=(beta, 0.999))

        n = networks
        self.generator = adam(n.generator)
        self.target_discriminator = adam(n.target_discriminator)
        self.segmentor = adam(n.encoder, n.classifier, n.lower_classifier, beta=0.9, decay=config.weight_decay)
        self.decoder = adam(n.decoder)
        self.source_discriminator = adam(n.source_discriminator)
        self.prediction_discriminator = adam(n.prediction_discriminator)
        self.lower_prediction_discriminator = adam(n.lower_prediction_discriminator)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers in the order of their steps."""
        return [
            self.generator, self.target_discriminator, self.segmentor, self.decoder, self.source_discriminator,
            self.prediction_discriminator, self.lower_prediction_discriminator,
        ]  # fmt: skip

    def step(self, batch: Batch) -> None:
        """Update all networks once."""
        n, w, gan = self.n, self.w, self.gan
        x_s, y_s, x_t = batch.source, batch.labels, batch.target

        # G_t
        target_like, source_like, cycles, *_ = self._translate(x_s, x_t, tracking=True)
        move(self.generator, cycles + gan.generator(n.target_discriminator(target_like)))

        # D_t
        fakes = self.target_like_pool.exchange(target_like)
        move(self.target_discriminator, gan.discriminator(n.target_discriminator(x_t), n.target_discriminator(fakes)))

        # E, C1, C2
        target_like, source_like, cycles, (features_st, lower_st), (features_t, lower_t) = self._translate(x_s, x_t)
        scores = n.source_discriminator(source_like)
        segmentation = segmentation_loss(n.classifier(features_st), y_s)
        lower_segmentation = segmentation_loss(n.lower_classifier(lower_st), y_s)
        move(
            self.segmentor,
            w.segmentation * segmentation
            + w.lower_segmentation * lower_segmentation
            + w.encoder_image * (cycles + gan.generator(scores[:, :1]))
            + w.auxiliary * gan.generator(scores[:, 1:])
            + w.prediction * gan.generator(n.prediction_discriminator(n.classifier(features_t)))
            + w.lower_prediction * gan.generator(n.lower_prediction_discriminator(n.lower_classifier(lower_t))),
        )

        # U
        _, source_like, cycles, *_ = self._translate(x_s, x_t)
        move(self.decoder, cycles + gan.generator(n.source_discriminator(source_like)[:, :1]))

        # D_s, and its auxiliary task
        fakes = self.source_like_pool.exchange(source_like)
        target_like = n.generator(x_s)
        source_cycle = n.decoder(n.encoder(target_like)[0], target_like).detach()
        real, cycled, faked = (n.source_discriminator(x) for x in (x_s, source_cycle, fakes))
        move(
            self.source_discriminator,
            gan.discriminator(real[:, :1], faked[:, :1]) + gan.discriminator(cycled[:, 1:], faked[:, 1:]),
        )

        # D_p1
        st, t = n.classifier(n.encoder(n.generator(x_s))[0]).detach(), n.classifier(n.encoder(x_t)[0]).detach()
        judge = n.prediction_discriminator
        move(self.prediction_discriminator, gan.discriminator(judge(st), judge(t)))

        # D_p2
        st = n.lower_classifier(n.encoder(n.generator(x_s))[1]).detach()
        t = n.lower_classifier(n.encoder(x_t)[1]).detach()
        judge = n.lower_prediction_discriminator
        move(self.lower_prediction_discriminator, gan.discriminator(judge(st), judge(t)))

    def _translate(
        self, x_s: Tensor, x_t: Tensor, *, tracking: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return x_st, x_ts, the weighted cycle losses, and both outputs of E for x_st and for x_t."""
        n = self.n
        encoded_t = n.encoder(x_t, tracking=tracking)
        source_like = n.decoder(encoded_t[0], x_t)
        target_like = n.generator(x_s)
        encoded_st = n.encoder(target_like)
        source_cycle = n.decoder(encoded_st[0], target_like)
        target_cycle = n.generator(source_like)
        cycles = self.w.cycle * (cycle_loss(source_cycle, x_s) + cycle_loss(target_cycle, x_t))
        return target_like, source_like, cycles, encoded_st, encoded_t


def move(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step of an optimiser with the gradients of its own parameters."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    optimiser.zero_grad()
    loss.backward(inputs=parameters)
    optimiser.step()
