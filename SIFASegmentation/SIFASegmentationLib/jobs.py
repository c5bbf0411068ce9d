"""The job folder: one protocol for the windows, the shell and a cluster.

A long computation is a folder; whoever sees the folder sees the job.

```
job.json        what to do: kind, schema version, specification
events.jsonl    appended only, one JSON object a line: {"time", "kind", "data"}
heartbeat.json  host, process, when it started, when it was last alive
log.txt         all that the process printed
reserve         room for the last words, should the disk be full by then; gone when nobody is at work
checkpoints/  previews/  result/
stop            its presence asks for: finish the iteration, save, end as `stopped`
```

Kinds of event: state, progress, losses, monitor, preview, warning, error, result; of a segmentation device and refused
as well (`segmentation_job`).
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError, system_fault, unwritable
from .files import is_disk_full, remove_remains, write_atomically

SCHEMA_VERSION = 1
LOG_FILE = "log.txt"
HEARTBEAT_SECONDS = 2.0
_SETTLING_SECONDS = 0.05  # From a look at who is at work to one's own sign of life, at most.
LOST_AFTER_SECONDS = 60.0
_REPLACING_SECONDS = 0.05
TAIL_BYTES = 64 * 1024  # Read at once from the end of the events.
RESERVE_BYTES = 64 * 1024  # Traceback, error and state, each in a block of the disk of its own.


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    EXPORTING = "exporting"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"
    """Never written: what a reader concludes when a running job's heartbeat has stopped."""


ENDED = frozenset({State.FINISHED, State.STOPPED, State.FAILED, State.LOST})


@dataclass(frozen=True)
class Event:
    """One line of the events file: Unix time in seconds, kind, and what the kind carries."""

    time: float
    kind: str
    data: dict[str, Any]


