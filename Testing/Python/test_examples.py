"""The examples in the docstrings of both libraries are correct."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import SIFASegmentationLib
import SIFATrainingLib


def examples() -> list[doctest.DocTest]:
    """Every docstring with an example."""
    finder, found = doctest.DocTestFinder(exclude_empty=True), []
    for package in (SIFASegmentationLib, SIFATrainingLib):
        for info in pkgutil.iter_modules(package.__path__):
            if info.name != "__main__":
                found += finder.find(importlib.import_module(f"{package.__name__}.{info.name}"))
    return [example for example in found if example.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_examples_in_docstrings_run(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner()
    assert runner.run(example).failed == 0
