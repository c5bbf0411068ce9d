"""The training loop: resuming, stopping, and what goes wrong."""

from __future__ import annotations

import copy
import errno
import json
import math
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from quick import final_state, preparation, quick_config, silent, tensors
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import Job, State
from SIFATrainingLib import checkpoints, devices, loop
from SIFATrainingLib.adaptation import AdaptationIteration
from SIFATrainingLib.batches import BatchSource
from SIFATrainingLib.checkpoints import CheckpointError, checkpoint_paths, save_checkpoint
from SIFATrainingLib.config import make_config, with_settings
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.interruption import interrupt_postponed
from SIFATrainingLib.iteration import Batch, Losses
from SIFATrainingLib.loop import Loop, largest_batch
from SIFATrainingLib.model import Model
from SIFATrainingLib.preflight import check_computer
from SIFATrainingLib.prepare import prepare
from SIFATrainingLib.training import create_job, create_training_job, is_first_process, train


def weights_are_equal(sets: tuple[Path, Path], folder: Path, **settings: Any) -> bool:
    """Return whether trainings on two data sets end with the same weights, bit by bit; makes the jobs in `folder`."""
    states = []
    for number, data in enumerate(sets):
        job = create_job(data, folder / f"job {number}", quick_config(iterations=2, **settings), "cpu")
        train(job)
        states.append(tensors(final_state(job)))
    return all(torch.equal(one, two) for one, two in zip(*states, strict=True))


def test_a_finished_job_tells_what_happened(finished_job: Path) -> None:
    job = Job(finished_job)
    assert job.state() is State.FINISHED
    events, _ = job.events()
    states = [event.data["state"] for event in events if event.kind == "state"]
    assert states == ["queued", "preparing", "running", "finished"]
    progress = [event.data for event in events if event.kind == "progress"]
    assert [p["iteration"] for p in progress] == [2, 4, 6]
    assert progress[-1]["eta_seconds"] == 0
    losses = [loss for event in events if event.kind == "losses" for loss in event.data["losses"].values()]
    assert len(losses) > 30
    assert all(map(math.isfinite, losses))
    previews = [finished_job / event.data["file"] for event in events if event.kind == "preview"]
    assert [Image.open(path).size for path in previews] == [(4 * 32, 2 * 32)] * 2
    assert len(checkpoint_paths(finished_job / "checkpoints")) == 2
    assert not (finished_job / "heartbeat.json").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"schedule": "sequential", "ema_decay": 0.0},
        {"method": "without_adaptation"},
        {"method": "output_alignment"},
        {"self_training": {"share": 0.8, "labellings": 0}, "decay_share": 0.6},
        {"self_training": {"share": 0.8, "labellings": 2}, "decay_share": 0.6},
    ],
)
def test_stopped_anywhere_and_resumed_the_weights_are_those_of_an_uninterrupted_run(
    prepared: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = quick_config(iterations=5, **settings)
    whole = create_job(prepared, tmp_path / "whole", config, "cpu")
    assert train(whole) is State.FINISHED
    broken = create_job(prepared, tmp_path / "broken", config, "cpu")

    def stop_once(kind: str, data: dict[str, Any]) -> None:
        if kind == "losses" and data["iteration"] == 2:
            broken.request_stop()

    assert train(broken, report=stop_once) is State.STOPPED
    assert final_state(broken)["done"] == 2
    assert train(broken) is State.FINISHED
    one, other = tensors(final_state(whole)), tensors(final_state(broken))
    assert len(one) == len(other) > 50
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_stop_request_is_honoured_within_one_iteration_and_saved(prepared: Path, tmp_path: Path) -> None:
    config = quick_config(iterations=1000, log_every=1, checkpoint_every=500)
    job = create_job(prepared, tmp_path / "job", config, "cpu")
    seen = []

    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "losses":
            seen.append(data["iteration"])
            if data["iteration"] == 3:
                job.request_stop()

    assert train(job, report=stop) is State.STOPPED
    assert job.state() is State.STOPPED
    assert seen[-1] == 3
    assert final_state(job)["done"] == 3


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Python's own handler of Ctrl-C, which a test run in the background of a shell lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_in_a_script_saves_and_the_weights_are_those_of_an_uninterrupted_run(
    prepared: Path, tmp_path: Path
) -> None:
    config = quick_config(iterations=4, log_every=1, checkpoint_every=4)
    whole, broken = (create_job(prepared, tmp_path / name, config, "cpu") for name in ("whole", "broken"))

    def press_once(kind: str, data: dict[str, Any]) -> None:
        if kind == "losses" and data["iteration"] == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(broken, report=press_once)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert broken.state() is State.STOPPED
    assert final_state(broken)["done"] == 2
    assert [train(job) for job in (whole, broken)] == [State.FINISHED] * 2
    one, other = tensors(final_state(whole)), tensors(final_state(broken))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_while_it_prepares_ends_as_stopped(cohort: Path, tmp_path: Path) -> None:
    job = create_training_job(tmp_path / "job", preparation(cohort), quick_config(), "cpu")

    def press(kind: str, _data: dict[str, Any]) -> None:
        if kind == "progress":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(job, report=press)
    assert job.state() is State.STOPPED
    assert not (job.folder / "prepared").exists()


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_twice_ends_at_once() -> None:
    told: list[bool] = []

    def work() -> None:
        with interrupt_postponed() as pressed:
            signal.raise_signal(signal.SIGINT)
            told.append(pressed())
            signal.raise_signal(signal.SIGINT)
            told.append(False)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert told == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_handles_ctrl_c_goes_on_doing_so() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
    try:
        with interrupt_postponed() as pressed:
            signal.raise_signal(signal.SIGINT)
            assert not pressed()
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_a_training_in_a_thread_leaves_ctrl_c_alone(prepared: Path, tmp_path: Path) -> None:
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu")
    thread = threading.Thread(target=train, args=(job,), kwargs={"time_limit_seconds": 0})
    thread.start()
    thread.join()
    assert job.state() is State.STOPPED


