"""The job folder: events, state and heartbeat."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from SIFASegmentationLib import event_log, heartbeat
from SIFASegmentationLib.errors import InputError, system_fault
from SIFASegmentationLib.files import write_atomically
from SIFASegmentationLib.jobs import Job, State


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.create(tmp_path / "Ein Ordner für Läufe", "train", {"iterations": 3})


def test_whoever_opens_the_folder_sees_the_job(job: Job) -> None:
    job.emit("progress", iteration=1, iterations=3)
    seen = Job(job.folder)
    assert (seen.kind, seen.specification) == ("train", {"iterations": 3})
    assert seen.state() is State.QUEUED
    last = seen.last("progress")
    assert last is not None
    assert last.data == {"iteration": 1, "iterations": 3}
    assert abs(last.time - time.time()) < 60


def test_events_are_followed_from_an_offset(job: Job) -> None:
    first, offset = job.events()
    job.emit("warning", message="ä")
    second, end = job.events(offset)
    assert [e.kind for e in first] == ["state"]
    assert [(e.kind, e.data) for e in second] == [("warning", {"message": "ä"})]
    assert job.events(end) == ([], end)


def test_a_line_cut_in_the_middle_is_left_for_later_and_does_not_swallow_the_next(job: Job) -> None:
    with job.events_path.open("ab") as file:
        file.write(b'{"time": 1, "kind": "progr')
    events, offset = job.events()
    assert [e.kind for e in events] == ["state"]
    job.emit("losses", iteration=2)
    events, _ = job.events(offset)
    assert [e.kind for e in events] == ["warning", "losses"]
    assert "damaged at byte" in events[0].data["message"]
    assert job.state() is State.QUEUED


class CountingReader(io.BufferedReader):
    """A file that counts the bytes read from it."""

    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        CountingReader.total += len(content)
        return content


def test_of_many_events_only_the_last_are_read(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.emit("error", message="the disk was full")
    job.emit("losses", iteration=1)
    with job.events_path.open("ab") as file:
        file.write(job.events_path.read_bytes().splitlines(keepends=True)[-1] * 200_000)
    job.emit_state(State.STOPPED)
    with job.events_path.open("ab") as file:
        file.write(b'{"time": 1, "kind": "state", "da')
    size, original = job.events_path.stat().st_size, Path.open
    assert size > 10_000_000
    monkeypatch.setattr(
        Path, "open", lambda path, *a, **k: CountingReader(io.FileIO(path)) if a == ("rb",) else original(path, *a, **k)
    )
    assert job.state() is State.STOPPED
    assert CountingReader.total <= event_log.TAIL_BYTES
    losses = job.last("losses")
    assert losses is not None
    assert losses.data == {"iteration": 1}
    assert CountingReader.total <= 2 * event_log.TAIL_BYTES
    # An event far from the end is found too.
    error = job.last("error")
    assert error is not None
    assert error.data["message"] == "the disk was full"
    assert CountingReader.total > size


@pytest.mark.parametrize("seed", range(30))
def test_the_last_of_a_kind_is_that_of_all_events(job: Job, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(event_log, "TAIL_BYTES", rng.choice([1, 7, 64, 200]))
    kinds = ["state", "losses", "warning", "preview"]
    lines = [json.dumps({"time": n, "kind": rng.choice(kinds), "data": {"n": n}}).encode() for n in range(12)]
    damaged = [b"", b"{", b"\xff\x00", b'{"kind": "state"', b'"state"', b"x" * 300]
    content = [rng.choice(damaged) if rng.random() < 0.3 else line for line in lines]
    # The last line may be incomplete.
    text = b"\n".join(content)
    job.events_path.write_bytes(text[: len(text) - rng.choice([0, 0, 5, 50])] + rng.choice([b"", b"\n"]))
    events, _ = job.events()
    for kind in [*kinds, "result"]:
        assert job.last(kind) == next((event for event in reversed(events) if event.kind == kind), None), kind
    job.events_path.unlink()
    assert job.last("state") is None


def test_a_running_job_whose_process_is_gone_is_lost(job: Job) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    job.emit_state(State.RUNNING)
    beat = {"host": socket.gethostname(), "process": process.pid, "started": 0, "time": time.time()}
    (job.folder / "heartbeat.json").write_text(json.dumps(beat))
    assert job.state() is State.LOST
    (job.folder / "heartbeat.json").write_text(json.dumps({**beat, "process": os.getpid()}))
    assert job.state() is State.RUNNING
    (job.folder / "heartbeat.json").write_text(json.dumps({**beat, "host": "elsewhere"}))
    assert job.state() is State.RUNNING
    old = {**beat, "host": "elsewhere", "time": time.time() - 2 * heartbeat.LOST_AFTER_SECONDS}
    (job.folder / "heartbeat.json").write_text(json.dumps(old))
    assert job.state() is State.LOST


SIGN = {"time": 1.0, "process": 1, "host": "h", "started": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        "{}", "[]", "null", "{", json.dumps(SIGN | {"time": "x"}), json.dumps(SIGN | {"process": float("inf")}),
        json.dumps(SIGN | {"started": None}),
    ],
)  # fmt: skip
def test_a_sign_of_life_that_says_nothing_is_none(job: Job, content: str) -> None:
    (job.folder / "heartbeat.json").write_text(content)
    assert job.last_beat() is None
    assert not job.is_alive()


def test_two_processes_can_not_work_on_one_job(job: Job) -> None:
    with job.at_work():
        assert job.is_alive()
        with pytest.raises(InputError, match="Another process is at work"):
            Job(job.folder).at_work().__enter__()
    assert not job.is_alive()


def test_of_two_that_start_at_once_one_goes_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find the folder free before either writes; the other one writes last."""
    other = {"host": "elsewhere", "process": 1, "started": time.time(), "time": time.time()}
    monkeypatch.setattr(time, "sleep", lambda _: (job.folder / "heartbeat.json").write_text(json.dumps(other)))
    with pytest.raises(InputError, match="Another process is at work"):
        job.at_work().__enter__()
    # The other's heartbeat stays.
    assert job.last_beat() == other
    assert job.state() is State.QUEUED


