"""Estimated Dice, checked by hand, its calibration, and doubts about a segmentation."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch

from SIFASegmentationLib.appearance import Appearance
from SIFASegmentationLib.bundle import Bundle
from SIFASegmentationLib.calibration import CalibrationCase, QualityCalibration, fit_calibration
from SIFASegmentationLib.doubts import Found, Usual, as_sentences, doubts_about_adaptation, doubts_about_structures
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.labelmaps import read_labelmap, structures_ml
from SIFASegmentationLib.positions import PositionRange
from SIFASegmentationLib.quality import Estimate, ExpectedDice
from SIFASegmentationLib.scores import Row, Scores, ScoreTable
from SIFASegmentationLib.segment_files import segment_files
from SIFASegmentationLib.segmentation import Segmentor
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.structures import load_task
from SIFASegmentationLib.usual import position_ranges, volume_ranges
from SIFATrainingLib.corruptions import KINDS, corrupted
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.prepare import prepare
from SIFATrainingLib.quality_calibration import calibrate_quality


def test_expected_dice_by_hand() -> None:
    # Class 1 has probabilities of 0.6 and 0.2 in the first two pixels; the third is of class 2.
    probabilities = np.array([[[[0.4, 0.8, 0.1]], [[0.6, 0.2, 0.1]], [[0.0, 0.0, 0.8]]]], np.float32)
    expected = ExpectedDice(3)
    for some in (probabilities, np.array([[[[1.0]], [[0.0]], [[0.0]]]], np.float32)):
        expected.add(some, some.argmax(1))
    assert expected.predicted.tolist() == [2, 1, 1]
    assert expected.of_structures() == pytest.approx([2 * 0.6 / (1 + 0.9), 2 * 0.8 / (1 + 0.8)])


def test_a_structure_that_is_nowhere_is_expected_to_be_missed() -> None:
    expected = ExpectedDice(2)
    nowhere = np.array([[[[1.0, 1.0]], [[0.0, 0.0]]]], np.float32)
    expected.add(nowhere, nowhere.argmax(1))
    assert expected.of_structures().tolist() == [0.0]


def test_where_probabilities_are_right_so_is_the_expectation() -> None:
    rng = np.random.default_rng(0)
    share = rng.beta(0.4, 0.4, (4, 200, 200)).astype(np.float32)
    truth = rng.uniform(size=share.shape) < share
    expected = ExpectedDice(2)
    probabilities = np.stack([1 - share, share], 1)
    expected.add(probabilities, probabilities.argmax(1))
    predicted = share > 0.5
    dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    assert expected.of_structures()[0] == pytest.approx(dice, abs=0.005)


def known(structure: str, group: int, expected: np.ndarray, true: np.ndarray) -> list[CalibrationCase]:
    """Make a case of each pair of logits of expected and true Dice."""
    return [
        CalibrationCase(structure, group, float(1 / (1 + np.exp(-x))), float(1 / (1 + np.exp(-y))))
        for x, y in zip(expected, true, strict=True)
    ]


def test_the_calibration_finds_the_lines_and_their_band() -> None:
    rng = np.random.default_rng(1)
    pairs = []
    for structure, offset, mean in (("liver", -0.4, 2.0), ("left kidney", 0.9, -0.5)):
        for group in range(20):
            x = rng.normal(mean, 1.0, 200)
            pairs += known(structure, group, x, offset + 0.8 * x + rng.normal(0, 0.5, len(x)))
    found = fit_calibration(pairs, 7)
    assert found.slope == pytest.approx(0.8, abs=0.05)
    assert found.offsets == pytest.approx({"liver": -0.4, "left kidney": 0.9}, abs=0.07)
    assert (found.low, found.high) == pytest.approx((-1.6449 * 0.5, 1.6449 * 0.5), abs=0.06)
    estimate = found.estimate(0.7, "left kidney")
    assert estimate.low < estimate.dice < estimate.high
    assert estimate.dice == pytest.approx(1 / (1 + np.exp(-(0.9 + 0.8 * np.log(7 / 3)))), abs=0.02)
    assert found.estimate(0.7, "liver").dice < found.estimate(0.7, "spleen").dice < estimate.dice


def test_the_band_is_that_of_groups_that_the_line_does_not_know() -> None:
    rng = np.random.default_rng(2)
    shifts = rng.normal(0, 1.0, 40)
    pairs = []
    for group, shift in enumerate(shifts):
        x = rng.normal(0, 1.0, 5)
        pairs += known("liver", group, x, x + shift)
    found = fit_calibration(pairs, 40)
    spread = np.percentile(shifts, (5, 95))
    assert found.low < 0.8 * spread[0] < 0 < 0.8 * spread[1] < found.high
    # A single group lies on its own line, so there are no residuals.
    alone = fit_calibration(pairs[:5], 1)
    assert (alone.low, alone.high) == pytest.approx((0, 0), abs=1e-6)


def test_the_band_holds_its_share_of_what_comes_later() -> None:
    rng = np.random.default_rng(3)

    def cases(groups: int, cases: int) -> list[CalibrationCase]:
        shifts, pairs = rng.normal(0, 0.6, groups), []
        for group, shift in enumerate(shifts):
            x = rng.normal(1, 1, cases)
            pairs += known("liver", group, x, 0.3 + 0.9 * x + shift + rng.normal(0, 0.3, cases))
        return pairs

    found = fit_calibration(cases(60, 4), 60)
    later = [(one.true, found.estimate(one.expected, "liver")) for one in cases(500, 4)]
    below, above = (float(np.mean(side)) for side in zip(*((t < e.low, t > e.high) for t, e in later), strict=True))
    assert 1 - below - above == pytest.approx(0.9, abs=0.05)
    assert (below, above) == pytest.approx((0.05, 0.05), abs=0.04)
    # The estimate and both ends of the band grow with the expected Dice.
    for name in ("dice", "low", "high"):
        values = [getattr(found.estimate(expected, "liver"), name) for expected in (0.3, 0.5, 0.7, 0.9, 0.98)]
        assert sorted(set(values)) == values


def test_without_a_spread_the_slope_stays_one() -> None:
    found = fit_calibration([CalibrationCase("liver", 0, 0.8, 0.7)] * 2, 2)
    assert found.slope == 1.0
    assert found.estimate(0.8, "liver").dice == pytest.approx(0.7)


def test_a_better_unadapted_model_is_told_of() -> None:
    adapted = {"liver": Estimate(0.6, 0.5, 0.7), "spleen": Estimate(0.5, 0.4, 0.6)}
    better = {"liver": Estimate(0.7, 0.6, 0.8), "spleen": Estimate(0.52, 0.4, 0.6)}
    (sentence,) = doubts_about_adaptation("ct_1", adapted, better)
    assert "0.55 with it, 0.61 without" in sentence
    assert doubts_about_adaptation("ct_1", better, adapted) == []
    assert doubts_about_adaptation("ct_1", adapted, adapted) == []
    assert doubts_about_adaptation("ct_1", adapted, {}) == []


def test_structures_unlike_organs_are_told_of() -> None:
    usual = {"liver": (1000.0, 2000.0), "spleen": (100.0, 300.0), "left kidney": (120.0, 220.0)}
    found = {
        "liver": Found(1500.0, 0.6),
        "spleen": Found(50.0),
        "left kidney": Found(0.0),
        "right kidney": Found(3.0),
    }
    told = doubts_about_structures(found, Usual(usual))
    assert set(told) == {"liver", "spleen", "left kidney"}
    assert told["liver"].startswith("40% of its voxels lay in smaller, separate parts")
    assert as_sentences("ct_1", told)[0].startswith("ct_1, liver: 40% of its voxels lay in smaller, separate parts")
    assert "50 ml were found, but the labelled volumes suggest 100 to 300 ml" in told["spleen"]
    assert "nothing was found, but the labelled volumes suggest 120 to 220 ml" in told["left kidney"]
    told = doubts_about_structures({"liver": Found(0.0341)}, Usual({"liver": (1083.6, 1991.7)}))
    assert told["liver"] == "0.03 ml were found, but the labelled volumes suggest 1,084 to 1,992 ml"
    told = doubts_about_structures({"liver": Found(9.6)}, Usual({"liver": (1083.6, 1991.7)}))
    assert told["liver"].startswith("10 ml were found")
    assert doubts_about_structures({"spleen": Found(440.0, 0.75), "liver": Found(700.0)}, Usual(usual)) == {}


PLACES: dict[str, PositionRange] = {
    "liver": ((-110.0, -50.0, 30.0), (-80.0, -30.0, 60.0)),
    "spleen": ((100.0, 0.0, 20.0), (130.0, 30.0, 50.0)),
}


def test_a_structure_far_from_its_place_is_told_of_and_not_those_that_it_displaces() -> None:
    in_place = {"liver": Found(1500.0, position_mm=(-120.0, -40.0, 40.0)), "spleen": Found(200.0)}
    assert doubts_about_structures(in_place, Usual(positions_mm=PLACES)) == {}
    # The spleen is 80 mm below its usual range, which makes the liver seem 41 mm too high.
    found = {
        "liver": Found(1500.0, position_mm=(-100.0, -40.0, 101.0)),
        "spleen": Found(200.0, position_mm=(110.0, 10.0, -60.0)),
    }
    told = doubts_about_structures(found, Usual(positions_mm=PLACES))
    assert told["spleen"].startswith("its centre lies 80 mm from where labelled volumes have it")
    assert set(told) == {"spleen", "liver"}
    # If it is further away still, it is clear that it displaces the liver, not the other way round.
    further = found | {"spleen": Found(200.0, position_mm=(110.0, 10.0, -80.0))}
    assert set(doubts_about_structures(further, Usual(positions_mm=PLACES))) == {"spleen"}
    # Nothing is known about volumes in which a structure was not found, nor from older bundles.
    assert doubts_about_structures({"spleen": Found(200.0)}, Usual(positions_mm=PLACES)) == {}
    assert doubts_about_structures(found, Usual()) == {}


def test_corruptions_grow_from_nothing() -> None:
    torch.manual_seed(0)
    slices = torch.rand(2, 1, 16, 16) * 2 - 1
    labels = torch.zeros(2, 16, 16, dtype=torch.uint8)
    labels[:, 4:9, 3:12], labels[:, 11:, 8:] = 1, 3
    for kind in range(2 * KINDS):
        assert torch.equal(corrupted(slices, labels, kind, 0.0), slices)
        changes = [float((corrupted(slices, labels, kind, s) - slices).abs().mean()) for s in (0.3, 1.0)]
        assert 0 < changes[0] < changes[1]
        assert corrupted(slices, labels, kind, 1.0).abs().max() <= 1
        assert torch.equal(corrupted(slices, labels, kind, 1.0), corrupted(slices, labels, kind, 1.0))


def test_a_structure_changes_by_itself() -> None:
    slices, labels = torch.zeros(1, 1, 16, 16), torch.zeros(1, 16, 16, dtype=torch.uint8)
    labels[:, 2:8, 2:8], labels[:, 10:, 10:] = 1, 2
    changed = corrupted(slices, labels, 2, 1.0)[0, 0]
    assert changed[5, 5] != changed[13, 13]
    assert (changed[5, 5] != 0, changed[13, 13] != 0) == (True, True)
    assert (changed[:9, 9] == 0).all()
    assert 0 < abs(changed[2, 5]) < abs(changed[4, 5])


def test_a_structure_amid_the_others_is_not_far_for_a_few_millimetres() -> None:
    in_a_row: dict[str, PositionRange] = {
        "L1": ((-2.0, -2.0, 48.0), (2.0, 2.0, 56.0)),
        "L2": ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)),
        "L3": ((-2.0, -2.0, -56.0), (2.0, 2.0, -48.0)),
    }
    found = {name: Found(60.0, position_mm=(0.0, 0.0, z)) for name, z in (("L1", 50.0), ("L2", 4.0), ("L3", -50.0))}
    assert doubts_about_structures(found, Usual(positions_mm=in_a_row)) == {}
    found["L2"] = Found(60.0, position_mm=(0.0, 14.0, 0.0))
    assert set(doubts_about_structures(found, Usual(positions_mm=in_a_row))) == {"L2"}


class OfTheBrightest(torch.nn.Module):
    """Model that predicts class 1 with a probability of 0.99 wherever a slice is bright."""

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        share = (slices > 0.2).float() * 0.98 + 0.01
        rest = torch.zeros_like(share)
        return torch.cat([1 - share, share, rest, rest, rest], 1)


def test_the_calibration_of_a_model_that_is_surely_wrong_is_low(prepared: Path) -> None:
    dataset = PreparedDataset(prepared)
    found = calibrate_quality(OfTheBrightest(), dataset, "source", None)
    assert found is not None
    assert found.volumes == 2 * 4
    # Few bright pixels of MR are liver, though the model's expected Dice would be about 0.98.
    assert found.estimate(0.98, "liver").dice < 0.3


def test_the_calibration_scores_what_would_be_segmented(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(prepared, tmp_path / "set")
    liver = np.load(copy / "source_labels.npy") == 1
    np.save(copy / "source_labels.npy", liver.astype(np.uint8))
    bright = liver.copy()
    # A region as bright as the liver, but apart from it.
    bright[:, 28:, 28:] = True
    np.save(copy / "source_slices.npy", np.where(bright, 16000, -16000).astype(np.int16))
    scored: list[CalibrationCase] = []

    def keep(known: list[CalibrationCase], volumes: int) -> QualityCalibration:
        scored.extend(known)
        return fit_calibration(known, volumes)

    class OfTheLessDark(torch.nn.Module):
        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            share = 0.1 + 0.6 * (slices > -0.3).float()
            return torch.cat([1 - share, share, *[torch.zeros_like(share)] * 3], 1)

    class Smoothed(torch.nn.Module):
        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(slices, 5, stride=1, padding=2, count_include_pad=False)

    monkeypatch.setattr("SIFATrainingLib.quality_calibration.fit_calibration", keep)
    assert calibrate_quality(OfTheLessDark(), PreparedDataset(copy), "source", Smoothed()) is not None
    # The model takes too much of the smoothed slices for liver; the original intensities, and keeping only the largest
    # part, correct that.
    assert min(one.true for one in scored[::4]) > 0.95


def test_without_a_structure_in_sight_nothing_is_calibrated(prepared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(prepared, tmp_path / "set")
    np.save(copy / "source_labels.npy", np.zeros_like(np.load(copy / "source_labels.npy")))

    class OfTheBackground(torch.nn.Module):
        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.ones_like(slices), *[torch.zeros_like(slices)] * 4], 1)

    assert calibrate_quality(OfTheBackground(), PreparedDataset(copy), "source", None) is None


def test_a_segmentation_is_judged_and_the_judgement_goes_with_it(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    assert isinstance(bundle.manifest.quality, QualityCalibration)
    image = cohort / "ct" / "abdomen_ct_000_image.nii.gz"
    segmentation = Segmentor(bundle, "cpu").segment(read_volume(image))
    names = [structure.name for structure in bundle.manifest.task.structures]
    assert list(segmentation.estimates) == names
    (outputs,) = segment_files(bundle.path, [image], tmp_path, device="cpu")
    assert outputs.estimates == segmentation.estimates
    lines = (tmp_path / "estimated_dice.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "volume,structure,estimated_dice,low,high,doubtful,warnings"
    assert lines[1].startswith(f"abdomen_ct_000,liver,{segmentation.estimates['liver'].dice:.4f},")
    assert len(lines) == 5


def test_each_structure_is_estimated_from_its_own_expectation(
    bundle: Bundle, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {"liver": 0.6, "right kidney": 0.7, "left kidney": 0.8, "spleen": 0.9}
    monkeypatch.setattr(ExpectedDice, "of_structures", lambda _: np.array(list(expected.values())))
    quality = QualityCalibration(offset=0, slope=1, low=-1, high=2, offsets={"spleen": 0.5}, volumes=1, of_decided=True)
    calibrated = replace(bundle, manifest=bundle.manifest.model_copy(update={"quality": quality}))
    image = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    told = Segmentor(calibrated, "cpu").segment(image).estimates
    for name, dice in expected.items():
        odds = dice / (1 - dice) * np.exp(0.5 if name == "spleen" else 0)
        wanted = [scale * odds / (1 + scale * odds) for scale in (1, np.exp(-1), np.exp(2))]
        assert (told[name].dice, told[name].low, told[name].high) == pytest.approx(wanted, abs=1e-4)


def test_a_border_that_the_intensities_decide_is_in_doubt_no_more(
    bundle: Bundle, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_bright(_self: Segmentor, slices: np.ndarray) -> np.ndarray:
        share = np.where(slices > 0, 0.6, 0.4).astype(np.float32)
        return np.stack([1 - share, share, *[np.zeros_like(share)] * 3], 1)

    monkeypatch.setattr(Segmentor, "predict", of_bright)
    quality = QualityCalibration(offset=0, slope=1, low=-1, high=2, volumes=1, of_decided=True)
    calibrated = replace(bundle, manifest=bundle.manifest.model_copy(update={"quality": quality}))
    image = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    told = Segmentor(calibrated, "cpu").segment(image).estimates["liver"].dice
    monkeypatch.setattr(Appearance, "decide", lambda *_: None)
    assert told > Segmentor(calibrated, "cpu").segment(image).estimates["liver"].dice + 0.1


def test_a_calibration_of_what_the_model_alone_said_tells_nothing(bundle: Bundle, cohort: Path) -> None:
    assert bundle.manifest.quality is not None
    before = bundle.manifest.quality.model_copy(update={"of_decided": False})
    old = replace(bundle, manifest=bundle.manifest.model_copy(update={"quality": before}))
    image = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    assert Segmentor(old, "cpu").segment(image).estimates == {}


def test_what_a_hardly_trained_model_finds_is_doubted(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    labelled = [read_labelmap(path, bundle.manifest.task) for path in sorted((cohort / "mr").glob("*_label*"))]
    livers = [float((one.array == 1).sum()) * float(np.prod(one.geometry.spacing)) / 1000 for one in labelled]
    low, high = np.percentile(livers, (5, 95))
    assert bundle.manifest.structures_ml["liver"] == pytest.approx((low / 2, high * 2))
    assert bundle.manifest.positions_mm == {}
    image = cohort / "ct" / "abdomen_ct_000_image.nii.gz"
    (outputs,) = segment_files(bundle.path, [image], tmp_path, device="cpu")
    found = Segmentor(bundle, "cpu").segment(read_volume(image)).found
    labels = read_labelmap(outputs.labelmap, bundle.manifest.task, allow_empty=True)
    assert {name: one.ml for name, one in found.items()} == pytest.approx(structures_ml(labels, bundle.manifest.task))
    every_part = Segmentor(bundle, "cpu").segment(read_volume(image), SegmentationOptions(largest_component=False))
    assert {one.kept for one in every_part.found.values()} == {1.0}
    for name, one in found.items():
        assert one.ml == pytest.approx(one.kept * every_part.found[name].ml)
    told = doubts_about_structures(found, bundle.manifest.usual)
    assert told
    assert set(as_sentences(image.name, told)) <= set(outputs.warnings)
    assert outputs.doubtful == set(told)
    with (tmp_path / "estimated_dice.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["structure"] for row in rows if row["doubtful"] == "yes"} == set(told)
    about = dict(zip(told, as_sentences(image.name, told), strict=True))
    whole = [sentence for sentence in outputs.warnings if sentence not in about.values()]
    for row in rows:
        own = [sentence for structure, sentence in about.items() if structure == row["structure"]]
        assert all(sentence in row["warnings"] for sentence in (*own, *whole))
        assert not any(sentence in row["warnings"] for sentence in about.values() if sentence not in own)


def test_volumes_without_a_structure_have_no_say_in_how_large_it_is(cohort: Path, tmp_path: Path) -> None:
    copy, task = shutil.copytree(cohort, tmp_path / "cohort"), load_task("abdomen")
    without, other = sorted((copy / "mr").glob("*_label*"))
    label = read_volume(without)
    write_volume(replace(label, array=np.where(label.array == 4, 0, label.array)), without)
    usual = prepare(copy / "mr", copy / "ct", tmp_path / "set", size=32, report=lambda _: None).source.structures_ml
    spleen = structures_ml(read_labelmap(other, task), task)["spleen"]
    assert usual["spleen"] == pytest.approx((spleen / 2, 2 * spleen))
    assert doubts_about_structures({"spleen": Found(0.0)}, Usual(usual)).keys() == {"spleen"}
    assert usual["liver"][0] < usual["liver"][1]


def test_of_few_volumes_twice_the_largest_and_half_the_smallest_are_usual_as_well() -> None:
    sizes = [100.0, 110.0, 120.0, 130.0, 140.0]
    of_five, of_four = (volume_ranges([{"spleen": ml} for ml in some]) for some in (sizes, sizes[:4]))
    assert of_five["spleen"] == pytest.approx((102.0, 138.0))
    assert of_four["spleen"] == pytest.approx((101.5 / 2, 128.5 * 2))
    for ml, doubted in ((350.0, False), (40.0, False), (0.0, True), (700.0, True)):
        assert bool(doubts_about_structures({"spleen": Found(ml)}, Usual(of_four))) == doubted
    assert doubts_about_structures({"spleen": Found(350.0)}, Usual(of_five))
    # Only volumes that have the structure count.
    assert volume_ranges([{"spleen": ml} for ml in (*sizes[:4], 0.0)]) == of_four
    assert volume_ranges([]) == {}


def test_few_volumes_do_not_tell_where_structures_are() -> None:
    volumes = [{"spleen": (100.0 + step, 0.0, -step)} for step in range(5)]
    expected = ((100.2, 0.0, -3.8), (103.8, 0.0, -0.2))
    assert np.allclose(position_ranges([*volumes, {}])["spleen"], expected)
    assert position_ranges([*volumes[:4], {}, {}]) == {}


def test_tables_show_estimates_where_there_are_some() -> None:
    scores = Scores(nan, nan, nan, nan, 1.0, nan, nan)
    table = ScoreTable((Row("a", "liver", scores, "", Estimate(0.8, 0.7, 0.9)), Row("a", "spleen", scores)))
    assert "0.80 (0.70-0.90)" in table.text()
    assert "0.8000,0.7000,0.9000" in table.csv()
    assert json.loads(table.json())["rows"][0]["estimate"] == {"dice": 0.8, "low": 0.7, "high": 0.9}
    assert "estimated" not in ScoreTable((Row("a", "spleen", scores),)).text()
