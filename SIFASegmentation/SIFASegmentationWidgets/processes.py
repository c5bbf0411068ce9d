"""Job processes: started in a session of their own, killed as a group, without anything of Slicer or Qt.

`PythonSlicer` is a launcher whose child is the real interpreter: only the whole group can be killed, and the number of
the process to trust is the one in the job's heartbeat.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from SIFASegmentationLib.jobs import Job

_WINDOWS = sys.platform == "win32"


def python_executable() -> str:
    """The interpreter to run jobs with: Slicer's own, or the one at work outside of Slicer.

    Raises:
        FileNotFoundError: There is none.
    """
    found = shutil.which("PythonSlicer") or sys.executable
    if not found:
        raise FileNotFoundError("PythonSlicer is not on the PATH: start Slicer by its launcher.")
    return found


def start_process(job: Job, module: str, arguments: list[str], folders: list[Path]) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments` for a job; what it prints is appended to the job's log.txt.

    Args:
        job: Whose log to write to.
        module: Package to run.
        arguments: Of the command line.
        folders: To put first on the import path.
    """
    paths = [str(folder) for folder in folders]
    inherited = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *([inherited] if inherited else [])]),
        "PYTHONIOENCODING": "utf-8",
    }
    # A console window for every job would be Windows' default.
    flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW if _WINDOWS else 0
    with (job.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [python_executable(), "-u", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=job.folder,
            start_new_session=not _WINDOWS,
            creationflags=flags,
        )


def kill_process(process: int) -> None:
    """Kill a process with all of its group (its tree on Windows); one that is gone already is no error."""
    if _WINDOWS:
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process)], check=False, capture_output=True)
        return
    try:
        os.killpg(os.getpgid(process), signal.SIGKILL)
    except ProcessLookupError:
        return
