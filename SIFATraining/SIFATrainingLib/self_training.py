"""Self-training, the last part of a training: E, C1 and C2 learn target labels that their moving average is sure of.

The other networks are no longer trained. A mean teacher (Tarvainen and Valpola, NeurIPS 2017), the moving average of E
and C1, labels x_t: either whole volumes, a few times, or each batch as it comes (`pseudo_labels.py`). The networks
learn these labels, and the true ones of x_st, on slices whose intensities are changed strongly, a share of them in
random contrasts (`random_contrast.py`). For methods without translation, x_s takes the place of x_st.

| updated   | by                                                             |
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
    """An iteration of self-training; it updates the same player as the iterations before it."""

    def __init__(self, networks: Networks, config: TrainingConfig, segmentor: Player, teacher: nn.Module) -> None:
        """
        Args:
            networks: All networks.
            config: Every setting of the training.
            segmentor: Player of E, C1 and C2, from the iterations before.
            teacher: Moving average of E and C1, which maps slices to class probabilities; left unchanged.
        """
        self.networks, self.config = networks, config
        self.segmentor, self.teacher = segmentor, teacher
        self.translates = config.method in TRANSLATING_METHODS

    def step(self, batch: Batch) -> Losses:
        """Update E, C1 and C2 once and return the losses."""
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
        """Return the teacher's labels (B, H, W) of slices (B, 1, H, W), `IGNORED` where it is not sure."""
        return confident_labels(self.teacher(target), self.config.self_training)

    def _changed(self, slices: Tensor) -> Tensor:
        """Change the intensities of slices (B, 1, H, W) at random; draws from torch's global generators."""
        drawn = draw_intensity_changes(len(slices), self.config.self_training, torch.default_generator)
        changed = change_intensities(
            slices.float(), drawn.share(0, len(slices), slices.device), torch.randn_like(slices, dtype=torch.float32)
        )
        share = self.config.self_training.random_contrast
        if share > 0:
            chosen = torch.rand(len(slices), 1, 1, 1, device=slices.device) < share
            changed = torch.where(chosen, in_random_contrast(changed), changed)
        return changed.contiguous(memory_format=torch.channels_last)
