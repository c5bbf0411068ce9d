"""Checkpoints of a training: whole or not there, the last two kept."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from SIFASegmentationLib.errors import InputError, unwritable
from SIFASegmentationLib.files import write_atomically

from .devices import out_of_memory

KEPT = 2


class CheckpointError(InputError):
    """The checkpoint does not fit the disk, or the folder can't be written to; the ones before it are as they were."""


def checkpoint_paths(folder: Path) -> list[Path]:
    """Checkpoints in the folder, oldest first."""
    return sorted(folder.glob("iteration_*.pt"))


def save_checkpoint(folder: Path, iteration: int, state: dict[str, Any]) -> Path:
    """Write the state after `iteration` iterations; then drop all but the last two.

    Raises:
        CheckpointError: No space, or no permission; nothing of the file stays behind.
    """
    path = folder / f"iteration_{iteration:08d}.pt"
    try:
        folder.mkdir(exist_ok=True)
        with write_atomically(path) as partial:
            torch.save(state, partial)
    except (OSError, RuntimeError) as error:
        if _is_of_device(error, folder):
            raise
        # torch reports a full disk as a RuntimeError of its writer, in words that help nobody.
        raise CheckpointError(
            f"The checkpoint of iteration {iteration} can't be written to {folder}", unwritable(folder, error).advice
        ) from error
    for old in checkpoint_paths(folder)[:-KEPT]:
        # On Windows not while an export reads it: the next time.
        with suppress(PermissionError):
            old.unlink()
    return path


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        InputError: The file is damaged.
        OSError: The disk does not give it.
        RuntimeError: The device's memory does not hold it, or the device fails.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types here, all of which mean this
        # A place in the file that it does not have is an invalid argument.
        is_of_disk = isinstance(error, OSError) and error.errno != errno.EINVAL
        if is_of_disk or _is_of_device(error, path.parent):
            raise
        raise InputError(f"{path} is damaged", "delete it, and the one before it is used") from error
    return state


@contextmanager
def loading_from(path: Path) -> Iterator[None]:
    """Load a checkpoint's states into networks in the block.

    Raises:
        InputError: It is none of these networks.
    """
    try:
        yield
    except (KeyError, RuntimeError, TypeError) as error:
        # A GPU may fail here, too.
        if isinstance(error, RuntimeError) and "state_dict" not in str(error):
            raise
        raise InputError(
            f"{path} is no checkpoint of the networks that the job's settings make",
            "put job.json back as it was, or start a new training",
        ) from error


def _is_of_device(error: Exception, folder: Path) -> bool:
    """Whether something failed on a GPU, and not with a file in a folder, which errors name."""
    said = str(error).replace(str(folder), "")
    named = any(word in said for word in ("CUDA", "NCCL", "MPS"))
    return not isinstance(error, OSError) and (out_of_memory(error) or named)
