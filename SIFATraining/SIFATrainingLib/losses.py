"""The losses of SIFA (Chen et al., IEEE TMI 2020, section III; constants from the authors' public code).

Every loss is a scalar in float32 (float64 for float64), whatever the precision of its input. Class maps have shape
(B, K, H, W), labels (B, H, W) with values 0 (background) to K - 1, or `IGNORED` for pixels to leave out. Sums over
"the batch" include the batches of all processes that train together.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from . import distributed

IGNORED = 255
"""Label of pixels to leave out of segmentation losses."""


def cycle_loss(reconstructed: Tensor, original: Tensor) -> Tensor:
    """Cycle-consistency loss (eq. 2): mean absolute error."""
    return functional.l1_loss(_precise(reconstructed), _precise(original))


class LeastSquaresAdversarial:
    """Least-squares GAN loss (Mao et al., ICCV 2017), as in the authors' code; targets are 1 for real and 0 for fake.

    `real` and `fake` are a discriminator's scores, of any shape.
    """

    def generator(self, fake: Tensor) -> Tensor:
        """Loss of the network that made the fakes: mean (D_fake - 1)^2."""
        return (_precise(fake) - 1).square().mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the discriminator: half of (mean (D_real - 1)^2 + mean D_fake^2)."""
        return 0.5 * ((_precise(real) - 1).square().mean() + _precise(fake).square().mean())


class LogAdversarial:
    """Original GAN loss (eqs. 1, 4, 5); generators minimise -log D, which does not saturate.

    `real` and `fake` are a discriminator's scores, of any shape, taken as logits of D.
    """

    def generator(self, fake: Tensor) -> Tensor:
        """Loss of the network that made the fakes: mean -log D_fake."""
        return functional.softplus(-_precise(fake)).mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the discriminator: half of (mean -log D_real + mean -log(1 - D_fake))."""
        return 0.5 * (functional.softplus(-_precise(real)).mean() + functional.softplus(_precise(fake)).mean())


AdversarialLoss = LeastSquaresAdversarial | LogAdversarial


def weighted_cross_entropy(logits: Tensor, labels: Tensor, probability_floor: float = 0.0) -> Tensor:
    """Cross-entropy with classes weighted by 1 - their share of the batch's pixels, averaged over pixels (eq. 3).

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W). Ignored pixels count in the average, with a loss of 0.
        probability_floor: Lower bound to which probabilities are clipped. The authors use 0.005, which leaves no
            gradient where the network is confidently wrong; 0 uses the exact log-softmax.
    """
    classes = logits.shape[1]
    counts = distributed.sum_with_gradient(_one_hot(labels, classes).sum((0, 2, 3)).to(torch.float32))
    weights = 1 - counts / counts.sum()
    if probability_floor > 0:
        log_probabilities = torch.softmax(_precise(logits), 1).clamp(probability_floor, 1).log()
    else:
        log_probabilities = torch.log_softmax(_precise(logits), 1)
    # The mean of nll_loss divides by the sum of the weights; the authors divide by the number of pixels.
    total: Tensor = functional.nll_loss(
        log_probabilities, labels.long(), weights.to(log_probabilities.dtype), ignore_index=IGNORED, reduction="sum"
    )
    return total / labels.numel()


def soft_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Soft Dice loss (eq. 3): 1 - mean over the K classes of 2 sum(p y) / (sum p^2 + sum y + 1e-7).

    The sums are over the whole batch, without ignored pixels.
    """
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
    """Segmentation loss L_seg (eq. 3): weighted cross-entropy + soft Dice."""
    return weighted_cross_entropy(logits, labels, probability_floor) + soft_dice_loss(logits, labels)


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return one mask per class, (B, K, H, W) bool; ignored pixels belong to none."""
    return labels[:, None] == torch.arange(classes, device=labels.device)[:, None, None]


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
