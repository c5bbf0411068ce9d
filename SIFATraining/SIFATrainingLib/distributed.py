"""What the processes of one training tell each other.

Each process works on its own share of every batch. Statistics that belong to the whole batch (batch norm, class
weights, Dice sums) are summed with gradients, gradients are averaged before each step; so W processes of batch B
compute what one process of batch W x B computes. With one process every function here returns its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as torch_distributed

if torch_distributed.is_available():
    # torch imports this when the first optimiser is made, and the default arguments in it keep the group that there is
    # then: `leave` would not end its threads, and a thread that is left can abort the process as it exits.
    import torch.distributed.nn.functional


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    if torch_distributed.is_available() and torch_distributed.is_initialized():
        return torch_distributed.get_world_size()
    return 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return torch_distributed.get_rank() if world_size() > 1 else 0


def leave() -> None:
    """End the process group, so that this process computes alone from here on."""
    if torch_distributed.is_available() and torch_distributed.is_initialized():
        torch_distributed.destroy_process_group()


def sum_with_gradient(x: Tensor) -> Tensor:
    """Sum of `x` over the processes; the gradient of every process's result reaches every process's `x`."""
    if world_size() == 1:
        return x
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """Every process's input is part of every process's result, so the gradient is the sum of all of theirs."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch_distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch_distributed.all_reduce(total)
        return total


def average(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Mean of each tensor over the processes, in one message; contiguous."""
    if world_size() == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    torch_distributed.all_reduce(flat)
    flat /= world_size()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def share_of(batch: Tensor) -> Tensor:
    """This process's part of a batch of all: as many slices for each; all of them where there is not one for each."""
    each = len(batch) // world_size()
    return batch[rank() * each : (rank() + 1) * each] if each else batch


def sum_of(parts: NDArray[np.uint8], device: torch.device) -> NDArray[np.uint8]:
    """What the processes have filled in of an array, each its own part and 0 elsewhere, put together."""
    if world_size() == 1:
        return parts
    whole = torch.from_numpy(parts).to(device)
    torch_distributed.all_reduce(whole)
    summed: NDArray[np.uint8] = whole.cpu().numpy()
    return summed


def is_same_everywhere(value: float, device: torch.device) -> bool:
    """Whether all processes have this value."""
    if world_size() == 1:
        return True
    extremes = torch.tensor([value, -value], device=device)
    torch_distributed.all_reduce(extremes, torch_distributed.ReduceOp.MAX)
    highest, minus_lowest = extremes.tolist()
    return bool(highest == -minus_lowest)


def any_process(wanted: bool, device: torch.device) -> bool:
    """Whether `wanted` is true in any process, agreed by all, so that they end at the same iteration."""
    if world_size() == 1:
        return wanted
    flag = torch.tensor(float(wanted), device=device)
    torch_distributed.all_reduce(flag)
    return bool(flag.item() > 0)
