"""The losses of a training between two reports."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from SIFASegmentationLib.errors import InputError

from . import distributed
from .iteration import Losses


@dataclass
class LossLog:
    """Losses of the iterations since the last report, kept on the device until the next.

    Attributes:
        names: Names of the losses.
        rows: One tensor per iteration with the values of the losses, float32.
    """

    names: list[str] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    def add(self, losses: Losses) -> None:
        """Add the losses of the next iteration."""
        self.names = list(losses)
        self.rows.append(torch.stack([loss.float() for loss in losses.values()]))

    def flush(self, iteration: int) -> dict[str, float]:
        """Return the mean of each loss, by name, over all rows and processes, and remove the rows.

        Args:
            iteration: Iteration of the last row, counted from 1.

        Raises:
            InputError: A loss was not finite in some process; names the loss and the first such iteration.
        """
        values = distributed.average([torch.stack(self.rows)])[0].cpu()
        self.rows.clear()
        bad = torch.nonzero(~torch.isfinite(values))
        if len(bad):
            row, column = (int(index) for index in bad[0])
            first = iteration - len(values) + row + 1
            raise InputError(
                f"The loss '{self.names[column]}' was not a number at iteration {first}",
                "start a new training with the setting precision=float32, or with a lower learning_rate",
            )
        return dict(zip(self.names, values.mean(0).tolist(), strict=True))
