"""Speed of a training, and the time it has left."""

from __future__ import annotations

import time
from collections import deque

from .config import TRANSLATING_METHODS, TrainingConfig, main_iterations

# Cost of an iteration of self-training relative to one before it, for methods that translate and those that don't, as
# in the trainings of Testing/Benchmarks/real_abdomen.md. It updates only three networks, and once.
_SELF_TRAINING_COST = {True: 1 / 3, False: 2 / 3}
_REPORTS = 10  # Number of latest reports that count, since the load of a computer changes.


def work_of(config: TrainingConfig, done: int) -> float:
    """Return the cost of the first `done` iterations, in units of an iteration before self-training."""
    main = min(done, main_iterations(config))
    return main + _SELF_TRAINING_COST[config.method in TRANSLATING_METHODS] * (done - main)


class Pace:
    """Speed of one run of a training, from reports of its progress."""

    def __init__(self, config: TrainingConfig, done: int) -> None:
        """Start the clock of a run that begins now, after `done` iterations."""
        self._config = config
        self._reports = deque([(time.monotonic(), done)], maxlen=_REPORTS + 1)

    def report(self, done: int) -> tuple[float, float]:
        """Report that `done` iterations are done now; return the recent seconds per iteration and the seconds left."""
        self._reports.append((time.monotonic(), done))
        (first_at, first), (last_at, last) = self._reports[0], self._reports[-1]
        seconds = last_at - first_at
        each_unit = seconds / (work_of(self._config, last) - work_of(self._config, first))
        left = work_of(self._config, self._config.iterations) - work_of(self._config, last)
        return seconds / (last - first), each_unit * left
