"""A small prepared data set, a job and a bundle that several tests read; no test may change them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from exports import traced_once
from quick import quick_config
from SIFASegmentationLib.bundle import Bundle
from SIFASegmentationLib.phantoms import write_cohort
from SIFATrainingLib.export import export
from SIFATrainingLib.prepare import prepare
from SIFATrainingLib.training import create_job, train

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def exports_trace_once() -> Iterator[None]:
    """Exports of this process trace each architecture once; `export` still compares each with torch."""
    with traced_once():
        yield


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mr` and `ct`, two labelled patients each."""
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder / "mr", "abdomen", "mr", range(2), size=48)
    write_cohort(folder / "ct", "abdomen", "ct", range(2), size=48)
    return folder


@pytest.fixture(scope="session")
def prepared(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set from MR to CT, with 32 x 32 pixels."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    prepare(cohort / "mr", cohort / "ct", out, size=32, report=lambda _: None)
    return out


@pytest.fixture(scope="session")
def finished_job(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training job of six iterations."""
    folder = tmp_path_factory.mktemp("jobs") / "sifa"
    train(create_job(prepared, folder, quick_config(), "cpu"))
    return folder


@pytest.fixture(scope="session")
def bundle(finished_job: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of `finished_job`."""
    return export(finished_job, tmp_path_factory.mktemp("bundles") / "abdomen bundle")
