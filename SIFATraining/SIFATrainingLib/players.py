"""Players of the adversarial game: groups of networks that are updated together by their own losses and optimiser."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import distributed
from .config import TrainingConfig
from .networks import Networks


def gradients_in_groups(loss: Tensor, *groups: Sequence[Tensor], retain_graph: bool = False) -> list[list[Tensor]]:
    """Return the gradients of a loss for groups of tensors, in the same groups; 0 for tensors it does not depend on."""
    every = [tensor for group in groups for tensor in group]
    gradients = iter(torch.autograd.grad(loss, every, retain_graph=retain_graph, materialize_grads=True))
    return [list(itertools.islice(gradients, len(group))) for group in groups]


class Player:
    """Parameters of networks that are updated together, and their optimiser."""

    def __init__(self, parameters: Iterable[nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
        self.parameters = list(parameters)
        self.optimiser = optimiser

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of `loss` for this player's parameters only."""
        return torch.autograd.grad(loss, self.parameters, materialize_grads=True)

    def move(self, gradients: Sequence[Tensor]) -> None:
        """Average the gradients over the processes and take one step of the optimiser."""
        for parameter, gradient in zip(self.parameters, distributed.average(gradients), strict=True):
            parameter.grad = _laid_out_as(parameter, gradient)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        # Autocast caches bfloat16 copies of the old weights; later passes must use the new ones.
        torch.clear_autocast_cache()


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a gradient or moment in the memory layout of its parameter, which fused optimisers require.

    Weights are in channels-last order, but averages over processes and the results of MPS are not.
    """
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def adversary(modules: Iterable[nn.Module], config: TrainingConfig) -> Player:
    """Make a player of G_t, U or discriminators: Adam with beta1 0.5, no weight decay."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return Player(parameters, torch.optim.Adam(parameters, config.learning_rate, betas=(0.5, 0.999), fused=True))


def segmentor(networks: Networks, config: TrainingConfig) -> Player:
    """Make the player of E, C1 and C2: Adam with beta1 0.9, weight decay on the weights of convolutions only."""
    parameters = networks.segmentor_parameters()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    make = torch.optim.AdamW if config.decoupled_weight_decay else torch.optim.Adam
    return Player(parameters, make(groups, config.learning_rate, betas=(0.9, 0.999), fused=True))


def optimiser_states(players: Mapping[str, Player]) -> dict[str, Any]:
    """Return the states of the players' optimisers, by the players' names."""
    return {name: player.optimiser.state_dict() for name, player in players.items()}


def load_optimiser_states(players: Mapping[str, Player], states: dict[str, Any]) -> None:
    """Restore states that `optimiser_states` returned."""
    for name, player in players.items():
        player.optimiser.load_state_dict(states[name])
        # The state may come from another kind of device, where weights had another memory layout.
        for parameter, kept in player.optimiser.state.items():
            for what, value in kept.items():
                if value.shape == parameter.shape:
                    kept[what] = _laid_out_as(parameter, value)
