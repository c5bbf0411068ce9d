"""Batch normalisation whose running statistics follow chosen batches only, over one process or several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as torch_distributed
from torch.nn import functional

from . import distributed


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation (eps 1e-3, momentum 0.1) that updates its running statistics only where told to.

    In training it always normalises by the statistics of the current batch. The running statistics, which only
    evaluation uses, are updated while `tracking` is set: SIFA's encoder sees two domains, the exported model one.

    With several processes the statistics are those of the whole batch, on any device, since two processes with
    batches of B must compute what one with a batch of 2B does; torch's own SyncBatchNorm only supports GPUs.
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
    """Return mean and variance (C,) over all processes, each with the same number of slices (b, C, H, W)."""
    # The CPU kernel returns them in the precision of its input, the GPU kernel in at least float32.
    precise = x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_cpu else x
    mean, variance = torch.ops.aten.batch_norm_update_stats(precise, None, None, 0.0)
    moments = torch.stack([mean, variance + mean.square()])
    torch_distributed.all_reduce(moments)
    mean, square = moments / distributed.world_size()
    return mean, square - mean.square()


class _Normalise(torch.autograd.Function):
    """Normalisation by the statistics over all processes, differentiable through these statistics.

    Torch's kernels for given statistics do the work in one pass; the gradient through the statistics is added as in
    Ioffe and Szegedy, Batch normalization, ICML 2015, section 3, with sums over all processes.
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
        # The GPU kernel also reads the statistics from the arguments meant for those of a training batch; the CPU
        # kernel ignores these.
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, mean, inverse_deviation, False, context.eps, (True, True, True)
        )
        sums = torch.stack([of_weight, of_bias])
        torch_distributed.all_reduce(sums)
        mean_of_weight, mean_of_bias = sums / (x.numel() // x.shape[1] * distributed.world_size())
        # In each channel, the gradient through the statistics is linear in x, so it is computed as a normalisation.
        scale = weight * inverse_deviation
        of_x -= functional.batch_norm(
            x, mean, variance, scale * mean_of_weight, scale * mean_of_bias, False, 0.0, context.eps
        )
        return of_x, of_weight, of_bias, None, None, None
