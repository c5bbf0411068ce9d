"""From the host to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; the host does not wait for a GPU that is still at work on what came before.

    CUDA copies memory that is not pinned to a buffer of its own before it returns. Others may read it later.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")
