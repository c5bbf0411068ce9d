"""The job folder: one protocol for the windows, the shell and a cluster.

Every long computation has a folder; whoever can read the folder can follow the job.

```
job.json        what to do: kind, schema version, specification
events.jsonl    append-only, one JSON object per line: {"time", "kind", "data"}
heartbeat.json  host, process, when it started, when it was last alive
log.txt         everything that the process printed
reserve         disk space held for the final messages, in case the disk fills up; absent while nobody works on the job
checkpoints/  previews/  result/
stop            its presence asks the process to finish the iteration, save, and end as `stopped`
```

Kinds of event are state, progress, losses, monitor, preview, warning, error and result; a segmentation also has device
and refused (`segmentation_job`).
"""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError, system_fault, unwritable
from .event_log import ENDED, Event, State, append_event, last_event, read_events
from .files import is_disk_full, remove_remains, write_atomically
from .heartbeat import HEARTBEAT_SECONDS, heartbeat, is_alive, last_beat, process_exists

__all__ = ["BUNDLE_FOLDER", "CHECKPOINTS_FOLDER", "ENDED", "HEARTBEAT_SECONDS", "LOG_FILE", "PREVIEWS_FOLDER", "Event",
           "Job", "State", "is_job", "process_exists"]  # fmt: skip

SCHEMA_VERSION = 1
_JOB_FILE, _EVENTS_FILE, _RESERVE_FILE, _STOP_FILE = "job.json", "events.jsonl", "reserve", "stop"
LOG_FILE = "log.txt"
CHECKPOINTS_FOLDER, PREVIEWS_FOLDER = "checkpoints", "previews"
BUNDLE_FOLDER = "result/bundle"
"""Where a training job puts its bundle."""

RESERVE_BYTES = 64 * 1024  # Enough for traceback, error and state, even if each takes a disk block of its own.


def is_job(folder: Path) -> bool:
    """Whether a folder is a job folder, even an unreadable one."""
    return (folder / _JOB_FILE).exists()


