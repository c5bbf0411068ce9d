"""Job processes: started in a session of their own, killed as a group, without anything of Slicer or Qt.

`PythonSlicer` is a launcher whose child is the real interpreter: only the whole group can be killed, and the number of
the process to trust is the one in the job's heartbeat.
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
# A console window for every program would be Windows' default.
_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)
_LIBRARIES = ("SIFASegmentationLib", "SIFATrainingLib")


def start_fault() -> str:
    """What a window says until it knows better: errors that nobody foresaw go to Slicer's log."""
    return _("It could not be started because of an internal error: see the error log.")


def python_executable() -> str:
    """The interpreter to run jobs with: Slicer's own, or the one at work outside of Slicer.

    Raises:
        InputError: There is none.
    """
    found = shutil.which("PythonSlicer") or sys.executable
    if not found:
        raise InputError(_("PythonSlicer is not on the PATH"), _("start Slicer by its launcher"))
    return found


def start_process(job: Job, module: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments` for a job; what it prints is appended to the job's log.txt.

    Raises:
        InputError: The log can't be written to.
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
        module: A package that this process can import; the new one gets the same import path.
        arguments: Of the command line.
        output: Where stdout and stderr go.
        folder: To work in.
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
    """Folders of the two libraries, wherever Slicer has found them, then what was there before."""
    specs = [importlib.util.find_spec(name) for name in _LIBRARIES]
    folders = [str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin]
    inherited = os.environ.get("PYTHONPATH")
    return [*dict.fromkeys(folders), *([inherited] if inherited else [])]


def kill_process(process: int) -> None:
    """Kill a process, with its group where it leads one (its tree on Windows); one that is gone already is no error.

    Those that are started here lead one. Others share the group of a shell's script, which is not ours to kill.

    Raises:
        InputError: It is another user's.
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
