"""Job processes: each is started in its own session and killed as a group; uses nothing of Slicer or Qt but texts.

`PythonSlicer` is a launcher whose child is the real interpreter, so the whole group must be killed, and the process ID
to trust is the one in the job's heartbeat.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError, unwritable
from SIFASegmentationLib.jobs import LOG_FILE, Job

_WINDOWS = sys.platform == "win32"
# By default, Windows would open a console window for every program.
_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)
_LIBRARIES = ("SIFASegmentationLib", "SIFATrainingLib")


def start_fault() -> str:
    """Return the message to show if a start fails with an unforeseen error, which goes to Slicer's log."""
    return _("It could not be started because of an internal error: see the error log.")


def python_executable() -> str:
    """Return the Python interpreter to run jobs with: Slicer's own, or outside Slicer the current one.

    Raises:
        InputError: There is none.
    """
    found = shutil.which("PythonSlicer") or sys.executable
    if not found:
        raise InputError(_("PythonSlicer is not on the PATH"), _("start Slicer by its launcher"))
    return found


def start_process(job: Job, module: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments` for a job, in its folder; the output is appended to the job's log.txt.

    Raises:
        InputError: The log can't be written to, or there is no interpreter.
    """
    path = job.folder / LOG_FILE
    try:
        log = path.open("ab")
    except OSError as error:
        raise unwritable(path, error) from error
    with log:
        return start_program(module, arguments, log, job.folder)


def start_program(
    module: str, arguments: list[str], output: IO[bytes], folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments` in a session of its own.

    Args:
        module: Package to run; the new process finds the two libraries where this one does.
        arguments: Command-line arguments.
        output: File that gets stdout and stderr.
        folder: Working directory; this process's own if None.

    Raises:
        InputError: There is no interpreter.
    """
    flags = _NO_WINDOW | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    return subprocess.Popen(
        [python_executable(), "-u", "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path()), "PYTHONIOENCODING": "utf-8"},
        cwd=folder,
        start_new_session=not _WINDOWS,
        creationflags=flags,
    )


def _import_path() -> list[str]:
    """Return the folders in which Slicer found the two libraries, then the inherited PYTHONPATH."""
    specs = [importlib.util.find_spec(name) for name in _LIBRARIES]
    folders = [str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin]
    inherited = os.environ.get("PYTHONPATH")
    return [*dict.fromkeys(folders), *([inherited] if inherited else [])]


def kill_process(process: int) -> None:
    """Kill a process, and its group if it leads one (on Windows, its process tree); do nothing if it is already gone.

    Processes started here lead a group. Others may share the group of a shell script, which must not be killed.

    Args:
        process: Process ID.

    Raises:
        InputError: The process is another user's.
    """
    if _WINDOWS:
        command = ["taskkill", "/F", "/T", "/PID", str(process)]
        subprocess.run(command, check=False, capture_output=True, creationflags=_NO_WINDOW)
        return
    try:
        if os.getpgid(process) == process:
            os.killpg(process, signal.SIGKILL)
        else:
            os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError as error:
        problem = _("The process {number} is another user's").format(number=process)
        raise InputError(problem, _("ask who started it")) from error
