"""A training of a second."""

from __future__ import annotations

from SIFATrainingLib.config import TrainingConfig, make_config

QUICK = {
    "width": 0.0625, "batch": 2, "log_every": 2, "checkpoint_every": 2, "preview_every": 4, "pool": 3,
    "precision": "float32",  # The same on every machine.
    "self_training": {"share": 0.0},
}  # fmt: skip


def quick_config(**settings: object) -> TrainingConfig:
    """A training of a second."""
    return make_config(**{"iterations": 6, **QUICK, **settings})
