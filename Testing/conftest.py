"""Settings of all tests: one thread for each of the processes, several of which run at a time."""

from __future__ import annotations

import os

# Read when torch, NumPy and ITK are imported, here and in the processes that tests start. Small networks gain little
# from several threads, and two processes of two threads each on two cores are several times slower than of one.
for variable in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ.setdefault(variable, "1")
