"""Batch normalisation that says whose slices its running statistics follow, over one process or many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as torch_distributed
from torch.nn import functional

from . import distributed


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation (eps 1e-3, momentum 0.1) that says when its running statistics may move.

    In training it always normalises by the statistics of the batch at hand. The running statistics, which only the
    exported model uses, follow when `tracking` is set: SIFA's encoder sees two domains, and the exported model one.

    Over several processes the statistics are those of the whole batch, on any device: torch's own SyncBatchNorm
    exists for GPUs alone, and two processes of batch B must compute what one of batch 2B computes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.1)
        self.tracking = False

    def forward(self, x: Tensor) -> Tensor:
        if self.training and distributed.world_size() > 1:
            return self._over_processes(x)
        tracked = self.tracking or not self.training
        return functional.batch_norm(
            x,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )

    def _over_processes(self, x: Tensor) -> Tensor:
        mean, variance = _moments(x)
        if self.tracking and self.running_mean is not None and self.running_var is not None:
            count = x.numel() // x.shape[1] * distributed.world_size()
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
        normalised: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, mean, variance, self.eps
        )
        return normalised


@torch.no_grad()
def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of the slices (b, C, H, W) of all processes, each of which has as many."""
    # The kernel for CPUs returns them in the precision of its input, that for GPUs in float32 at least.
    precise = x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_cpu else x
    mean, variance = torch.ops.aten.batch_norm_update_stats(precise, None, None, 0.0)
    moments = torch.stack([mean, variance + mean.square()])
    torch_distributed.all_reduce(moments)
    mean, square = moments / distributed.world_size()
    return mean, square - mean.square()


class _Normalise(torch.autograd.Function):
    """Normalisation by statistics of all processes, to which the slices of each have contributed.

    By torch's kernels for given statistics, which take one pass; the way of a gradient through the statistics is added:
    Ioffe and Szegedy, Batch normalization, ICML 2015, section 3, with the sums taken over all processes.
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        context.save_for_backward(x, weight, mean, variance)
        context.eps = eps
        return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        x, weight, mean, variance = context.saved_tensors
        inverse_deviation = torch.rsqrt(variance + context.eps)
        # GPUs want the statistics in the place of those of a training batch as well, processors ignore them there.
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, mean, inverse_deviation, False, context.eps, (True, True, True)
        )
        sums = torch.stack([of_weight, of_bias])
        torch_distributed.all_reduce(sums)
        mean_of_weight, mean_of_bias = sums / (x.numel() // x.shape[1] * distributed.world_size())
        # What reaches x through the statistics is, in each channel, linear in x: again a normalisation.
        scale = weight * inverse_deviation
        of_x -= functional.batch_norm(
            x, mean, variance, scale * mean_of_weight, scale * mean_of_bias, False, 0.0, context.eps
        )
        return of_x, of_weight, of_bias, None, None, None
