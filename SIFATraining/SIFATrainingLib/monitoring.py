"""Watching a training by labelled target volumes, from which it learns nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .batches import as_slices
from .dataset import PreparedDataset


class Monitor:
    """Dice of the monitor set of a prepared data set, on the networks' grid.

    Only reads: no gradient, no random number, batch norm by its running statistics, so the weights that come of a
    training do not depend on whether it is watched.
    """

    def __init__(self, dataset: PreparedDataset, batch: int, device: torch.device) -> None:
        """
        Args:
            dataset: With a monitor set.
            batch: Slices at a time.
            device: Of the networks.
        """
        self._slices, self._labels = dataset.slices("monitor"), dataset.labels("monitor")
        self._volumes = dataset.entry("monitor").volumes
        self._names = dataset.manifest.task.names
        self._batch, self._device = batch, device

    @torch.no_grad()
    def dice(self, network: nn.Module, must_end: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
        """Dice by structure, of all slices of a volume together, then the mean over volumes; and their `mean`.

        A structure that is neither in the reference nor in the prediction of a volume is left out of its mean; one
        for which that is so in all volumes has no entry. None where it had to end before all volumes were seen.

        Args:
            network: Slices to class probabilities; given back as it was.
            must_end: Asked before each volume.
        """
        was_training = network.training
        network.eval()
        scores = []
        try:
            for volume in self._volumes:
                if must_end():
                    return None
                scores.append(self._volume_dice(network, volume.start, volume.stop))
        finally:
            network.train(was_training)
        columns = zip(self._names, np.stack(scores).T, strict=True)
        dice = {name: float(np.nanmean(column)) for name, column in columns if not np.isnan(column).all()}
        return {**dice, "mean": float(np.mean(list(dice.values())))} if dice else {}

    def _volume_dice(self, network: nn.Module, start: int, stop: int) -> NDArray[np.float64]:
        """Of each structure; not a number where it is in neither."""
        classes = len(self._names) + 1
        counts = np.zeros((classes, classes), np.int64)
        for first in range(start, stop, self._batch):
            part = slice(first, min(first + self._batch, stop))
            slices = as_slices(torch.from_numpy(np.array(self._slices[part])).to(self._device))
            predicted = network(slices).argmax(1).cpu().numpy()
            pairs = self._labels[part].astype(np.int64) * classes + predicted
            counts += np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)
        sizes = (counts.sum(0) + counts.sum(1))[1:]
        overlaps = 2.0 * counts.diagonal()[1:]
        dice: NDArray[np.float64] = np.divide(overlaps, sizes, out=np.full(classes - 1, np.nan), where=sizes > 0)
        return dice