class Job:
    """A job folder, for the process that works on it and for those that follow it.

    >>> job = Job.create(Path("runs/abdomen"), "train", {"iterations": 100})
    >>> job.emit("progress", iteration=1, iterations=100)
    """

    def __init__(self, folder: str | Path) -> None:
        """Open an existing job folder.

        Raises:
            InputError: The folder holds no readable job of this version.
        """
        self.folder = Path(folder)
        try:
            content = json.loads((self.folder / _JOB_FILE).read_text(encoding="utf-8"))
            version, self.kind, self.specification = content["schema"], content["kind"], content["specification"]
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{self.folder} is not a job folder (it has no {_JOB_FILE})", "give the folder that `sifa train` made"
            ) from None
        except OSError as error:
            raise InputError(
                f"{self.folder} can't be read ({error.strerror})", "check the folder's permissions and its disk"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{self.folder / 'job.json'} is damaged ({error})", "start the job anew") from None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{self.folder} was written by another version of SIFA (schema {version}, here {SCHEMA_VERSION})",
                "use that one",
            )

    @classmethod
    def create(cls, folder: str | Path, kind: str, specification: dict[str, Any]) -> Job:
        """Make the folder and its job.json.

        Raises:
            InputError: The folder already holds something, or can't be written to; nothing is left behind.
        """
        folder = Path(folder)
        try:
            taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        except OSError as error:
            raise unwritable(folder, error) from error
        if taken:
            raise InputError(
                f"{folder} already exists and is not empty", "choose another folder for the job, or delete it"
            )
        content = {"schema": SCHEMA_VERSION, "kind": kind, "specification": specification}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with write_atomically(folder / _JOB_FILE) as partial:
                partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            job = cls(folder)
            job._reserve()
            job.emit_state(State.QUEUED)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise unwritable(folder, error) from error
        return job

    @property
    def events_path(self) -> Path:
        """The events file."""
        return self.folder / _EVENTS_FILE

    def emit(self, kind: str, **data: Any) -> None:
        """Append one event.

        The line is written at once, so that readers see whole lines, or at most a cut last one.
        """
        append_event(self.events_path, kind, data)

    def emit_state(self, state: State) -> None:
        """Append a change of state."""
        self.emit("state", state=str(state))

    def events(self, offset: int = 0, portion: int | None = None) -> tuple[list[Event], int]:
        """Read events from byte `offset` on.

        Args:
            offset: Where to start, 0 or what an earlier call returned.
            portion: Read only this many bytes, and on to the end of the line; None for everything.

        Returns:
            The events, and the offset to continue from. With a `portion`, an offset that moved by less means that there
            are no more events. A last line that is still being written is left for the next call; a damaged line is
            replaced by a warning that gives its position.
        """
        return read_events(self.events_path, offset, portion)

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind; None if there is none.

        The file, which a long training makes large, is read backwards from its end and only as far as needed.
        """
        return last_event(self.events_path, kind)

    def state(self) -> State:
        """State of the job; `LOST` if it claims to be at work but its process gives no sign of life."""
        event = self.last("state")
        state = State(event.data["state"]) if event else State.QUEUED
        if state in (State.PREPARING, State.RUNNING, State.EXPORTING) and not self.is_alive():
            return State.LOST
        return state

    def is_alive(self) -> bool:
        """Whether a process works on this job now, on this machine or on another that shares the disk.

        The two machines' clocks must agree to within a fraction of `LOST_AFTER_SECONDS`.
        """
        return is_alive(self.folder)

    def last_beat(self) -> dict[str, Any] | None:
        """The last sign of life, with keys host, process, started, time; None if no process is at work."""
        return last_beat(self.folder)

    def log(self, text: str) -> None:
        """Append text to log.txt, preceded by the local time."""
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text.rstrip()}\n")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Mark the job as being worked on while the block runs, and as `failed` if the block raises.

        The error is raised again. The log gets the message of an `InputError`, which says what to do, and the traceback
        of any other error. A full disk is an `InputError` too, and is reported even though nothing more fits on it.

        Raises:
            InputError: Another process is at work on the job, or its disk is full.
        """
        with self.heartbeat():
            try:
                with suppress(OSError):
                    self._reserve()
                    self._remove_remains()
                with self.failing_with_it():
                    yield
            finally:
                self._free_reserve()

    @contextmanager
    def failing_with_it(self) -> Iterator[None]:
        """Mark the job as `failed` if the block raises, as in `at_work`.

        Used alone by a process that helps the one at work on the job.
        """
        try:
            yield
        except BaseException as error:
            self._free_reserve()
            told = self._disk_full_error() if is_disk_full(error) else system_fault(error) or error
            message = str(told) or type(told).__name__
            with suppress(OSError):
                self.log(message if isinstance(told, InputError) else traceback.format_exc())
                self.emit("error", message=message)
                self.emit_state(State.FAILED)
            if told is not error:
                raise told from error
            raise

    def _remove_remains(self) -> None:
        """Remove partial files that a killed process left; that of a checkpoint can be a hundred megabytes."""
        for folder in (self.folder, *(path for path in self.folder.iterdir() if path.is_dir())):
            remove_remains(folder)

    def _reserve(self) -> None:
        """Reserve disk space for the final messages."""
        (self.folder / _RESERVE_FILE).write_bytes(bytes(RESERVE_BYTES))

    def _free_reserve(self) -> None:
        # If the folder is no longer writable, the error being handled matters more.
        with suppress(OSError):
            (self.folder / _RESERVE_FILE).unlink(missing_ok=True)

    def _disk_full_error(self) -> InputError:
        return InputError(f"The disk of {self.folder} is full", "free space on it, then try again")

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Show by a thread that this process is alive while the block runs.

        Raises:
            InputError: Another process is at work on the job.
        """
        with heartbeat(self.folder):
            yield

    @property
    def stop_requested(self) -> bool:
        """Whether the job was asked to end after the current iteration or volume."""
        return (self.folder / _STOP_FILE).exists()

    def request_stop(self) -> None:
        """Ask the job to finish the iteration or volume at hand, save, and end as `stopped`."""
        (self.folder / _STOP_FILE).touch()

    def withdraw_stop(self) -> None:
        """Withdraw the request to stop, as a resumed job does first."""
        (self.folder / _STOP_FILE).unlink(missing_ok=True)
