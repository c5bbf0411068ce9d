"""Tests of following jobs with many events: in portions, with a responsive window, and up to the last event."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest
import slicer

from timers import every_turn


@pytest.fixture(autouse=True)
def module(load_module: Any) -> Any:
    return load_module("SIFATraining")


@pytest.fixture
def follower_module(module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The follower's module, with small portions; it polls at once while it is behind, and otherwise never."""
    from SIFASegmentationWidgets import follower  # noqa: PLC0415

    monkeypatch.setattr(follower, "POLL_MS", 3_600_000)
    monkeypatch.setattr(follower, "PORTION_BYTES", 2000)
    return follower


def long_job(folder: Path, count: int = 300, state: str = "finished") -> Any:
    """Make a job with many events of losses that has ended."""
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415

    job = Job.create(folder, "train", {})
    job.emit_state(State.RUNNING)
    for number in range(1, count + 1):
        job.emit("losses", iteration=number, losses={"segmentation": 1 / number})
    job.emit_state(State(state))
    return job


def ended_process() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process


class Listener:
    """Keeps the events it gets, and counts the turns that a timer gets in between."""

    def __init__(self) -> None:
        self.portions: list[list[Any]] = []
        self.ended: list[tuple[str, int]] = []
        self.turns: list[int] = []
        self._count = 0
        self._timer = every_turn(self._turn)

    def _turn(self) -> None:
        self._count += 1

    def events(self, events: list[Any]) -> None:
        self.portions.append(events)
        self.turns.append(self._count)

    def end(self, state: Any) -> None:
        self.ended.append((str(state), len(self.told)))

    @property
    def told(self) -> list[Any]:
        return [event for portion in self.portions for event in portion]


def test_many_events_come_in_portions_at_once_and_the_end_after_them(
    follower_module: Any, tmp_path: Path, process_events_until: Any
) -> None:
    job, listener = long_job(tmp_path / "job"), Listener()
    everything = job.events()[0]
    follower = follower_module.JobFollower(job, listener.events, listener.end, ended_process())
    follower.start()
    follower.poll()
    assert follower.behind
    assert str(follower.state) == "running"
    assert 0 < len(listener.told) < 30
    # At the last portion it does not know yet that the process has ended, which is only checked at the next poll.
    process_events_until(lambda: not follower.behind)
    follower.poll()
    assert listener.told == everything
    assert listener.ended == [("finished", len(everything))]
    assert len(listener.portions) > 10
    # The window had a turn between any two of them.
    assert all(before < after for before, after in zip(listener.turns, listener.turns[1:], strict=False))
    follower.poll()
    assert len(listener.ended) == 1


def test_waiting_tells_all_events_before_the_end(follower_module: Any, tmp_path: Path) -> None:
    job, listener = long_job(tmp_path / "job"), Listener()
    follower = follower_module.JobFollower(job, listener.events, listener.end, ended_process())
    follower.wait()
    assert listener.told == job.events()[0]
    assert listener.ended == [("finished", len(listener.told))]


def test_a_job_without_a_heartbeat_ends_after_its_events(
    follower_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "SILENCE_SECONDS", 0.1)
    job, listener = long_job(tmp_path / "job", state="running"), Listener()
    follower_module.JobFollower(job, listener.events, listener.end).wait()
    assert listener.told == job.events()[0]
    assert listener.ended == [("lost", len(listener.told))]