@pytest.mark.parametrize("clock_off", [0.0, -5.0, 3600.0])
def test_a_beat_that_does_not_change_is_that_of_a_killed_process(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clock_off: float
) -> None:
    """As when a scheduler kills a job and restarts it at once on another machine."""
    monkeypatch.setattr(heartbeat, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat, "_BETWEEN_LOOKS_SECONDS", 0.01)
    beat = {"host": "elsewhere", "process": 1, "started": 1.0, "time": time.time() + clock_off}
    (job.folder / "heartbeat.json").write_text(json.dumps(beat))
    with job.at_work():
        assert job.is_alive()
    assert "sign of life of process 1 on elsewhere; waiting" in caplog.text


@pytest.mark.parametrize("clock_off", [0.0, -3600.0])
def test_a_beat_that_changes_keeps_others_out_whatever_the_clocks_say(
    job: Job, monkeypatch: pytest.MonkeyPatch, clock_off: float
) -> None:
    beat = {"host": "elsewhere", "process": 1, "started": 1.0, "time": time.time() + clock_off}
    (job.folder / "heartbeat.json").write_text(json.dumps(beat))
    later = json.dumps(beat | {"time": beat["time"] + 2})
    monkeypatch.setattr(time, "sleep", lambda _: (job.folder / "heartbeat.json").write_text(later))
    with pytest.raises(InputError, match="Another process is at work"):
        job.at_work().__enter__()
    assert job.last_beat() == json.loads(later)


