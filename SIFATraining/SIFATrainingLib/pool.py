"""A pool of generated images (Shrivastava et al., CVPR 2017), so that a discriminator does not forget old fakes."""

from __future__ import annotations

import torch
from torch import Tensor

from .transfer import moved


class ImagePool:
    """Pool of up to `size` earlier fakes, on the device where they were made.

    Until it is full, the pool stores and returns the images it is given. After that, each image is swapped for a random
    one of the pool with probability one half. Random numbers come from torch's CPU generator: they follow its seed, and
    the host knows the choice without waiting for the device.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: Tensor | None = None
        self.filled = 0

    def exchange(self, fakes: Tensor) -> Tensor:
        """Return images (B, C, H, W) to show the discriminator in place of `fakes` (B, C, H, W), without gradients."""
        fakes = fakes.detach()
        if self.size == 0:
            return fakes
        if self.images is None:
            self.images = fakes.new_zeros((self.size, *fakes.shape[1:]))
        room = min(self.size - self.filled, len(fakes))
        self.images[self.filled : self.filled + room] = fakes[:room]
        self.filled += room
        rest = len(fakes) - room
        if rest == 0:
            return fakes
        swapped = room + torch.nonzero(torch.rand(rest) < 0.5).flatten()
        # No image of the pool is used twice, so a batch larger than the pool swaps at most `size` images.
        places = moved(torch.randperm(self.size)[: len(swapped)], fakes.device)
        swapped = moved(swapped[: self.size], fakes.device)
        shown = fakes.clone()
        shown[swapped] = self.images[places]
        self.images[places] = fakes[swapped]
        return shown

    def state_dict(self) -> dict[str, Tensor]:
        """Return the images of the pool, for a checkpoint; empty before the first fake."""
        return {} if self.images is None else {"images": self.images[: self.filled].clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state that `state_dict` returned."""
        self.images, self.filled = None, 0
        if "images" in state:
            kept = state["images"]
            self.images = kept.new_zeros((self.size, *kept.shape[1:]))
            self.images[: len(kept)] = kept
            self.filled = len(kept)
