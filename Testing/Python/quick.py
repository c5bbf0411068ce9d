"""Helpers of many tests: settings of a training of one second, the command line, the weights of a job."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner, Result

from SIFASegmentationLib.jobs import Job
from SIFATrainingLib.checkpoints import checkpoint_paths, load_checkpoint
from SIFATrainingLib.cli import app
from SIFATrainingLib.config import TrainingConfig, make_config
from SIFATrainingLib.prepare import Preparation, make_preparation

LIBRARIES = [str(Path(__file__).parents[2] / name) for name in ("SIFASegmentation", "SIFATraining")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(LIBRARIES), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
"""Environment of a process that imports the libraries of this repository."""

QUICK_OPTIONS = [
    "--width", "0.0625", "--batch", "2", "--device", "cpu", "--set", "log_every=1", "--set", "preview_every=1000"
]  # fmt: skip
"""The command line's options for a training of one second."""

QUICK = {
    "width": 0.0625, "batch": 2, "log_every": 2, "checkpoint_every": 2, "preview_every": 4, "pool": 3,
    "precision": "float32",  # The same on every machine.
    "self_training": {"share": 0.0},
}  # fmt: skip


def quick_config(**settings: object) -> TrainingConfig:
    """Settings of a training of one second."""
    return make_config(**{"iterations": 6, **QUICK, **settings})


def sifa(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "SIFATrainingLib", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd, check=False, timeout=600)


def sifa_on_two_processes(*arguments: object) -> list[str]:
    """Return the command that runs the command line by `torchrun`, on a port that no other run uses."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*torchrun, "-m", "SIFATrainingLib", *map(str, arguments)]


def sifa_here(*arguments: object) -> Result:
    """Run the command line in this process, which spares a second of imports; its errors are in `exception`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def silent(_: object) -> None:
    """Ignore a report of progress."""


def preparation(cohort: Path, **settings: Any) -> Preparation:
    """Preparation from a cohort's folder `mr` to its folder `ct`."""
    return make_preparation(**{"source": cohort / "mr", "target": cohort / "ct", "size": 32, **settings})


def final_state(job: Job) -> dict[str, Any]:
    """Content of a job's last checkpoint."""
    return load_checkpoint(checkpoint_paths(job.folder / "checkpoints")[-1])


def tensors(state: Any) -> list[torch.Tensor]:
    """All tensors of a checkpoint or a part of it, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        return [t for key in state for t in tensors(state[key])]
    if isinstance(state, list | tuple):
        return [t for part in state for t in tensors(part)]
    return []
