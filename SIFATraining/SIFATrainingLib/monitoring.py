"""Monitoring of a training on labelled target volumes, from which it does not learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .batches import as_slices
from .dataset import PreparedDataset


class Monitor:
    """Computes the Dice of a prepared data set's monitor set, on the networks' grid.

    It uses no gradients, no random numbers, and batch norm's running statistics, so the weights that a training arrives
    at do not depend on whether it is monitored.
    """

    def __init__(self, dataset: PreparedDataset, batch: int, device: torch.device) -> None:
        """
        Args:
            dataset: Prepared data set with a monitor set.
            batch: Number of slices to predict at a time.
            device: Device of the networks.
        """
        self._slices, self._labels = dataset.slices("monitor"), dataset.labels("monitor")
        self._volumes = dataset.entry("monitor").volumes
        self._names = dataset.manifest.task.names
        self._batch, self._device = batch, device

    @torch.no_grad()
    def dice(self, network: nn.Module, must_end: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
        """Return the Dice of each structure, by name, and their mean as `mean`.

        The Dice of each volume, over all its slices together, is averaged over the volumes. Volumes with a structure
        neither in the reference nor in the prediction don't count for it; if that is so in all volumes, it has no
        entry.

        Args:
            network: Maps slices (b, 1, H, W) to class probabilities (b, K, H, W); its mode is restored afterwards.
            must_end: Asked before each volume whether to stop.

        Returns:
            Dice in [0, 1]; empty if no structure has one, None if it had to end before all volumes were scored.
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
        """Return the Dice of each structure in one volume; NaN where neither labels nor prediction contain it."""
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
