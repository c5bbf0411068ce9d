"""What volumes are called in warnings, and what a second run leaves in the table of estimates."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SIFASegmentationLib import examination
from SIFASegmentationLib.bundle import Bundle
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.segment_files import ESTIMATES_FILE, SomeRefusedError, segment_files
from SIFASegmentationLib.segmentation import Segmentation, Segmentor


def test_warnings_call_volumes_as_is_said(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a hospital stores them: a folder of each patient, with one file name in all."""
    paths = [tmp_path / name / "ct.nii.gz" for name in ("a", "b", "c")]
    mr = read_volume(next((cohort / "mr").glob("*_image.nii.gz")))
    for path in paths[:2]:
        write_volume(mr, path)
    write_volume(replace(mr, array=np.ones_like(mr.array)), paths[2])
    monkeypatch.setattr(examination, "doubts_about_structures", lambda *_: {"liver": "it is blue"})
    names = {path: f"patient {path.parent.name}" for path in paths}
    told: list[str] = []
    with pytest.raises(SomeRefusedError, match="The volume patient c is constant") as caught:
        segment_files(
            bundle.path, paths, tmp_path / "out", device="cpu", names=names,
            report=lambda name, _done, _total: told.append(name),
        )  # fmt: skip
    for outputs, name in zip(caught.value.outputs, ("patient a", "patient b"), strict=True):
        assert outputs.volume == name
        assert len(outputs.warnings) > 1  # Of the modality, and of the liver.
        assert all(warning.startswith((f"{name} ", f"{name}, ")) for warning in outputs.warnings)
    assert set(told) == {"patient a", "patient b"}
    (unnamed,) = segment_files(bundle.path, paths[:1], tmp_path / "unnamed", device="cpu")
    assert "ct.nii.gz, liver: it is blue: check its segmentation." in unnamed.warnings


def test_estimates_of_before_do_not_outlive_their_labelmap(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((cohort / "ct").glob("*_image.nii.gz"))

    def volumes() -> set[str]:
        with (tmp_path / ESTIMATES_FILE).open(newline="") as file:
            return {row["volume"] for row in csv.DictReader(file)}

    segment_files(bundle.path, images, tmp_path, device="cpu")
    assert volumes() == {path.name for path in images}
    original = Segmentor.segment

    def without_estimates(*args: Any, **settings: Any) -> Segmentation:
        return replace(original(*args, **settings), estimates={})

    monkeypatch.setattr(Segmentor, "segment", without_estimates)
    segment_files(bundle.path, images[:1], tmp_path, device="cpu")
    assert volumes() == {images[1].name}
    segment_files(bundle.path, images[1:], tmp_path, device="cpu")
    assert volumes() == set()
    shutil.rmtree(tmp_path)
    segment_files(bundle.path, images[:1], tmp_path, device="cpu")
    assert not (tmp_path / ESTIMATES_FILE).exists()
