"""Jobs that do everything, from volumes to a bundle, and continue from whichever step is next."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quick import (
    ENVIRONMENT,
    final_state,
    preparation,
    quick_config,
    sifa,
    sifa_here,
    sifa_on_two_processes,
    tensors,
)
from SIFASegmentationLib.bundle import BASELINE_FILE, WEIGHTS_FILE, Bundle, read_bundle
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.heartbeat import HEARTBEAT_FILE
from SIFASegmentationLib.jobs import Job, State
from SIFASegmentationLib.segmentation import Segmentor
from SIFATrainingLib import export as export_module
from SIFATrainingLib import training
from SIFATrainingLib.checkpoints import checkpoint_paths, load_checkpoint
from SIFATrainingLib.config import TrainingConfig
from SIFATrainingLib.console import ProgressLine, output_copied_to
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.export import export
from SIFATrainingLib.onnx_model import ExportError
from SIFATrainingLib.prepare import make_preparation, prepare
from SIFATrainingLib.training import create_job, create_training_job, train


def job_of(cohort: Path, folder: Path, config: TrainingConfig | None = None, **options: Any) -> Job:
    return create_training_job(folder, preparation(cohort), config or quick_config(), "cpu", **options)


def states(job: Job) -> list[str]:
    return [event.data["state"] for event in job.events()[0] if event.kind == "state"]


def data(job: Job, kind: str) -> list[dict[str, Any]]:
    return [event.data for event in job.events()[0] if event.kind == kind]


@pytest.fixture(scope="module")
def complete(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished job that prepared, trained and exported the bundle `mine`; tests that change it copy it."""
    job = job_of(cohort, tmp_path_factory.mktemp("complete") / "job", bundle_name="mine")
    assert train(job) is State.FINISHED
    return job


def copied(job: Job, folder: Path) -> Job:
    return Job(shutil.copytree(job.folder, folder))


def stopper(job: Job, when: Callable[[str, dict[str, Any]], bool]) -> Callable[[str, dict[str, Any]], None]:
    """Return a report that asks the job to stop at the first event for which `when` is true."""

    def report(kind: str, data: dict[str, Any]) -> None:
        if when(kind, data):
            job.request_stop()

    return report


def test_from_volumes_to_a_bundle(complete: Job, prepared: Path) -> None:
    job = complete
    assert states(job) == ["queued", "preparing", "running", "exporting", "finished"]
    steps = [progress for progress in data(job, "progress") if progress["stage"] == "preparing"]
    assert [step["done"] for step in steps] == list(range(8))
    assert {step["total"] for step in steps} == {8}
    assert steps[0]["message"] == "source, measuring 1 of 2: abdomen_mr_000_image.nii.gz"
    exported = [step["message"] for step in data(job, "progress") if step["stage"] == "exporting"]
    total = len(PreparedDataset(prepared).slices("target"))
    averaged = [f"averaging the batch norm, {seen} of {total} slices" for seen in range(0, total - 1, 2)]
    assert exported == [
        *averaged,
        "writing it for ONNX Runtime",
        "calibrating the estimates, volume 1 of 2",
        "calibrating the estimates, volume 2 of 2",
        "measuring the structures, volume 1 of 2",
        "measuring the structures, volume 2 of 2",
    ]
    trained = [progress for progress in data(job, "progress") if progress["stage"] == "training"]
    assert [progress["iteration"] for progress in trained] == [2, 4, 6]
    assert data(job, "result") == [{"bundle": "result/bundle"}]
    manifest = read_bundle(job.folder / "result" / "bundle").manifest
    assert manifest.name == "mine"
    assert manifest.baseline is None
    for file in prepared.iterdir():
        assert (job.folder / "prepared" / file.name).read_bytes() == file.read_bytes()


def test_relative_paths_are_relative_to_the_job_folder_which_can_move(cohort: Path, tmp_path: Path) -> None:
    relative = make_preparation(source="inputs/mr", target="inputs/ct", size=32)
    job = create_training_job(tmp_path / "made here", relative, quick_config(iterations=2), "cpu", export=False)
    shutil.copytree(cohort, job.folder / "inputs")
    moved = Job(job.folder.rename(tmp_path / "moved"))
    assert train(moved) is State.FINISHED
    again = Job(moved.folder.rename(tmp_path / "moved again"))
    assert export(again.folder, tmp_path / "bundle").manifest.training.iterations == 2


