"""Comparisons of methods: rows, table, continuing one, and that no label of the target reaches a training."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from quick import QUICK
from SIFASegmentationLib import usual
from SIFASegmentationLib.bundle import read_bundle
from SIFASegmentationLib.cases import Case
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.jobs import Job, State
from SIFASegmentationLib.phantoms import write_cohort
from SIFASegmentationLib.regions import BoxMM
from SIFASegmentationLib.scores import Row, Scores, ScoreTable
from SIFASegmentationLib.segmentation import providers_of
from SIFASegmentationLib.structures import load_task
from SIFASegmentationLib.volumes import Volume
from SIFATrainingLib import compare as module
from SIFATrainingLib.checkpoints import checkpoint_paths, load_checkpoint
from SIFATrainingLib.cli import STOPPED, app
from SIFATrainingLib.compare import Comparison, Result, StoppedError, compare, subjects_of
from SIFATrainingLib.comparison_report import csv_text, markdown, table_lines, write_comparison
from SIFATrainingLib.config import make_config
from SIFATrainingLib.devices import DEVICES, inference_device
from SIFATrainingLib.prepare import Preparation, make_preparation
from SIFATrainingLib.variants import VARIANTS, Variant, choose_variants

ROWS = ("without_adaptation", "sifa", "supervised")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `mr` and `ct` with three labelled patients each."""
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


def keep(out: Path, kept: Path, *rows: str) -> Path:
    """Copy scores and settings of some rows of `out`, seed 0, to the folder `kept`, and return it."""
    for row in rows:
        folder = kept / row / "seed_0"
        folder.mkdir(parents=True)
        for name in ("scores.json", "settings.json"):
            shutil.copy(out / row / "seed_0" / name, folder)
    return kept


def keep_data_set(out: Path, kept: Path) -> None:
    """Copy the data set of the folder `out` to `kept`."""
    shutil.copytree(out / "prepared", kept / "prepared")
    shutil.copy(out / "prepared.json", kept)


