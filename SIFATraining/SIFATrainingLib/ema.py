"""Moving average of the segmentor's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class MovingAverage(Generic[Module]):
    """Exponential moving average of a module's weights, which fluctuates less than the weights in training.

    The decay grows to `decay` over the first iterations, as (1 + i) / (10 + i), so that the start is soon forgotten.
    Buffers (batch norm's running statistics) are not averaged but copied.
    """

    def __init__(self, modules: Module, decay: float) -> None:
        self.decay = decay
        self.average: Module = copy.deepcopy(modules).requires_grad_(False)

    @torch.no_grad()
    def update(self, modules: Module, iteration: int) -> None:
        """Move the average towards the weights after `iteration`, which counts from 0."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        averaged: list[Tensor] = list(self.average.parameters())
        current: list[Tensor] = list(modules.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)
        # Tensors of a single type can be copied in one call; batch norm's integer counters never change here.
        copied, buffers = ([b for b in some.buffers() if b.is_floating_point()] for some in (self.average, modules))
        torch._foreach_copy_(copied, buffers)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights and the buffers, for a checkpoint."""
        return dict(self.average.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state that `state_dict` returned."""
        self.average.load_state_dict(state)
