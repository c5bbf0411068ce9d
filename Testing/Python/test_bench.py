"""`sifa bench`: its measurements are complete and plausible; how fast they are is not tested."""

from __future__ import annotations

import json

import pytest

from SIFASegmentationLib.errors import InputError
from SIFATrainingLib.cli import app


def test_bench_measures_a_training_and_a_segmentation(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", 32, "--width", 0.0625, "--batch", 2, "--iterations", 1000, "--device", "cpu", "--seconds", 0.1]
    command = ["bench", *map(str, options)]
    app(command, standalone_mode=False)
    told = capsys.readouterr().out
    assert "s per iteration of 2 slices of 32 x 32, width 0.0625" in told
    assert "1,000 iterations: " in told
    app([*command, "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] >= 1
    assert found["seconds_per_iteration"] > 0
    assert found["slices_per_second"] > 0
    assert found["segmentation_device"] == "cpu"
    assert found["estimate"]["device"] == "cpu"


def test_bench_refuses_a_size_that_no_network_takes() -> None:
    with pytest.raises(InputError, match="The size 100 is not usable"):
        app(["bench", "--size", "100"], standalone_mode=False)
