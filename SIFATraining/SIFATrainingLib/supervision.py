"""Labels as both classifiers learn them."""

from __future__ import annotations

from torch import Tensor

from .config import TrainingConfig
from .losses import segmentation_loss
from .networks import Networks


def supervise(
    networks: Networks, config: TrainingConfig, encoded: tuple[Tensor, Tensor], labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Segmentation by C1 and C2: the weighted sum, and each loss alone (eq. 6, its first two terms).

    Args:
        networks: C1 and C2 are asked.
        config: Its `loss_weights` and `probability_floor`.
        encoded: E's two outputs.
        labels: (B, H, W), see `losses`.
    """
    (features, lower), w, floor = encoded, config.loss_weights, config.probability_floor
    segmentation = segmentation_loss(networks.classifier(features), labels, floor)
    lower_segmentation = segmentation_loss(networks.lower_classifier(lower), labels, floor)
    total = w.segmentation * segmentation + w.lower_segmentation * lower_segmentation
    return total, segmentation, lower_segmentation
