"""E with the batch norm that it is exported with."""

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
    """A copy of E and C1 whose E normalises by averages over slices that are spread over a domain.

    The running statistics are those of other weights: the networks' of the last few batches, where the weights are a
    moving average; and in self-training those of slices in other contrasts. Of many processes all have to take part.

    Args:
        network: On `device`; left as it is.
        slices: Of the domain, (n, size, size), as they are stored.
        batch: Slices at a time, of each process.
        device: Where to compute.
        count: About so many slices are enough.
        report: Told of each batch; of many processes in each alike.
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
