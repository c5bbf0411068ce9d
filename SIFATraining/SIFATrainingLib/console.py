"""Progress on stdout: one line that is updated in place on a terminal, or a line now and then in a file."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import ENDED, Job, State

_SECONDS_BETWEEN_LINES = 15.0
_RENEWS = "\r\x1b[K"  # Return to the start of the line and clear it.
# Between these, a terminal cuts off text beyond its width: if it wrapped, only its last line would be updated in place.
_CUT, _WRAP = "\x1b[?7l", "\x1b[?7h"
_SHOWN_LOSSES = ("segmentation", "cycle_source", "cycle_target", "adversarial_target", "adversarial_source",
                 "self_training")  # fmt: skip


class ProgressLine:
    """Progress of a long operation, on stdout.

    Attributes:
        is_read: Whether anyone still reads stdout.
    """

    def __init__(self) -> None:
        self._renews = sys.stdout.isatty()
        self._losses = ""
        self._title = ""
        self._unseen = ""
        self._printed = -_SECONDS_BETWEEN_LINES
        self.is_read = True

    def show(self, text: str, *, last: bool = False) -> None:
        """Show `text` in place of the previous text; `last` ends the line, so that it stays."""
        if self._renews:
            # Written in one piece, so that `_Copied` can recognise it.
            self._tell(_RENEWS + (f"{text}\n" if last else _CUT + text + _WRAP))
        elif last or time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            # At the end, also show the latest progress that was held back.
            self._tell("\n".join(filter(None, (self._unseen if last else "", text))) + "\n")
            self._printed, self._unseen = time.monotonic(), ""
        else:
            self._unseen = text

    def _tell(self, text: str) -> None:
        self.is_read = _tell(text) and self.is_read

    def event_of(self, title: str, kind: str, data: dict[str, Any]) -> None:
        """Show an event of one of several trainings, whose title is printed above its lines."""
        if title != self._title:
            self._title = title
            self._tell(f"\n{title}\n")
        if kind == "scored":
            self.show(f"mean Dice {100 * data['dice']:.1f} %, mean ASD {data['asd']:.1f} mm", last=True)
        else:
            self.event(kind, data)

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Show an event of a job."""
        if kind == "losses":
            shown = {name: data["losses"][name] for name in _SHOWN_LOSSES if name in data["losses"]}
            self._losses = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in shown.items())
        elif kind == "progress" and data.get("stage") in ("preparing", "exporting"):
            self.show(data["message"], last=data["done"] + 1 == data["total"])
        elif kind == "progress":
            done, total = data["iteration"], data["iterations"]
            stage = "without adaptation: " if data.get("stage") == "baseline" else ""
            text = (
                f"{stage}iteration {done:,} of {total:,}  {data['seconds_per_iteration']:.2f} s each, "
                f"{duration(data['eta_seconds'])} left  {self._losses}"
            )
            self.show(text.rstrip(), last=done == total)
        elif kind == "monitor" and data["dice"]:
            dice = "  ".join(f"{name} {value:.3f}" for name, value in data["dice"].items())
            self.show(f"Dice of the monitor volumes at iteration {data['iteration']:,}: {dice}", last=True)
        elif kind in ("warning", "error"):
            self.show(f"{kind}: {data['message']}", last=True)
        elif kind == "state":
            self.show(str(data["state"]), last=True)


def _tell(text: str) -> bool:
    """Print text, but don't fail if the reader has gone (`| head`, a closed terminal): that must not end the work.

    Returns:
        Whether anyone still reads.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        # From here on, output is discarded, so that later prints don't raise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return False
    return True


def show_events(job: Job) -> None:
    """Print a training job's events as they come, until it has ended or nobody reads them any more.

    Raises:
        InputError: The job is not a training, has failed, or its process has died without reporting it.
    """
    from .specification import TrainingSpecification  # noqa: PLC0415  takes its time

    TrainingSpecification.of(job)
    line, offset = ProgressLine(), 0
    while True:
        events, offset = job.events(offset)
        for event in events:
            line.event(event.kind, event.data)
        if not line.is_read:
            return
        state = job.state()
        if state in ENDED:
            if state is State.LOST:
                raise InputError(f"The process of {job.folder} is gone", "look at its log.txt, then `sifa resume` it")
            if state is State.FAILED:
                raise InputError(f"{job.folder} has failed", "look at its log.txt")
            return
        time.sleep(1.0)


@contextmanager
def output_copied_to(path: Path) -> Iterator[None]:
    """Within the block, also append to a file what this process prints.

    Of a line that is updated in place, the file gets its state now and then.
    """
    if _goes_to(path):
        yield
        return
    with (
        path.open("a", encoding="utf-8", buffering=1) as file,
        # Copies the output of Python only; what C libraries print bypasses these streams.
        redirect_stdout(_Copied(sys.stdout, file)),
        redirect_stderr(_Copied(sys.stderr, file)),
    ):
        yield


def _goes_to(path: Path) -> bool:
    """Whether this process already prints to the file, as when Slicer started it."""
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), path.stat())
    except (OSError, ValueError):
        # Stdout has no file descriptor.
        return False


class _Copied:
    """A stream whose text is both shown and kept in a file."""

    def __init__(self, shown: TextIO, file: TextIO) -> None:
        self._shown, self._file = shown, file
        self._kept = -_SECONDS_BETWEEN_LINES

    def write(self, text: str) -> int:
        # A full disk must not end the work.
        with suppress(OSError):
            self._keep(text)
        return self._shown.write(text)

    def _keep(self, text: str) -> None:
        plain = text.removeprefix(_RENEWS).removeprefix(_CUT).removesuffix(_WRAP)
        if plain == text or text.endswith("\n"):
            self._file.write(plain)
        elif time.monotonic() - self._kept >= _SECONDS_BETWEEN_LINES:
            self._file.write(f"{plain}\n")
            self._kept = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)


def duration(seconds: float) -> str:
    """Format seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
