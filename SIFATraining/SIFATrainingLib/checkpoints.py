"""Checkpoints of a training: written atomically, the last two are kept."""

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
    """A checkpoint can't be written, because the disk is full or the folder read-only; earlier ones are unaffected."""


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    return sorted(folder.glob("iteration_*.pt"))


def save_checkpoint(folder: Path, iteration: int, state: dict[str, Any]) -> Path:
    """Write the state after `iteration` iterations, then delete all checkpoints but the last two.

    Raises:
        CheckpointError: No space or no permission; no partial file remains.
        RuntimeError: The device failed.
    """
    path = folder / f"iteration_{iteration:08d}.pt"
    try:
        folder.mkdir(exist_ok=True)
        with write_atomically(path) as partial:
            torch.save(state, partial)
    except (OSError, RuntimeError) as error:
        if _is_of_device(error, folder):
            raise
        # torch reports a full disk as a RuntimeError of its writer, with a message of no use to a user.
        raise CheckpointError(
            f"The checkpoint of iteration {iteration} can't be written to {folder}", unwritable(folder, error).advice
        ) from error
    for old in checkpoint_paths(folder)[:-KEPT]:
        # Windows does not delete a file that an export is reading; a later call will.
        with suppress(PermissionError):
            old.unlink()
    return path


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint to a device; no code in it is executed.

    Raises:
        InputError: The file is damaged.
        OSError: The file can't be read.
        RuntimeError: The device's memory is too small, or the device failed.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types for damaged files
        # In a damaged file torch may seek to a position that does not exist (EINVAL).
        is_of_disk = isinstance(error, OSError) and error.errno != errno.EINVAL
        if is_of_disk or _is_of_device(error, path.parent):
            raise
        raise InputError(f"{path} is damaged", "delete it, and the one before it is used") from error
    return state


@contextmanager
def loading_from(path: Path) -> Iterator[None]:
    """Turn errors of loading a checkpoint's states, in the block, into errors about the file at `path`.

    Raises:
        InputError: The checkpoint belongs to networks with other settings.
    """
    try:
        yield
    except (KeyError, RuntimeError, TypeError) as error:
        # A failing GPU raises a RuntimeError, too.
        if isinstance(error, RuntimeError) and "state_dict" not in str(error):
            raise
        raise InputError(
            f"{path} is no checkpoint of the networks that the job's settings make",
            "put job.json back as it was, or start a new training",
        ) from error


def _is_of_device(error: Exception, folder: Path) -> bool:
    """Whether an error came from the device and not from a file in `folder`, whose path it may contain."""
    said = str(error).replace(str(folder), "")
    named = any(word in said for word in ("CUDA", "NCCL", "MPS"))
    return not isinstance(error, OSError) and (out_of_memory(error) or named)