def test_a_data_set_and_its_jobs_can_move_together(prepared: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(prepared, study / "prepared")
    config = quick_config(iterations=2)
    job = create_job(study / "prepared", study / "jobs" / "one", config, "cpu", baseline_iterations=2)
    assert train(job) is State.FINISHED
    moved = study.rename(tmp_path / "elsewhere")
    bundle = export(moved / "jobs" / "one", tmp_path / "bundle", baseline=moved / "jobs" / "one" / "baseline")
    assert bundle.manifest.training.iterations == 2
    shutil.rmtree(moved / "prepared")
    with pytest.raises(InputError, match="is not a prepared data set"):
        export(moved / "jobs" / "one", tmp_path / "bundle")


def test_a_place_that_can_not_be_written_to_is_found_before_the_volumes_are_read(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    read: list[object] = []
    with pytest.raises(InputError, match="file can't be written to"):
        prepare(cohort / "mr", cohort / "ct", tmp_path / "file" / "set", size=32, report=read.append)
    assert read == []


def test_a_stop_while_preparing_leaves_nothing_and_the_job_prepares_anew(cohort: Path, tmp_path: Path) -> None:
    job = job_of(cohort, tmp_path / "job", export=False)
    assert train(job, report=stopper(job, lambda _, data: data.get("done") == 5)) is State.STOPPED
    assert states(job) == ["queued", "preparing", "stopped"]
    assert sorted(path.name for path in job.folder.iterdir()) == ["events.jsonl", "job.json", "stop"]
    assert train(job, time_limit_seconds=0) is State.STOPPED
    assert not (job.folder / "prepared").exists()
    assert train(job) is State.FINISHED
    assert final_state(job)["done"] == 6


def test_a_stop_asked_before_the_start_is_honoured(cohort: Path, tmp_path: Path) -> None:
    job = job_of(cohort, tmp_path / "job")
    job.request_stop()
    assert train(job) is State.STOPPED
    assert not (job.folder / "prepared").exists()


def test_a_volume_that_can_not_be_read_fails_the_job(cohort: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(cohort, tmp_path / "cohort")
    (broken / "ct" / "abdomen_ct_001_image.nii.gz").write_bytes(b"no image")
    job = job_of(broken, tmp_path / "job", quick_config(iterations=1), export=False)
    with pytest.raises(InputError, match="abdomen_ct_001_image"):
        train(job)
    assert states(job)[-1] == "failed"
    shutil.copy(cohort / "ct" / "abdomen_ct_001_image.nii.gz", broken / "ct")
    assert train(job) is State.FINISHED


def test_a_failed_export_goes_on_with_the_export_alone(
    complete: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = copied(complete, tmp_path / "job")
    shutil.rmtree(job.folder / "result")
    monkeypatch.setattr(export_module, "largest_difference", lambda *_: 1.0)
    with pytest.raises(ExportError):
        train(job)
    assert states(job)[-2:] == ["exporting", "failed"]
    assert not (job.folder / "result" / "bundle").exists()
    monkeypatch.undo()
    before = len(data(job, "losses"))
    assert train(job) is State.FINISHED
    assert len(data(job, "losses")) == before
    assert read_bundle(job.folder / "result" / "bundle").manifest.training.iterations == 6


@pytest.mark.parametrize("at", ["averaging the batch norm, 4 of", "measuring the structures"])
def test_an_export_can_be_stopped(complete: Job, tmp_path: Path, at: str) -> None:
    job = copied(complete, tmp_path / "job")
    shutil.rmtree(job.folder / "result")
    assert train(job, report=stopper(job, lambda _, data: at in data.get("message", ""))) is State.STOPPED
    assert states(job)[-2:] == ["exporting", "stopped"]
    assert [at in step["message"] for step in data(job, "progress")[-2:]] == [False, True]
    assert not (job.folder / "result" / "bundle").exists()
    assert train(job) is State.FINISHED
    assert read_bundle(job.folder / "result" / "bundle").manifest.quality is not None


def test_the_baseline_comes_first_and_goes_into_the_bundle(cohort: Path, prepared: Path, tmp_path: Path) -> None:
    job = job_of(cohort, tmp_path / "job", baseline_iterations=4)
    assert train(job) is State.FINISHED
    stages = [progress["stage"] for progress in data(job, "progress")]
    assert list(dict.fromkeys(stages)) == ["preparing", "baseline", "training", "exporting"]
    assert [stages.count(stage) for stage in ("preparing", "baseline", "training")] == [8, 2, 3]
    told = [step["message"] for step in data(job, "progress") if step["stage"] == "exporting"]
    both = {message.split(", ")[0] for message in told}
    assert both == {"adapted model", "model without adaptation"}
    previews = data(job, "preview")
    assert previews[0] == {"stage": "baseline", "iteration": 4, "file": "baseline/previews/iteration_00000004.png"}
    assert all((job.folder / preview["file"]).exists() for preview in previews)
    nested = Job(job.folder / "baseline")
    assert states(nested) == ["queued", "running", "finished"]
    assert nested.specification["config"]["method"] == "without_adaptation"
    bundle = read_bundle(job.folder / "result" / "bundle")
    assert bundle.manifest.baseline is not None
    assert bundle.manifest.baseline.iterations == 4
    assert bundle.manifest.baseline.quality is not None
    assert bundle.manifest.baseline.quality != bundle.manifest.quality
    assert set(bundle.manifest.baseline.losses) == {"segmentation", "lower_segmentation"}
    alone = create_job(prepared, tmp_path / "alone", quick_config(method="without_adaptation", iterations=4), "cpu")
    train(alone)
    assert all(
        torch.equal(a, b) for a, b in zip(tensors(final_state(nested)), tensors(final_state(alone)), strict=True)
    )


def test_a_finished_job_is_left_as_it_is(complete: Job, tmp_path: Path) -> None:
    job = copied(complete, tmp_path / "job")
    shutil.rmtree(job.folder / "checkpoints")
    shutil.rmtree(job.folder / "prepared")
    before = {path: path.read_bytes() for path in job.folder.rglob("*") if path.is_file()}
    assert train(job) is State.FINISHED
    assert {path: path.read_bytes() for path in job.folder.rglob("*") if path.is_file()} == before
    for command in ("resume", "run"):
        assert sifa_here(command, job.folder).exit_code == 0
    # A stop requested during the last iteration is withdrawn, whoever requested it.
    job.request_stop()
    assert train(job) is State.FINISHED
    assert not job.stop_requested


def test_to_stop_the_baseline_stops_the_job(prepared: Path, tmp_path: Path) -> None:
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu", baseline_iterations=4)

    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "losses" and data["iteration"] == 2 and data["stage"] == "baseline":
            Job(job.folder / "baseline").request_stop()

    assert train(job, report=stop) is State.STOPPED
    assert states(Job(job.folder / "baseline"))[-1] == "stopped"
    assert not (job.folder / "checkpoints").exists()
    assert train(job) is State.FINISHED


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that trained without adaptation for four iterations, then as usual."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "job"
    job = create_job(prepared, folder, quick_config(), "cpu", baseline_iterations=4)
    train(job)
    return job


@pytest.mark.parametrize("stage", ["baseline", "training"])
def test_stopped_in_either_phase_the_weights_are_those_of_an_uninterrupted_job(
    uninterrupted: Job, prepared: Path, tmp_path: Path, stage: str
) -> None:
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu", baseline_iterations=4)
    first = stopper(job, lambda kind, data: kind == "losses" and data["stage"] == stage and data["iteration"] == 2)
    assert train(job, report=first) is State.STOPPED
    assert bool(checkpoint_paths(job.folder / "checkpoints")) == (stage == "training")
    assert train(job) is State.FINISHED
    for folder in ("baseline/checkpoints", "checkpoints"):
        one, other = (
            tensors(load_checkpoint(checkpoint_paths(one.folder / folder)[-1])) for one in (uninterrupted, job)
        )
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_baseline_of_another_job_goes_into_the_bundle(
    finished_job: Path, prepared: Path, cohort: Path, tmp_path: Path
) -> None:
    config = quick_config(method="without_adaptation", iterations=2)
    compared = create_job(prepared, tmp_path / "compared", config, "cpu")
    train(compared)
    exported = sifa_here("export", finished_job, "--out", tmp_path / "bundle", "--baseline", compared.folder)
    assert exported.exit_code == 0, exported.output
    bundle = read_bundle(tmp_path / "bundle")
    assert BASELINE_FILE in bundle.manifest.files
    slices = torch.rand(2, 32, 32).numpy() * 2 - 1
    adapted, unadapted = (Segmentor(bundle, "cpu", baseline=which).predict(slices) for which in (False, True))
    assert adapted.shape == unadapted.shape == (2, 5, 32, 32)
    assert abs(adapted - unadapted).max() > 1e-6
    single = export(compared.folder, tmp_path / "single")
    assert abs(Segmentor(single, "cpu").predict(slices) - unadapted).max() == 0
    with pytest.raises(InputError, match="no model without adaptation"):
        Segmentor(single, "cpu", baseline=True)
    segmented = sifa_here("segment", tmp_path / "bundle", cohort / "ct", "--out", tmp_path / "out", "--baseline")
    assert segmented.exit_code == 0, segmented.output
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert len(names) == 4
    assert names[2:] == [f"baseline/{name}" for name in names[:2]]
    with pytest.raises(InputError, match="trained by the method sifa: give a job trained by without_adaptation"):
        export(finished_job, tmp_path / "other", baseline=finished_job)


def test_a_baseline_on_other_slices_or_structures_is_refused(finished_job: Path, cohort: Path, tmp_path: Path) -> None:
    config = quick_config(method="without_adaptation", iterations=1)
    for name, settings, sentence in (
        ("grid", {"size": 40}, "the preprocessing of its source has another size and spacing: give"),
        ("window", {"target_window": (-150.0, 300.0)}, "the preprocessing of its target has another intensity: give"),
        ("task", {"task": _two_structures(tmp_path)}, "segments liver, spleen"),
    ):
        made = preparation(cohort, source_coding="all four" if name == "task" else None, **settings)
        job = create_training_job(tmp_path / name, made, config, "cpu", export=False)
        train(job)
        with pytest.raises(InputError, match=sentence):
            export(finished_job, tmp_path / "bundle", baseline=job.folder)
    assert not (tmp_path / "bundle").exists()


def _two_structures(folder: Path) -> str:
    from SIFASegmentationLib.structures import LabelCoding, Task, load_task  # noqa: PLC0415

    whole = load_task("abdomen")
    spleen = whole.structures[3].model_copy(update={"value": 2})
    coding = LabelCoding(codes={"liver": 1, "spleen": 4}, ignored=(2, 3))
    task = Task(name="two", title="Two", plane="axial", structures=(whole.structures[0], spleen),
                label_codes={"all four": coding})  # fmt: skip
    (folder / "two.json").write_text(task.model_dump_json())
    return str(folder / "two.json")


def test_settings_that_can_not_be_used_make_no_job(cohort: Path, tmp_path: Path) -> None:
    for settings, sentence in (
        ({"sizes": 32}, "setting 'sizes' of the preparation"), ({"size": 30}, "size 30"),
        ({"task": "knee"}, "task knee"), ({"hold_out": 3}, "'hold_out'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            preparation(cohort, **settings)
    with pytest.raises(InputError, match="needs target labels"):
        job_of(cohort, tmp_path / "job", quick_config(method="supervised"))
    assert not (tmp_path / "job").exists()


def test_preparing_needs_no_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import SIFATrainingLib.cli, SIFATrainingLib.training, SIFATrainingLib.prepare, SIFATrainingLib.preflight\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_of_a_line_that_renews_itself_the_log_keeps_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", shown)
    with output_copied_to(tmp_path / "log.txt"):
        line = ProgressLine()
        for number in range(50):
            line.show(f"iteration {number}")
        line.show("done", last=True)
        print("and more")
    assert shown.getvalue().count("\x1b[K") == 51
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines() == ["iteration 0", "done", "and more"]


def test_what_goes_to_the_log_already_is_not_copied_there(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with path.open("a", encoding="utf-8") as log, redirect_stdout(log), output_copied_to(path):
        print("preparing")
    assert path.read_text(encoding="utf-8") == "preparing\n"


def test_from_volumes_with_one_command(cohort: Path, tmp_path: Path) -> None:
    quick = ["--iterations", 2, "--width", 0.0625, "--batch", 2, "--device", "cpu"]
    started = time.time()
    done = sifa("train", "--source", "mr", "--target", "ct", "--size", 32, "--out", tmp_path / "job", "--export",
                "--baseline-iterations", 1, *quick, cwd=cohort)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "without adaptation: iteration 1 of 1" in done.stdout
    assert f"the model is {tmp_path / 'job' / 'result' / 'bundle'}" in done.stdout
    kept = (tmp_path / "job" / "log.txt").read_text(encoding="utf-8").splitlines()
    for words in ("target, resampling 2 of 2", "without adaptation: iteration 1 of 1", "iteration 2 of 2"):
        assert any(words in line for line in kept), words
    assert kept[-1] == "finished"
    # The last line is printed after the job has ended, so the log does not have it.
    assert kept == done.stdout.splitlines()[:-1]
    events = Job(tmp_path / "job").events()[0]
    preparing, running = (
        next(event.time for event in events if event.data.get("state") == state) for state in ("preparing", "running")
    )
    assert started < preparing < running


def test_a_training_starts_from_the_networks_of_a_bundle(bundle: Bundle, prepared: Path, tmp_path: Path) -> None:
    config = quick_config(iterations=2, learning_rate=1e-9)
    job = create_job(prepared, tmp_path / "job", config, "cpu", initial=bundle.path)
    assert train(job, time_limit_seconds=0) is State.STOPPED
    started = final_state(job)
    weights = load_file(bundle.path / WEIGHTS_FILE)
    for name, tensor in weights.items():
        assert torch.equal(started["model"]["networks"][name], tensor)
    assert torch.equal(started["model"]["average"]["encoder.lower.0.weight"], weights["encoder.lower.0.weight"])
    assert train(job) is State.FINISHED
    again = export(job.folder, tmp_path / "bundle")
    assert again.manifest.training.initial == bundle.manifest.name
    assert bundle.manifest.training.initial is None
    tuned = load_file(again.path / WEIGHTS_FILE)
    assert torch.allclose(tuned["generator.body.0.weight"], weights["generator.body.0.weight"], atol=1e-6)


def test_a_bundle_that_does_not_fit_is_refused_before_anything_starts(
    bundle: Bundle, prepared: Path, cohort: Path, tmp_path: Path
) -> None:
    done = sifa_here("train", prepared, "--out", tmp_path / "job", "--width", 0.125, "--initial", bundle.path)
    assert isinstance(done.exception, InputError)
    told = f"{bundle.path} have width 0.0625, those of this training 0.125: train with --width 0.0625"
    assert told in str(done.exception)
    cardiac = preparation(cohort, task="cardiac")
    with pytest.raises(InputError, match=r"segments liver, .*, this training AA, LAC"):
        create_training_job(tmp_path / "job", cardiac, quick_config(), "cpu", initial=bundle.path)
    with pytest.raises(InputError, match="is not a bundle"):
        job_of(cohort, tmp_path / "job", initial=tmp_path)
    bare = shutil.copytree(bundle.path, tmp_path / "bare", ignore=shutil.ignore_patterns(WEIGHTS_FILE))
    with pytest.raises(InputError, match=r"weights\.safetensors is missing"):
        job_of(cohort, tmp_path / "job", initial=bare)
    assert not (tmp_path / "job").exists()


def test_manifests_of_earlier_versions_are_read(bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "bundle")
    content = json.loads((copy / "manifest.json").read_text())
    del content["checksum"], content["baseline"], content["training"]["initial"]
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps({**content, "checksum": checksum}))
    manifest = read_bundle(copy).manifest
    assert manifest.baseline is None
    assert manifest.training.initial is None


def test_jobs_of_earlier_versions_are_read(prepared: Path, tmp_path: Path) -> None:
    old = {"prepared": str(prepared), "fingerprint": PreparedDataset(prepared).fingerprint, "device": "cpu",
           "config": quick_config(iterations=2).model_dump(exclude={"monitor_every"})}  # fmt: skip
    assert train(Job.create(tmp_path / "job", "train", old)) is State.FINISHED


def test_several_processes_wait_for_the_one_that_prepares(cohort: Path, tmp_path: Path) -> None:
    job = job_of(cohort, tmp_path / "job", quick_config(iterations=2, log_every=1), baseline_iterations=1, export=True)
    command = sifa_on_two_processes("run", job.folder)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert job.state() is State.FINISHED
    assert states(job) == ["queued", "preparing", "running", "exporting", "finished"]
    assert [p["iteration"] for p in data(job, "progress") if p["stage"] in ("baseline", "training")] == [1, 1, 2]
    assert read_bundle(job.folder / "result" / "bundle").manifest.baseline is not None


def test_processes_whose_first_one_ended_end_as_well(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(cohort, tmp_path / "job")
    monkeypatch.setenv("RANK", "1")
    alive, beats = iter([True, True, False]), itertools.count()
    monkeypatch.setattr(Job, "is_alive", lambda _: next(alive))
    monkeypatch.setattr(Job, "last_beat", lambda _: {"time": next(beats)})
    assert train(job) is State.STOPPED
    monkeypatch.setattr(Job, "is_alive", lambda _: False)
    monkeypatch.setattr(training, "_SECONDS_TO_WAIT", 0)
    with pytest.raises(InputError, match="No process prepares"):
        train(job)
    assert states(job) == ["queued"]


def test_a_killed_run_is_not_taken_for_the_first_process(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster may restart a job on other machines: the heartbeat left by the killed run grows old while they wait."""
    job = job_of(cohort, tmp_path / "job")
    monkeypatch.setenv("RANK", "1")
    left = {"host": "another", "process": 1, "started": 0.0, "time": time.time()}
    (job.folder / HEARTBEAT_FILE).write_text(json.dumps(left))
    assert job.is_alive()
    looks = itertools.count()
    monkeypatch.setattr(Job, "is_alive", lambda _: next(looks) < 2)
    monkeypatch.setattr(training, "_SECONDS_TO_WAIT", 0.5)
    with pytest.raises(InputError, match="No process prepares"):
        train(job)