def test_who_ends_while_another_waits_keeps_it_out_no_longer(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    path = job.folder / "heartbeat.json"
    path.write_text(json.dumps({"host": "elsewhere", "process": 1, "started": 1.0, "time": time.time()}))
    monkeypatch.setattr(heartbeat, "_BETWEEN_LOOKS_SECONDS", 0.01)
    threading.Timer(0.1, path.unlink).start()
    with job.at_work():
        assert job.is_alive()


def test_a_restarted_container_does_not_take_itself_for_another(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its host has the same name as before, and its first process the same ID."""
    monkeypatch.setattr(heartbeat, "_BETWEEN_LOOKS_SECONDS", float("nan"))  # Waiting would raise an error.
    beat = {"host": socket.gethostname(), "process": os.getpid(), "started": time.time() - 9, "time": time.time() - 5}
    (job.folder / "heartbeat.json").write_text(json.dumps(beat))
    with job.at_work():
        last = job.last_beat()
        assert last is not None
        assert last["started"] > beat["started"]


def test_of_a_process_that_is_gone_the_last_beat_keeps_nobody_out(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a full disk keeps the new process from writing its own heartbeat."""
    old = {"host": "elsewhere", "process": 1, "started": 1.0, "time": 2.0}
    (job.folder / "heartbeat.json").write_text(json.dumps(old))
    monkeypatch.setattr(heartbeat, "LOOK_SECONDS", 0.0)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(heartbeat, "write_atomically", full)
    with job.heartbeat():
        assert job.last_beat() == old


def test_what_a_killed_process_had_begun_to_write_goes(job: Job) -> None:
    (job.folder / "checkpoints").mkdir()
    half = [job.folder / ".0a1b2c3d.partial.job.json", job.folder / "checkpoints" / ".0a1b2c3d.partial.iteration_5.pt"]
    for path in half:
        path.touch()
    with job.at_work():
        assert not any(path.exists() for path in half)


def test_an_error_ends_as_failed_and_is_told_and_logged(job: Job) -> None:
    with pytest.raises(ZeroDivisionError), job.at_work():
        _ = 1 / 0
    assert job.state() is State.FAILED
    error = job.last("error")
    assert error is not None
    assert error.data["message"] == "division by zero"
    assert "ZeroDivisionError" in (job.folder / "log.txt").read_text()


@pytest.mark.parametrize("data", [{"state": "dreaming"}, {}, {"state": None}])
def test_a_state_that_is_none_is_damage_and_the_one_before_holds(job: Job, data: dict[str, object]) -> None:
    job.emit_state(State.FINISHED)
    offset = job.events_path.stat().st_size
    job.emit("state", **data)
    assert job.state() is State.FINISHED
    (event,), _ = job.events(offset)
    assert event.kind == "warning"
    assert f"damaged at byte {offset}" in event.data["message"]


def test_a_stop_is_asked_for_and_withdrawn(job: Job) -> None:
    assert not job.stop_requested
    job.request_stop()
    assert Job(job.folder).stop_requested
    job.withdraw_stop()
    assert not job.stop_requested


def test_folders_that_are_no_jobs(tmp_path: Path, job: Job) -> None:
    with pytest.raises(InputError, match="is not a job folder"):
        Job(tmp_path)
    with pytest.raises(InputError, match="already exists"):
        Job.create(job.folder, "train", {})
    (job.folder / "job.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        Job(job.folder)
    (job.folder / "job.json").write_text('{"schema": 9, "kind": "train", "specification": {}}')
    with pytest.raises(InputError, match="another version"):
        Job(job.folder)


def test_a_file_is_no_job_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a job folder"):
        Job(tmp_path / "file")
    with pytest.raises(InputError, match="below can't be written to"):
        Job.create(tmp_path / "file" / "below", "train", {})


def test_what_the_system_refuses_is_told_in_one_sentence(job: Job) -> None:
    with pytest.raises(InputError), job.at_work():
        raise PermissionError(errno.EACCES, "Permission denied", "brain.nii.gz")
    error = job.last("error")
    assert error is not None
    assert error.data["message"].startswith("brain.nii.gz can't be used (Permission denied): check the path")
    assert "Traceback" not in (job.folder / "log.txt").read_text(encoding="utf-8")
    assert system_fault(FileNotFoundError(errno.ENOENT, "No such file", "ours")) is None
    assert system_fault(ValueError("ours")) is None


def test_an_error_in_what_is_written_names_what_was_meant(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught, write_atomically(tmp_path / "file.txt") as partial:
        (partial / "below").touch()
    assert caught.value.filename == str(tmp_path / "file.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_take_the_place_of_another_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if "partial" in path.name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError), write_atomically(tmp_path / "folder") as partial:
        partial.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "mine").exists()


def test_an_atomic_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="full"):
        _write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _write_half(path: Path) -> None:
    with write_atomically(path) as partial:
        partial.write_text("half")
        raise OSError("full")


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with write_atomically(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / text).touch()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
