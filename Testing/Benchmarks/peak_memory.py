"""Peak memory of a `sifa` command, for the benchmarks."""

from __future__ import annotations

import subprocess
import sys

# A process that was forked counts the memory of the one that forked it as its own. So a small one stands between.
_LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_gigabytes(*arguments: str) -> float:
    """Peak resident memory of `sifa ARGUMENTS`, in GB.

    Raises:
        subprocess.CalledProcessError: It failed; its message is on stderr.
    """
    command = [sys.executable, "-c", _LAUNCHER, sys.executable, "-m", "SIFATrainingLib", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e9
