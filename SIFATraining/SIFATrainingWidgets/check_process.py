"""The slow checks before a training, run in a separate process so that the window stays responsive.

Importing torch takes seconds, and files are read one by one.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from SIFASegmentationLib.errors import unwritable
from SIFASegmentationWidgets.follower import ignore
from SIFASegmentationWidgets.processes import kill_process, start_program
from SIFATrainingLib.findings import Finding

from . import further_preparation
from .cohorts_of_nodes import region_text

if TYPE_CHECKING:
    from SIFASegmentationLib.structures import Task
    from SIFATraining import TrainingOptions

POLL_MS = 200


class CheckProcess:
    """Runs `sifa check`, and passes its findings to a callable once, from the event loop."""

    def __init__(
        self,
        options: TrainingOptions,
        output: Path,
        on_findings: Callable[[list[Finding]], None],
        *,
        source: str = "",
        target: str = "",
        slices: int = 0,
        copied_bytes: int = 0,
    ) -> None:
        """
        Args:
            options: Options of the training (`SIFATraining.TrainingOptions`).
            output: Folder for the training, whose disk is checked for free space.
            on_findings: Called with the findings.
            source: Folder or CSV of source volumes to check; empty if they are nodes.
            target: Folder or CSV of target volumes to check; empty if they are nodes.
            slices: Number of slices of the volumes that are nodes.
            copied_bytes: Bytes that the volumes that are nodes will take in the job's folder.

        Raises:
            InputError: Temporary files can't be written, the region can't be used, or there is no interpreter.
        """
        self._on_findings = on_findings
        more = [f"--more-slices={slices}", f"--more-bytes={copied_bytes}"]
        with ExitStack() as files:
            task, self._output = _make_files(options.loaded_task(), files)
            self._process: subprocess.Popen[bytes] | None = start_program(
                "SIFATrainingLib", [*_arguments(options, task, output, source, target), *more], self._output
            )
            self._files = files.pop_all()
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.poll)
        self._timer.start()

    def poll(self) -> None:
        """Check whether the process has ended, and if so pass on its findings."""
        if self._process is None or self._process.poll() is None:
            return
        self._output.seek(0)
        text = self._output.read().decode("utf-8", errors="replace").strip()
        on_findings = self._on_findings
        self.abandon()
        on_findings(_parse(text))

    def abandon(self) -> None:
        """Kill the process and discard its findings."""
        self._timer.stop()
        if self._process is not None and self._process.poll() is None:
            kill_process(self._process.pid)
            self._process.wait()
        self._process = None
        # The timer keeps this object alive, which Python's garbage collector can't see, so drop the window's callable.
        self._on_findings = ignore
        self._files.close()


def _make_files(task: Task, files: ExitStack) -> tuple[Path, IO[bytes]]:
    """Write the task for the program to read, and open a file for its output; closing `files` deletes both.

    Raises:
        InputError: They can't be written.
    """
    try:
        # On Windows, the files of a program that was killed may stay open for a moment.
        temporary = tempfile.TemporaryDirectory(prefix="SIFA-check-", ignore_cleanup_errors=True)
        folder = Path(files.enter_context(temporary))
        (folder / "task.json").write_text(task.model_dump_json(), encoding="utf-8")
        return folder / "task.json", files.enter_context((folder / "findings.txt").open("w+b"))
    except OSError as error:
        where = tempfile.tempdir or _("The folder for temporary files")
        raise unwritable(where, error) from error


def _arguments(options: TrainingOptions, task: Path, output: Path, source: str, target: str) -> list[str]:
    """Return the command-line arguments of `sifa check`."""
    given = {
        "task": task, "source": source, "target": target, "source-coding": options.source_coding,
        "source-window": _pair(options.source_window), "target-window": _pair(options.target_window),
        "roi": region_text(options.region), "plane": options.plane, "size": options.size, "preset": options.preset,
        "width": options.width, "batch": options.batch, "iterations": options.iterations,
        "baseline-iterations": options.baseline_iterations, "device": options.device, "out": output,
    }  # fmt: skip
    # With "=", since a window may start with a minus sign.
    arguments = [f"--{name}={value}" for name, value in given.items() if value not in (None, "")]
    arguments += further_preparation.command_line(options.preparation or {})
    return ["check", "--json", *arguments, *(f"--set={text}" for text in _settings_texts(options.settings or {}))]


def _settings_texts(settings: Mapping[str, Any], group: str = "") -> Iterator[str]:
    """Yield nested settings as `group.name=value`."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings_texts(value, f"{group}{name}.")
        else:
            yield f"{group}{name}={value}"


def _pair(window: tuple[float, float] | None) -> str:
    return "" if window is None else f"{window[0]},{window[1]}"


def _parse(text: str) -> list[Finding]:
    """Return the findings in the last line of the output, which is JSON; any other line becomes a warning."""
    last = text.splitlines()[-1] if text else ""
    try:
        return [Finding(f["level"], f["subject"], f["message"], f["fix"]) for f in json.loads(last)]
    except (ValueError, TypeError, KeyError):
        return [Finding("warning", _("device"), _("could not be checked: {reason}").format(reason=last or "-"))]
