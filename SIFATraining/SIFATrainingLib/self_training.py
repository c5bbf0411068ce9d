"""The last part of a training: E, C1 and C2 learn from target slices what their own moving average is sure of.

The adversaries and the decoder have done their work and rest. A mean teacher (Tarvainen and Valpola, NeurIPS 2017),
the moving average of E and C1, labels x_t; of each class the pixels count that it is surest of (Zou et al., "Domain
adaptation for semantic segmentation via class-balanced self-training", ECCV 2018), so that small structures are not
crowded out. The networks learn these labels, and the true ones of x_st, on slices whose intensities are changed
strongly, a share of them in random contrasts (`random_contrast.py`).

| moved     | by                                                             |
|-----------|----------------------------------------------------------------|
| E, C1, C2 | seg1 + 0.1 seg2 on x_st + weight (seg1 + 0.1 seg2) on x_t      |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .augmentation import change_intensities, draw_intensity_changes
from .config import SelfTrainingSettings, TrainingConfig
from .iteration import Batch, Losses
from .losses import IGNORED
from .networks import Networks
from .players import Player
from .random_contrast import in_random_contrast
from .supervision import supervise

_ROUNDING = 1e-6  # Of a probability that was added to a class.


class SelfTrainingIteration:
    """One iteration of the last part; it moves the same player as the iterations before."""

    def __init__(self, networks: Networks, config: TrainingConfig, segmentor: Player, teacher: nn.ModuleDict) -> None:
        """
        Args:
            networks: All of them.
            config: How to train.
            segmentor: Of E, C1 and C2, from the main part.
            teacher: `encoder` and `classifier`, the moving average; only asked.
        """
        self.networks, self.config = networks, config
        self.segmentor, self.teacher = segmentor, teacher

    def step(self, batch: Batch) -> Losses:
        n, settings = self.networks, self.config.self_training
        with torch.no_grad():
            target_like = n.generator(batch.source)
            features, _ = self.teacher["encoder"](batch.target)
            labels = confident_labels(self.teacher["classifier"](features), settings)
        shown_st, shown_t = self._changed(target_like), self._changed(batch.target)
        encoded_st = n.encoder(shown_st, tracking=self.config.batch_norm_statistics == "mixed")
        encoded_t = n.encoder(shown_t, tracking=True)
        own, segmentation, lower_segmentation = supervise(n, self.config, encoded_st, batch.labels)
        taught, self_training, lower_self_training = supervise(n, self.config, encoded_t, labels)
        self.segmentor.move(self.segmentor.gradients(own + settings.weight * taught))
        losses = {
            "segmentation": segmentation,
            "lower_segmentation": lower_segmentation,
            "self_training": self_training,
            "lower_self_training": lower_self_training,
        }
        return {name: loss.detach() for name, loss in losses.items()}

    def _changed(self, slices: Tensor) -> Tensor:
        """Slices (B, 1, H, W) with other intensities; drawn from torch's global generators."""
        drawn = draw_intensity_changes(len(slices), self.config.self_training, torch.default_generator)
        changed = change_intensities(
            slices.float(), drawn.share(0, len(slices), slices.device), torch.randn_like(slices, dtype=torch.float32)
        )
        share = self.config.self_training.random_contrast
        if share > 0:
            chosen = torch.rand(len(slices), 1, 1, 1, device=slices.device) < share
            changed = torch.where(chosen, in_random_contrast(changed), changed)
        return changed.contiguous(memory_format=torch.channels_last)


def confident_labels(logits: Tensor, settings: SelfTrainingSettings) -> Tensor:
    """Labels (B, H, W), uint8, of the pixels that the teacher is sure of, `IGNORED` elsewhere.

    A pixel counts where the probability of its class is at least `settings.confidence`, or is among the highest
    `settings.kept` of those of all pixels of its class in the batch.

    Args:
        logits: The teacher's, (B, K, H, W).
        settings: Confidence and share.
    """
    sure, labels = torch.softmax(logits.float(), 1).max(1)
    classes = torch.arange(logits.shape[1], device=logits.device)
    # One sort by class, then probability, which is never 0; and no number that the host would have to wait for.
    ordered = (labels + sure).flatten().sort().values
    counts = (labels.flatten()[:, None] == classes).sum(0)
    first = counts.cumsum(0) - counts
    ranks = first + ((1 - settings.kept) * counts).long()
    thresholds = (ordered[ranks.clamp(max=ordered.numel() - 1)] - classes).clamp(max=settings.confidence)
    return torch.where(sure + _ROUNDING >= thresholds[labels], labels, IGNORED).to(torch.uint8)
