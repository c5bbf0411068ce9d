"""Slices of a prepared data set as augmented batches, and the order in which they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from SIFASegmentationLib.segmentation_options import Domain

from .augmentation import (
    change_intensities,
    draw_affine,
    draw_intensity_changes,
    sampling_grid,
    warp_labels,
    warp_slices,
)
from .config import NO_AUGMENTATION, AugmentationSettings
from .dataset import FULL_SCALE, PreparedDataset
from .iteration import Batch
from .transfer import moved

SPREAD_SLICES = 512  # More change the averages that are taken of them by less than their last digits.


class SliceOrder:
    """The order in which `count` slices are shown: a new random permutation each epoch.

    A function of seed and position alone, so that nothing about it needs to be saved.
    """

    def __init__(self, count: int, seed: int, stream: str) -> None:
        """`stream` tells the orders of one seed apart, such as those of the two domains."""
        self.count, self._key = count, f"{seed} {stream}"
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def at(self, start: int, count: int) -> NDArray[np.int64]:
        """Indices of the `count` slices from position `start` of the endless sequence on."""
        positions = np.arange(start, start + count)
        return np.array([self._index(*divmod(int(position), self.count)) for position in positions], np.int64)

    def _index(self, epoch: int, within: int) -> int:
        if epoch != self._epoch:
            seed = int.from_bytes(hashlib.sha256(f"{self._key} {epoch}".encode()).digest()[:8], "little")
            self._epoch, self._permutation = epoch, np.random.default_rng(seed).permutation(self.count)
        return int(self._permutation[within])


class SliceStore:
    """Slices that are fetched by index: on the device when they are resident, else from the memory-mapped file."""

    def __init__(self, array: NDArray[Any], device: torch.device, *, resident: bool) -> None:
        self.device = device
        self._array = array
        self._resident = torch.from_numpy(np.array(array)).to(device) if resident else None

    def read(self, indices: NDArray[np.int64]) -> Tensor:
        """Slices (b, size, size) in the array's own type: on the device if resident, else on the host, ready to go."""
        if self._resident is not None:
            return self._resident[moved(torch.from_numpy(indices), self.device)]
        rows = torch.from_numpy(np.stack([self._array[index] for index in indices]))
        return rows.pin_memory() if self.device.type == "cuda" else rows

    def fetch(self, indices: NDArray[np.int64]) -> Tensor:
        """Slices (b, size, size) on the device, in the array's own type."""
        return moved(self.read(indices), self.device)


@dataclass(frozen=True)
class _Stored:
    """Slices of a batch as they are stored: labelled ones, their labels, target, its pseudo-labels if there are any."""

    labelled: Tensor
    labels: Tensor
    target: Tensor
    pseudo_labels: Tensor | None

    def on(self, device: torch.device) -> _Stored:
        """The same, on a device."""
        return _Stored(
            moved(self.labelled, device),
            moved(self.labels, device),
            moved(self.target, device),
            moved(self.pseudo_labels, device) if self.pseudo_labels is not None else None,
        )


