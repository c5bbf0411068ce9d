"""Comparisons of methods: rows, table, going on, and that no label of the target reaches a training."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quick import QUICK
from SIFASegmentationLib.bundle import read_bundle
from SIFASegmentationLib.cohorts import Case
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.field_of_view import BoxMM
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.scores import Row, Scores, ScoreTable
from SIFASegmentationLib.structures import load_task
from SIFASegmentationLib.volumes import Volume
from SIFATrainingLib import compare as module
from SIFATrainingLib.checkpoints import checkpoint_paths, load_checkpoint
from SIFATrainingLib.compare import Comparison, Result, compare, subjects_of
from SIFATrainingLib.comparison_report import csv_text, markdown, table_lines, write_comparison
from SIFATrainingLib.phantoms import write_cohort
from SIFATrainingLib.prepare import Preparation, make_preparation
from SIFATrainingLib.variants import VARIANTS, Variant, choose_variants

ROWS = ("without_adaptation", "sifa", "supervised")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mr` and `ct`, three labelled patients each."""
    folder = tmp_path_factory.mktemp("volumes")
    for modality in ("mr", "ct"):
        write_cohort(folder / modality, "abdomen", modality, range(3), size=40)
    return folder


def preparation(volumes: Path, **settings: Any) -> Preparation:
    return make_preparation(
        **{"source": volumes / "mr", "target": volumes / "ct", "size": 32, "hold_out": ("abdomen_ct_002",), **settings}
    )


