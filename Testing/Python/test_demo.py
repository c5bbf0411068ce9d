"""The demo from end to end, in a few iterations."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from math import nan
from pathlib import Path

import numpy as np
import pytest

from quick import QUICK
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.phantoms import write_cohort
from SIFASegmentationLib.scores import Row, Scores, ScoreTable
from SIFASegmentationLib.structures import load_task
from SIFATrainingLib import demo as module
from SIFATrainingLib import demo_report
from SIFATrainingLib.demo import demo
from SIFATrainingLib.figures import draw_overlays


def test_the_demo_leaves_models_segmentations_scores_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIZE", 32)
    monkeypatch.setattr(module, "write_cohort", partial(write_cohort, size=48))
    monkeypatch.setattr(module, "TRAINED_PATIENTS", 2)
    monkeypatch.setattr(module, "TEST_PATIENTS", 1)
    # Like the demo, with self-training.
    monkeypatch.setattr(module, "SETTINGS", {**QUICK, "self_training": {"share": 0.4}})
    monkeypatch.setattr(module, "ITERATIONS", {"without_adaptation": 2, "sifa": 5})
    out = tmp_path / "demo"
    tables = demo(out, device="cpu")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["sifa"]["dice"] == tables["sifa"].mean("dice")
    assert summary["without_adaptation"]["dice"] == tables["without_adaptation"].mean("dice")
    assert summary["seconds"] > 0
    page = (out / "report.html").read_text(encoding="utf-8")
    # The report shows one patient, the translated slices, and the losses.
    assert page.count("data:image/png;base64") == 3
    for name in (
        "bundle/manifest.json", "bundle_without_adaptation/manifest.json",
        "segmentations/abdomen_ct_002_segmentation.nii.gz", "slicer/abdomen_ct_002_segmentation.seg.nrrd",
        "target/test/abdomen_ct_002_image.nii.gz", "target/test/abdomen_ct_002_label.nii.gz",
    ):  # fmt: skip
        assert (out / name).exists(), name
    assert not list((out / "target" / "train").glob("*_label*"))
    with pytest.raises(InputError, match="already exists and is not empty"):
        demo(out)


def test_slices_are_shown_alike_in_any_unit_of_intensity(cohort: Path) -> None:
    task = load_task("abdomen")
    image, labelmap = (read_volume(cohort / "mr" / f"abdomen_mr_000_{kind}.nii.gz") for kind in ("image", "label"))
    labelmap = replace(labelmap, array=labelmap.array.astype(np.uint8))
    scaled = replace(image, array=image.array / 1000)
    shown = []
    for volume in (image, scaled):
        axes = draw_overlays(volume, [("SIFA", labelmap)], labelmap, task).axes
        shown.append(np.array([axis.images[0].get_clim() for axis in axes]))
    assert np.allclose(shown[0], 1000 * shown[1])
    low, high = np.percentile(image.array[labelmap.array > 0], (1, 99))
    assert (shown[0][:, 0] < low).all()
    assert (shown[0][:, 1] > high).all()
    assert (shown[0] < 3 * image.array.max()).all()  # A window made for CT would hide the structures.


def test_masks_that_were_empty_are_counted() -> None:
    found = Row("P1", "liver", Scores(0.9, 1.0, 2.0, 0.9, 1500.0, 1500.0, 0.0))
    missed = Row("P1", "liver", Scores(0.0, nan, nan, nan, 0.0, 1500.0, -1.0))
    tables = {"without_adaptation": ScoreTable((missed,)), "sifa": ScoreTable((found,))}
    (counted,) = tables["without_adaptation"].empty_masks()
    assert counted.endswith("0 with both masks empty, 1 with one empty")
    text = module.summary_text(tables, 60.0)
    assert text.count("scored") == 1
    assert counted in text
    assert f"without adaptation, {counted}." in demo_report._score_table(tables)
