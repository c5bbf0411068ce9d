"""What an iteration of training is, whatever the method: slices in, networks moved, losses out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from .players import Player

Losses = dict[str, Tensor]
"""Losses by name, detached scalars, unweighted."""


@dataclass(frozen=True)
class Batch:
    """Slices of one iteration: source and target (B, 1, H, W) in [-1, 1], labels of the source (B, H, W).

    `pseudo_labels` are what the networks themselves have said of the target's slices, if they were asked; see `losses`.
    """

    source: Tensor
    labels: Tensor
    target: Tensor
    pseudo_labels: Tensor | None = None


class Iteration(Protocol):
    """What the training loop asks of a method."""

    def step(self, batch: Batch) -> Losses:
        """Update the networks once."""
        ...

    def players(self) -> dict[str, Player]:
        """What moves, by name."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Optimisers and pools, for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...
