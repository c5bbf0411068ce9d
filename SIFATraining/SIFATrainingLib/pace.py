"""How fast a training goes, and how long it will still take."""

from __future__ import annotations

import time
from collections import deque

from .config import TRANSLATING_METHODS, TrainingConfig, main_iterations

# What an iteration of the self-training costs of one before it, where that translates and where it does not, in the
# trainings of Testing/Benchmarks/real_abdomen.md: it moves three networks, once.
_SELF_TRAINING_COST = {True: 1 / 3, False: 2 / 3}
_REPORTS = 10  # The last of them tell the pace: what a computer does beside a training changes.


def work_of(config: TrainingConfig, done: int) -> float:
    """What `done` iterations cost, in iterations of the main part."""
    main = min(done, main_iterations(config))
    return main + _SELF_TRAINING_COST[config.method in TRANSLATING_METHODS] * (done - main)


class Pace:
    """Of one run of a training, from its reports."""

    def __init__(self, config: TrainingConfig, done: int) -> None:
        """A run that begins now, after `done` iterations."""
        self._config = config
        self._reports = deque([(time.monotonic(), done)], maxlen=_REPORTS + 1)

    def report(self, done: int) -> tuple[float, float]:
        """Seconds per iteration lately, and seconds that are left; now, after `done` iterations."""
        self._reports.append((time.monotonic(), done))
        (first_at, first), (last_at, last) = self._reports[0], self._reports[-1]
        seconds = last_at - first_at
        each_unit = seconds / (work_of(self._config, last) - work_of(self._config, first))
        left = work_of(self._config, self._config.iterations) - work_of(self._config, last)
        return seconds / (last - first), each_unit * left
