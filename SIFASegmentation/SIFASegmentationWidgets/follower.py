"""Following a job by its folder, from a timer of the window or from a loop without one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.jobs import ENDED, HEARTBEAT_SECONDS, LOG_FILE, Event, Job, State

POLL_MS = 250
PORTION_BYTES = 48 * 1024  # Of events, read at once: what comes of them must not hold up the window.
STARTUP_SECONDS = 60.0  # A child that shows no sign of life in this time will not.
SILENCE_SECONDS = 3 * HEARTBEAT_SECONDS  # After a computer's sleep the next beat is late, and the last one old.

Listener = Callable[[list[Event]], None]
Ended = Callable[[State], None]


class JobFollower:
    """Tells of a job's events as they come, until it ends.

    It knows nothing of how the job runs: by a process of this window, of another, or on another machine. Plain
    callables take the place of Qt signals, which Python can't make in Slicer.
    """

    def __init__(
        self, job: Job, on_events: Listener, on_end: Ended, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        """
        Args:
            job: To follow.
            on_events: Called with events that have come since the last time, from the first one on; while it is
                `behind`, with a portion at a time, and with none if that was the end of them.
            on_end: Called once, with the state in which the job ended.
            process: The job's process, if this window started it; what it does is then known for sure.
        """
        self.job = job
        self._on_events, self._on_end, self._process = on_events, on_end, process
        self._offset, self._state, self._ended = 0, State.QUEUED, False
        self._started = time.monotonic()
        self._silent_since: float | None = None
        self._behind = self._looking = False
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.poll)

    def start(self) -> None:
        """Follow from now on, by the event loop."""
        self._timer.start()

    def stop(self) -> None:
        """Follow no longer, for good; the job goes on."""
        self._ended = True
        self._timer.stop()
        # The timer holds this object, which Python's garbage collector can't see; it must not hold others.
        self._on_events, self._on_end, self._process = ignore, ignore, None

    @property
    def state(self) -> State:
        """Where the job stands, as far as it was looked at: without reading all of its events again."""
        return self._state

    @property
    def behind(self) -> bool:
        """Whether more events are there than were told: of a long job, they are told in portions."""
        return self._behind

    def poll(self) -> None:
        """Look once, and tell of a portion of what is new."""
        # Who is told may let events in, and with them this timer's.
        if self._ended or self._looking:
            return
        self._looking = True
        try:
            self._look()
        finally:
            self._looking = False

    def _look(self) -> None:
        # Before the events are read: a process that is gone by then has written its last one.
        try:
            gone = not self._behind and self._is_gone()
            start, was_behind = self._offset, self._behind
            events, self._offset = self.job.events(start, PORTION_BYTES)
        except OSError:
            # A share on the network that is away for a while: the next look may find it again. Nobody waits for ever
            # for a process that has ended.
            if self._process is not None and self._process.poll() is not None:
                self._state = self._state if self._state in ENDED else State.LOST
                self._end(self._state)
            return
        self._behind = self._offset - start >= PORTION_BYTES
        self._timer.setInterval(0 if self._behind else POLL_MS)
        for event in events:
            if event.kind == "state":
                self._state = State(event.data["state"])
        if events or was_behind:
            self._on_events(events)
        if gone and not self._behind and not self._ended:
            # It went without a word; its last words, if any, are in the log.
            self._state = self._state if self._state in ENDED else State.LOST
            self._end(self._state)

    def wait(self) -> None:
        """Look until the job has ended, letting the window live meanwhile."""
        while not self._ended:
            self.poll()
            slicer.app.processEvents()
            time.sleep(0 if self._behind else 0.02)

    def _is_gone(self) -> bool:
        """Whether nothing more will come."""
        if self._process is not None:
            if self._process.poll() is None:
                return False
            if not self.job.is_alive():
                return True
            # Another window has taken the job up.
            self._process = None
        # Nor is it known while the disk that it is on is away.
        if self.job.is_alive() or not self.job.folder.parent.exists():
            self._silent_since = None
            return False
        if self._state in ENDED:
            return True
        now = time.monotonic()
        if self._state is State.QUEUED:
            return now - self._started > STARTUP_SECONDS
        if self._silent_since is None:
            self._silent_since = now
        return now - self._silent_since > SILENCE_SECONDS

    def _end(self, state: State) -> None:
        on_end = self._on_end
        self.stop()
        on_end(state)


def ignore(_news: Any) -> None:
    """Nobody listens any more."""


def last_words(job: Job) -> str:
    """Why a job failed, in one line: its error, or the last line that it printed."""
    error, told = job.last("error"), job.last("state")
    state = State(told.data["state"]) if told is not None else State.QUEUED
    if state in (State.PREPARING, State.RUNNING, State.EXPORTING):
        # It went without a word: errors, and what else it said, are of before.
        return _("the process was killed, or the computer ran out of memory")
    if error is not None:
        return str(error.data["message"])
    log = job.folder / LOG_FILE
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip() if lines else _("the process ended without an error message")
