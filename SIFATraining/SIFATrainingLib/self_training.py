"""The last part of a training: E, C1 and C2 learn from target slices what their own moving average is sure of.

The adversaries and the decoder have done their work and rest. A mean teacher (Tarvainen and Valpola, NeurIPS 2017),
the moving average of E and C1, labels x_t: a few times whole volumes, or each batch as it comes (`pseudo_labels.py`).
The networks learn these labels, and the true ones of x_st, on slices whose intensities are changed strongly, a share of
them in random contrasts (`random_contrast.py`). Where a method translates nothing, x_s takes the place of x_st.

| moved     | by                                                             |
|-----------|----------------------------------------------------------------|
| E, C1, C2 | seg1 + 0.1 seg2 on x_st + weight (seg1 + 0.1 seg2) on x_t      |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .augmentation import change_intensities, draw_intensity_changes
from .config import TRANSLATING_METHODS, TrainingConfig
from .iteration import Batch, Losses
from .networks import Networks
from .players import Player
from .pseudo_labels import confident_labels
from .random_contrast import in_random_contrast
from .supervision import supervise


class SelfTrainingIteration:
    """One iteration of the last part; it moves the same player as the iterations before."""

    def __init__(self, networks: Networks, config: TrainingConfig, segmentor: Player, teacher: nn.Module) -> None:
        """
        Args:
            networks: All of them.
            config: How to train.
            segmentor: Of E, C1 and C2, from the main part.
            teacher: Slices to class probabilities: the moving average of E and C1. Only asked.
        """
        self.networks, self.config = networks, config
        self.segmentor, self.teacher = segmentor, teacher
        self.translates = config.method in TRANSLATING_METHODS

    def step(self, batch: Batch) -> Losses:
        n, settings = self.networks, self.config.self_training
        with torch.no_grad():
            target_like = n.generator(batch.source) if self.translates else batch.source
            labels = self._labels(batch.target) if batch.pseudo_labels is None else batch.pseudo_labels
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

    def _labels(self, target: Tensor) -> Tensor:
        """What the teacher is sure of in slices (B, 1, H, W): (B, H, W)."""
        return confident_labels(self.teacher(target), self.config.self_training)

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