class Job:
    """A job folder, for the process that works in it and for those that watch.

    >>> job = Job.create(Path("runs/abdomen"), "train", {"iterations": 100})
    >>> job.emit("progress", iteration=1, iterations=100)
    """

    def __init__(self, folder: Path) -> None:
        """Open an existing job folder.

        Raises:
            InputError: The folder holds no readable job of this version.
        """
        self.folder = Path(folder)
        try:
            content = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
            version, self.kind, self.specification = content["schema"], content["kind"], content["specification"]
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{self.folder} is not a job folder (it has no job.json)", "give the folder that `sifa train` made"
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
    def create(cls, folder: Path, kind: str, specification: dict[str, Any]) -> Job:
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
            with write_atomically(folder / "job.json") as partial:
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
        return self.folder / "events.jsonl"

    def emit(self, kind: str, **data: Any) -> None:
        """Append one event. A line goes out in a single write, so that readers see whole lines or a cut last one."""
        line = json.dumps({"time": time.time(), "kind": kind, "data": data}, ensure_ascii=False, allow_nan=False)
        with self.events_path.open("ab") as file:
            # A line that a killed process left unfinished must not swallow this one.
            if file.tell() > 0 and not _ends_with_newline(self.events_path):
                file.write(b"\n")
            file.write(line.encode() + b"\n")

    def emit_state(self, state: State) -> None:
        """Append a change of state."""
        self.emit("state", state=str(state))

    def events(self, offset: int = 0, portion: int | None = None) -> tuple[list[Event], int]:
        """Events from byte `offset` on, and the offset to go on from.

        With a `portion`, those in so many bytes and the line that ends after them: if the offset moves by less, there
        are no more. A last line that is still being written is left for the next call. A damaged line in the middle is
        skipped and stands in the list as a warning that gives its position.
        """
        try:
            with self.events_path.open("rb") as file:
                file.seek(offset)
                content = file.read() if portion is None else file.read(portion) + file.readline()
        except FileNotFoundError:
            return [], offset
        events: list[Event] = []
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            events.append(_parse(line, offset))
            offset += len(line)
        return events, offset

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind.

        The file is read from its end, and no further than the event: of a long training it is large.
        """
        # What holds no such word need not be parsed; a damaged line, which is a warning, may hold anything.
        word = b"" if kind == "warning" else json.dumps(kind, ensure_ascii=False).encode()
        try:
            with self.events_path.open("rb") as file:
                events = (_parse(line, offset) for line, offset in _lines_from_the_end(file, word))
                return next((event for event in events if event.kind == kind), None)
        except FileNotFoundError:
            return None

    def state(self) -> State:
        """Where the job stands; `LOST` when it claims to be at work but its process gives no sign of life."""
        event = self.last("state")
        state = State(event.data["state"]) if event else State.QUEUED
        if state in (State.PREPARING, State.RUNNING, State.EXPORTING) and not self.is_alive():
            return State.LOST
        return state

    def is_alive(self) -> bool:
        """Whether a process works on this job now, on this machine or on another that shares the disk.

        The clocks of both have to agree to a fraction of `LOST_AFTER_SECONDS`.
        """
        beat = self.last_beat()
        if beat is None or time.time() - beat["time"] > LOST_AFTER_SECONDS:
            return False
        return beat["host"] != socket.gethostname() or process_exists(beat["process"])

    def last_beat(self) -> dict[str, Any] | None:
        """The last sign of life, with keys host, process, started, time; None if no process is at work."""
        path = self.folder / "heartbeat.json"
        try:
            try:
                text = path.read_text(encoding="utf-8")
            except PermissionError:
                # On Windows nothing can be read in the moment in which it is replaced.
                time.sleep(_REPLACING_SECONDS)
                text = path.read_text(encoding="utf-8")
            beat = json.loads(text)
            return {
                "host": str(beat["host"]),
                "process": int(beat["process"]),
                "started": float(beat["started"]),
                "time": float(beat["time"]),
            }
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None

    def log(self, text: str) -> None:
        """Append to log.txt, with the local time before it."""
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text.rstrip()}\n")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Work on the job in the block: alive to all who watch, and `failed` with its error if the block raises.

        The error goes on to the caller. An `InputError` says what to do by itself; any other leaves its traceback in
        the log. A full disk is an `InputError` too, and told even if nothing fits it any more.

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
        """If the block raises, the job is `failed`; see `at_work`. For a process that helps the one at work on it."""
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
        """Of a process that was killed: some bytes of a checkpoint are a hundred megabytes."""
        for folder in (self.folder, *(path for path in self.folder.iterdir() if path.is_dir())):
            remove_remains(folder)

    def _reserve(self) -> None:
        """Take the room that the last words need."""
        (self.folder / "reserve").write_bytes(bytes(RESERVE_BYTES))

    def _free_reserve(self) -> None:
        # Where the folder may not be written to any more, there is something else to tell.
        with suppress(OSError):
            (self.folder / "reserve").unlink(missing_ok=True)

    def _disk_full_error(self) -> InputError:
        return InputError(f"The disk of {self.folder} is full", "free space on it, then try again")

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Show that this process is alive, from a thread of its own, while the block runs.

        Raises:
            InputError: Another process is at work on the job.
        """
        if self.is_alive():
            raise self._taken()
        before = self.last_beat()
        started, done = time.time(), threading.Event()

        def beat() -> None:
            content = {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "started": started,
                "time": time.time(),
            }
            try:
                with write_atomically(self.folder / "heartbeat.json") as partial:
                    partial.write_text(json.dumps(content), encoding="utf-8")
            except OSError as error:
                # A full disk must not end the work: the next beat may fit again. What is printed may go there too.
                with suppress(OSError):
                    print(f"heartbeat not written: {error}", flush=True)

        def keep_beating() -> None:
            while not done.wait(HEARTBEAT_SECONDS):
                beat()

        beat()
        # Both of two that start at once have seen nobody: of these the one goes on that wrote last.
        time.sleep(_SETTLING_SECONDS)
        last = self.last_beat()
        own = last is not None and (last["host"], last["process"]) == (socket.gethostname(), os.getpid())
        # One of before is still there where a full disk keeps this one's out.
        if last is not None and last != before and not own:
            raise self._taken()
        thread = threading.Thread(target=keep_beating, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            # On Windows not while somebody reads it; it is old soon.
            with suppress(OSError):
                (self.folder / "heartbeat.json").unlink()

    def _taken(self) -> InputError:
        return InputError(f"Another process is at work on {self.folder}", "wait for it, or stop it with `sifa stop`")

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked the job to end after the iteration at hand."""
        return (self.folder / "stop").exists()

    def request_stop(self) -> None:
        """Ask the job to finish its iteration, save, and end as `stopped`."""
        (self.folder / "stop").touch()

    def withdraw_stop(self) -> None:
        """Take the request back, as a resumed job does first."""
        (self.folder / "stop").unlink(missing_ok=True)


def _parse(line: bytes, offset: int) -> Event:
    try:
        content = json.loads(line)
        moment, kind, data = float(content["time"]), str(content["kind"]), dict(content["data"])
        if kind == "state":
            data["state"] = State(data["state"])
    except (ValueError, KeyError, TypeError):
        return Event(0.0, "warning", {"message": f"the events file is damaged at byte {offset}; the line is skipped"})
    return Event(moment, kind, data)


def _lines_from_the_end(file: BinaryIO, word: bytes) -> Iterator[tuple[bytes, int]]:
    """The lines of a file that have a word in them, and their offsets, the last one first.

    A last line that is still being written is left out.
    """
    start, unread, whole = file.seek(0, os.SEEK_END), b"", False
    while start > 0:
        size = min(TAIL_BYTES, start)
        start -= size
        file.seek(start)
        content = file.read(size) + unread
        if not whole:
            content = content[: content.rfind(b"\n") + 1]
            whole = bool(content)
        # The first line begins further up, unless this is the begin of the file.
        complete = content.find(b"\n") + 1 if start > 0 else 0
        unread, offset = content[:complete], start + len(content)
        if word not in content:
            continue
        for line in reversed(content[complete:].splitlines(keepends=True)):
            offset -= len(line)
            if word in line:
                yield line, offset


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def process_exists(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    if sys.platform == "win32":
        synchronize, still_running = 0x00100000, 0x00000102
        access_denied = 5  # Of another user's: it is there.
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = kernel.OpenProcess(synchronize, False, process)
        if not handle:
            return ctypes.get_last_error() == access_denied
        try:
            return bool(kernel.WaitForSingleObject(handle, 0) == still_running)
        finally:
            kernel.CloseHandle(handle)
    if hasattr(os, "waitid"):
        try:
            # A child that has ended exists until somebody asks for its exit code; nobody may, after a reload.
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return False
        except ChildProcessError:
            pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
