"""The losses of SIFA (Chen et al., IEEE TMI 2020, section III; constants from the authors' public code).

Every loss is a scalar in float32 (float64 for float64), whatever the precision of its input. Class maps have shape
(B, K, H, W), labels (B, H, W) with values 0 (background) to K - 1, or `IGNORED` where a pixel has no say; sums over
"the batch" run over all processes that train together.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from . import distributed

IGNORED = 255
"""Label of pixels that are left out of a segmentation loss."""


def cycle_loss(reconstructed: Tensor, original: Tensor) -> Tensor:
    """Cycle consistency, eq. 2: mean absolute error."""
    return functional.l1_loss(_precise(reconstructed), _precise(original))


class LeastSquaresAdversarial:
    """Least-squares GAN (Mao et al., ICCV 2017), as the authors' code trains SIFA: real is 1, fake is 0."""

    def generator(self, fake: Tensor) -> Tensor:
        """What the maker of `fake` minimises: mean (D - 1)^2."""
        return (_precise(fake) - 1).square().mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimises: half of mean (D_real - 1)^2 + mean D_fake^2."""
        return 0.5 * ((_precise(real) - 1).square().mean() + _precise(fake).square().mean())


class LogAdversarial:
    """The GAN of eqs. 1, 4, 5, D giving logits; generators minimise -log D, which does not saturate."""

    def generator(self, fake: Tensor) -> Tensor:
        """What the maker of `fake` minimises: mean -log D."""
        return functional.softplus(-_precise(fake)).mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimises: half of mean -log D_real + mean -log(1 - D_fake)."""
        return 0.5 * (functional.softplus(-_precise(real)).mean() + functional.softplus(_precise(fake)).mean())


AdversarialLoss = LeastSquaresAdversarial | LogAdversarial


def weighted_cross_entropy(logits: Tensor, labels: Tensor, probability_floor: float = 0.0) -> Tensor:
    """Cross-entropy, each class weighted by 1 - its share of the batch's pixels, averaged over all pixels (eq. 3).

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W).
        probability_floor: The authors clip probabilities from below at 0.005, which leaves no gradient where the
            network is confidently wrong; 0 takes the exact log-softmax.
    """
    classes = logits.shape[1]
    counts = distributed.sum_with_gradient(_one_hot(labels, classes).sum((0, 2, 3)).to(torch.float32))
    weights = 1 - counts / counts.sum()
    if probability_floor > 0:
        log_probabilities = torch.softmax(_precise(logits), 1).clamp(probability_floor, 1).log()
    else:
        log_probabilities = torch.log_softmax(_precise(logits), 1)
    # nll_loss would divide by the sum of the weights; the authors divide by the number of pixels.
    total: Tensor = functional.nll_loss(
        log_probabilities, labels.long(), weights.to(log_probabilities.dtype), ignore_index=IGNORED, reduction="sum"
    )
    return total / labels.numel()


def soft_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean over the K classes of 2 sum(p y) / (sum p^2 + sum y + 1e-7), sums over the whole batch (eq. 3)."""
    probabilities = torch.softmax(_precise(logits), 1) * (labels != IGNORED)[:, None]
    truth = _one_hot(labels, logits.shape[1]).to(probabilities.dtype)
    over_pixels = (0, 2, 3)
    overlap, squared, size = distributed.sum_with_gradient(
        torch.stack(
            [
                (probabilities * truth).sum(over_pixels),
                probabilities.square().sum(over_pixels),
                truth.sum(over_pixels),
            ]
        )
    )
    dice: Tensor = (2 * overlap / (squared + size + 1e-7)).mean()
    return 1 - dice


def segmentation_loss(logits: Tensor, labels: Tensor, probability_floor: float = 0.0) -> Tensor:
    """L_seg of eq. 3: weighted cross-entropy + soft Dice."""
    return weighted_cross_entropy(logits, labels, probability_floor) + soft_dice_loss(logits, labels)


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """Masks (B, K, H, W) of the classes; a pixel that is ignored is in none."""
    return labels[:, None] == torch.arange(classes, device=labels.device)[:, None, None]


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
