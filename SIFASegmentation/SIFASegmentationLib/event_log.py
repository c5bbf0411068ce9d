"""The events of a job: an append-only file with one JSON object per line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

TAIL_BYTES = 64 * 1024  # Read at a time when events are read backwards.


class State(StrEnum):
    """State of a job."""

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
    """One line of the events file: Unix time in seconds, kind, and data that depend on the kind."""

    time: float
    kind: str
    data: dict[str, Any]


def append_event(path: Path, kind: str, data: dict[str, Any]) -> None:
    """Append one event; see `Job.emit`.

    Raises:
        ValueError: `data` contains a float that is not finite.
    """
    line = json.dumps({"time": time.time(), "kind": kind, "data": data}, ensure_ascii=False, allow_nan=False)
    with path.open("ab") as file:
        # This line must not become part of one that a killed process left unfinished.
        if file.tell() > 0 and not _ends_with_newline(path):
            file.write(b"\n")
        file.write(line.encode() + b"\n")


def read_events(path: Path, offset: int = 0, portion: int | None = None) -> tuple[list[Event], int]:
    """Read events from byte `offset` on; see `Job.events`."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read() if portion is None else file.read(portion) + file.readline()
    except FileNotFoundError:
        return [], offset
    events: list[Event] = []
    for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
        events.append(_parse(line, offset))
        offset += len(line)
    return events, offset


def last_event(path: Path, kind: str) -> Event | None:
    """The newest event of a kind; see `Job.last`."""
    # Only lines that contain the kind need parsing. Warnings are an exception, since damaged lines count as such.
    word = b"" if kind == "warning" else json.dumps(kind, ensure_ascii=False).encode()
    try:
        with path.open("rb") as file:
            events = (_parse(line, offset) for line, offset in _lines_from_the_end(file, word))
            return next((event for event in events if event.kind == kind), None)
    except FileNotFoundError:
        return None


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
    """Yield the lines of a file that contain a word, with their offsets, the last line first.

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
        # The first line read so far begins further up, unless the start of the file has been reached.
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