def run(out: Path, volumes: Path, rows: tuple[str, ...] = ROWS, **settings: Any) -> Comparison:
    also = settings.pop("also", ())
    common = {**QUICK, **settings.pop("common", {})}
    return compare(
        out, preparation(volumes, **settings.pop("preparation", {})), choose_variants(rows, also), common=common,
        iterations=2, bound_iterations=3, device="cpu", **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("comparison") / "of rows"
    return out, run(out, volumes)


def test_each_row_is_a_training_with_its_settings_scored_on_the_volumes_held_out(
    finished: tuple[Path, Comparison],
) -> None:
    out, comparison = finished
    assert [result.variant.name for result in comparison.results] == list(ROWS)
    assert [case.patient for case in comparison.cases] == ["abdomen_ct_002"]
    for result in comparison.results:
        assert {row.subject for row in result.table.rows} == {"abdomen_ct_002"}
        assert result.labelmap(comparison.cases[0].patient).exists()
        job = module.Job(result.folder / "job")
        assert job.specification["config"]["method"] == result.variant.settings["method"]
        assert job.specification["config"]["iterations"] == (2 if result.variant.name == "sifa" else 3)
    assert not (out / "prepared" / "target_labels.npy").exists()
    assert (out / "prepared_with_labels" / "target_labels.npy").exists()


def test_what_is_done_is_not_done_again_and_rows_can_come_later(
    finished: tuple[Path, Comparison], volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, before = finished
    trained: list[Path] = []
    original = module.train
    monkeypatch.setattr(module, "train", lambda job, **options: (trained.append(job.folder), original(job, **options)))
    monkeypatch.setattr(module, "run_preparation", None)
    after = run(out, volumes, ("sifa",), also=["no average: ema_decay=0"], seeds=(0, 1))
    assert trained == [out / name / "job" for name in ("no_average/seed_0", "sifa/seed_1", "no_average/seed_1")]
    assert after.of("sifa")[0].table == before.of("sifa")[0].table
    specification = module.Job(out / "no_average" / "seed_0" / "job").specification
    assert specification["config"]["ema_decay"] == 0


def test_a_comparison_is_not_mixed_with_another(finished: tuple[Path, Comparison], volumes: Path) -> None:
    out, _ = finished
    with pytest.raises(InputError, match="other volumes or grids: choose another folder"):
        run(out, volumes, preparation={"size": 40})
    with pytest.raises(InputError, match="trained with other settings: choose another folder"):
        run(out, volumes, common={"batch": 1})


def test_volumes_are_scored_in_the_regions_that_they_are_trained_in_and_need_no_labels_but_their_own(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target's other volume has no labels; one reference is cropped, as Slicer saves it, one is empty."""
    names = [f"abdomen_ct_00{number}" for number in range(3)]
    regions = ["-150,150,-100,100,-500,500", "-140,140,-100,100,-500,500", ""]
    lines = []
    for name, region in zip(names, regions, strict=True):
        shutil.copy(volumes / "ct" / f"{name}_image.nii.gz", tmp_path)
        lines.append(f'{name},{name}_image.nii.gz,{name}_label.nrrd,"{region}"')
    (tmp_path / "ct.csv").write_text("\n".join(["patient,image,label,region", *lines]) + "\n")
    whole = read_volume(volumes / "ct" / f"{names[1]}_label.nii.gz")
    box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in np.nonzero(whole.array))
    first = np.array([[part.start for part in reversed(box)]]).T
    origin = np.array(whole.geometry.origin) + (whole.geometry.axes_mm @ first)[:, 0]
    array = np.ascontiguousarray(whole.array[box])
    geometry = replace(whole.geometry, size=array.shape[::-1], origin=tuple(origin.tolist()))
    write_volume(Volume(array, geometry, "cropped"), tmp_path / f"{names[1]}_label.nrrd")
    write_volume(replace(whole, array=np.zeros_like(whole.array)), tmp_path / f"{names[2]}_label.nrrd")
    given: list[Any] = []
    original = module.segment_files
    monkeypatch.setattr(
        module, "segment_files", lambda *paths, **options: (given.append(options), original(*paths, **options))[1]
    )
    roi = BoxMM(minimum=(-145, -90, -500), maximum=(145, 90, 500))
    comparison = run(
        tmp_path / "out", volumes, ("without_adaptation",),
        preparation={"target": tmp_path / "ct.csv", "hold_out": tuple(names[1:]), "roi": roi},
    )  # fmt: skip
    assert [case.patient for case in comparison.cases] == names[1:]
    # By the patient: images of several may have one file name.
    assert list(given[0]["names"].values()) == names[1:]
    assert given[0]["region"] == roi
    own = BoxMM(minimum=(-140, -100, -500), maximum=(140, 100, 500))
    assert given[0]["regions"] == {tmp_path / f"{names[1]}_image.nii.gz": own}
    write_comparison(tmp_path / "out", comparison)
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    # Two box plots, two patients.
    assert page.count("data:image/png;base64") == 4


def test_there_must_be_something_to_score(volumes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to score: name target patients by --hold-out"):
        run(tmp_path / "out", volumes, preparation={"hold_out": ("abdomen_mr_002",)})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "also", "words"),
    [
        (("sifas",), (), "no row 'sifas': choose from without_adaptation, "),
        ((), ("flips",), "--also 'flips' is not TITLE: NAME=VALUE"),
        ((), ("flips: 3",), "'3' is not NAME=VALUE"),
        ((), ("SIFA: ema_decay=0",), "Two rows are called 'sifa'"),
    ],
)
def test_rows_that_are_none(rows: tuple[str, ...], also: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_variants(rows, also)


def test_a_setting_of_all_rows_is_one_of_those_that_bring_their_own(volumes: Path) -> None:
    common = {"loss_weights": {"structure": 5.0, "cycle": 7.0}, "self_training": {"gamma": 0.1}}
    for variant in VARIANTS:
        config = variant.config(common, 2, 3, 0)
        assert (config.loss_weights.structure, config.loss_weights.cycle, config.self_training.gamma) == (5, 7, 0.1)
        alone = variant.config({}, 2, 3, 0)
        assert config.loss_weights.random_contrast == alone.loss_weights.random_contrast
        assert config.self_training.share == alone.self_training.share


def test_a_setting_that_is_none_is_found_before_anything_is_trained(volumes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ema"):
        run(tmp_path / "out", volumes, also=["late: ema=2"])
    assert not (tmp_path / "out").exists()


def test_further_rows_stand_before_the_upper_bound() -> None:
    names = [variant.name for variant in choose_variants(also=["No dropout: decoder_dropout=0 loss_weights.cycle=5"])]
    assert names == [*(variant.name for variant in VARIANTS[:-1]), "no_dropout", "supervised"]
    config = choose_variants(["sifa"], ["x: loss_weights.cycle=5"])[1].config({"width": 0.5}, 7, 3, 1)
    assert (config.loss_weights.cycle, config.width, config.iterations, config.seed) == (5.0, 0.5, 7, 1)


def scores(dice: float, asd: float) -> Scores:
    return Scores(dice, asd, nan, nan, 1.0, 1.0, 0.0)


def result(name: str, seed: int, dice: tuple[float, float]) -> Result:
    rows = (Row("p", "liver", scores(dice[0], 2.0)), Row("p", "spleen", scores(dice[1], nan)))
    return Result(Variant(name, name, {"method": name}), seed, Path(), ScoreTable(rows))


def test_the_table_by_hand() -> None:
    results = (
        result("without_adaptation", 0, (0.2, 0.4)), result("without_adaptation", 1, (0.4, 0.6)),
        result("sifa", 0, (0.6, 0.8)), result("sifa", 1, (0.6, 0.6)), result("supervised", 0, (0.9, 0.8)),
    )  # fmt: skip
    comparison = Comparison(load_task("abdomen"), results, (Case("p", Path("p.nii.gz"), None),))
    without, sifa, supervised = table_lines(comparison)
    assert without.dice == pytest.approx({"liver": 30, "spleen": 50, "mean": 40})
    assert without.closed == 0
    assert supervised.closed == 1
    assert sifa.closed == pytest.approx((0.65 - 0.4) / (0.85 - 0.4))
    assert sifa.spread == pytest.approx(np.std([70, 60], ddof=1))
    assert isnan(supervised.spread)
    assert sifa.asd["liver"] == 2.0
    text = markdown(comparison)
    assert "| sifa | 60.0 | 70.0 | 65.0 ± 7.1 | 2.0 | - | 2.0 | 56% |" in text
    assert "| supervised | 85.0 |" in text
    rows = list(csv.DictReader(csv_text(comparison).splitlines()))
    assert len(rows) == 10
    assert (rows[-1]["row"], rows[-1]["structure"], rows[-1]["dice"], rows[-1]["asd"]) == (
        "supervised", "spleen", "0.8", "",
    )  # fmt: skip


def test_without_both_bounds_no_share_of_the_gap_is_given() -> None:
    comparison = Comparison(load_task("abdomen"), (result("sifa", 0, (0.6, 0.8)),), ())
    assert isnan(table_lines(comparison)[0].closed)


def test_odd_subjects_are_reported_apart() -> None:
    def of_subjects(name: str, typical: float, odd: float) -> Result:
        rows = tuple(
            Row(subject, "liver", scores(dice, 1.0)) for subject, dice in (("a", typical), ("b", typical), ("odd", odd))
        )
        return Result(Variant(name, name, {"method": name}), 0, Path(), ScoreTable(rows))

    results = (
        of_subjects("without_adaptation", 0.2, 0.1), of_subjects("sifa", 0.7, 0.4), of_subjects("supervised", 0.8, 0.1),
    )  # fmt: skip
    cases = tuple(Case(subject, Path(f"{subject}.nii.gz"), None) for subject in ("a", "b", "odd"))
    comparison = Comparison(load_task("abdomen"), results, cases, frozenset({"odd"}))
    text = markdown(comparison)
    assert "Apart from the odd subjects (odd):" in text
    assert "|  | typical, mean Dice | typical, gap closed | odd, mean Dice | odd, gap closed |" in text
    # Of the odd one there is no gap to close.
    assert "| sifa | 70.0 | 83% | 40.0 | - |" in text
    assert "Apart" not in markdown(replace(comparison, odd=frozenset()))


def test_several_images_of_a_patient_are_several_subjects() -> None:
    cases = tuple(Case(patient, Path(f"{image}.nii.gz"), None) for patient, image in (("a", 1), ("a", 2), ("b", 3)))
    assert subjects_of(cases) == ["a, 1", "a, 2", "b"]
    dice = zip(subjects_of(cases), (0.9, 0.9, 0.3), strict=True)
    rows = tuple(Row(subject, "liver", scores(value, 1.0)) for subject, value in dice)
    one = Result(Variant("sifa", "sifa", {"method": "sifa"}), 0, Path(), ScoreTable(rows))
    comparison = Comparison(load_task("abdomen"), (one,), cases, frozenset({"a"}))
    text = markdown(comparison)
    assert "| sifa | 70.0 | 70.0 |" in text
    assert "|  | a, 1 | a, 2 | b |" in text
    assert "| sifa | 30.0 | - | 90.0 | - |" in text


def test_empty_masks_are_told_of() -> None:
    nothing = Scores(0.0, nan, nan, nan, 0.0, 1.0, -1.0)
    rows = (Row("p", "liver", scores(0.5, 1.0)), Row("p", "spleen", nothing))
    one = Result(Variant("sifa", "SIFA", {"method": "sifa"}), 0, Path(), ScoreTable(rows))
    comparison = Comparison(load_task("abdomen"), (one,), (Case("p", Path("p.nii.gz"), None),))
    assert "with a Dice of 0 and no ASD (where both are, there is no Dice either): SIFA 1 of 2." in markdown(comparison)
    assert "empty" not in markdown(replace(comparison, results=(result("sifa", 0, (0.5, 0.5)),)))


def test_an_odd_subject_must_be_scored(volumes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'abdomen_ct_000' is not among those that are scored: abdomen_ct_002"):
        run(tmp_path / "out", volumes, odd=("abdomen_ct_000",))


def test_the_page_has_every_row_with_its_slices(finished: tuple[Path, Comparison]) -> None:
    out, comparison = finished
    write_comparison(out, comparison)
    page = (out / "comparison.html").read_text(encoding="utf-8")
    for words in ("SIFA, recommended", "supervised on the target", "abdomen_ct_002", "gap closed"):
        assert words in page
    # Two box plots, one patient, one translating row.
    assert page.count("data:image/png;base64") == 4
    assert (out / "comparison.md").read_text(encoding="utf-8") == markdown(comparison)
    assert len((out / "comparison.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3 * 4


def test_scores_come_back_from_their_file(finished: tuple[Path, Comparison], tmp_path: Path) -> None:
    table = ScoreTable(
        (Row("a", "liver", scores(0.5, nan), "reference empty", method="adapted"),),
        legacy=True,
        tolerance=3.0,
        unmatched=("b.nii.gz",),
    )
    table.write(tmp_path / "scores.json")
    again = ScoreTable.read(tmp_path / "scores.json")
    assert again.json() == table.json()
    (tmp_path / "scores.json").write_text('{"rows": [{}]}')
    with pytest.raises(InputError, match=r"scores\.json holds no scores .*: score the labelmaps again"):
        ScoreTable.read(tmp_path / "scores.json")


@pytest.mark.parametrize("row", ["without_adaptation", "output_alignment", "sifa_paper", "sifa"])
def test_labels_of_the_target_reach_no_training_without_them(
    row: str, volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise in the place of the target's label files, or no file at all: the same weights, bit by bit."""
    # The weights are what counts: no export, no scores.
    monkeypatch.setattr(module, "export", lambda *_, **__: None)
    monkeypatch.setattr(module, "_score", lambda *_: result("sifa", 0, (0.5, 0.5)).table)
    weights = []
    for labels in ("true", "noise", "none"):
        folder = tmp_path / labels
        rng = np.random.default_rng(0)
        for source in sorted(volumes.rglob("*.nii.gz")):
            copy = folder / source.relative_to(volumes)
            volume = read_volume(source)
            held_out = "_002_" in source.name
            if "ct" in source.parts[-2] and "_label" in source.name and not held_out:
                if labels == "none":
                    continue
                if labels == "noise":
                    noise = rng.integers(0, 5, volume.array.shape).astype(np.uint8)
                    volume = Volume(noise, volume.geometry, volume.name)
            write_volume(volume, copy)
        test = folder / "test"
        for kind in ("image", "label"):
            path = folder / "ct" / f"abdomen_ct_002_{kind}.nii.gz"
            write_volume(read_volume(path), test / path.name)
            path.unlink()
        run(
            tmp_path / f"out {labels}", folder, (row,), preparation={"test": test, "hold_out": ()},
            common={"self_training": {"share": 0.5}},
        )  # fmt: skip
        (path,) = checkpoint_paths(tmp_path / f"out {labels}" / row / "seed_0" / "job" / "checkpoints")[-1:]
        weights.append(load_checkpoint(path)["model"])
    for other in weights[1:]:
        for key, tensor in weights[0]["networks"].items():
            assert tensor.equal(other["networks"][key]), key
        for key, tensor in weights[0]["average"].items():
            assert np.array_equal(tensor, other["average"][key]), key


def test_scores_and_settings_of_a_row_are_enough(
    finished: tuple[Path, Comparison], volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, before = finished
    kept = tmp_path / "kept"
    for file in [*out.glob("*/seed_0/scores.json"), *out.glob("*/seed_0/settings.json")]:
        (kept / file.relative_to(out)).parent.mkdir(parents=True, exist_ok=True)
        (kept / file.relative_to(out)).write_bytes(file.read_bytes())
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("trained again"))
    after = run(kept, volumes)
    assert [result.table for result in after.results] == [result.table for result in before.results]
    assert not (kept / "prepared").exists()
    write_comparison(kept, after)
    assert (kept / "comparison.md").read_text(encoding="utf-8") == markdown(before)
    with pytest.raises(InputError, match="with other settings"):
        run(kept, volumes, ("sifa",), common={"learning_rate": 0.1})
    # Of another volume; the record of the first is gone.
    (kept / "prepared.json").unlink()
    with pytest.raises(InputError, match="scores of other volumes"):
        run(kept, volumes, ("sifa",), preparation={"hold_out": ("abdomen_ct_001",)})


def test_the_models_of_all_seeds_together_are_a_row(volumes: Path, tmp_path: Path) -> None:
    comparison = run(tmp_path / "out", volumes, rows=("sifa",), seeds=(0, 1), together=True)
    assert [(result.variant.name, result.seed) for result in comparison.results] == [
        ("sifa", 0), ("sifa", 1), ("sifa_mean_of_2", 0)
    ]  # fmt: skip
    mean = comparison.results[-1]
    assert read_bundle(mean.folder / "bundle").manifest.members == 2
    assert mean.labelmap(comparison.cases[0].patient).exists()
    assert "| SIFA, recommended: mean of 2 models |" in markdown(comparison)
    write_comparison(tmp_path / "out", comparison)
    shutil.rmtree(mean.folder / "bundle")
    assert run(tmp_path / "out", volumes, rows=("sifa",), seeds=(0, 1), together=True).results == comparison.results
    # Scores alone make no model.
    shutil.rmtree(tmp_path / "out" / "sifa" / "seed_1" / "job")
    shutil.rmtree(mean.folder)
    with pytest.raises(InputError, match=r"seed_1.job is gone, .*leave out --together"):
        run(tmp_path / "out", volumes, rows=("sifa",), seeds=(0, 1), together=True)


def test_a_training_that_is_watched_shows_what_the_last_weights_lost(volumes: Path, tmp_path: Path) -> None:
    watched = {"preparation": {"monitor": volumes / "ct"}, "common": {"monitor_every": 1}}
    comparison = run(tmp_path / "out", volumes, rows=("without_adaptation",), **watched)
    (result,) = comparison.results
    points = result.watched()
    assert [iteration for iteration, _ in points] == [1, 2, 3]
    best, last = max(dice for _, dice in points), points[-1][1]
    (line,) = [line for line in markdown(comparison).splitlines() if line.startswith("| without adaptation, seed 0 ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == f"{100 * best:.1f}"
    assert cells[3:] == [f"{100 * last:.1f}", f"{100 * (best - last):.1f}"]
    write_comparison(tmp_path / "out", comparison)
    assert "As the trainings went on" in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
