"""Re-estimation of the batch norm that E is exported with."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import distributed
from .batches import SPREAD_SLICES, spread_batches
from .networks import SegmentationNetwork, reestimate_batch_norm
from .steps import Report, Step, say_nothing


@torch.no_grad()
def reestimated(
    network: SegmentationNetwork,
    slices: NDArray[np.int16],
    batch: int,
    device: torch.device,
    count: int = SPREAD_SLICES,
    report: Report = say_nothing,
) -> SegmentationNetwork:
    """Return a copy of E and C1 whose E normalises by averages over slices that are spread over a domain.

    The running statistics don't fit a moving average of the weights, since they come from the weights of the last few
    batches; after self-training, they also come from slices in other contrasts. With several processes, all must call
    this.

    Args:
        network: E and C1, on `device`; left unchanged.
        slices: Slices of the domain, (n, size, size), as stored.
        batch: Number of slices per batch in each process.
        device: Device to compute on.
        count: Approximate number of slices to average over.
        report: Called before each batch, in every process.
    """
    copied = copy.deepcopy(network)
    of_all, total = batch * distributed.world_size(), min(count, len(slices))

    def shares() -> Iterator[Tensor]:
        for number, some in enumerate(spread_batches(slices, of_all, count)):
            seen = number * of_all
            report(Step(seen, total, f"averaging the batch norm, {seen} of {total} slices"))
            yield distributed.share_of(some).to(device)

    reestimate_batch_norm(copied.encoder, shares())
    return copied
