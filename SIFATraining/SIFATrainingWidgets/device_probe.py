"""Device, memory, disk and time, asked of a process of its own: torch takes seconds to import, and the window waits
for nobody."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SIFASegmentationWidgets.processes import kill_process, start_program
from SIFATrainingLib.findings import Finding

POLL_MS = 200


class DeviceProbe:
    """Runs `sifa check` for the settings alone and gives its findings to a callable, once, from the event loop."""

    def __init__(self, options: Any, output: Path, on_findings: Callable[[list[Finding]], None]) -> None:
        """
        Args:
            options: Of the training (`SIFATraining.TrainingOptions`).
            output: Folder whose disk counts.
            on_findings: Gets what was found.
        """
        self._on_findings = on_findings
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        arguments = [
            "check", "--json", "--size", str(options.size), "--width", str(options.width), "--batch",
            str(options.batch), "--iterations", str(options.iterations), "--device", options.device, "--out",
            str(output), "--structures", str(len(options.task.structures)),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = start_program("SIFATrainingLib", arguments, self._output)
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.poll)
        self._timer.start()

    def poll(self) -> None:
        """Look whether it has ended."""
        if self._process is None or self._process.poll() is None:
            return
        self._timer.stop()
        self._process = None
        self._output.seek(0)
        text = self._output.read().decode("utf-8", errors="replace").strip()
        self._output.close()
        self._on_findings(_parse(text))

    def abandon(self) -> None:
        """Want nothing of it any more."""
        self._timer.stop()
        if self._process is not None and self._process.poll() is None:
            kill_process(self._process.pid)
            self._process.wait()
        self._process = None
        self._output.close()


def _parse(text: str) -> list[Finding]:
    """Findings in the last line of the output, JSON; what else it is becomes a finding itself."""
    last = text.splitlines()[-1] if text else ""
    try:
        return [Finding(f["level"], f["subject"], f["message"], f["fix"]) for f in json.loads(last)]
    except (ValueError, TypeError, KeyError):
        return [Finding("warning", _("device"), _("could not be checked: {reason}").format(reason=last or "-"))]
