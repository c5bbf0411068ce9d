"""Transfer of tensors from the host to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device, without waiting for earlier work of a GPU.

    CUDA copies memory that is not pinned to a buffer of its own before it returns, so the tensor may change afterwards.
    Other devices may still read it later, so for them the copy is awaited.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")