def test_the_time_limit_ends_as_stopped(prepared: Path, tmp_path: Path) -> None:
    job = create_job(prepared, tmp_path / "job", quick_config(iterations=10**6), "cpu")
    assert train(job, time_limit_seconds=0.5) is State.STOPPED
    assert final_state(job)["done"] < 10**6


def test_the_weights_do_not_depend_on_target_labels(cohort: Path, prepared: Path, tmp_path: Path) -> None:
    from SIFATrainingLib.prepare import prepare  # noqa: PLC0415

    bare = shutil.copytree(cohort, tmp_path / "cohort", ignore=shutil.ignore_patterns("*ct*_label*"))
    prepare(bare / "mr", bare / "ct", tmp_path / "set", size=32, report=lambda _: None)
    assert weights_are_equal((prepared, tmp_path / "set"), tmp_path)


def test_a_loss_that_is_not_a_number_is_named_with_its_iteration(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = AdaptationIteration.step, []

    def step(self: AdaptationIteration, batch: Batch) -> Losses:
        calls.append(1)
        losses = original(self, batch)
        return {**losses, "cycle_target": losses["cycle_target"] * (float("nan") if len(calls) >= 3 else 1)}

    monkeypatch.setattr(AdaptationIteration, "step", step)
    job = create_job(prepared, tmp_path / "job", quick_config(iterations=10, log_every=5), "cpu")
    with pytest.raises(InputError, match="'cycle_target' was not a number at iteration 3"):
        train(job)
    assert job.state() is State.FAILED
    error = job.last("error")
    assert error is not None
    assert "iteration 3" in error.data["message"]


def test_spoilt_weights_are_not_saved(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = AdaptationIteration.step, []

    def step(self: AdaptationIteration, batch: Batch) -> Losses:
        calls.append(1)
        losses = original(self, batch)
        return {**losses, "cycle_target": losses["cycle_target"] * (float("nan") if len(calls) >= 4 else 1)}

    monkeypatch.setattr(AdaptationIteration, "step", step)
    job = create_job(prepared, tmp_path / "job", quick_config(iterations=100, log_every=50, checkpoint_every=3), "cpu")
    with pytest.raises(InputError, match="at iteration 4"):
        train(job)
    assert [path.name for path in checkpoint_paths(job.folder / "checkpoints")] == ["iteration_00000003.pt"]


def test_out_of_memory_is_answered_with_the_largest_batch_that_fits(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AdaptationIteration.step

    def step(self: AdaptationIteration, batch: Batch) -> Losses:
        if len(batch.source) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, batch)

    monkeypatch.setattr(AdaptationIteration, "step", step)
    job = create_job(prepared, tmp_path / "job", quick_config(batch=7), "cpu")
    with pytest.raises(InputError, match="does not hold a batch of 7: start a new training with a batch of 3, the"):
        train(job)


def test_out_of_memory_in_one_of_many_processes_tries_nothing(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial of smaller batches would wait for the other processes."""
    steps = []

    def step(_self: AdaptationIteration, batch: Batch) -> Losses:
        steps.append(batch)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(AdaptationIteration, "step", step)
    fabric = devices.make_fabric("cpu", "float32")
    many = SimpleNamespace(device=fabric.device, autocast=fabric.autocast, world_size=2, global_rank=0)
    loop = Loop(PreparedDataset(prepared), quick_config(batch=7), many, tmp_path, lambda *_: None, lambda: False)
    with pytest.raises(InputError, match="a batch of 7 for each process: start a new training with a smaller batch"):
        loop.run()
    assert len(steps) == 1


def test_a_gpu_without_room_for_a_checkpoint_does_not_damage_it(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the training would start again and delete its earlier checkpoints."""
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu")
    train(job)
    kept = checkpoint_paths(job.folder / "checkpoints")

    def load(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(checkpoints.torch, "load", load)
    job.emit_state(State.STOPPED)
    with pytest.raises(InputError, match="memory of cpu does not hold the networks"):
        train(job)
    assert checkpoint_paths(job.folder / "checkpoints") == kept


def test_a_gpu_that_fails_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(checkpoints.torch, "save", save)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        save_checkpoint(tmp_path / "checkpoints", 2, {})


@pytest.mark.parametrize(
    "message",
    [
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
        "FIND was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 9 GB)",
    ],
)
def test_memory_that_has_run_out_in_a_library_is_known(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**8, 10**10))
    assert devices.out_of_memory(RuntimeError(message))
    assert not devices.out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_libraries_that_do_not_match_are_no_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (9 * 10**9, 10**10))
    assert not devices.out_of_memory(RuntimeError("GET was unable to find an engine to execute this computation"))


def test_a_folders_name_makes_no_full_disk_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(_state: Any, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoints.torch, "save", save)
    with pytest.raises(CheckpointError, match="can't be written"):
        save_checkpoint(tmp_path / "cardiac_MPS CUDA", 2, {})


def test_moments_that_were_saved_in_another_order_are_the_same(prepared: Path) -> None:
    """This lets a training continue on another computer after a Mac, or the other way round."""
    config = quick_config()
    models = [Model.create(5, config, torch.device("cpu")) for _ in range(2)]
    batch = BatchSource(
        PreparedDataset(prepared), "source", config.augmentation, batch=2, seed=1, device=torch.device("cpu")
    ).batch(0)
    torch.manual_seed(5)
    models[0].iteration.step(batch)
    state = copy.deepcopy(models[0].state_dict())
    for optimiser in state["iteration"]["optimisers"].values():
        for moments in optimiser["state"].values():
            for what, value in moments.items():
                moments[what] = value.contiguous()
    models[1].load_state_dict(state)
    for model in models:
        torch.manual_seed(6)
        model.iteration.step(batch)
    for one, other in zip(*(model.networks.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch report two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA GeForce RTX 3060")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("two_gpus")
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.choose_device("auto") == "cuda"
    for processes, nccl, sentence in (
        ("4", True, "There are 4 processes for 2 GPUs: start as many as there are GPUs"),
        ("2", False, "it has no NCCL, as on Windows: train on one, or on Linux"),
    ):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        monkeypatch.setenv("WORLD_SIZE", processes)
        monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda nccl=nccl: nccl)
        with pytest.raises(InputError, match=sentence):
            devices.make_fabric("cuda", "auto")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("fault", ["an old driver", "an old GPU"])
def test_a_gpu_that_can_not_compute_is_told_of_and_not_taken(
    fault: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")

    if fault == "an old driver":
        monkeypatch.setattr(torch.cuda, "init", init)
        reason = r"The GPU can't be used: The NVIDIA driver on your system is too old \(found version 11040\)"
    else:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
        reason = r"\(compute capability 6\.1\) can't be used: this build of PyTorch has no kernels for it"
    with pytest.raises(InputError, match=f"{reason}: update its driver, "):
        devices.choose_device("cuda")
    assert devices.choose_device("auto") == "cpu"
    found = check_computer(quick_config(), "auto", tmp_path, classes=5, size=32)
    assert [f.level for f in found if f.subject == "device"] == ["ok", "warning"]
    job = create_job(prepared, tmp_path / "job", quick_config(iterations=1), "auto")
    assert train(job) is State.FINISHED
    warning = job.last("warning")
    assert warning is not None
    assert warning.data["message"].endswith(". The training runs on the CPU.")


@pytest.mark.usefixtures("two_gpus")
def test_for_a_gpu_that_is_full_the_cpu_is_no_substitute(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("CUDA error: out of memory")

    with monkeypatch.context() as full:
        full.setattr(torch.cuda, "init", init)
        for device in ("auto", "cuda"):
            with pytest.raises(InputError, match="The GPU is full or in use: close other programs that use it"):
                devices.choose_device(device)
        assert devices.choose_device("cpu") == "cpu"
    assert devices.choose_device("auto") == "cuda"


@pytest.mark.parametrize(
    ("capability", "kernels", "usable"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 6), ["sm_89", "sm_90"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((7, 5), ["sm_80", "compute_80"], False),
        ((12, 0), ["sm_90", "sm_120"], True),
        ((10, 3), ["sm_100a"], True),
        ((9, 0), ["gfx90a"], True),  # ROCm names no compute capabilities.
        ((9, 0), [], True),
    ],
)
def test_which_gpus_a_build_has_kernels_for(capability: tuple[int, int], kernels: list[str], usable: bool) -> None:
    assert devices.has_kernels(capability, kernels) == usable


def test_slices_that_leave_no_room_for_a_batch_are_read_from_the_disk(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = create_job(prepared, tmp_path / "settled", quick_config(), "cpu")
    train(settled)
    original = loop.BatchSource.batch

    def batch(self: loop.BatchSource, iteration: int) -> Any:
        if self.resident and iteration == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, iteration)

    monkeypatch.setattr(loop.BatchSource, "batch", batch)
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu")
    assert train(job) is State.FINISHED
    warning = job.last("warning")
    assert warning is not None
    assert "does not hold all slices: they are read from the disk" in warning.data["message"]
    own, expected = (final_state(one)["model"]["networks"] for one in (job, settled))
    assert all(torch.equal(own[name], expected[name]) for name in expected)


def test_where_a_process_that_follows_fails_the_job_has_failed(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(loop.Loop, "run", fail)
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        train(job)
    assert job.state() is State.FAILED
    assert "illegal memory access" in (job.folder / "log.txt").read_text()


def test_within_slurm_a_process_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "job", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    assert devices.make_fabric("cpu", "float32").world_size == 1
    assert is_first_process()


@pytest.mark.parametrize("own", [True, False])
def test_bfloat16_is_chosen_where_a_gpu_computes_in_it(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return own or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert devices.computes_in_bfloat16("cuda") == own


def test_slices_are_moved_in_full_precision(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, the coordinates of pixels would be wrong by half a pixel."""
    original_batch, original_step, seen = BatchSource.batch, AdaptationIteration.step, []

    def batch(self: BatchSource, done: int) -> Batch:
        seen.append(torch.is_autocast_enabled("cpu"))
        return original_batch(self, done)

    def step(self: AdaptationIteration, given: Batch) -> Losses:
        seen.append(torch.is_autocast_enabled("cpu"))
        return original_step(self, given)

    monkeypatch.setattr(BatchSource, "batch", batch)
    monkeypatch.setattr(AdaptationIteration, "step", step)
    config = quick_config(iterations=1, precision="bfloat16", self_training={"share": 0})
    train(create_job(prepared, tmp_path / "job", config, "cpu"))
    assert seen == [False, True]


def test_largest_batch_by_bisection() -> None:
    for true in range(9):
        assert largest_batch(lambda batch, true=true: batch <= true, 8) == true


def test_a_full_disk_leaves_the_last_checkpoint_and_no_half_one(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.save

    def save(state: Any, path: Path) -> None:
        if state["done"] >= 4:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(state, path)

    monkeypatch.setattr(checkpoints.torch, "save", save)
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu")
    with pytest.raises(InputError, match=r"checkpoint of iteration 6 can't be written .* free space"):
        train(job)
    assert [path.name for path in (job.folder / "checkpoints").iterdir()] == ["iteration_00000002.pt"]
    warning = job.last("warning")
    assert warning is not None
    assert "iteration 4" in warning.data["message"]
    monkeypatch.undo()
    assert train(job) is State.FINISHED


def test_files_that_somebody_holds_end_no_training(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".pt" and self.exists():
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        original(self, missing_ok)

    def write_preview(*_: object) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file")

    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(loop, "write_preview", write_preview)
    job = create_job(prepared, tmp_path / "job", quick_config(checkpoint_every=1), "cpu")
    assert train(job) is State.FINISHED
    warning = job.last("warning")
    assert warning is not None
    assert warning.data["message"] == "the preview of iteration 6 can't be written (The process cannot access the file)"
    assert job.last("preview") is None


def test_networks_that_do_not_fit_the_memory(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(*_: object) -> None:
        raise RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")

    monkeypatch.setattr(loop.Model, "create", create)
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu")
    with pytest.raises(InputError, match="does not hold the networks: close other programs that use it"):
        train(job)


def test_a_really_full_disk(tmp_path: Path) -> None:
    """Uses a file system of one megabyte, if this user may create one."""
    mount = tmp_path / "small"
    mount.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("nothing can be mounted here")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], check=False, capture_output=True)
    if made.returncode != 0:
        pytest.skip(f"nothing may be mounted here: {made.stderr.decode().strip()}")
    try:
        save_checkpoint(mount / "c", 1, {"done": 1, "model": torch.zeros(1000)})
        sentence = r"^The checkpoint of iteration 2 can't be written to .*c: check the folder's .* the free space\.$"
        with pytest.raises(checkpoints.CheckpointError, match=sentence):
            save_checkpoint(mount / "c", 2, {"done": 2, "model": torch.zeros(10**6)})
        assert [path.name for path in (mount / "c").iterdir()] == ["iteration_00000001.pt"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_damaged_checkpoint_is_passed_over(prepared: Path, tmp_path: Path) -> None:
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu")
    train(job)
    last = checkpoint_paths(job.folder / "checkpoints")[-1]
    last.write_bytes(last.read_bytes()[:5000])
    job.emit_state(State.STOPPED)
    seen = []
    assert train(job, report=lambda kind, data: seen.append((kind, data))) is State.FINISHED
    assert any(kind == "warning" and "is damaged" in data["message"] for kind, data in seen)
    assert final_state(job)["done"] == 6


def test_a_changed_data_set_is_refused(prepared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(prepared, tmp_path / "set")
    job = create_job(copy, tmp_path / "job", quick_config(), "cpu")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["source"]["volumes"][0]["image"] = "other.nii.gz"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="has changed since the job"):
        train(job)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"batch": 0}, "setting 'batch' is not usable"), ({"loss_weights": {"cycles": 1}}, r"loss_weights\.cycles"),
     ({"method": "magic"}, "setting 'method'")],
)  # fmt: skip
def test_settings_out_of_bounds_are_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        quick_config(**settings)


def test_unknown_device_and_folder_in_use(prepared: Path, tmp_path: Path) -> None:
    job = create_job(prepared, tmp_path / "job", quick_config(), "tpu")
    with pytest.raises(InputError, match="device 'tpu' is unknown"):
        train(job)
    with pytest.raises(InputError, match="already exists"):
        create_job(prepared, tmp_path / "job", quick_config())
    with pytest.raises(InputError, match="holds no labels of its target"):
        create_job(prepared, tmp_path / "other", quick_config(method="supervised"))


def test_the_preset_of_the_paper() -> None:
    """The preset has all of the authors' choices, and nothing that was added later."""
    config = make_config("paper")
    assert (config.schedule, config.probability_floor, config.ema_decay) == ("sequential", 0.005, 0)
    assert (config.batch_norm_statistics, config.reestimate_batch_norm) == ("mixed", False)
    changes = config.augmentation
    assert (changes.gamma, changes.contrast, changes.brightness, changes.noise) == (0, 0, 0, 0)
    assert (config.decay_share, config.self_training.share) == (0, 0)
    assert (config.loss_weights.random_contrast, config.loss_weights.structure) == (0, 0)
    weights = config.loss_weights
    assert (weights.cycle, weights.segmentation, weights.lower_segmentation) == (10, 1, 0.1)
    assert (weights.encoder_image, weights.auxiliary) == (0.1, 0.1)
    assert (weights.prediction, weights.lower_prediction) == (0.1, 0.01)
    assert (config.learning_rate, config.pool, config.decoder_dropout) == (2e-4, 50, 0.25)


def test_a_preset_that_there_is_not() -> None:
    with pytest.raises(InputError, match="preset 'best' is unknown: choose recommended or paper"):
        make_config("best")


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "loss_weights.cycle", "self_training.gamma"])
def test_settings_are_finite(name: str) -> None:
    with pytest.raises(InputError, match=rf"The setting '{name}' is not usable"):
        make_config(**with_settings({}, [f"{name}=inf"]))


@pytest.mark.parametrize(("method", "other"), [("supervised", "source"), ("without_adaptation", "target")])
def test_a_bound_learns_from_its_own_domain_alone(cohort: Path, tmp_path: Path, method: str, other: str) -> None:
    prepare(cohort / "mr", cohort / "ct", tmp_path / "a", size=32, target_labels=True, report=silent)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for kind in ("slices", "labels"):
        file = tmp_path / "b" / f"{other}_{kind}.npy"
        np.save(file, np.load(file)[:, ::-1])
    assert weights_are_equal((tmp_path / "a", tmp_path / "b"), tmp_path, method=method)


def test_each_iteration_has_the_rate_of_the_schedule(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, original = [], AdaptationIteration.step

    def step(self: AdaptationIteration, batch: Batch) -> Losses:
        rates.append({player.optimiser.param_groups[-1]["lr"] for player in self.players().values()})
        return original(self, batch)

    monkeypatch.setattr(AdaptationIteration, "step", step)
    chosen = quick_config(iterations=5, decay_share=0.6, learning_rate=1e-3)
    train(create_job(prepared, tmp_path / "job", chosen, "cpu"))
    assert rates == [{loop.learning_rate(chosen, done)} for done in range(5)]
    assert rates[-1] != rates[0]
