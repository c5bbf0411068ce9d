"""Contrasts between structures: measured, kept with the model, and doubted if they are unusual."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from quick import quick_config
from SIFASegmentationLib import contrasts
from SIFASegmentationLib.bundle import Bundle
from SIFASegmentationLib.contrasts import ContrastRanges, brightness, contrast_ranges
from SIFASegmentationLib.doubts import Found, Usual, doubts_about_structures
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.preprocessing import prepare_volume
from SIFASegmentationLib.segmentation import Segmentor
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.structures import load_task
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.export import export
from SIFATrainingLib.target_contrasts import measure_contrasts
from SIFATrainingLib.training import create_job, train

TASK = load_task("abdomen")
USUAL: ContrastRanges = {
    "liver": {"right kidney": (-0.3, 0.0), "left kidney": (-0.3, 0.0), "spleen": (-0.2, 0.1)},
    "right kidney": {"left kidney": (-0.05, 0.05), "spleen": (-0.1, 0.3)},
    "left kidney": {"spleen": (-0.1, 0.3)},
}


def of(liver: float, right: float, left: float, spleen: float | None) -> dict[str, Found]:
    """Findings with these brightnesses of the structures."""
    found = {"liver": liver, "right kidney": right, "left kidney": left, "spleen": spleen}
    return {name: Found(100.0, brightness=value) for name, value in found.items()}


def test_structures_unlike_the_usual_are_told_of_and_not_those_beside_them() -> None:
    usual = Usual(contrasts=USUAL)
    assert doubts_about_structures(of(0.0, 0.15, 0.15, 0.05), usual) == {}
    # 0.2 beyond the usual range, as in another phase of the contrast medium, is accepted.
    assert doubts_about_structures(of(0.0, 0.5, 0.5, 0.15), usual) == {}
    # Bowel with contrast medium taken for the spleen; vessels for the right kidney; a cyst for the left kidney.
    assert doubts_about_structures(of(0.0, 0.15, 0.15, 0.9), usual) == {
        "spleen": "compared with the liver, it is brighter than in the volumes that the model was trained for"
    }
    assert set(doubts_about_structures(of(0.0, 0.9, 0.15, 0.05), usual)) == {"right kidney"}
    darker = doubts_about_structures(of(0.0, 0.15, -0.5, 0.05), usual)
    assert darker == {
        "left kidney": "compared with the right kidney, it is darker than in the volumes that the model was trained for"
    }
    # Two unusual structures are both reported; so are both of a pair if it is unclear which one is unusual.
    assert set(doubts_about_structures(of(0.0, 0.6, -0.4, 0.05), usual)) == {"right kidney", "left kidney"}
    pair = {name: one for name, one in of(0.0, 0.4, 0.0, 0.0).items() if "kidney" in name}
    assert set(doubts_about_structures(pair, usual)) == {"right kidney", "left kidney"}
    # Nothing is said of structures that were not found, nor with older bundles.
    assert doubts_about_structures(of(0.0, 0.15, 0.15, None), usual) == {}
    assert doubts_about_structures(of(0.0, 0.9, 0.15, 0.05), Usual()) == {}


def test_ranges_are_of_the_volumes_that_have_both() -> None:
    volumes = [{"liver": 0.1 * number, "spleen": 0.0} for number in range(11)] + [{"liver": 5.0}]
    ranges = contrast_ranges(volumes, TASK)
    assert ranges == {"liver": {"spleen": pytest.approx((0.05, 0.95))}}
    assert contrast_ranges([], TASK) == {}
    assert contrast_ranges(volumes[:4], TASK) == {}


def test_brightness_is_the_median_of_each_structure_that_is_there() -> None:
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[0, :2], labels[1, 2:] = 1, 4
    images = np.arange(32.0).reshape(2, 4, 4)
    assert brightness(images, labels, TASK) == {"liver": 3.5, "spleen": 27.5}


class ByBrightness(torch.nn.Module):
    """A network without training, sure of the second structure in the brightest pixels and the first in the darkest."""

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        classes = torch.zeros(len(slices), 5, *slices.shape[2:])
        classes[:, 1:2], classes[:, 2:3] = (slices < -0.8).float(), (slices > 0.5).float()
        classes[:, :1] = 1 - classes.sum(1, keepdim=True)
        return classes * 0.995 + 0.001


def test_contrasts_are_measured_on_the_unlabelled_volumes(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = PreparedDataset(prepared)
    assert measure_contrasts(ByBrightness(), dataset) == {}
    monkeypatch.setattr(contrasts, "FEWEST", 2)
    told: list[str] = []
    ranges = measure_contrasts(ByBrightness(), dataset, report=lambda step: told.append(step.message))
    assert list(ranges) == ["liver"]
    assert list(ranges["liver"]) == ["right kidney"]
    low, high = ranges["liver"]["right kidney"]
    # From darker than -0.8 to brighter than 0.5.
    assert -2 <= low <= high < -1.3
    assert len(told) == len(dataset.entry("target").volumes)


def test_only_an_adapted_model_knows_the_contrasts(
    prepared: Path, finished_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrasts, "FEWEST", 2)
    assert export(finished_job, tmp_path / "adapted").manifest.contrasts
    job = create_job(prepared, tmp_path / "job", quick_config(method="without_adaptation"), "cpu")
    train(job)
    assert export(job.folder, tmp_path / "unadapted").manifest.contrasts == {}


def test_volumes_are_measured_in_the_unit_of_the_networks(bundle: Bundle, cohort: Path) -> None:
    before, usual = bundle, {"contrasts": USUAL}
    bundle = replace(bundle, manifest=bundle.manifest.model_copy(update=usual))
    volume = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    made = Segmentor(bundle, "cpu").segment(volume)
    prepared = prepare_volume(volume, bundle.manifest.preprocessing["target"])
    labels = prepared.placement.view(made.labelmap.array)
    own = prepared.intensities(slice(0, len(prepared)))
    for structure in bundle.manifest.task.structures:
        there = labels == structure.value
        expected = pytest.approx(float(np.median(own[there])), abs=1e-5) if there.any() else None
        assert made.found[structure.name].brightness == expected
    of_source = Segmentor(bundle, "cpu").segment(volume, SegmentationOptions(domain="source"))
    for unknown in (Segmentor(before, "cpu").segment(volume), of_source):
        assert {one.brightness for one in unknown.found.values()} == {None}
