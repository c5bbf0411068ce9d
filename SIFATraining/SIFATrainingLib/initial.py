"""Weights of a bundle as the start of a training."""

from __future__ import annotations

from pathlib import Path

from SIFASegmentationLib.bundle import WEIGHTS_FILE, read_bundle
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.structures import Task

from .config import TrainingConfig


def read_initial(folder: Path, task: Task, config: TrainingConfig) -> tuple[str, bytes]:
    """Return name and weights (safetensors) of a bundle that a training on `task` starts from.

    Raises:
        InputError: The folder is not a bundle, lacks the weights, or has other structures or another width than the
            training.
    """
    bundle = read_bundle(folder)
    trained = bundle.manifest.training.settings.get("width")
    structures, wanted = (some.names for some in (bundle.manifest.task, task))
    if structures != wanted:
        raise InputError(
            f"The bundle {folder} segments {', '.join(structures)}, this training {', '.join(wanted)}",
            "start from a bundle for the same structures",
        )
    if trained != config.width:
        raise InputError(
            f"The networks of the bundle {folder} have width {trained}, those of this training {config.width}",
            f"train with --width {trained}, or start from another bundle",
        )
    return bundle.manifest.name, bundle.read(WEIGHTS_FILE)
