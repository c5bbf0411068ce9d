"""Tests that need a GPU. Run these first on one: the program was written without a GPU at hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from quick import ENVIRONMENT, QUICK_OPTIONS, quick_config
from SIFASegmentationLib.jobs import State
from SIFATrainingLib.batch_norm import BatchNorm
from SIFATrainingLib.batches import BatchSource
from SIFATrainingLib.checkpoints import checkpoint_paths
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.devices import choose_device, unusable_gpu
from SIFATrainingLib.distributed import leave
from SIFATrainingLib.export import export
from SIFATrainingLib.iteration import Batch, Losses
from SIFATrainingLib.model import Model
from SIFATrainingLib.training import create_job, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")
METHODS = ["sifa", "image_alignment", "prior_sifa", "output_alignment", "without_adaptation"]


@pytest.mark.parametrize("schedule", ["simultaneous", "sequential"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_on_a_gpu_is_the_step_on_a_processor(prepared: Path, method: str, schedule: str) -> None:
    """For one batch, the losses before the step agree, and so do those after it, which depend on all that has moved."""
    config = quick_config(
        width=0.25, pool=0, decoder_dropout=0.0, method=method, schedule=schedule, loss_weights={"random_contrast": 0.0}
    )
    dataset = PreparedDataset(prepared)
    batches = BatchSource(dataset, "source", config.augmentation, batch=4, seed=1, device=torch.device("cpu"))
    given = batches.batch(0)
    losses: list[list[Losses]] = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        model = Model.create(dataset.classes, config, device)
        there = Batch(given.source.to(device), given.labels.to(device), given.target.to(device))
        losses.append([model.iteration.step(there) for _ in range(2)])
    for on_cpu, on_gpu in zip(*losses, strict=True):
        assert list(on_cpu) == list(on_gpu)
        for name, loss in on_cpu.items():
            assert float(on_gpu[name]) == pytest.approx(float(loss), rel=0.02, abs=1e-3), name


def test_slices_are_augmented_as_on_a_processor(prepared: Path) -> None:
    config, dataset = quick_config(), PreparedDataset(prepared)
    on_cpu, on_gpu = (
        BatchSource(dataset, "source", config.augmentation, batch=4, seed=1, device=torch.device(device)).batch(3)
        for device in ("cpu", "cuda")
    )
    # Noise is drawn on each device separately; its standard deviation is 0.02 at most.
    assert (on_gpu.source.cpu() - on_cpu.source).abs().mean() < 0.05
    assert (on_gpu.labels.cpu() != on_cpu.labels).float().mean() < 0.01


def test_the_gpu_is_of_use() -> None:
    assert unusable_gpu() == ""
    assert choose_device("auto") == "cuda"


def test_slices_that_are_read_from_the_disk_are_those_on_the_gpu(prepared: Path) -> None:
    """The reader's memory is pinned, and copied while the GPU works on the previous batch."""
    config, dataset = quick_config(), PreparedDataset(prepared)
    kept, read = (
        BatchSource(
            dataset, "source", config.augmentation, batch=4, seed=1, device=torch.device("cuda"), budget_bytes=budget
        )
        for budget in (float("inf"), 0)
    )
    assert (kept.resident, read.resident) == (True, False)
    for iteration in range(6):
        one, other = kept.batch(iteration), read.batch(iteration)
        assert torch.equal(one.source, other.source)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.target, other.target)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_stopped_resumed_and_exported(prepared: Path, tmp_path: Path, method: str, precision: str) -> None:
    config = quick_config(
        method=method, precision=precision, iterations=8, self_training={"share": 0.5, "labellings": 2}
    )
    job = create_job(prepared, tmp_path / "job", config, "cuda")

    def stop_once(kind: str, data: dict[str, object]) -> None:
        if kind == "losses" and data["iteration"] == 2:
            job.request_stop()

    assert train(job, report=stop_once) is State.STOPPED
    assert train(job) is State.FINISHED
    assert checkpoint_paths(job.folder / "checkpoints")[-1].name == "iteration_00000008.pt"
    assert 0 <= export(job.folder, tmp_path / "bundle", device="cuda").manifest.verification.largest_difference < 1e-4


@pytest.mark.skipif(not distributed.is_nccl_available(), reason="this build of torch has no NCCL")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_over_processes_is_batch_norm(dtype: torch.dtype, tmp_path: Path) -> None:
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        slices = torch.randn(8, 64, 32, 32, device="cuda", dtype=dtype).contiguous(memory_format=torch.channels_last)
        upstream, found = torch.randn_like(slices), []
        for way in (BatchNorm.forward, BatchNorm._over_processes):
            norm, x = BatchNorm(64).cuda(), slices.clone().requires_grad_()
            y = way(norm, x)
            found.append((y, *torch.autograd.grad(y, [x, norm.weight, norm.bias], upstream)))
    finally:
        leave()
    for own, over_processes in zip(*found, strict=True):
        torch.testing.assert_close(
            over_processes.float(), own.float(), rtol=0.02, atol=1e-5 if dtype.itemsize == 4 else 0.1
        )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs here")
def test_two_gpus_train_together(prepared: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "-m", "SIFATrainingLib", "train", prepared, "--out", tmp_path / "job", "--iterations", "12", "--export",
               *QUICK_OPTIONS[:4], "--device", "cuda", "--set", "checkpoint_every=4"]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=ENVIRONMENT, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "job" / "result" / "bundle" / "manifest.json").exists()
