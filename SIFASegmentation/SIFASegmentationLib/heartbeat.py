"""Heartbeat of the process that works on a folder, by which others see who works on it and whether it still does.

`heartbeat.json` holds the host, the process, when it started, and when it was last alive. It is rewritten every few
seconds and removed when the work ends.
"""

from __future__ import annotations

import ctypes
import json
import logging
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

_LOGGER = logging.getLogger(__name__)

HEARTBEAT_FILE = "heartbeat.json"
HEARTBEAT_SECONDS = 2.0
LOST_AFTER_SECONDS = 60.0
LOOK_SECONDS = 5 * HEARTBEAT_SECONDS  # If a heartbeat has not changed after this time, its process is considered gone.
_BETWEEN_LOOKS_SECONDS = 0.2
_SETTLING_SECONDS = 0.05  # A process that finds a folder free writes its own heartbeat within this time.
_REPLACING_SECONDS = 0.05

_started_here: set[float] = set()  # Start times of this process's own heartbeats.


@contextmanager
def heartbeat(folder: Path) -> Iterator[None]:
    """Show by a thread that this process works on a folder while the block runs.

    If there is the heartbeat of another process, wait up to `LOOK_SECONDS` to see whether it changes, with a warning in
    Python's log.

    Raises:
        InputError: Another process is at work on the folder.
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
            # A full disk must not end the work: the next beat may fit again.
            _LOGGER.warning("heartbeat not written: %s", error)

    def keep_beating() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            beat()

    beat()
    # Two processes that start at the same time have both found the folder free: the one that wrote last goes on.
    time.sleep(_SETTLING_SECONDS)
    last = last_beat(folder)
    own = last is not None and _is_of_this_process(last) and last["started"] == started
    # An old heartbeat can still be there if a full disk keeps this process from writing its own.
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
        # Windows refuses this while somebody reads the file; the heartbeat that stays then soon counts as old.
        with suppress(OSError):
            (folder / HEARTBEAT_FILE).unlink()


def is_alive(folder: Path) -> bool:
    """Whether a process works on the folder now, on this machine or on another that shares the disk; does not wait.

    The two machines' clocks must agree to within a fraction of `LOST_AFTER_SECONDS`.
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
            # On Windows a file can't be read at the moment when it is replaced.
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

    Only a heartbeat that changes is proof: the clocks of two machines may differ, and the process of a recent heartbeat
    may have been killed.
    """
    beat = last_beat(folder)
    if beat is None or _is_gone(beat):
        return False
    if _is_of_this_process(beat):
        # A process before a restart can have had the same number, as the first process of a container always does.
        return beat["started"] in _started_here
    _LOGGER.warning(
        "%s has a sign of life of process %s on %s; waiting up to %.0f s to see whether it is still at work",
        folder,
        beat["process"],
        beat["host"],
        LOOK_SECONDS,
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
    """Whether a heartbeat is that of a process on this machine that has ended."""
    return beat["host"] == socket.gethostname() and not process_exists(beat["process"])


def _taken(folder: Path) -> InputError:
    return InputError(f"Another process is at work on {folder}", "wait for it, or stop it with `sifa stop`")


def process_exists(process: int) -> bool:
    """Whether a process with this ID runs on this machine."""
    if sys.platform == "win32":
        synchronize, still_running = 0x00100000, 0x00000102
        access_denied = 5  # The process exists, but belongs to another user.
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
            # A child that has ended remains until somebody asks for its exit code; after a reload, nobody may do so.
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
