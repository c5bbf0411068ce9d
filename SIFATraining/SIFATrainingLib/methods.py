"""The iteration of each method."""

from __future__ import annotations

from typing import Any

from .adaptation import AdaptationIteration
from .config import SEGMENTATION_METHODS, TrainingConfig
from .iteration import Batch, Iteration, Losses
from .networks import Networks
from .players import Player, load_optimiser_states, optimiser_states, segmentor
from .prediction_alignment import OutputAlignmentIteration
from .random_contrast import loss_in_random_contrast
from .supervision import supervise


class SegmentationIteration:
    """Trains E, C1 and C2 on labelled slices of one domain alone, for the bounds in the paper's tables."""

    def __init__(self, networks: Networks, config: TrainingConfig) -> None:
        self.networks, self.config = networks, config
        self.player = segmentor(networks, config)

    def step(self, batch: Batch) -> Losses:
        """Update E, C1 and C2 once on the labelled slices and return the losses."""
        n = self.networks
        encoded = n.encoder(batch.source, tracking=True)
        loss, segmentation, lower_segmentation = supervise(n, self.config, encoded, batch.labels)
        further, terms = loss_in_random_contrast(n, self.config, [batch.source], batch.labels)
        self.player.move(self.player.gradients(loss + further))
        losses = {"segmentation": segmentation.detach(), "lower_segmentation": lower_segmentation.detach()}
        return losses | terms

    def players(self) -> dict[str, Player]:
        return {"segmentor": self.player}

    def state_dict(self) -> dict[str, Any]:
        return {"optimisers": optimiser_states(self.players())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_optimiser_states(self.players(), state["optimisers"])


def make_iteration(networks: Networks, config: TrainingConfig) -> Iteration:
    """Make the iteration of `config.method` for `networks`."""
    if config.method in SEGMENTATION_METHODS:
        return SegmentationIteration(networks, config)
    if config.method == "output_alignment":
        return OutputAlignmentIteration(networks, config)
    return AdaptationIteration(networks, config)