class BatchSource:
    """Augmented batches for the training loop; batch i is a function of the data set, the seed and i."""

    def __init__(
        self,
        dataset: PreparedDataset,
        labelled_domain: Domain,
        settings: AugmentationSettings,
        *,
        batch: int,
        seed: int,
        device: torch.device,
        processes: int = 1,
        rank: int = 0,
        budget_bytes: float = float("inf"),
    ) -> None:
        """
        Args:
            dataset: The prepared data set.
            labelled_domain: Whose labels are trained on: the source's, but for the supervised bound.
            settings: Of the augmentation.
            batch: Slices of each domain in this process's share.
            seed: Of order and augmentation.
            device: Where the slices go.
            processes: Processes that train together.
            rank: This process's number among them.
            budget_bytes: Data sets up to this size are kept on the device.
        """
        labelled, unlabelled = dataset.slices(labelled_domain), dataset.slices("target")
        labels = dataset.labels(labelled_domain)
        # Pseudo-labels, should there be some, are half as large as the slices.
        fits = labelled.nbytes + labels.nbytes + unlabelled.nbytes * 3 // 2 <= budget_bytes
        self._labelled = SliceStore(labelled, device, resident=fits)
        self._labels = SliceStore(labels, device, resident=fits)
        self._target = SliceStore(unlabelled, device, resident=fits)
        self._pseudo_labels: SliceStore | None = None
        self.resident = fits
        # Reads the next batch while the device works on this one.
        self._reader = None if fits else ThreadPoolExecutor(1, "SIFA batches")
        self._ahead: dict[int, Future[_Stored]] = {}
        self._labelled_order = SliceOrder(len(labelled), seed, "labelled")
        self._target_order = SliceOrder(len(unlabelled), seed, "target")
        middle = dataset.manifest.target.volumes[len(dataset.manifest.target.volumes) // 2]
        self._target_middle = (middle.start + middle.stop) // 2
        self._settings = settings if settings.enabled else NO_AUGMENTATION
        self._seed, self._device = seed, device
        self._total, self._start, self._stop = batch * processes, batch * rank, batch * (rank + 1)

    def batch(self, iteration: int) -> Batch:
        """This process's share of batch `iteration` (from 0): float32, contiguous in the channels-last order."""
        stored = self._stored(iteration)
        host = torch.Generator().manual_seed(_stream_seed(self._seed, "augmentation", iteration))
        source, grid = self._augment(as_slices(stored.labelled), host)
        x_t, target_grid = self._augment(as_slices(stored.target), host)
        pseudo_labels = stored.pseudo_labels
        if pseudo_labels is not None:
            pseudo_labels = warp_labels(pseudo_labels, target_grid)
        return Batch(source, warp_labels(stored.labels, grid), x_t, pseudo_labels)

    def set_pseudo_labels(self, labels: NDArray[np.uint8]) -> None:
        """From now on batches have these labels (n, size, size) of the target's slices, see `losses`."""
        self._pseudo_labels = SliceStore(labels, self._device, resident=self.resident)
        # What was read ahead has other labels.
        self._ahead = {}

    def preview(self) -> Batch:
        """A slice of each domain as it is, one that is good to look at."""
        candidates = np.unique(np.linspace(0, self._labelled_order.count - 1, 64).astype(np.int64))
        labels = self._labels.fetch(candidates).flatten(1)
        # The one with the most structures, and of those the one with the most of them.
        best = max(range(len(candidates)), key=lambda row: (len(labels[row].unique()), int((labels[row] > 0).sum())))
        labelled, target = candidates[[best]], np.array([self._target_middle])
        return Batch(
            as_slices(self._labelled.fetch(labelled)),
            self._labels.fetch(labelled),
            as_slices(self._target.fetch(target)),
        )

    def _stored(self, iteration: int) -> _Stored:
        """What batch `iteration` is made of, on the device."""
        if self._reader is None:
            return self._read(iteration)
        # All reading is the reader's: the orders are not made for two threads.
        reading = self._ahead.get(iteration) or self._reader.submit(self._read, iteration)
        self._ahead = {iteration + 1: self._reader.submit(self._read, iteration + 1)}
        return reading.result().on(self._device)

    def _read(self, iteration: int) -> _Stored:
        first = iteration * self._total
        mine = slice(self._start, self._stop)
        labelled = self._labelled_order.at(first, self._total)[mine]
        target = self._target_order.at(first, self._total)[mine]
        pseudo_labels = self._pseudo_labels
        return _Stored(
            self._labelled.read(labelled),
            self._labels.read(labelled),
            self._target.read(target),
            pseudo_labels.read(target) if pseudo_labels is not None else None,
        )

    def _augment(self, slices: Tensor, host: torch.Generator) -> tuple[Tensor, Tensor]:
        affine = draw_affine(self._total, self._settings, host)
        changes = draw_intensity_changes(self._total, self._settings, host)
        grid = sampling_grid(moved(affine[self._start : self._stop], self._device), slices.shape)
        # Drawn for the whole batch on the device, where it costs little; from a seed that the host drew.
        noise_seed = int(torch.randint(2**62, (), generator=host))
        generator = torch.Generator(self._device).manual_seed(noise_seed)
        shape = (self._total, *slices.shape[1:])
        noise = torch.randn(shape, generator=generator, device=self._device)[self._start : self._stop]
        mine = changes.share(self._start, self._stop, self._device)
        changed = change_intensities(warp_slices(slices, grid), mine, noise)
        return changed.contiguous(memory_format=torch.channels_last), grid


def spread_batches(slices: NDArray[np.int16], batch: int, count: int = SPREAD_SLICES) -> Iterator[Tensor]:
    """Slices (b, 1, size, size) in [-1, 1] spread over a domain (n, size, size), in whole batches where it has one.

    There are `count` slices in all, or fewer.
    """
    order = np.random.default_rng(0).permutation(len(slices))[:count]
    for start in range(0, max(len(order) - batch, 0) + 1, batch):
        yield as_slices(torch.from_numpy(np.array(slices[np.sort(order[start : start + batch])])))


def as_slices(stored: Tensor) -> Tensor:
    """Stored slices (b, size, size) int16 as network inputs (b, 1, size, size) in [-1, 1]."""
    return stored[:, None].float() / FULL_SCALE


def _stream_seed(seed: int, stream: str, position: int) -> int:
    digest = hashlib.sha256(f"{seed} {stream} {position}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """Seed torch's global generators (dropout, image pools) for one iteration of one process."""
    torch.manual_seed(_stream_seed(seed, f"process {rank}", iteration))
