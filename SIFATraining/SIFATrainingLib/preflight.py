"""Checks before a training starts: packages, device, volumes, labels, memory, duration and disk.

Nothing is written, and faults that are found are not raised: each finding says how serious it is and what to do. torch
is imported inside functions, so that its absence can be found as well.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.preprocessing import check_size
from SIFASegmentationLib.segmentation_options import Domain

from .config import TrainingConfig, baseline_config
from .findings import Finding
from .prepare import Preparation
from .steps import Report
from .volume_checks import VolumeChecks

if TYPE_CHECKING:
    from .estimate import Estimate

TRAINING_PACKAGES = {
    "torch": "torch", "lightning_fabric": "lightning-fabric", "safetensors": "safetensors", "onnx": "onnx",
    "onnxscript": "onnxscript", "onnxruntime": "onnxruntime", "PIL": "pillow",
}  # fmt: skip
"""Modules that a training imports, and their names for pip."""

_LEAST_TORCH = (2, 6)  # The first version with the ONNX exporter that is used.
_USABLE = 0.9  # Share of free memory and disk; the rest is for what the estimate does not include.
_LONG_SECONDS = 3 * 24 * 3600.0
_PIXEL_BYTES = 3  # Size of a pixel in the prepared data set: two bytes of intensity, one of label.


def preflight(
    preparation: Preparation,
    config: TrainingConfig,
    device: str = "auto",
    out: Path = Path(),
    *,
    domain: Domain | None = None,
    baseline_iterations: int = 0,
    more_slices: int = 0,
    more_bytes: int = 0,
    report: Report = lambda _: None,
) -> list[Finding]:
    """Check everything that a training needs.

    Args:
        preparation: The volumes. Each is read once.
        config: How to train.
        device: auto, cuda, mps or cpu.
        out: Where the job will be written, there or not yet.
        domain: Check the volumes of this domain only; those of the other need not exist.
        baseline_iterations: Iterations of a training without adaptation that comes first; 0 if there is none.
        more_slices: Number of slices of volumes that are not named, but will be prepared as well.
        more_bytes: Number of bytes that will be written besides.
        report: Called before each volume is read.

    Returns:
        What was found, good and bad.

    Raises:
        InputError: The task can't be read.
    """
    volumes = VolumeChecks(preparation, report, domain)
    volumes.run()
    computer = check_computer(
        config,
        device,
        out,
        classes=preparation.loaded_task().classes,
        size=preparation.size,
        slices=sum(volumes.slices.values()) + more_slices,
        target_slices=volumes.slices.get("target", 0) + more_slices,
        baseline_iterations=baseline_iterations,
        more_bytes=more_bytes,
    )
    return volumes.findings + computer


def check_computer(
    config: TrainingConfig,
    device: str = "auto",
    out: Path = Path(),
    *,
    classes: int,
    size: int,
    slices: int = 0,
    target_slices: int | None = None,
    baseline_iterations: int = 0,
    more_bytes: int = 0,
) -> list[Finding]:
    """Check packages, device, memory, duration and disk, whatever the volumes.

    Args:
        config: How to train.
        device: auto, cuda, mps or cpu.
        out: Where the job will be written.
        classes: K, the structures and the background.
        size: Rows and columns of the slices.
        slices: Number of slices of all sets together, which the job stores.
        target_slices: Number of these that may be the target's; all unless given.
        baseline_iterations: Iterations of a training without adaptation that comes first; 0 if there is none.
        more_bytes: Number of bytes that will be written besides.
    """
    findings = _check_packages()
    if any(finding.level == "error" for finding in findings):
        return findings
    try:
        check_size(size)
    except InputError as error:
        return [*findings, Finding.of("size", error)]
    import torch  # noqa: PLC0415

    from .devices import choose_device, describe_device, free_bytes, out_of_memory, unusable_gpu  # noqa: PLC0415
    from .estimate import measure  # noqa: PLC0415
    from .pace import work_of  # noqa: PLC0415

    try:
        chosen = choose_device(device)
    except InputError as error:
        return [*findings, Finding.of("device", error)]
    labelled = slices if target_slices is None else target_slices
    trainings = [config, baseline_config(config, baseline_iterations)] if baseline_iterations else [config]
    try:
        # Even this fails on a GPU whose memory other programs have filled.
        free = free_bytes(torch.device(chosen))
        findings.append(Finding("ok", "device", f"{describe_device(chosen)}, {_gigabytes(free)} of memory free"))
        if device == "auto" and (fault := unusable_gpu()):
            fix = "update its driver, or install another build of PyTorch, to train on it"
            findings.append(Finding("warning", "device", fault, fix))
        estimates = [measure(training, classes, size, chosen, labelled) for training in trainings]
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        fix = "close other programs that use it, or choose a smaller width or size"
        findings.append(Finding("error", "memory", f"{chosen} lacks the memory for a step with a few slices", fix))
    else:
        seconds = sum(
            work_of(training, training.iterations) * estimate.seconds_per_iteration
            for training, estimate in zip(trainings, estimates, strict=True)
        )
        stored = slices * size**2 * _PIXEL_BYTES
        written = sum(_bytes_written(estimate) for estimate in estimates) + stored + more_bytes
        findings += [
            _check_memory(estimates[0], config.batch, free, stored),
            _check_duration(estimates[0], seconds, sum(training.iterations for training in trainings)),
            _check_disk(out, written),
        ]
    return findings


def _check_memory(estimate: Estimate, batch: int, free: float, data: float) -> Finding:
    """Check whether the batch fits, beside the slices (`data` bytes) if these are kept there; if not, suggest one."""
    from .loop import DATA_SHARE  # noqa: PLC0415

    data = data if data <= DATA_SHARE * free else 0.0
    needed = estimate.memory_bytes(batch) + data
    message = f"about {_gigabytes(needed)} for batches of {batch} on {estimate.device} (estimated)"
    if needed <= _USABLE * free:
        return Finding("ok", "memory", message)
    largest = estimate.largest_batch(_USABLE * free - data)
    fix = f"use a batch of {largest}" if largest else "choose a smaller width or size"
    return Finding("warning", "memory", f"{message}, {_gigabytes(free)} are free", fix)


def _check_duration(estimate: Estimate, seconds: float, iterations: int) -> Finding:
    message = (
        f"about {_time(seconds)} for {iterations:,} iterations (estimated from {estimate.measured}; "
        f"{estimate.seconds_per_iteration:.2g} s each)"
    )
    if seconds <= _LONG_SECONDS:
        return Finding("ok", "duration", message)
    fix = "train on a GPU, for fewer iterations, or with a smaller width or size"
    return Finding("warning", "duration", message, fix)


def _check_disk(out: Path, needed: float) -> Finding:
    """Check whether the disk of `out` can be written to and has room for `needed` bytes."""
    place = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding("error", "disk", f"{place} can't be written to", "choose another folder")
    free = shutil.disk_usage(place).free
    message = f"about {_gigabytes(needed)} will be written to {place}, {_gigabytes(free)} are free"
    if needed <= _USABLE * free:
        return Finding("ok", "disk", message)
    return Finding("error", "disk", message, "free space, or choose another folder")


def _bytes_written(estimate: Estimate) -> float:
    """Return the bytes that a training writes: the checkpoints that it keeps, the one being written, and the bundle."""
    from .checkpoints import KEPT  # noqa: PLC0415

    return (KEPT + 1) * estimate.checkpoint_bytes + 2 * estimate.weight_bytes


def _time(seconds: float) -> str:
    units = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
    unit, length = next(((name, length) for name, length in units if seconds >= 2 * length), units[-1])
    return f"{seconds / length:.2g} {unit}"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"


def _check_packages() -> list[Finding]:
    """Check whether everything that training needs can be imported, and in which versions."""
    findings, versions = [], []
    for module, package in TRAINING_PACKAGES.items():
        try:
            imported = importlib.import_module(module)
        except Exception as error:  # A broken installation can raise any error.
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            fix = f"install it: pip install {package}"
            findings.append(Finding("error", package, f"can't be imported ({reason})", fix))
        else:
            version = _version_of(imported, package)
            versions.append(f"{package} {version}")
            if package == "torch" and tuple(map(int, version.split(".")[:2])) < _LEAST_TORCH:
                least = ".".join(map(str, _LEAST_TORCH))
                findings.append(Finding("error", package, f"version {version} is too old", f"install {least} or later"))
    return findings or [Finding("ok", "packages", ", ".join(versions))]


def _version_of(module: ModuleType, package: str) -> str:
    """Return a package's version; if it was installed under another name, such as onnxruntime-gpu, the module's own."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "of unknown version"))
