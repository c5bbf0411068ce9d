"""Peak memory of a `sifa` command, for the benchmarks."""

from __future__ import annotations

import subprocess
import sys

# A forked process inherits the peak memory of its parent, so a small process starts the command in between.
_LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_gigabytes(*arguments: str) -> float:
    """Run `sifa ARGUMENTS` and return its peak resident memory in GB.

    Raises:
        subprocess.CalledProcessError: The command failed; its message is on stderr.
    """
    command = [sys.executable, "-c", _LAUNCHER, sys.executable, "-m", "SIFATrainingLib", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e9
