"""The events of a job: a file that is appended only, one JSON object a line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

TAIL_BYTES = 64 * 1024  # Read at once from the end of the events.


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


def append_event(path: Path, kind: str, data: dict[str, Any]) -> None:
    """Append one event. A line goes out in a single write, so that readers see whole lines or a cut last one."""
    line = json.dumps({"time": time.time(), "kind": kind, "data": data}, ensure_ascii=False, allow_nan=False)
    with path.open("ab") as file:
        # A line that a killed process left unfinished must not swallow this one.
        if file.tell() > 0 and not _ends_with_newline(path):
            file.write(b"\n")
        file.write(line.encode() + b"\n")


def read_events(path: Path, offset: int = 0, portion: int | None = None) -> tuple[list[Event], int]:
    """Events from byte `offset` on, and the offset to go on from; see `Job.events`."""
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
    """The newest event of a kind.

    The file is read from its end, and no further than the event: of a long training it is large.
    """
    # What holds no such word need not be parsed; a damaged line, which is a warning, may hold anything.
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
