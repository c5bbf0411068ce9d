"""Interface of one training iteration, common to all methods: slices in, networks updated, losses out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from .players import Player

Losses = dict[str, Tensor]
"""Unweighted losses by name, as detached scalars."""


@dataclass(frozen=True)
class Batch:
    """Slices of one iteration.

    Attributes:
        source: Labelled slices (B, 1, H, W) in [-1, 1]; those of the target for the supervised bound.
        labels: Their labels (B, H, W).
        target: Slices of the target (B, 1, H, W) in [-1, 1].
        pseudo_labels: Labels (B, H, W) that the networks themselves gave the target's slices, with values as in
            `losses`; None if there are none.
    """

    source: Tensor
    labels: Tensor
    target: Tensor
    pseudo_labels: Tensor | None = None


class Iteration(Protocol):
    """What a method provides to the training loop."""

    def step(self, batch: Batch) -> Losses:
        """Update the networks once and return the losses."""
        ...

    def players(self) -> dict[str, Player]:
        """Return the players, each a group of networks with its optimiser, by name."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimisers and pools, for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        ...
