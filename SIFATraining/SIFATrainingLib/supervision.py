"""Supervised loss of both classifiers."""

from __future__ import annotations

from torch import Tensor

from .config import TrainingConfig
from .losses import segmentation_loss
from .networks import Networks


def supervise(
    networks: Networks, config: TrainingConfig, encoded: tuple[Tensor, Tensor], labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Segmentation losses of C1 and C2 (the first two terms of eq. 6).

    Args:
        networks: Provides C1 and C2.
        config: Provides `loss_weights` and `probability_floor`.
        encoded: The features and lower features that E returns.
        labels: Labels (B, H, W), with values as in `losses`.

    Returns:
        The weighted sum of both losses, the loss of C1, and the loss of C2.
    """
    (features, lower), w, floor = encoded, config.loss_weights, config.probability_floor
    segmentation = segmentation_loss(networks.classifier(features), labels, floor)
    lower_segmentation = segmentation_loss(networks.lower_classifier(lower), labels, floor)
    total = w.segmentation * segmentation + w.lower_segmentation * lower_segmentation
    return total, segmentation, lower_segmentation