def titles(comparison: Comparison) -> list[str]:
    return [variant.title for variant in comparison.variants]


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
    finished: tuple[Path, Comparison], volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, before = shutil.copytree(finished[0], tmp_path / "out"), finished[1]
    trained: list[Path] = []
    original = module.train
    monkeypatch.setattr(module, "train", lambda job, **options: (trained.append(job.folder), original(job, **options)))
    monkeypatch.setattr(module, "run_preparation", None)
    after = run(out, volumes, ("sifa",), also=["No average: ema_decay=0"], seeds=(0, 1))
    assert trained == [out / name / "job" for name in ("no_average/seed_0", "sifa/seed_1", "no_average/seed_1")]
    assert after.of("sifa")[0].table == before.of("sifa")[0].table
    assert [(result.variant.name, result.seed) for result in after.results] == [
        ("without_adaptation", 0), ("sifa", 0), ("sifa", 1), ("no_average", 0), ("no_average", 1), ("supervised", 0)
    ]  # fmt: skip
    assert titles(run(out, volumes, ("sifa",))) == titles(after)
    assert titles(after)[2] == "No average"
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
        module,
        "segment_files",
        lambda *places, **options: (given.append((places[1], options)), original(*places, **options))[1],
    )
    roi = BoxMM(minimum=(-145, -90, -500), maximum=(145, 90, 500))
    comparison = run(
        tmp_path / "out", volumes, ("without_adaptation",),
        preparation={"target": tmp_path / "ct.csv", "hold_out": tuple(names[1:]), "roi": roi},
    )  # fmt: skip
    assert [case.patient for case in comparison.cases] == names[1:]
    # Results are named by the patient, since images of different patients may have the same file name.
    requests, options = given[0]
    assert [request.name for request in requests] == names[1:]
    assert options["region"] == roi
    own = BoxMM(minimum=(-140, -100, -500), maximum=(140, 100, 500))
    assert [request.region for request in requests] == [own, None]
    write_comparison(tmp_path / "out", comparison)
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    # One picture for each of two box plots and two patients.
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
        ((), ("SIFA: ema_decay=0",), "Two rows would be called 'sifa'"),
        (("sifa",), ("Supervised: ema_decay=0",), "Two rows would be called 'supervised'"),
        (("sifa",), ("SIFA, mean of 3: ema_decay=0",), "Two rows would be called 'sifa_mean_of_3'"),
        (("sifa",), ("a: ema_decay=0", "A: ema_decay=0.5"), "Two rows would be called 'a': give that of --also"),
    ],
)
def test_invalid_rows_are_refused(rows: tuple[str, ...], also: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_variants(rows, also)


def test_a_setting_of_all_rows_is_one_of_those_that_bring_their_own() -> None:
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


def test_what_would_end_it_after_hours_is_found_before_anything_is_trained(volumes: Path, tmp_path: Path) -> None:
    for changes, words in (({"target_coding": "CHOAS"}, "'CHOAS'"), ({}, "The device 'gpu' is unknown")):
        settings = {} if changes else {"device": "gpu"}
        with pytest.raises(InputError, match=words):
            compare(
                tmp_path / "out", preparation(volumes, **changes), choose_variants(("sifa",)), common={},
                iterations=2, bound_iterations=2, seeds=range(1), **settings,
            )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_record_of_the_data_set_that_is_damaged(volumes: Path, tmp_path: Path) -> None:
    (tmp_path / "prepared.json").write_text("hello")
    with pytest.raises(InputError, match=r"prepared\.json is damaged: choose another folder"):
        run(tmp_path, volumes)


def test_further_rows_come_after_the_others() -> None:
    names = [variant.name for variant in choose_variants(also=["No dropout: decoder_dropout=0 loss_weights.cycle=5"])]
    assert names == [*(variant.name for variant in VARIANTS), "no_dropout"]
    config = choose_variants(["sifa"], ["x: loss_weights.cycle=5"])[1].config({"width": 0.5}, 7, 3, 1)
    assert (config.loss_weights.cycle, config.width, config.iterations, config.seed) == (5.0, 0.5, 7, 1)
    (bound,) = choose_variants(["supervised"])
    assert bound.config({}, 7, 3, 1).iterations == 3
    # The preset's number of iterations.
    assert bound.config({}, 7, None, 1).iterations == 20_000
    for name, option in (("seed", "--first-seed"), ("method", "--row")):
        with pytest.raises(InputError, match=f"have a {name} each: leave it to {option}"):
            bound.config({name: "7"}, 7, 3, 1)


def scores(dice: float, asd: float) -> Scores:
    return Scores(dice, asd, nan, nan, 1.0, 1.0, 0.0)


def of_row(name: str, rows: tuple[Row, ...], seed: int = 0, title: str = "", **settings: Any) -> Result:
    """Return the result of a row that is named after its method and has no files."""
    config = make_config(method=name, seed=seed, **settings)
    return Result(Variant(name, title or name, {"method": name}), config, (seed,), Path(), ScoreTable(rows))


def result(name: str, seed: int, dice: tuple[float, float]) -> Result:
    return of_row(name, (Row("p", "liver", scores(dice[0], 2.0)), Row("p", "spleen", scores(dice[1], nan))), seed)


def table(*results: Result) -> Comparison:
    return Comparison(load_task("abdomen"), results, (Case("p", Path("p.nii.gz"), None),))


def test_the_table_by_hand() -> None:
    comparison = table(
        result("without_adaptation", 0, (0.2, 0.4)), result("without_adaptation", 1, (0.4, 0.6)),
        result("sifa", 0, (0.6, 0.8)), result("sifa", 1, (0.6, 0.6)), result("supervised", 0, (0.9, 0.8)),
    )  # fmt: skip
    without, sifa, supervised = table_lines(comparison)
    assert without.dice == pytest.approx({"liver": 30, "spleen": 50, "mean": 40})
    assert without.closed == 0
    assert supervised.closed == 1
    assert sifa.closed == pytest.approx((0.65 - 0.4) / (0.85 - 0.4))
    assert sifa.spread == pytest.approx(np.std([70, 60], ddof=1))
    assert isnan(supervised.spread)
    assert sifa.asd["liver"] == 2.0
    text = markdown(comparison)
    assert "|  | seeds | liver, Dice |" in text
    assert "| sifa | 0, 1 | 60.0 | 70.0 | 65.0 ± 7.1 | 2.0 | - | 2.0 | 56% |" in text
    assert "| supervised | 0 | 90.0 |" in text
    assert "All rows: iterations 20,000; batch 8; width 1." in text
    assert "| supervised | 85.0 |" in text
    rows = list(csv.DictReader(csv_text(comparison).splitlines()))
    assert len(rows) == 10
    assert (rows[-1]["row"], rows[-1]["structure"], rows[-1]["dice"], rows[-1]["asd"]) == (
        "supervised", "spleen", "0.8", "",
    )  # fmt: skip
    assert rows[-1]["iterations"] == "20000"


@pytest.mark.parametrize("bounds", [{}, {"without_adaptation": 0.8, "supervised": 0.78},
                                    {"without_adaptation": 0.6, "supervised": 0.605}, {"supervised": 0.9}])  # fmt: skip
def test_where_there_is_no_gap_no_share_of_it_is_given(bounds: dict[str, float]) -> None:
    comparison = table(*(result(name, 0, (dice, dice)) for name, dice in {"sifa": 0.6, **bounds}.items()))
    assert all(isnan(line.closed) for line in table_lines(comparison))
    lines = [line for line in markdown(comparison).splitlines() if "| 2.0 | - | 2.0 |" in line]
    assert len(lines) == 1 + len(bounds)
    assert all(line.endswith("| 2.0 | - |") for line in lines)


def test_a_row_as_bad_as_no_adaptation_closes_nothing_rather_than_less() -> None:
    dice = {"without_adaptation": 0.4, "sifa": 0.399, "supervised": 0.9}
    text = markdown(table(*(result(name, 0, (value, value)) for name, value in dice.items())))
    assert text.count("| 0% |") == 2


def test_a_row_is_held_against_bounds_of_its_own_seeds_where_they_are_there() -> None:
    low, high = (
        [result(name, seed, (dice, dice)) for seed, dice in ((0, first), (1, first + 0.1))]
        for name, first in (("without_adaptation", 0.2), ("supervised", 0.8))
    )
    for seeds, without in (((0,), 0.2), ((1,), 0.3), ((0, 1), 0.25), ((1, 2), 0.3), ((2,), 0.25)):
        row = [result("sifa", seed, (0.5, 0.5)) for seed in seeds]
        lines = table_lines(table(*low, *row, *high))
        assert [line.closed for line in lines] == pytest.approx([0, (0.5 - without) / 0.6, 1])
    # A mean of models is compared with the bounds of all its seeds.
    mean = replace(result("sifa", 0, (0.5, 0.5)), seeds=(0, 1))
    assert table_lines(table(*low, mean, *high))[1].closed == pytest.approx(0.25 / 0.6)
    assert "These bounds are those of the row's own seeds if available" in markdown(table(*low, mean, *high))


def test_a_structure_that_is_in_no_volume_has_no_scores() -> None:
    nothing = Scores(nan, nan, nan, nan, 0.0, 0.0, nan)
    text = markdown(table(of_row("sifa", (Row("p", "liver", scores(0.5, 1.0)), Row("p", "spleen", nothing)))))
    assert "| sifa | 50.0 | - | 50.0 | 1.0 | - | 1.0 | - |" in text
    assert "nan" not in text


def test_the_table_says_what_rows_were_trained_with_where_they_are_unlike() -> None:
    rows = (Row("p", "liver", scores(0.5, 1.0)),)
    text = markdown(table(of_row("without_adaptation", rows, iterations=300), of_row("sifa", rows, width=0.5)))
    assert "|  | iterations | width | liver, Dice |" in text
    assert "| without_adaptation | 300 | 1 | 50.0 |" in text
    assert "| sifa | 20,000 | 0.5 | 50.0 |" in text
    assert "All rows: seeds 0; batch 8." in text
    assert "other settings" not in text
    mixed = markdown(table(of_row("sifa", rows), of_row("sifa", rows, 1, ema_decay=0)))
    assert "Trained with other settings from seed to seed (settings.json): sifa." in mixed


def test_odd_subjects_are_reported_apart() -> None:
    def of_subjects(name: str, typical: float, odd: float) -> Result:
        rows = tuple(
            Row(subject, "liver", scores(dice, 1.0)) for subject, dice in (("a", typical), ("b", typical), ("odd", odd))
        )
        return of_row(name, rows)

    dice = {"without_adaptation": (0.2, 0.42), "sifa": (0.7, 0.6), "supervised": (0.8, 0.41)}
    results = tuple(of_subjects(name, *values) for name, values in dice.items())
    cases = tuple(Case(subject, Path(f"{subject}.nii.gz"), None) for subject in ("a", "b", "odd"))
    comparison = Comparison(load_task("abdomen"), results, cases, frozenset({"odd"}))
    text = markdown(comparison)
    assert "Apart from the odd subjects (odd):" in text
    assert "|  | typical, mean Dice | typical, gap closed | odd, mean Dice | odd, gap closed |" in text
    # For the odd subject, there is no gap to close.
    assert "| sifa | 70.0 | 83% | 60.0 | - |" in text
    assert "Apart" not in markdown(replace(comparison, odd=frozenset()))


def test_several_images_of_a_patient_are_several_subjects() -> None:
    cases = tuple(Case(patient, Path(f"{image}.nii.gz"), None) for patient, image in (("a", 1), ("a", 2), ("b", 3)))
    assert subjects_of(cases) == ["a, 1", "a, 2", "b"]
    dice = zip(subjects_of(cases), (0.9, 0.9, 0.3), strict=True)
    rows = tuple(Row(subject, "liver", scores(value, 1.0)) for subject, value in dice)
    comparison = Comparison(load_task("abdomen"), (of_row("sifa", rows),), cases, frozenset({"a"}))
    text = markdown(comparison)
    assert "| sifa | 70.0 | 70.0 |" in text
    assert "|  | a, 1 | a, 2 | b |" in text
    assert "| sifa | 30.0 | - | 90.0 | - |" in text


def test_empty_masks_are_told_of() -> None:
    nothing = Scores(0.0, nan, nan, nan, 0.0, 1.0, -1.0)
    rows = (Row("p", "liver", scores(0.5, 1.0)), Row("p", "spleen", nothing))
    comparison = table(of_row("sifa", rows, title="SIFA"))
    assert "with a Dice of 0 and no ASD (where both are, there is no Dice either): SIFA 1 of 2." in markdown(comparison)
    whole = markdown(replace(comparison, results=(result("sifa", 0, (0.5, 0.5)),)))
    assert "No mask was empty, in a prediction or a reference." in whole


def test_an_odd_subject_must_be_scored(volumes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'abdomen_ct_000' is not scored: choose from abdomen_ct_002"):
        run(tmp_path / "out", volumes, odd=("abdomen_ct_000",))


def test_the_page_has_every_row_with_its_slices(finished: tuple[Path, Comparison]) -> None:
    out, comparison = finished
    write_comparison(out, comparison)
    page = (out / "comparison.html").read_text(encoding="utf-8")
    for words in ("SIFA, recommended", "supervised on the target", "abdomen_ct_002", "gap closed"):
        assert words in page
    # One picture for each of two box plots, one patient and one row that translates.
    assert page.count("data:image/png;base64") == 4
    assert (out / "comparison.md").read_text(encoding="utf-8") == markdown(comparison)
    assert len((out / "comparison.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3 * 4
    with (out / "comparison_table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, line in zip(rows, table_lines(comparison), strict=True):
        assert row["row"] == line.title
        assert row["seeds"] == "0"
        for name in line.dice:
            assert float(row[f"dice {name}"]) == pytest.approx(line.dice[name] / 100, rel=1e-5)
            assert row[f"asd_mm {name}"] == ("" if isnan(line.asd[name]) else f"{line.asd[name]:.6g}")
        assert row["gap_closed"] == ("" if isnan(line.closed) else f"{line.closed:.6g}")
        assert int(row["masks"]) == 4  # Four structures of one patient.
        assert [row["one_empty"], row["both_empty"]] == [str(line.one_empty), str(line.both_empty)]


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
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


def volumes_with(labels: str, volumes: Path, folder: Path) -> Path:
    """Copy the cohort with `true`, `noise` or `none` for the target's label files; the scored volume goes to `test`."""
    rng = np.random.default_rng(0)
    for source in sorted(volumes.rglob("*.nii.gz")):
        tested = source.parent.name == "ct" and "_002_" in source.name
        copy = folder / ("test" if tested else source.parent.name) / source.name
        volume = read_volume(source)
        if source.parent.name == "ct" and "_label" in source.name and not tested:
            if labels == "none":
                continue
            if labels == "noise":
                noise = rng.integers(0, 5, volume.array.shape).astype(np.uint8)
                volume = Volume(noise, volume.geometry, volume.name)
        write_volume(volume, copy)
    return folder


@pytest.mark.parametrize(
    ("row", "exported"),
    [
        ("without_adaptation", True),
        ("output_alignment", False),
        ("without_translation", False),
        ("sifa_paper", False),
        ("sifa", True),
    ],
)
def test_labels_of_the_target_reach_no_training_and_no_bundle_without_them(
    row: str, exported: bool, volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise instead of the target's labels, or without any, the weights are the same, bit by bit.

    So is the bundle, including its calibration of estimates and its usual volumes and positions.
    """
    monkeypatch.setattr(usual, "FEWEST", 2)
    monkeypatch.setattr(module, "_score", lambda *_: result("sifa", 0, (0.5, 0.5)).table)
    if not exported:
        monkeypatch.setattr(module, "export", lambda *_, **__: None)
    weights, bundles = [], []
    for labels in ("true", "noise", "none"):
        folder = volumes_with(labels, volumes, tmp_path / labels)
        out = tmp_path / f"out {labels}"
        run(
            out, folder, (row,), preparation={"test": folder / "test", "hold_out": ()},
            common={"self_training": {"share": 0.5}},
        )  # fmt: skip
        (path,) = checkpoint_paths(out / row / "seed_0" / "job" / "checkpoints")[-1:]
        weights.append(load_checkpoint(path)["model"])
        if exported:
            bundles.append(read_bundle(out / row / "seed_0" / "bundle").manifest.model_copy(update={"created": ""}))
    for other in weights[1:]:
        for key, tensor in weights[0]["networks"].items():
            assert tensor.equal(other["networks"][key]), key
        for key, tensor in weights[0]["average"].items():
            assert np.array_equal(tensor, other["average"][key]), key
    if exported:
        first = bundles[0]
        assert first.quality is not None
        assert first.structures_ml
        assert first.positions_mm
        # These files are compared by their SHA-256.
        assert set(first.files) == {"model.onnx", "weights.safetensors"}
        assert bundles == [first] * 3


def test_scores_and_settings_of_a_row_are_enough(
    finished: tuple[Path, Comparison], volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, before = finished
    kept = keep(out, tmp_path / "kept", *ROWS)
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("trained again"))
    after = run(kept, volumes)
    assert [result.table for result in after.results] == [result.table for result in before.results]
    assert not (kept / "prepared").exists()
    write_comparison(kept, after)
    assert (kept / "comparison.md").read_text(encoding="utf-8") == markdown(before)
    with pytest.raises(InputError, match="with other settings"):
        run(kept, volumes, ("sifa",), common={"learning_rate": 0.1})
    # Another volume is to be scored, and the record of the data set is gone.
    (kept / "prepared.json").unlink()
    with pytest.raises(InputError, match="scores of other volumes"):
        run(kept, volumes, ("sifa",), preparation={"hold_out": ("abdomen_ct_001",)})


def test_the_models_of_all_seeds_together_are_a_row(
    finished: tuple[Path, Comparison], volumes: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished[0] / "sifa", tmp_path / "out" / "sifa")
    keep_data_set(finished[0], tmp_path / "out")
    comparison = run(tmp_path / "out", volumes, rows=("sifa",), seeds=(0, 1), ensemble=True)
    assert [(result.variant.name, result.seed) for result in comparison.results] == [
        ("sifa", 0), ("sifa", 1), ("sifa_mean_of_2", 0)
    ]  # fmt: skip
    mean = comparison.results[-1]
    assert read_bundle(mean.folder / "bundle").manifest.members == 2
    assert mean.labelmap(comparison.cases[0].patient).exists()
    assert "| SIFA, recommended: mean of 2 models |" in markdown(comparison)
    write_comparison(tmp_path / "out", comparison)
    shutil.rmtree(mean.folder / "bundle")
    assert run(tmp_path / "out", volumes, rows=("sifa",), seeds=(0, 1), ensemble=True).results == comparison.results
    # A mean can't be made from scores alone, without the models.
    shutil.rmtree(tmp_path / "out" / "sifa" / "seed_1" / "job")
    shutil.rmtree(mean.folder)
    with pytest.raises(InputError, match=r"seed_1.job is gone, .*leave out --ensemble"):
        run(tmp_path / "out", volumes, rows=("sifa",), seeds=(0, 1), ensemble=True)


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


def test_the_tables_are_of_every_row_that_has_its_scores(
    finished: tuple[Path, Comparison], volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes rows of other calls and processes, means, and rows of older versions, which wrote no titles."""
    out, before = finished
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("trained again"))
    kept = keep(out, tmp_path / "kept", "sifa", "without_adaptation")
    alone = run(kept, volumes, ("sifa",))
    write_comparison(kept, alone)
    # Another process has finished a row in the meantime.
    keep(out, kept, "supervised")
    both = run(kept, volumes, ("without_adaptation",))
    write_comparison(kept, both)
    assert (kept / "comparison.md").read_text(encoding="utf-8") == markdown(before)
    assert len((kept / "comparison.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3 * 4

    settings = json.loads((kept / "sifa" / "seed_0" / "settings.json").read_text(encoding="utf-8"))
    assert (settings.pop("title"), settings.pop("seeds")) == ("SIFA, recommended", [0])
    for name, own in (
        ("old_row", {}), ("sifa_mean_of_3", {}), ("a_row", {"title": "A row!", "seeds": [0]}),
        ("a_row_mean_of_2", {"title": "A row!", "seeds": [0, 4]}),
    ):  # fmt: skip
        shutil.copytree(kept / "sifa", kept / name)
        (kept / name / "seed_0" / "settings.json").write_text(json.dumps({**settings, **own}))
    every = run(kept, volumes, ("sifa",))
    assert titles(every) == [
        "without adaptation", "SIFA, recommended", "SIFA, recommended: mean of 3 models", "A row!",
        "A row!: mean of 2 models", "old row", "supervised on the target",
    ]  # fmt: skip
    assert [result.seeds for result in every.results] == [(0,), (0,), (0, 1, 2), (0,), (0, 4), (0,), (0,)]


def test_rows_that_can_not_stand_in_one_table_are_found_before_anything_is_trained(
    finished: tuple[Path, Comparison], volumes: Path, tmp_path: Path
) -> None:
    out, _ = finished
    other = keep(out, tmp_path / "other", "supervised")
    with pytest.raises(InputError, match=r"supervised.seed_0 holds scores of other volumes: choose another folder"):
        run(other, volumes, ("sifa",), preparation={"hold_out": ("abdomen_ct_001",)})
    (other / "supervised" / "seed_0" / "settings.json").write_text('{"method": "sifa", "neighbours": 2}')
    with pytest.raises(InputError, match=r"settings.json can't be used \(at 'neighbours', .*\): move .* away\."):
        run(other, volumes, ("sifa",))
    assert [path.name for path in other.iterdir()] == ["supervised"]


@pytest.mark.parametrize("why", ["asked", "time", "scored by an earlier program"])
def test_a_row_that_was_stopped_has_no_scores_and_goes_on(
    why: str, finished: tuple[Path, Comparison], volumes: Path, tmp_path: Path
) -> None:
    out = keep(finished[0], tmp_path / "out", "without_adaptation")
    keep_data_set(finished[0], out)
    folder = out / "sifa" / "seed_0"

    def ask(title: str, kind: str, data: dict[str, Any]) -> None:
        if title.startswith("SIFA") and kind == "losses":
            Job(folder / "job").request_stop()

    how: dict[str, Any] = {"time_limit_seconds": 0} if why == "time" else {"report": ask}
    log = {"common": {"log_every": 1}}
    with pytest.raises(StoppedError, match=r"seed_0.job was stopped: run compare again to go on\.") as stopped:
        run(out, volumes, ("sifa",), **log, **how)
    assert Job(folder / "job").state() is State.STOPPED
    assert [path.name for path in folder.iterdir()] == ["job"]
    assert titles(stopped.value.comparison) == ["without adaptation"]
    if why == "scored by an earlier program":
        module.export(folder / "job", folder / "bundle")
        shutil.copy(finished[0] / "sifa" / "seed_0" / "scores.json", folder)
        config = module.TrainingSpecification.of(Job(folder / "job")).config
        (folder / "settings.json").write_text(config.model_dump_json())
        assert read_bundle(folder / "bundle").manifest.training.iterations == 1
        assert titles(run(out, volumes, ("without_adaptation",))) == ["without adaptation"]
        with pytest.raises(StoppedError):
            run(out, volumes, ("sifa",), **log, time_limit_seconds=0)
        # What remains must not look like a finished row if the export or the scoring is interrupted.
        assert [path.name for path in folder.iterdir() if path.name != "settings.json"] == ["job"]
    comparison = run(out, volumes, ("sifa",), **log)
    assert titles(comparison) == ["without adaptation", "SIFA, recommended"]
    assert read_bundle(folder / "bundle").manifest.training.iterations == 2
    told = [event.data["iteration"] for event in Job(folder / "job").events()[0] if event.kind == "losses"]
    assert told == [1, 2]


def test_the_time_limit_is_that_of_the_whole_call(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(module, "train", lambda _, *, time_limit_seconds, **__: limits.append(time_limit_seconds))
    monkeypatch.setattr(module, "export", lambda *_, **__: None)
    monkeypatch.setattr(module, "_score", lambda *_: result("sifa", 0, (0.5, 0.5)).table)
    run(tmp_path / "out", volumes, ("without_adaptation", "sifa"), time_limit_seconds=100)
    assert 100 > limits[0] > limits[1] > 0


def test_the_time_limit_ends_no_preparation_and_no_export(
    finished: tuple[Path, Comparison], volumes: Path, tmp_path: Path
) -> None:
    """They would start anew in the next call, which would have no more time than this one."""
    with pytest.raises(StoppedError, match=r"seed_0.job was stopped"):
        run(tmp_path / "out", volumes, ("sifa",), time_limit_seconds=0)
    assert (tmp_path / "out" / "prepared" / "manifest.json").exists()
    out = shutil.copytree(finished[0], tmp_path / "kept")
    folder = out / "sifa" / "seed_0"
    shutil.rmtree(folder / "bundle")
    (folder / "scores.json").unlink()
    run(out, volumes, ("sifa",), time_limit_seconds=0)
    assert (folder / "scores.json").exists()


def test_the_rows_before_one_that_was_stopped_have_their_report(
    finished: tuple[Path, Comparison], volumes: Path, tmp_path: Path
) -> None:
    out = keep(finished[0], tmp_path / "out", "without_adaptation", "supervised")
    keep_data_set(finished[0], out)
    small = ["--size", "32", "--width", "0.0625", "--batch", "2", "--device", "cpu"]
    given = ["--source", volumes / "mr", "--target", volumes / "ct", "--hold-out", "abdomen_ct_002", "--out", out]
    ended = CliRunner().invoke(app, ["compare", *map(str, given), *small, "--row", "sifa", "--time-limit", "0s"])
    assert ended.exit_code == STOPPED
    assert ended.output.endswith("seed_0/job was stopped: run compare again to go on.\n")
    text = (out / "comparison.md").read_text(encoding="utf-8")
    assert "| without adaptation |" in text
    assert "| supervised on the target |" in text
    assert "SIFA" not in text


def test_what_trained_on_a_gpu_segments_where_onnx_runtime_can() -> None:
    assert [inference_device(device) for device in DEVICES] == ["auto", "cpu", "auto", "auto"]
    for device in DEVICES:
        assert "CPUExecutionProvider" in providers_of(inference_device(device))
