"""Signs of life in a folder: who works on it, and whether they still do.

`heartbeat.json` holds host, process, when it started, and when it was last alive; it is renewed every few seconds and
gone when nobody is at work.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import write_atomically

HEARTBEAT_FILE = "heartbeat.json"
HEARTBEAT_SECONDS = 2.0
LOST_AFTER_SECONDS = 60.0
LOOK_SECONDS = 5 * HEARTBEAT_SECONDS  # Until a beat that does not change is taken for that of a process that is gone.
_BETWEEN_LOOKS_SECONDS = 0.2
_SETTLING_SECONDS = 0.05  # From a look at who is at work to one's own sign of life, at most.
_REPLACING_SECONDS = 0.05

_started_here: set[float] = set()  # When each heartbeat of this process started.


@contextmanager
def heartbeat(folder: Path) -> Iterator[None]:
    """Show that this process works on a folder, from a thread of its own, while the block runs.

    Where another process gave a sign of life, it is waited for up to `LOOK_SECONDS` for another one; stderr tells so.

    Raises:
        InputError: Another process is at work on it.
    """
    if _is_taken(folder):
        raise _taken(folder)
    before = last_beat(folder)
    started, done = time.time(), threading.Event()

    def beat() -> None:
        content = {**_this_process(), "started": started, "time": time.time()}
        try:
            with write_atomically(folder / HEARTBEAT_FILE) as partial:
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
    last = last_beat(folder)
    own = last is not None and _is_of_this_process(last) and last["started"] == started
    # One of before is still there where a full disk keeps this one's out.
    if last is not None and last != before and not own:
        raise _taken(folder)
    thread = threading.Thread(target=keep_beating, name="heartbeat", daemon=True)
    thread.start()
    _started_here.add(started)
    try:
        yield
    finally:
        done.set()
        thread.join()
        _started_here.remove(started)
        # On Windows not while somebody reads it; it is old soon.
        with suppress(OSError):
            (folder / HEARTBEAT_FILE).unlink()


def is_alive(folder: Path) -> bool:
    """Whether a process works on the folder now, on this machine or on another that shares the disk; answers at once.

    The clocks of both have to agree to a fraction of `LOST_AFTER_SECONDS`.
    """
    beat = last_beat(folder)
    if beat is None or time.time() - beat["time"] > LOST_AFTER_SECONDS:
        return False
    return not _is_gone(beat)


def last_beat(folder: Path) -> dict[str, Any] | None:
    """The last sign of life, with keys host, process, started, time; None if no process is at work."""
    path = folder / HEARTBEAT_FILE
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


def _is_taken(folder: Path) -> bool:
    """Whether somebody is at work on the folder; takes up to `LOOK_SECONDS`.

    A beat says so only if it changes: clocks of two machines may differ, and the process of a young beat may have been
    killed.
    """
    beat = last_beat(folder)
    if beat is None or _is_gone(beat):
        return False
    if _is_of_this_process(beat):
        # Before a restart another one can have had its number, as the first process of a container always has.
        return beat["started"] in _started_here
    print(
        f"{folder} has a sign of life of process {beat['process']} on {beat['host']}; waiting up to "
        f"{LOOK_SECONDS:.0f} s to see whether it is still at work",
        file=sys.stderr,
        flush=True,
    )
    end = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < end:
        time.sleep(_BETWEEN_LOOKS_SECONDS)
        if last_beat(folder) not in (None, beat):
            return True
        if not (folder / HEARTBEAT_FILE).exists():
            return False
    return False


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _is_of_this_process(beat: dict[str, Any]) -> bool:
    return _this_process().items() <= beat.items()


def _is_gone(beat: dict[str, Any]) -> bool:
    """Whether a beat is that of a process of this machine which has ended."""
    return beat["host"] == socket.gethostname() and not process_exists(beat["process"])


def _taken(folder: Path) -> InputError:
    return InputError(f"Another process is at work on {folder}", "wait for it, or stop it with `sifa stop`")


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
