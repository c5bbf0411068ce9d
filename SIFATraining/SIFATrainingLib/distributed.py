"""Communication between the processes of one training.

Each process works on its own share of every batch. Statistics that belong to the whole batch (batch norm, class
weights, Dice sums) are summed with gradients, and gradients are averaged before each step, so W processes with batches
of B compute what one process with a batch of W x B computes. With one process, no function here communicates.
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
    # Imported before there is a process group. Otherwise torch imports it with the first optimiser, and its default
    # arguments keep the group of that time alive: `leave` would not end the group's threads, and a thread that is left
    # can abort the process as it exits.
    import torch.distributed.nn.functional


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    if torch_distributed.is_available() and torch_distributed.is_initialized():
        return torch_distributed.get_world_size()
    return 1


def rank() -> int:
    """Rank of this process, from 0; 0 without a process group."""
    return torch_distributed.get_rank() if world_size() > 1 else 0


def leave() -> None:
    """End the process group, so that this process computes alone from here on."""
    if torch_distributed.is_available() and torch_distributed.is_initialized():
        torch_distributed.destroy_process_group()


def sum_with_gradient(x: Tensor) -> Tensor:
    """Sum `x` over the processes; the gradient of every process's result reaches every process's `x`."""
    if world_size() == 1:
        return x
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """Sum over the processes: each input is part of every process's result, so the gradients are summed as well."""

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
    """Average each tensor over the processes, in a single message; the results are contiguous."""
    if world_size() == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    torch_distributed.all_reduce(flat)
    flat /= world_size()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def share_of(batch: Tensor) -> Tensor:
    """Return this process's equal share of a batch; the whole batch if it has fewer slices than processes."""
    each = len(batch) // world_size()
    return batch[rank() * each : (rank() + 1) * each] if each else batch


def sum_of(parts: NDArray[np.uint8], device: torch.device) -> NDArray[np.uint8]:
    """Combine an array of which each process has filled in its own part, with 0 elsewhere."""
    if world_size() == 1:
        return parts
    whole = torch.from_numpy(parts).to(device)
    torch_distributed.all_reduce(whole)
    summed: NDArray[np.uint8] = whole.cpu().numpy()
    return summed


def is_same_everywhere(value: float, device: torch.device) -> bool:
    """Return whether all processes have the same value."""
    if world_size() == 1:
        return True
    extremes = torch.tensor([value, -value], device=device)
    torch_distributed.all_reduce(extremes, torch_distributed.ReduceOp.MAX)
    highest, minus_lowest = extremes.tolist()
    return bool(highest == -minus_lowest)


def any_process(wanted: bool, device: torch.device) -> bool:
    """Return whether `wanted` is true in any process; all get the same answer, so they end at the same iteration."""
    if world_size() == 1:
        return wanted
    flag = torch.tensor(float(wanted), device=device)
    torch_distributed.all_reduce(flag)
    return bool(flag.item() > 0)
