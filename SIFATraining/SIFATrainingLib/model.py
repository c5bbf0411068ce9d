"""Everything that a training updates: the networks, their optimisers, and their moving average."""

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
    """Everything that a training updates.

    Attributes:
        networks: All networks.
        iteration: Iteration of the training's method, with its optimisers.
        average: Moving average of E and C1; None if the training keeps none.
        self_training: Iteration of self-training, the last part; None if the training has no such part.
    """

    networks: Networks
    iteration: Iteration
    average: MovingAverage[SegmentationNetwork] | None
    self_training: SelfTrainingIteration | None

    @classmethod
    def create(cls, classes: int, config: TrainingConfig, device: torch.device) -> Model:
        """Make a model with random weights from the seed.

        Args:
            classes: Number of classes K, background included.
            config: Every setting of the training.
            device: Device of the networks.
        """
        torch.manual_seed(config.seed)
        networks = Networks(classes, config.width, config.decoder_dropout)
        # Not channels-last on MPS, where some versions of torch compute wrong gradients with it.
        order = torch.contiguous_format if device.type == "mps" else torch.channels_last
        networks = networks.to(device).to(memory_format=order)  # type: ignore[call-overload]
        average = MovingAverage(networks.segmentation_network(), config.ema_decay) if config.ema_decay else None
        iteration, self_training = make_iteration(networks, config), None
        if average is not None and main_iterations(config) < config.iterations:
            self_training = SelfTrainingIteration(networks, config, iteration.players()["segmentor"], average.average)
        return cls(networks, iteration, average, self_training)

    def start_from(self, weights: bytes) -> None:
        """Replace the random weights of all networks by `weights` (safetensors), before the first iteration."""
        self.networks.load_state_dict(safetensors.torch.load(weights))
        if self.average:
            self.average.load_state_dict(self.networks.segmentation_network().state_dict())

    def exported(self) -> SegmentationNetwork:
        """Return E and C1 as they are exported: their moving average, if there is one."""
        return self.average.average if self.average else self.networks.segmentation_network()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of networks, optimisers, pools and moving average, for a checkpoint."""
        return {
            "networks": self.networks.state_dict(),
            "iteration": self.iteration.state_dict(),
            "average": self.average.state_dict() if self.average else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.networks.load_state_dict(state["networks"])
        self.iteration.load_state_dict(state["iteration"])
        if self.average:
            self.average.load_state_dict(state["average"])
