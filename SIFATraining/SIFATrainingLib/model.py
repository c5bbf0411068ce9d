"""All that learns in a training: the networks, how the method moves them, and their moving average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from .config import TrainingConfig, main_iterations
from .ema import MovingAverage
from .iteration import Iteration
from .methods import make_iteration
from .networks import Networks, SegmentationNetwork
from .self_training import SelfTrainingIteration


@dataclass
class Model:
    """Everything that learns, and its moving average."""

    networks: Networks
    iteration: Iteration
    average: MovingAverage[SegmentationNetwork] | None
    self_training: SelfTrainingIteration | None

    @classmethod
    def create(cls, classes: int, config: TrainingConfig, device: torch.device) -> Model:
        """Fresh networks from the seed."""
        torch.manual_seed(config.seed)
        networks = Networks(classes, config.width, config.decoder_dropout)
        # Not on MPS, where some of torch's versions get the gradients of such slices wrong.
        order = torch.contiguous_format if device.type == "mps" else torch.channels_last
        networks = networks.to(device).to(memory_format=order)  # type: ignore[call-overload]
        average = MovingAverage(networks.segmentation_network(), config.ema_decay) if config.ema_decay else None
        iteration, self_training = make_iteration(networks, config), None
        if average is not None and main_iterations(config) < config.iterations:
            self_training = SelfTrainingIteration(networks, config, iteration.players()["segmentor"], average.average)
        return cls(networks, iteration, average, self_training)

    def start_from(self, weights: bytes) -> None:
        """Take the weights of all networks (safetensors) in place of random ones, before the first iteration."""
        self.networks.load_state_dict(safetensors.torch.load(weights))
        if self.average:
            self.average.load_state_dict(self.networks.segmentation_network().state_dict())

    def exported(self) -> SegmentationNetwork:
        """E and C1 as they are exported: their moving average, where there is one."""
        return self.average.average if self.average else self.networks.segmentation_network()

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {
            "networks": self.networks.state_dict(),
            "iteration": self.iteration.state_dict(),
            "average": self.average.state_dict() if self.average else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.networks.load_state_dict(state["networks"])
        self.iteration.load_state_dict(state["iteration"])
        if self.average:
            self.average.load_state_dict(state["average"])
