"""E with the batch norm that it is exported with, while a training goes on."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from . import distributed
from .batches import SPREAD_SLICES, spread_batches
from .networks import SegmentationNetwork, reestimate_batch_norm


@torch.no_grad()
def reestimated(
    network: SegmentationNetwork,
    slices: NDArray[np.int16],
    batch: int,
    device: torch.device,
    count: int = SPREAD_SLICES,
) -> SegmentationNetwork:
    """A copy of E and C1 whose E normalises by averages over slices that are spread over a domain.

    The running statistics are those of other weights: the networks' of the last few batches, where the weights are a
    moving average; and in self-training those of slices in other contrasts. Of many processes all have to take part.

    Args:
        network: On `device`; left as it is.
        slices: Of the domain, (n, size, size), as they are stored.
        batch: Slices at a time, of each process.
        device: Where to compute.
        count: About so many slices are enough.
    """
    copied = copy.deepcopy(network)
    batches = spread_batches(slices, batch * distributed.world_size(), count)
    reestimate_batch_norm(copied.encoder, (distributed.share_of(some).to(device) for some in batches))
    return copied
