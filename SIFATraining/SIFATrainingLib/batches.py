"""Augmented batches from a prepared data set, and the order of its slices in them."""

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

SPREAD_SLICES = 512  # More would not change the averages taken over them noticeably.


class SliceOrder:
    """The order in which `count` slices are shown: a new random permutation each epoch.

    It depends only on seed and position, so checkpoints need not save anything about it.
    """

    def __init__(self, count: int, seed: int, stream: str) -> None:
        """Create the order for a seed; `stream` distinguishes orders with the same seed, such as one per domain."""
        self.count, self._key = count, f"{seed} {stream}"
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def at(self, start: int, count: int) -> NDArray[np.int64]:
        """Return the indices of `count` slices, starting at position `start` of the endless sequence."""
        positions = np.arange(start, start + count)
        return np.array([self._index(*divmod(int(position), self.count)) for position in positions], np.int64)

    def _index(self, epoch: int, within: int) -> int:
        if epoch != self._epoch:
            seed = int.from_bytes(hashlib.sha256(f"{self._key} {epoch}".encode()).digest()[:8], "little")
            self._epoch, self._permutation = epoch, np.random.default_rng(seed).permutation(self.count)
        return int(self._permutation[within])


class SliceStore:
    """Slices to fetch by index, either resident on the device or read from a memory-mapped file."""

    def __init__(self, array: NDArray[Any], device: torch.device, *, resident: bool) -> None:
        self.device = device
        self._array = array
        self._resident = torch.from_numpy(np.array(array)).to(device) if resident else None

    def read(self, indices: NDArray[np.int64]) -> Tensor:
        """Return slices (b, size, size) in the array's type: on the device if resident, else on the host.

        On the host they are in pinned memory if the device is a GPU.
        """
        if self._resident is not None:
            return self._resident[moved(torch.from_numpy(indices), self.device)]
        rows = torch.from_numpy(np.stack([self._array[index] for index in indices]))
        return rows.pin_memory() if self.device.type == "cuda" else rows

    def fetch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return slices (b, size, size) on the device, in the array's type."""
        return moved(self.read(indices), self.device)


@dataclass(frozen=True)
class _Stored:
    """Slices and labels of a batch in their stored types, each (b, size, size)."""

    labelled: Tensor
    labels: Tensor
    target: Tensor
    pseudo_labels: Tensor | None

    def on(self, device: torch.device) -> _Stored:
        """Copy to a device."""
        return _Stored(
            moved(self.labelled, device),
            moved(self.labels, device),
            moved(self.target, device),
            moved(self.pseudo_labels, device) if self.pseudo_labels is not None else None,
        )


class BatchSource:
    """Augmented batches for the training loop; batch i depends only on the data set, the settings, the seed and i."""

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
            labelled_domain: Domain whose labels are trained on: the source, or the target for the supervised bound.
            settings: Augmentation settings.
            batch: Number of slices of each domain in this process's share of a batch.
            seed: Seed for order and augmentation.
            device: Device on which batches are made.
            processes: Number of processes that train together.
            rank: Number of this process among them, from 0.
            budget_bytes: Largest size of a data set that is kept on the device; larger ones are streamed.
        """
        labelled, unlabelled = dataset.slices(labelled_domain), dataset.slices("target")
        labels = dataset.labels(labelled_domain)
        # Pseudo-labels, which may come later, take half as much memory as the slices.
        fits = labelled.nbytes + labels.nbytes + unlabelled.nbytes * 3 // 2 <= budget_bytes
        self._labelled = SliceStore(labelled, device, resident=fits)
        self._labels = SliceStore(labels, device, resident=fits)
        self._target = SliceStore(unlabelled, device, resident=fits)
        self._pseudo_labels: SliceStore | None = None
        self.resident = fits
        # Reads the next batch while the device works on the current one.
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
        """Return this process's share of batch `iteration` (from 0), in float32 and channels-last order."""
        stored = self._stored(iteration)
        host = torch.Generator().manual_seed(_stream_seed(self._seed, "augmentation", iteration))
        source, grid = self._augment(as_slices(stored.labelled), host)
        x_t, target_grid = self._augment(as_slices(stored.target), host)
        pseudo_labels = stored.pseudo_labels
        if pseudo_labels is not None:
            pseudo_labels = warp_labels(pseudo_labels, target_grid)
        return Batch(source, warp_labels(stored.labels, grid), x_t, pseudo_labels)

    def set_pseudo_labels(self, labels: NDArray[np.uint8]) -> None:
        """Add these labels (n, size, size) of the target's slices to all later batches; values as in `losses`."""
        self._pseudo_labels = SliceStore(labels, self._device, resident=self.resident)
        # The batch that was read ahead still has the old labels.
        self._ahead = {}

    def preview(self) -> Batch:
        """Return one slice of each domain for previews, without augmentation.

        They are the labelled slice with the most structures of up to 64, and the middle slice of a target volume.
        """
        candidates = np.unique(np.linspace(0, self._labelled_order.count - 1, 64).astype(np.int64))
        labels = self._labels.fetch(candidates).flatten(1)
        # The slice with the most structures; of those, the one with the most labelled pixels.
        best = max(range(len(candidates)), key=lambda row: (len(labels[row].unique()), int((labels[row] > 0).sum())))
        labelled, target = candidates[[best]], np.array([self._target_middle])
        return Batch(
            as_slices(self._labelled.fetch(labelled)),
            self._labels.fetch(labelled),
            as_slices(self._target.fetch(target)),
        )

    def _stored(self, iteration: int) -> _Stored:
        """Return the stored slices and labels of batch `iteration`, on the device."""
        if self._reader is None:
            return self._read(iteration)
        # Only the reader thread reads, as the orders are not thread-safe.
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
        # Noise is drawn on the device, where it costs little, for the whole batch and from a seed drawn on the host.
        noise_seed = int(torch.randint(2**62, (), generator=host))
        generator = torch.Generator(self._device).manual_seed(noise_seed)
        shape = (self._total, *slices.shape[1:])
        noise = torch.randn(shape, generator=generator, device=self._device)[self._start : self._stop]
        mine = changes.share(self._start, self._stop, self._device)
        changed = change_intensities(warp_slices(slices, grid), mine, noise)
        return changed.contiguous(memory_format=torch.channels_last), grid


def spread_batches(slices: NDArray[np.int16], batch: int, count: int = SPREAD_SLICES) -> Iterator[Tensor]:
    """Yield random slices of a domain in batches (b, 1, size, size) in [-1, 1], the same at every call.

    Args:
        slices: All slices of the domain, (n, size, size), as stored.
        batch: Size of the batches. An incomplete last batch is left out, unless it is the only one.
        count: Number of slices at most.
    """
    order = np.random.default_rng(0).permutation(len(slices))[:count]
    for start in range(0, max(len(order) - batch, 0) + 1, batch):
        yield as_slices(torch.from_numpy(np.array(slices[np.sort(order[start : start + batch])])))


def as_slices(stored: Tensor) -> Tensor:
    """Convert stored slices (b, size, size) int16 to network inputs (b, 1, size, size) float32 in [-1, 1]."""
    return stored[:, None].float() / FULL_SCALE


def _stream_seed(seed: int, stream: str, position: int) -> int:
    digest = hashlib.sha256(f"{seed} {stream} {position}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """Seed torch's global generators (dropout, image pools, ...) for one iteration of one process."""
    torch.manual_seed(_stream_seed(seed, f"process {rank}", iteration))
