"""`sifa bench`: what it measures is there and makes sense; how fast is nobody's business here."""

from __future__ import annotations

import json

from quick import sifa


def test_bench_measures_a_training_and_a_segmentation() -> None:
    options = ("--size", 32, "--width", 0.0625, "--batch", 2, "--iterations", 1000, "--device", "cpu", "--seconds", 0.1)
    done = sifa("bench", *options)
    assert done.returncode == 0, done.stderr
    assert "s per iteration of 2 slices of 32 x 32, width 0.0625" in done.stdout
    assert "1,000 iterations: " in done.stdout
    found = json.loads(sifa("bench", *options, "--json").stdout)
    assert found["steps"] >= 1
    assert found["seconds_per_iteration"] > 0
    assert found["slices_per_second"] > 0
    assert found["segmentation_device"] == "cpu"
    assert found["estimate"]["device"] == "cpu"


def test_bench_refuses_a_size_that_no_network_takes() -> None:
    done = sifa("bench", "--size", 100)
    assert done.returncode == 2
    assert "The size 100 is not usable" in done.stderr
