"""The `sifa` command as a user meets it: a process of its own, its exit code and what it prints."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quick import ENVIRONMENT, QUICK_OPTIONS, final_state, quick_config, sifa, sifa_here, sifa_on_two_processes
from SIFASegmentationLib import __version__, evaluation, segment_files
from SIFASegmentationLib.bundle import Bundle
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.evaluation import SomePairsRefusedError
from SIFASegmentationLib.jobs import Job, State
from SIFASegmentationLib.regions import BoxMM
from SIFASegmentationLib.scores import ScoreTable
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.segmentation_outputs import OutputOptions
from SIFATrainingLib import cli
from SIFATrainingLib.checkpoints import checkpoint_paths, load_checkpoint
from SIFATrainingLib.cli import app
from SIFATrainingLib.training import create_job, train


def test_from_volumes_to_scores(cohort: Path, tmp_path: Path) -> None:
    steps = [
        ("prepare", "--source", cohort / "mr", "--target", cohort / "ct", "--out", "set", "--size", 32),
        ("train", "set", "--out", "a job", "--iterations", 4, *QUICK_OPTIONS),
        ("export", "a job", "--out", "bundle"),
        ("segment", "bundle", cohort / "ct", "--out", "labelmaps", "--device", "cpu", "--confidence"),
        ("evaluate", "--prediction", "labelmaps", "--reference", cohort / "ct", "--task", "abdomen",
         "--out", "scores.json"),
    ]  # fmt: skip
    printed = {}
    for step in steps:
        done = sifa(*step, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        printed[step[0]] = done.stdout
    assert "target, resampling 2 of 2" in printed["prepare"]
    assert "slices, axial, 32 x 32" in printed["prepare"]
    assert "iteration 4 of 4" in printed["train"]
    assert "left" in printed["train"]
    assert "probabilities differ by at most" in printed["export"]
    assert "abdomen_ct_001_segmentation.nii.gz" in printed["segment"]
    assert "right kidney" in printed["evaluate"]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores["rows"]) == 2 * 4
    assert {row["subject"] for row in scores["rows"]} == {"abdomen_ct_000", "abdomen_ct_001"}


def test_a_training_is_stopped_watched_and_resumed_from_outside(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    command = [sys.executable, "-m", "SIFATrainingLib", "train", prepared, "--out", folder, "--iterations", "100000"]
    process = subprocess.Popen([*map(str, command), *QUICK_OPTIONS], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        _wait_for(lambda: (folder / "events.jsonl").exists() and Job(folder).last("losses") is not None)
        assert Job(folder).state() is State.RUNNING
        assert sifa("stop", folder).returncode == 0
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == cli.STOPPED
    assert "`sifa export` uses it as it is" in output
    done = load_checkpoint(checkpoint_paths(folder / "checkpoints")[-1])["done"]
    watched = sifa_here("watch", folder)
    assert watched.exit_code == 0
    assert f"iteration {done:,} of 100,000" in watched.stdout
    resumed = sifa("resume", folder, "--time-limit", "1s")
    assert resumed.returncode == cli.STOPPED, resumed.stderr
    assert load_checkpoint(checkpoint_paths(folder / "checkpoints")[-1])["done"] >= done
    assert "there is nothing to stop" in str(sifa_here("stop", folder).exception)


@pytest.mark.parametrize("number", sorted({signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)}))
def test_ctrl_c_and_a_schedulers_signal_save(prepared: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "job"
    command = [sys.executable, "-m", "SIFATrainingLib", "train", prepared, "--out", folder, "--iterations", "100000"]
    process = subprocess.Popen([*map(str, command), *QUICK_OPTIONS], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        _wait_for(lambda: (folder / "events.jsonl").exists() and Job(folder).last("losses") is not None)
        process.send_signal(number)
        assert process.wait(timeout=60) == cli.STOPPED
    finally:
        process.kill()
    assert Job(folder).state() is State.STOPPED
    assert len(checkpoint_paths(folder / "checkpoints")) == 1


def test_a_killed_training_is_seen_as_lost_and_can_be_resumed(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    command = [sys.executable, "-m", "SIFATrainingLib", "train", prepared, "--out", folder, "--iterations", "100000"]
    process = subprocess.Popen(
        [*map(str, command), *QUICK_OPTIONS, "--set", "checkpoint_every=2"], env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    try:
        _wait_for(lambda: len(checkpoint_paths(folder / "checkpoints")) == 2)
    finally:
        process.kill()
        process.wait()
    assert Job(folder).state() is State.LOST
    assert "is gone" in str(sifa_here("watch", folder).exception)
    saved = final_state(Job(folder))["done"]
    asked = itertools.count()
    assert train(Job(folder), must_stop=lambda: next(asked) == 2) is State.STOPPED
    done = final_state(Job(folder))["done"]
    assert saved < done < saved + 4
    exported = sifa_here("export", folder, "--out", tmp_path / "bundle")
    assert exported.exit_code == 0, exported.output
    words = f"The training has not finished: this is its model after {done:,} of 100,000 iterations"
    assert words in exported.stdout


def test_a_schedulers_signal_to_two_processes_saves(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    command = sifa_on_two_processes("train", prepared, "--out", folder, "--iterations", 100000, *QUICK_OPTIONS)
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        _wait_for(lambda: (folder / "events.jsonl").exists() and Job(folder).last("losses") is not None, seconds=120)
        # Slurm signals all processes, and `torchrun`, which gets the signal too, passes it on to them again.
        beat = Job(folder).last_beat()
        assert beat is not None
        os.kill(beat["process"], signal.SIGTERM)
        process.terminate()
        process.wait(60)
        _wait_for(lambda: Job(folder).state() is State.STOPPED)
    finally:
        process.kill()
    assert len(checkpoint_paths(folder / "checkpoints")) == 1


def test_a_signal_to_a_process_ends_nobody_elses_training(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a second training is started on a job by mistake: its launcher ends those that wait for the first."""
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu")

    def wait(_job: Job, *, must_stop: Callable[[], bool], **_: Any) -> State:
        assert not must_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert must_stop()
        return State.STOPPED

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("SIFATrainingLib.training.train", wait)
    cli._run(job, 60)
    assert not job.stop_requested


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["prepare", "--source", "nowhere", "--target", "nowhere", "--out", "x"], "nowhere"),
        (["train", "nowhere", "--out", "x"], "is not a prepared data set"),
        (["train", "nowhere", "--out", "x", "--time-limit", "soon"], "no duration"),
        (["train", "nowhere", "--out", "x", "--set", "batch"], "is not NAME=VALUE"),
        (["resume", "nowhere"], "is not a job folder"),
        (["export", "nowhere", "--out", "x"], "is not a job folder"),
        (["segment", "nowhere", "x.nii.gz", "--out", "x"], "is not a bundle"),
        (["segment", "nowhere", "x.nii.gz", "--out", "x", "--roi", "1,2"], "is not 6 numbers"),
        (["evaluate", "--prediction", "a.nii.gz", "--reference", "b.nii.gz"], "does not exist"),
        (["phantoms", "--out", "x", "--task", "knee"], "no phantoms of 'knee'"),
        (["train"], "Missing option"),
        (["train", "--out", "x"], "give either a prepared data set"),
        (
            # Also if the option's value is the default.
            ["train", "nowhere", "--out", "x", "--size", "256"],
            "--size has no effect on a data set that is prepared already",
        ),
        (["prepare", "--source", "nowhere", "--out", "x"], "give both --source"),
        (["prepare", "--out", "x"], "give both --source (labelled) and --target (unlabelled)"),
        (["run", "nowhere"], "is not a job folder"),
        (["compare", "--source", "nowhere", "--target", "nowhere", "--out", "x"], "nowhere does not exist"),
        (["compare", "--source", "a", "--target", "b", "--out", "x", "--row", "all"], "There is no row 'all'"),
        (
            ["prepare", "--source", "a", "--target", "b", "--out", "x", "--target-window=300,-150"],
            "target window (300.0",
        ),
        (["evaluate", "--prediction", f"{'a' * 300}.nii.gz", "--reference", "b"], "File name too long"),
        (["evaluate", "--prediction", "a", "--reference", "b", "--coding", "BTCV"], "is one of a task's: say which"),
        (
            ["evaluate", "--prediction", "a", "--reference", "b", "--tolerance", "nan"],
            "The tolerance nan is not usable",
        ),
        (["prepare", "--source", "a", "--target", "b", "--out", "x", "--stretch", "--spacing", "2"], "one of the two"),
        (["train", "--source", "a", "--target", "b", "--out", "x"], "a does not exist"),
        (["train", "--source", "a", "--target", "b", "--out", "x", "--device", "foo"], "The device 'foo' is unknown"),
        (["train", "nowhere", "--out", "x", "--set", "preset=paper"], "The setting 'preset' is not usable (there is"),
        (["evaluate", "--prediction", "x.nii.gz", "--reference", "x.nii.gz", "--out", "x.xlsx"], "with .csv or .json"),
        (["prepare", "--source", "x", "--target", "x", "--out", "y", "--target-coding", "BTVC"], "'BTVC' is not in"),
        (["train", "nowhere", "--out", "x", "--set", "method.x=1"], "The setting 'method' is not usable"),
        (["train", "nowhere", "--out", "x", "--seed", "99999999999999999999"], "The setting 'seed' is not usable"),
        (["phantoms", "--out", "x", "--first-seed", "-1"], "greater than or equal to 0"),
        (["fly"], "No such command"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(
    tmp_path: Path, arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Run in this process: there are many cases, and a new process takes a second for its imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sifa", *arguments])
    kept = {number: signal.getsignal(number) for number in cli._end_signals()}
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_readable_help_and_a_line_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    overview = sifa_here("--help").stdout
    commands = [line.split()[0] for line in overview.partition("Commands:")[2].strip().splitlines() if line[2] != " "]
    table = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").partition("| command | does |")[2]
    named = [name for line in table.partition("\n\n")[0].splitlines()[2:] for name in line.split("|")[1].split()]
    assert sorted(named) == sorted(f"`{command}`" for command in commands)
    for command in commands:
        app([command, "--help"], standalone_mode=False)
        shown = capsys.readouterr().out
        assert "Usage" in shown
        options = shown.partition("Options:")[2]
        assert "list[" not in options, command


def test_whoever_reads_may_go_and_the_work_goes_on(prepared: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m SIFATrainingLib train {prepared} --out {tmp_path / 'job'} --iterations 4 "
    command += " ".join(QUICK_OPTIONS) + " --set log_every=1 | head -1"
    shell = ["bash", "-o", "pipefail", "-c", command]
    shown = subprocess.run(shell, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert len(shown.stdout.splitlines()) == 1
    assert shown.stderr == ""
    _wait_for(lambda: Job(tmp_path / "job").state() is State.FINISHED)


def test_watching_ends_when_nobody_reads(prepared: Path, tmp_path: Path) -> None:
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu")
    job.emit_state(State.RUNNING)
    command = f"{sys.executable} -m SIFATrainingLib watch {job.folder} | head -1"
    with job.heartbeat():
        watch = subprocess.Popen(["bash", "-o", "pipefail", "-c", command], env=ENVIRONMENT, stdout=subprocess.DEVNULL)

        def has_ended() -> bool:
            job.emit("warning", message="Something to show")
            return watch.poll() is not None

        try:
            _wait_for(has_ended)
        finally:
            watch.kill()
    assert watch.returncode == 0
    assert not job.stop_requested


def test_output_that_can_not_show_a_name_or_is_closed_ends_nothing(cohort: Path, tmp_path: Path) -> None:
    path = tmp_path / "b\N{LATIN SMALL LETTER A WITH DIAERESIS}se.nii.gz"
    shutil.copyfile(cohort / "ct" / "abdomen_ct_000_label.nii.gz", path)
    command = [sys.executable, "-m", "SIFATrainingLib", "evaluate", "--prediction", str(path), "--reference", str(path)]
    ascii_only = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(command, env=ascii_only, capture_output=True, text=True, check=True)
    assert "b\\xe4se" in shown.stdout
    closed = subprocess.run(
        ["bash", "-c", " ".join(command) + " >&-"], env=ENVIRONMENT, capture_output=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_a_stopped_preparation_leaves_nothing(cohort: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "SIFATrainingLib", "prepare", "--source", cohort / "mr", "--target", cohort / "ct",
               "--size", "1024", "--out", tmp_path / "set"]  # fmt: skip
    process = subprocess.Popen([*map(str, command)], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        _wait_for(lambda: any(tmp_path.glob(".*.partial.set/*.npy")))
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_told() -> None:
    assert sifa("--version").stdout == f"sifa {__version__}\n"


def test_segmenting_and_scoring_need_nothing_that_training_needs(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    missing = ["torch", "lightning_fabric", "safetensors", "onnxscript", "PIL", "matplotlib"]
    program = f"""
import sys
sys.modules.update(dict.fromkeys({missing}))
from SIFATrainingLib.cli import main
main()
"""
    for arguments in (
        ("segment", bundle.path, cohort / "ct", "--out", "labelmaps", "--device", "cpu"),
        ("evaluate", "--prediction", "labelmaps", "--reference", cohort / "ct", "--task", "abdomen"),
    ):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
    # Commands that need more packages say so, and leave a job as it is.
    job = Job.create(tmp_path / "job", "training", {})
    for arguments in (("bench",), ("resume", job.folder), ("export", job.folder, "--out", tmp_path / "x")):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, check=False)
        assert done.returncode == 2, done.stderr
        assert "which training and exporting need, is not installed: install SIFA with [training]" in done.stderr
    assert job.state() is State.QUEUED


def test_a_terminal_that_closes_saves(prepared: Path, tmp_path: Path) -> None:
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("Windows has no such signal")
    folder = tmp_path / "job"
    # Undo that `nohup`, with which these tests may have been started, ignores the signal.
    program = (
        "import signal; from SIFATrainingLib.cli import main\nsignal.signal(signal.SIGHUP, signal.SIG_DFL); main()\n"
    )
    command = [sys.executable, "-c", program, "train", prepared, "--out", folder, "--iterations", "100000"]
    process = subprocess.Popen(
        [*map(str, command), *QUICK_OPTIONS], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(lambda: (folder / "events.jsonl").exists() and Job(folder).last("losses") is not None)
        # The signal can come several times, from the system and from the shell.
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
        assert process.wait(60) == cli.STOPPED
    finally:
        process.kill()
    assert Job(folder).state() is State.STOPPED
    assert checkpoint_paths(folder / "checkpoints")


def test_who_watches_a_job_that_fails_is_told_so(prepared: Path, tmp_path: Path) -> None:
    job = create_job(prepared, tmp_path / "job", quick_config(), "cpu")
    job.emit_state(State.FAILED)
    assert str(sifa_here("watch", job.folder).exception) == f"{job.folder} has failed: look at its log.txt."


def test_settings_are_listed_with_their_source() -> None:
    listed = sifa_here("settings").stdout
    assert "loss_weights.cycle = 10.0" in listed
    assert "loss_weights.random_contrast = 1.0" in listed
    assert "loss_weights.random_contrast = 0.0" in sifa_here("settings", "--preset", "paper").stdout
    assert "paper" in listed


def test_a_bundle_for_other_structures_is_refused(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    done = sifa_here("segment", bundle.path, cohort / "ct", "--out", tmp_path / "x", "--task", "cardiac")
    assert isinstance(done.exception, InputError)
    assert "not the structures of the task cardiac" in str(done.exception)


def _wait_for(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.1)


def test_one_of_many_processes_does_not_wait_at_its_exit_for_the_others(tmp_path: Path) -> None:
    """torch's exit handlers would wait for the processes still at work, which wait for this one."""
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, sys, time\n"
        "atexit.register(time.sleep, 600)\n"
        "from SIFATrainingLib.cli import main\n"
        "sys.argv = ['sifa', 'resume', 'nowhere']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={**ENVIRONMENT, "WORLD_SIZE": "2"}, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("sifa: nowhere")


@pytest.mark.parametrize(
    ("arguments", "options", "others"),
    [
        ([], {}, {}),
        (["--keep-all"], {"largest_component": False}, {}),
        (["--no-appearance"], {"appearance": False}, {}),
        (["--refine"], {"refine": True}, {}),
        (["--fill-holes"], {"fill_holes": True}, {}),
        (["--probabilities"], {"probabilities": True}, {}),
        (["--skip-existing"], {}, {"skip_existing": True}),
        (["--domain", "source"], {"domain": "source"}, {}),
        (["--format", ".nrrd", "--confidence"], {}, {"outputs": OutputOptions(confidence=True, suffix=".nrrd")}),
        (["--baseline"], {}, {"outputs": OutputOptions(baseline=True)}),
        (["--threads", "3", "--device", "cpu"], {}, {"threads": 3, "device": "cpu"}),
        (
            ["--roi=-10,20,-30,40,-50,60"], {},
            {"region": BoxMM(minimum=(-10.0, -30.0, -50.0), maximum=(20.0, 40.0, 60.0))},
        ),
    ],
)  # fmt: skip
def test_what_is_said_to_segment_reaches_it(
    arguments: list[str], options: dict[str, Any], others: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def segment(*given: Any, **named: Any) -> list[Any]:
        asked.append((given, named))
        return []

    monkeypatch.setattr(segment_files, "segment_files", segment)
    app(["segment", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "out"), *arguments], standalone_mode=False)
    ((given, named),) = asked
    assert given == (tmp_path, [tmp_path], tmp_path / "out", SegmentationOptions(**{"domain": "target", **options}))
    usual = {
        "outputs": OutputOptions(), "device": "auto", "threads": 0, "region": None, "task": None,
        "skip_existing": False,
    }  # fmt: skip
    del named["callbacks"]
    assert named == {**usual, **others}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], (None, False, 2.0)), (["--legacy", "--tolerance", "3.5", "--coding", "BTCV"], ("BTCV", True, 3.5))],
)
def test_what_is_said_to_evaluate_reaches_it(
    arguments: list[str], expected: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def evaluate(*given: Any, report: object) -> ScoreTable:
        assert callable(report)
        asked.append(given)
        return ScoreTable(())

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    here = ["--prediction", str(tmp_path), "--reference", str(tmp_path)]
    app(["evaluate", *here, *arguments], standalone_mode=False)
    assert asked == [(tmp_path, tmp_path, None, *expected)]


def test_scores_of_pairs_are_written_though_others_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cohort: Path
) -> None:
    for folder in ("predicted", "references"):
        (tmp_path / folder).mkdir()
        for name in ("P1", "P2"):
            shutil.copyfile(cohort / "ct" / "abdomen_ct_000_label.nii.gz", tmp_path / folder / f"{name}.nii.gz")
    (tmp_path / "predicted" / "P2.nii.gz").write_bytes(b"")
    folders = ["--prediction", str(tmp_path / "predicted"), "--reference", str(tmp_path / "references")]
    with pytest.raises(SomePairsRefusedError, match="1 of 2 pairs"):
        app(["evaluate", *folders, "--out", str(tmp_path / "scores.csv")], standalone_mode=False)
    assert "P2: pair 2 of 2" in capsys.readouterr().out
    assert "\nP1,label 1,1.0" in (tmp_path / "scores.csv").read_text()
    # The error comes before anything is scored.
    with pytest.raises(InputError, match="can't be written to"):
        app(["evaluate", *folders, "--out", str(tmp_path / "scores.csv" / "x.csv")], standalone_mode=False)
    assert capsys.readouterr().out == ""


def test_volumes_in_subfolders_that_are_not_segmented_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_files, "segment_files", lambda *_, **__: [])
    for name in ("P1.nii.gz", "more/P2.nii.gz", "baseline/P1_segmentation.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    app(["segment", "bundle", str(tmp_path), "--out", "x"], standalone_mode=False)
    assert f"warning: {tmp_path}: volumes in subfolders are not used (more); " in capsys.readouterr().err
