"""The moving average of the weights, which is what gets exported."""

from __future__ import annotations

import pytest
from torch import nn

from SIFATrainingLib.ema import MovingAverage


def test_the_moving_average_by_hand() -> None:
    """The decay grows from 0.1 at the first iteration; statistics of batch norm are not averaged."""
    norm, expected = nn.BatchNorm1d(1), 1.0
    average = MovingAverage(nn.ModuleDict({"norm": norm}), 0.5)
    for iteration, decay in ((0, 0.1), (1, 2 / 11), (100, 0.5)):
        nn.init.constant_(norm.weight, iteration + 2.0)
        norm.running_mean.fill_(iteration)
        average.update(nn.ModuleDict({"norm": norm}), iteration)
        expected = decay * expected + (1 - decay) * (iteration + 2)
        assert float(average.average["norm"].weight) == pytest.approx(expected)
        assert float(average.average["norm"].running_mean) == iteration
