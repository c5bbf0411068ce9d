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
    """Losses of the iterations since the last report, left on the device until then."""

    names: list[str] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    def add(self, losses: Losses) -> None:
        """Those of the next iteration."""
        self.names = list(losses)
        self.rows.append(torch.stack([loss.float() for loss in losses.values()]))

    def flush(self, iteration: int) -> dict[str, float]:
        """Means by name over the rows so far, the last of which is `iteration` (counted from 1), and the processes.

        Raises:
            InputError: A loss was not finite, in whichever process; names it and its first iteration.
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
