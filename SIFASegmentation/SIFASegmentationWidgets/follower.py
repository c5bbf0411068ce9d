"""Follow a job through the files in its folder, from a timer in the event loop or from a waiting loop."""

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
PORTION_BYTES = 48 * 1024  # Bytes of events read at once, so few that handling them does not block the window.
STARTUP_SECONDS = 60.0  # A process that shows no sign of life within this time is taken for dead.
SILENCE_SECONDS = 3 * HEARTBEAT_SECONDS  # Longer than a heartbeat, since the last one is old when a computer wakes up.

Listener = Callable[[list[Event]], None]
Ended = Callable[[State], None]


class JobFollower:
    """Reports a job's events as they arrive, until the job ends.

    It makes no assumption about how the job runs: as a process of this window, of another one, or on another machine.
    It calls plain callables, since Python can't define Qt signals in Slicer.
    """

    def __init__(
        self, job: Job, on_events: Listener, on_end: Ended, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        """
        Args:
            job: The job to follow.
            on_events: Called with the events since the previous call, starting with the job's first event. While the
                follower is `behind`, it gets one portion at a time; the last portion may be empty.
            on_end: Called once, with the state in which the job ended.
            process: The job's process, if this window started it; whether it still runs is then known for certain.
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
        """Start following the job from the event loop."""
        self._timer.start()

    def stop(self) -> None:
        """Stop following the job, for good; the job itself continues."""
        self._ended = True
        self._timer.stop()
        # The timer keeps this object alive, which Python's garbage collector can't see, so drop what it refers to.
        self._on_events, self._on_end, self._process = ignore, ignore, None

    @property
    def state(self) -> State:
        """State of the job according to the events read so far."""
        return self._state

    @property
    def behind(self) -> bool:
        """Whether more events have been written than reported: those of a long job are reported in portions."""
        return self._behind

    def poll(self) -> None:
        """Check the job once, and report one portion of the new events."""
        # The listener may process events, including those of this timer.
        if self._ended or self._looking:
            return
        self._looking = True
        try:
            self._look()
        finally:
            self._looking = False

    def _look(self) -> None:
        # Checked before the events are read: a process that is gone by then has written its last one.
        try:
            gone = not self._behind and self._is_gone()
            start, was_behind = self._offset, self._behind
            events, self._offset = self.job.events(start, PORTION_BYTES)
        except OSError:
            # A network share may be unavailable for a while, so the next poll tries again, unless the process is known
            # to have ended.
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
            # It ended without reporting a final state; what it printed last, if anything, is in the log.
            self._state = self._state if self._state in ENDED else State.LOST
            self._end(self._state)

    def wait(self) -> None:
        """Poll until the job has ended, processing the window's events meanwhile."""
        while not self._ended:
            self.poll()
            slicer.app.processEvents()
            time.sleep(0 if self._behind else 0.02)

    def _is_gone(self) -> bool:
        """Whether no more events can be expected."""
        if self._process is not None:
            if self._process.poll() is None:
                return False
            if not self.job.is_alive():
                return True
            # Another window has resumed the job.
            self._process = None
        # While the job's disk is unavailable, it can't be known whether the job is alive.
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
    """Discard a call: the listener once nobody listens any more."""


def last_words(job: Job) -> str:
    """Return why a job failed, in one line: its error, or the last line that it printed."""
    error, told = job.last("error"), job.last("state")
    state = State(told.data["state"]) if told is not None else State.QUEUED
    if state in (State.PREPARING, State.RUNNING, State.EXPORTING):
        # It was cut off without reporting an error: any errors and output are from earlier runs.
        return _("the process was killed, or the computer ran out of memory")
    if error is not None:
        return str(error.data["message"])
    log = job.folder / LOG_FILE
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip() if lines else _("the process ended without an error message")
