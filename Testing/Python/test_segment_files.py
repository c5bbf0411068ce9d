"""What volumes are called in warnings, and what a second run leaves in the table of estimates."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SIFASegmentationLib import examination
from SIFASegmentationLib import segment_files as segment_files_module
from SIFASegmentationLib.bundle import Bundle, manifest_json
from SIFASegmentationLib.bundle_files import MANIFEST_FILE
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.segment_files import ESTIMATES_FILE, Request, SomeRefusedError, output_name, segment_files
from SIFASegmentationLib.segmentation import Segmentation, Segmentor
from SIFASegmentationLib.segmentation_options import SegmentationOptions


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
    requests = [Request(path, f"patient {path.parent.name}") for path in paths]
    told: list[str] = []
    with pytest.raises(SomeRefusedError, match="The volume patient c is constant") as caught:
        segment_files(
            bundle.path, requests, tmp_path / "out", device="cpu",
            report=lambda name, _done, _total: told.append(name),
        )  # fmt: skip
    for outputs, name in zip(caught.value.outputs, ("patient a", "patient b"), strict=True):
        assert outputs.name == name
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
    assert volumes() == {output_name(path) for path in images}
    original = Segmentor.segment

    def without_estimates(*args: Any, **settings: Any) -> Segmentation:
        return replace(original(*args, **settings), estimates={})

    monkeypatch.setattr(Segmentor, "segment", without_estimates)
    segment_files(bundle.path, images[:1], tmp_path, device="cpu")
    assert volumes() == {output_name(images[1])}
    segment_files(bundle.path, images[1:], tmp_path, device="cpu")
    assert volumes() == set()
    shutil.rmtree(tmp_path)
    segment_files(bundle.path, images[:1], tmp_path, device="cpu")
    assert not (tmp_path / ESTIMATES_FILE).exists()


def test_a_model_of_anybody_writes_nowhere_else(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    model = shutil.copytree(bundle.path, tmp_path / "model")
    task = bundle.manifest.task
    named = zip(task.structures, ("../../escaped", "a/b", "..", "c:d"), strict=True)
    structures = tuple(structure.model_copy(update={"name": name}) for structure, name in named)
    hostile = bundle.manifest.model_copy(
        update={"task": task.model_copy(update={"structures": structures, "label_codes": {}})}
    )
    (model / MANIFEST_FILE).write_text(manifest_json(hostile), encoding="utf-8")
    out = tmp_path / "below" / "out"
    image = next((cohort / "ct").glob("*_image.nii.gz"))
    segment_files(model, [image], out, SegmentationOptions(probabilities=True), device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "model"]
    assert list((tmp_path / "below").iterdir()) == [out]
    name = output_name(image)
    kinds = ("segmentation", "probability_escaped", "probability_a_b", "probability_unnamed", "probability_c_d",
             "probability_highest")  # fmt: skip
    assert {path.name for path in out.glob("*.nii.gz")} == {f"{name}_{kind}.nii.gz" for kind in kinds}


def test_names_that_many_disks_take_for_one(bundle: Bundle, tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "P1.nii.gz", tmp_path / "a" / "p1.nii.gz"]
    with pytest.raises(InputError, match="Two volumes are called a_P1"):
        segment_files(bundle.path, paths, tmp_path / "out")


def test_where_results_go_is_looked_at_before_the_first_volume(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_files_module, "examine", lambda *_: pytest.fail("It was segmented."))
    (tmp_path / "file").touch()
    (tmp_path / ESTIMATES_FILE).write_text("volume;structure\n")
    for out, sentence in ((tmp_path / "file" / "out", "can't be written to"), (tmp_path, "was not written by SIFA")):
        with pytest.raises(InputError, match=sentence):
            segment_files(bundle.path, [cohort / "ct"], out, device="cpu")


def test_what_is_done_is_told_as_it_is_done(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    images, told = sorted((cohort / "ct").glob("*_image.nii.gz")), list[tuple[str, int]]()
    segment_files(
        bundle.path, images, tmp_path, device="cpu",
        on_outputs=lambda one: told.append((one.name, len(list(tmp_path.glob("*_segmentation.nii.gz"))))),
    )  # fmt: skip
    assert told == [(output_name(images[0]), 1), (output_name(images[1]), 2)]


def test_a_name_that_is_no_text_ends_no_process(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    """As of an archive that was packed on another system."""
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    try:
        shutil.copytree(cohort / "ct", folder)
    except OSError:
        pytest.skip("this disk has no such names")
    for volumes, out in (([folder], tmp_path / "out"), ([cohort / "ct"], folder / "out")):
        with pytest.raises(InputError, match=r"The name of .*M\?ller.* is not in UTF-8: rename the file or folder"):
            segment_files(bundle.path, volumes, out, device="cpu")