def test_a_beat_that_is_late_is_waited_for(
    follower_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, listener = long_job(tmp_path / "job", state="running"), Listener()
    follower = follower_module.JobFollower(job, listener.events, listener.end)
    # After the computer has slept, the last heartbeat is old, and the next one comes within two seconds.
    beat = {"host": socket.gethostname(), "process": os.getpid(), "started": 0.0, "time": 0.0}
    (job.folder / "heartbeat.json").write_text(json.dumps(beat))
    for _ in range(20):
        follower.poll()
    (job.folder / "heartbeat.json").write_text(json.dumps({**beat, "time": time.time()}))
    follower.poll()
    monkeypatch.setattr(follower_module, "SILENCE_SECONDS", 0.0)
    follower.poll()
    assert listener.ended == []
    (job.folder / "heartbeat.json").unlink()
    follower.wait()
    assert [state for state, _told in listener.ended] == ["lost"]


def test_a_disk_that_is_away_is_waited_for(
    follower_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "SILENCE_SECONDS", 0.0)
    (tmp_path / "share").mkdir()
    job, listener = long_job(tmp_path / "share" / "job", state="running"), Listener()
    follower = follower_module.JobFollower(job, listener.events, listener.end)
    (tmp_path / "share").rename(tmp_path / "away")
    for _ in range(5):
        follower.poll()
    assert listener.ended == []
    (tmp_path / "away").rename(tmp_path / "share")
    follower.wait()
    assert listener.told == job.events()[0]
    assert [state for state, _told in listener.ended] == ["lost"]


def test_a_job_that_another_window_took_up_is_followed_on(
    follower_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415

    monkeypatch.setattr(follower_module, "SILENCE_SECONDS", 0.0)
    job, listener = long_job(tmp_path / "job", state="running"), Listener()
    follower = follower_module.JobFollower(job, listener.events, listener.end, ended_process())
    with job.heartbeat():
        while not listener.told or follower.behind:
            follower.poll()
        follower.poll()
        assert listener.ended == []
        job.emit_state(State.FINISHED)
    follower.wait()
    assert [state for state, _told in listener.ended] == ["finished"]


def test_a_look_within_a_look_does_nothing(follower_module: Any, tmp_path: Path, process_events_until: Any) -> None:
    job, depth, told = long_job(tmp_path / "job"), [0, 0], []

    def let_events_in(events: list[Any]) -> None:
        depth[0] += 1
        depth[1] = max(depth)
        told.extend(events)
        for _ in range(3):
            slicer.app.processEvents()
            follower.poll()
        depth[0] -= 1

    follower = follower_module.JobFollower(job, let_events_in, lambda _state: None, ended_process())
    follower.start()
    follower.poll()
    process_events_until(lambda: not follower.behind)
    assert depth[1] == 1
    assert told == job.events()[0]


def test_who_stops_it_hears_no_more(follower_module: Any, tmp_path: Path) -> None:
    job, listener = long_job(tmp_path / "job", 2), Listener()

    def stop(events: list[Any]) -> None:
        listener.events(events)
        follower.stop()

    follower = follower_module.JobFollower(job, stop, listener.end, ended_process())
    follower.poll()
    follower.poll()
    assert len(listener.portions) == 1
    assert listener.ended == []


def test_that_it_has_caught_up_is_told_even_if_no_event_was_left(
    follower_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, listener = long_job(tmp_path / "job"), Listener()
    monkeypatch.setattr(follower_module, "PORTION_BYTES", job.events_path.stat().st_size)
    follower = follower_module.JobFollower(job, listener.events, listener.end, ended_process())
    follower.poll()
    assert follower.behind
    follower.poll()
    assert not follower.behind
    assert [len(portion) for portion in listener.portions] == [303, 0]


def test_a_long_training_is_read_in_portions_and_shown_as_it_is(
    follower_module: Any, module: Any, tmp_path: Path, process_events_until: Any
) -> None:
    job, ui = long_job(tmp_path / "long", 500), module.ui
    module.widget.training.open(job.folder)
    assert ui.statusLabel.text == "Reading its progress so far..."
    assert not ui.stopButton.enabled
    assert not ui.resumeButton.enabled
    assert ui.jobsComboBox.currentText == "long (finished)"
    assert ui.resumeButton.toolTip == "Its state is being read."
    process_events_until(lambda: ui.statusLabel.text == "finished")
    assert ui.resumeButton.toolTip == "It has finished."
    assert not ui.stopButton.enabled
    assert ui.stopButton.toolTip == "It is not running."
    table = module.widget.training._monitor.scene.GetFirstNodeByName("losses values").GetTable()
    assert [table.GetColumnName(index) for index in range(table.GetNumberOfColumns())] == ["iteration", "segmentation"]
    values = [tuple(table.GetValue(row, index).ToDouble() for index in (0, 1)) for row in range(500)]
    assert values == [(number, 1 / number) for number in range(1, 501)]


class Plain:
    """Reference implementation of `LossCurves`, one event at a time."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, dict[str, float]]] = []

    def add(self, event: dict[str, Any]) -> None:
        while self.rows and self.rows[-1][0] >= event["iteration"]:
            self.rows.pop()
        self.rows.append((event["iteration"], event["losses"]))

    def column(self, name: str) -> list[float]:
        return [losses.get(name, nan) for _iteration, losses in self.rows]


@pytest.mark.parametrize("seed", range(20))
def test_curves_of_trainings_cut_off_again_and_again_hold_each_iteration_once(module: Any, seed: int) -> None:
    from SIFATrainingWidgets.monitor import LossCurves  # noqa: PLC0415

    rng = random.Random(seed)
    names = ("one", "an_other", "third")
    curves, plain, iteration = LossCurves(names), Plain(), 0
    for _portion in range(rng.randint(1, 5)):
        events = []
        for _ in range(rng.randint(1, 8)):
            iteration = max(1, iteration - rng.randint(0, 12)) if rng.random() < 0.2 else iteration + rng.randint(1, 3)
            losses = {name: rng.random() for name in (*names[:2], "unknown") if rng.random() < 0.7}
            events.append({"iteration": iteration, "losses": losses})
        curves.add(events)
        for event in events:
            plain.add(event)
        columns = curves.columns()
        assert columns["iteration"].tolist() == [row[0] for row in plain.rows]
        assert "third" not in columns
        for name in set(columns) - {"iteration"}:
            assert same(columns[name].tolist(), plain.column(name.replace(" ", "_")))


def same(some: list[float], others: list[float]) -> bool:
    return all(a == b or (isnan(a) and isnan(b)) for a, b in zip(some, others, strict=True))
