"""Reading volumes, labelmaps, tasks and cohorts, and the errors for bad ones."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.evaluation import SomePairsRefusedError, evaluate
from SIFASegmentationLib.grids import check_same_grid, resample_labelmap
from SIFASegmentationLib.image_files import read_volume, to_image, write_volume
from SIFASegmentationLib.labelmaps import read_labelmap, read_labels
from SIFASegmentationLib.regions import BoxMM, parse_box
from SIFASegmentationLib.scores import Row, Scores, ScoreTable
from SIFASegmentationLib.slicer_segmentations import write_slicer_segmentation
from SIFASegmentationLib.structures import LabelCoding, Task, load_task, normal_name, preset_names
from SIFASegmentationLib.volumes import Geometry, Volume, volume_name

ABDOMEN = load_task("abdomen")
C, S = np.cos(0.3), np.sin(0.3)
OBLIQUE = Geometry((5, 4, 3), (0.7, 0.8, 2.5), (-11.5, 3.25, 100.125), (C, -S, 0, S, C, 0, 0, 0, 1))


def labelmap(values: object = 1, geometry: Geometry = OBLIQUE) -> Volume:
    array = np.zeros(geometry.shape, np.uint8)
    array[1, 1:3, 1:3] = values
    return Volume(array, geometry, "patient_label")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    volume = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), OBLIQUE, "name")
    path = tmp_path / "new folder" / f"a b.c{suffix}"
    write_volume(volume, path)
    back = read_volume(path)
    assert np.array_equal(back.array, volume.array)
    assert back.name == "a b.c"
    for name in ("size", "spacing", "origin", "direction"):
        assert np.allclose(getattr(back.geometry, name), getattr(OBLIQUE, name), atol=1e-5)
    if suffix == ".mha":
        assert back.geometry == OBLIQUE
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def _write(path: Path, array: np.ndarray, vector: bool = False) -> Path:  # type: ignore[type-arg]
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
    return path


def test_volumes_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_text("hello")
    good = _write(tmp_path / "good.nrrd", np.ones((3, 4, 5), np.int16))
    (tmp_path / "cut.nrrd").write_bytes(good.read_bytes()[:-20])
    nan = np.ones((3, 4, 5), np.float32)
    nan[1, 1, 1] = np.nan
    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "no.nii", "does not exist"),
        (tmp_path / "text.nii.gz", "can't be read as an image"),
        (tmp_path / "cut.nrrd", "can't be read as an image"),
        (_write(tmp_path / "4d.nii.gz", np.ones((2, 3, 4, 5), np.float32)), "is a 4D image"),
        (_write(tmp_path / "rgb.nrrd", np.ones((3, 4, 5, 3), np.uint8), vector=True), "has 3 values a voxel"),
        (_write(tmp_path / "nan.nrrd", nan), "not finite"),
        (tmp_path / "empty", "holds no DICOM series"),
    ]
    for path, sentence in cases:
        with pytest.raises(InputError, match=sentence) as raised:
            read_volume(path)
        assert path.name in str(raised.value)


def test_a_volumes_name_lacks_its_suffixes() -> None:
    assert [volume_name(n) for n in ("x.seg.nrrd", "a.b.nii.gz", "C.NRRD")] == ["x", "a.b", "C"]


def test_presets_name_their_structures_and_codings() -> None:
    assert preset_names() == ["abdomen", "cardiac"]
    assert ABDOMEN.label_codes["CHAOS MR"].codes == {
        "liver": 63, "right kidney": 126, "left kidney": 189, "spleen": 252
    }  # fmt: skip
    assert ABDOMEN.label_codes["BTCV"].codes == {"liver": 6, "right kidney": 2, "left kidney": 3, "spleen": 1}
    assert load_task("cardiac").label_codes["MMWHS"].codes == {"MYO": 205, "LAC": 420, "LVC": 500, "AA": 820}
    for name in ("Kidney (Right)", "right_kidney", "RightKidney"):
        structure = ABDOMEN.structure_named(name)
        assert structure is not None
        assert structure.value == 2


def test_what_structures_are_for_other_programs() -> None:
    """Terminology codes are those of SNOMED CT."""
    codes = {
        structure.name: (structure.terminology.type.code, structure.terminology.modifier and
                         structure.terminology.modifier.code)
        for name in ("abdomen", "cardiac") for structure in load_task(name).structures
    }  # fmt: skip
    assert codes == {
        "liver": ("10200004", None), "right kidney": ("64033007", "24028007"), "left kidney": ("64033007", "7771000"),
        "spleen": ("78961009", None), "AA": ("15825003", None), "LAC": ("82471001", None), "LVC": ("87878005", None),
        "MYO": ("74281007", None),
    }  # fmt: skip


def test_a_task_file_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(ABDOMEN.model_dump_json(), encoding="utf-8-sig")
    assert load_task(tmp_path / "task.json") == ABDOMEN


def test_a_bad_task_file_is_named_with_its_field(tmp_path: Path) -> None:
    content = json.loads(ABDOMEN.model_dump_json())
    content["structures"][1]["value"] = 1
    (tmp_path / "task.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"task\.json.*value"):
        load_task(tmp_path / "task.json")
    with pytest.raises(InputError, match="can't be read"):
        load_task("elbow")


def test_codes_of_a_data_set_become_the_tasks_values(tmp_path: Path) -> None:
    codes = labelmap(1).array.astype(np.int16)
    codes[codes == 1] = [6, 2, 3, 13]
    write_volume(Volume(codes, OBLIQUE, "x"), tmp_path / "x.nii.gz")
    read = read_labelmap(tmp_path / "x.nii.gz", ABDOMEN, "BTCV")
    assert read.array[1, 1:3, 1:3].ravel().tolist() == [1, 2, 3, 0]
    assert read.array.dtype == np.uint8
    with pytest.raises(InputError, match=r"x\.nii\.gz has the label codes 6, 13.*BTCV"):
        read_labelmap(tmp_path / "x.nii.gz", ABDOMEN)
    with pytest.raises(InputError, match="coding 'LITS'"):
        read_labelmap(tmp_path / "x.nii.gz", ABDOMEN, "LITS")


def test_a_stray_code_among_the_tasks_own_is_not_sent_to_another_coding(tmp_path: Path) -> None:
    values = labelmap(np.array([[1, 2], [3, 4]])).array
    values[0, 0, 0] = 99
    write_volume(Volume(values, OBLIQUE, "stray"), tmp_path / "stray.nii.gz")
    with pytest.raises(InputError, match=r"label codes 99, .*: the others are the task's own values: take these out"):
        read_labelmap(tmp_path / "stray.nii.gz", ABDOMEN)


def test_values_and_voxels_that_no_scan_has(tmp_path: Path) -> None:
    geometry = Geometry((4, 4, 2), (1.0, 1.0, 1.0), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    write_volume(Volume(np.full((2, 4, 4), 1e300), geometry, "huge"), tmp_path / "huge.nrrd")
    with pytest.raises(InputError, match=r"huge\.nrrd has voxels of more than 1e\+30"):
        read_volume(tmp_path / "huge.nrrd")
    tiny = replace(geometry, spacing=(3e-6, 1.0, 1.0))
    write_volume(Volume(np.zeros((2, 4, 4), np.uint8), tiny, "tiny"), tmp_path / "tiny.nrrd")
    with pytest.raises(InputError, match=r"tiny\.nrrd has voxels of .* mm: correct its spacing"):
        read_volume(tmp_path / "tiny.nrrd")


def test_labelmaps_that_are_none(tmp_path: Path) -> None:
    write_volume(labelmap(0), tmp_path / "empty.nrrd")
    with pytest.raises(InputError, match=r"empty\.nrrd is empty"):
        read_labelmap(tmp_path / "empty.nrrd", ABDOMEN)
    assert not read_labelmap(tmp_path / "empty.nrrd", ABDOMEN, allow_empty=True).array.any()
    write_volume(Volume(labelmap().array * np.float32(0.5), OBLIQUE, "x"), tmp_path / "image.nrrd")
    with pytest.raises(InputError, match="whole numbers"):
        read_labelmap(tmp_path / "image.nrrd", ABDOMEN)


def test_segments_of_slicer_are_matched_by_name(tmp_path: Path) -> None:
    values = np.array([[1, 2], [3, 4]])
    write_slicer_segmentation(labelmap(values), ABDOMEN, tmp_path / "s.seg.nrrd")
    assert np.array_equal(read_labelmap(tmp_path / "s.seg.nrrd", ABDOMEN).array, labelmap(values).array)
    image = sitk.ReadImage(str(tmp_path / "s.seg.nrrd"))
    assert image.GetMetaData("Segment1_Name") == "right kidney"
    assert "64033007" in image.GetMetaData("Segment1_Tags")
    image.SetMetaData("Segment0_Name", "Spleen")
    image.SetMetaData("Segment3_Name", "tumour")
    sitk.WriteImage(image, str(tmp_path / "t.seg.nrrd"))
    assert read_labelmap(tmp_path / "t.seg.nrrd", ABDOMEN).array[1, 1:3, 1:3].ravel().tolist() == [4, 2, 3, 0]
    for index in range(4):
        image.SetMetaData(f"Segment{index}_Name", f"part {index}")
    sitk.WriteImage(image, str(tmp_path / "u.seg.nrrd"))
    with pytest.raises(InputError, match="none of which is in the task abdomen"):
        read_labelmap(tmp_path / "u.seg.nrrd", ABDOMEN)


def test_segments_that_overlap_are_counted(tmp_path: Path) -> None:
    values = np.array([[1, 2], [3, 4]])
    write_slicer_segmentation(labelmap(values), ABDOMEN, tmp_path / "flat.seg.nrrd")
    assert read_labels(tmp_path / "flat.seg.nrrd", ABDOMEN).overlapping == 0
    write_volume(labelmap(values), tmp_path / "plain.nii.gz")
    assert read_labels(tmp_path / "plain.nii.gz", ABDOMEN).overlapping == 0
    # The liver is in a layer of its own and overlaps all other structures.
    image = sitk.ReadImage(str(tmp_path / "flat.seg.nrrd"))
    both = sitk.Compose(image, sitk.Cast(image > 0, image.GetPixelID()))
    for key in image.GetMetaDataKeys():
        both.SetMetaData(key, image.GetMetaData(key))
    both.SetMetaData("Segment0_Layer", "1")
    both.SetMetaData("Segment0_LabelValue", "1")
    for index in range(1, 4):
        both.SetMetaData(f"Segment{index}_Layer", "0")
    sitk.WriteImage(both, str(tmp_path / "layered.seg.nrrd"))
    assert read_labels(tmp_path / "layered.seg.nrrd", ABDOMEN).overlapping == 3
    assert read_labelmap(tmp_path / "layered.seg.nrrd", ABDOMEN).array[1, 1:3, 1:3].tolist() == values.tolist()
    table = evaluate(tmp_path / "layered.seg.nrrd", tmp_path / "plain.nii.gz", ABDOMEN)
    assert {row.note for row in table.rows} == {
        "segments or masks of the prediction overlap in 3 voxels, which go to the later one"
    }  # fmt: skip


def test_a_prediction_with_the_codes_of_a_data_set_is_not_sent_to_a_coding(tmp_path: Path) -> None:
    for name, code in (("prediction", 6), ("reference", 1)):
        write_volume(labelmap(np.full((2, 2), code)), tmp_path / f"{name}.nii.gz")
    with pytest.raises(InputError, match="predictions have the values of abdomen: recode it, or score without --task"):
        evaluate(tmp_path / "prediction.nii.gz", tmp_path / "reference.nii.gz", ABDOMEN)


def test_a_labelmap_on_another_grid_is_refused_and_can_be_resampled() -> None:
    finer = Geometry((10, 8, 3), (0.35, 0.4, 2.5), OBLIQUE.origin, OBLIQUE.direction)
    image = Volume(np.zeros(OBLIQUE.shape), OBLIQUE, "ct")
    fine = labelmap(2, finer)
    with pytest.raises(InputError, match=r"patient_label and the image ct lie on different grids .size"):
        check_same_grid(fine, image)
    assert resample_labelmap(fine, OBLIQUE).geometry == OBLIQUE
    shifted = Geometry(OBLIQUE.size, OBLIQUE.spacing, (0, 0, 0), OBLIQUE.direction)
    with pytest.raises(InputError, match="origin"):
        check_same_grid(labelmap(2, shifted), image)


def files(folder: Path, *names: str) -> None:
    for name in names:
        write_volume(labelmap(), folder / name)


def test_cases_by_name_in_the_nnunet_layout_and_from_a_csv(tmp_path: Path) -> None:
    files(tmp_path / "a", "p1_image.nii.gz", "p1_label.nrrd", "p2_image.mha", "p2_label.nii.gz")
    files(tmp_path / "b", "imagesTr/p1_0000.nii.gz", "labelsTr/p1.nii.gz")
    files(tmp_path / "c", "scan.nii.gz", "second.nrrd")
    rows = ["patient,image,label", "x,a/p1_image.nii.gz,a/p1_label.nrrd", "x,a/p2_image.mha,a/p2_label.nii.gz"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    named = find_cases(tmp_path / "a", labelled=True)
    assert [(c.patient, c.image.name, c.label and c.label.name) for c in named] == [
        ("p1", "p1_image.nii.gz", "p1_label.nrrd"), ("p2", "p2_image.mha", "p2_label.nii.gz")
    ]  # fmt: skip
    assert [c.label for c in find_cases(tmp_path / "a", labelled=False)] == [None, None]
    assert [c.patient for c in find_cases(tmp_path / "b", labelled=True)] == ["p1"]
    assert [c.patient for c in find_cases(tmp_path / "c", labelled=False)] == ["scan", "second"]
    assert [c.patient for c in find_cases(tmp_path / "list.csv", labelled=True)] == ["x", "x"]


def test_labelmaps_beside_their_images_are_no_images(tmp_path: Path) -> None:
    made = ("P1_seg", "P1_segmentation", "P1_labels", "P1_probability_right_kidney", "P1_label")
    files(tmp_path / "plain", "P1.nii.gz", "P2.mha", *(f"{name}.nii.gz" for name in made))
    assert [c.patient for c in find_cases(tmp_path / "plain", labelled=False)] == ["P1", "P2"]
    # A labelmap without an image is neither trained on nor left out silently.
    files(tmp_path / "plain", "lone_seg.nii.gz")
    with pytest.raises(InputError, match=r"lone_seg\.nii\.gz is named like a labelmap, but not like that of an image"):
        find_cases(tmp_path / "plain", labelled=False)
    files(tmp_path / "imagesTs", "c1_0000.nii.gz", "c2_0000.nii.gz", "c1_segmentation.nii.gz")
    assert [c.patient for c in find_cases(tmp_path / "imagesTs", labelled=False)] == ["c1", "c2"]
    files(tmp_path / "imagesTs", "c1_0001.nii.gz")
    with pytest.raises(InputError, match="volumes of one channel"):
        find_cases(tmp_path / "imagesTs", labelled=False)
    files(tmp_path / "numbered", "patient_0001.nii.gz", "patient_0000.nii.gz")
    assert [c.patient for c in find_cases(tmp_path / "numbered", labelled=False)] == ["patient_0000", "patient_0001"]


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "spleen": 1, "kidney_right": 2, "left kidney": 3, "Liver": 4, "tumour": 9, "all": [1, 2]},
        {"0": "background", "1": "spleen", "2": "right kidney", "3": "left kidney", "4": "liver", "9": "tumour"},
    ],
)
def test_names_in_an_nnunet_data_set_say_what_its_values_are(tmp_path: Path, labels: dict[str, Any]) -> None:
    files(tmp_path, "imagesTr/p1_0000.nii.gz")
    values = labelmap().array
    values[1, 1, 1:3], values[1, 2, 1:3] = (4, 1), (9, 2)
    path = tmp_path / "labelsTr" / "p1.nii.gz"
    write_volume(Volume(values, OBLIQUE, "p1"), path)
    with pytest.raises(InputError, match="label codes 9, which are not in the task abdomen"):
        read_labelmap(path, ABDOMEN)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert read_labelmap(path, ABDOMEN).array[1, 1:3, 1:3].tolist() == [[1, 4], [0, 2]]
    # SIFA's own labelmaps in the same place have the task's values.
    write_volume(labelmap([[1, 2], [3, 4]]), tmp_path / "labelsPr" / "p1.nii.gz")
    assert read_labelmap(tmp_path / "labelsPr" / "p1.nii.gz", ABDOMEN).array[1, 1:3, 1:3].tolist() == [[1, 2], [3, 4]]
    numbers = {"liver": 1, "spleen": 1}, {"liver": "one"}, {"liver": 1.7}, {"right kidney": 2, "kidney_right": 3}
    for bad in (["spleen"], *numbers, {"1": "spleen", "2": "spleen"}):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": bad}))
        with pytest.raises(InputError, match=r"dataset\.json has no readable labels .*: correct it, or give a coding"):
            read_labelmap(path, ABDOMEN)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"liver": 4, "spleen": 1}}))
    with pytest.raises(InputError, match=r"label codes 2, 9, which its dataset\.json does not name or says"):
        read_labelmap(path, ABDOMEN)
    # Labels of another task must not pass for this one's.
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "bone": 1, "skin": [1, 2]}}))
    with pytest.raises(InputError, match=r"dataset\.json names bone, skin, none of which is in the task abdomen"):
        read_labelmap(path, ABDOMEN)
    # Overlapping regions can't both have the same voxels.
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"liver": [1, 2], "spleen": [2, 4]}}))
    with pytest.raises(InputError, match="the code 2 is given twice"):
        read_labelmap(path, ABDOMEN)
    # nnU-Net leaves `ignore` voxels out of its loss; they are not background.
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"liver": 4, "spleen": 1, "ignore": 9, "x": 2}}))
    with pytest.raises(InputError, match=r"label codes 9, which its dataset\.json does not name or says to ignore"):
        read_labelmap(path, ABDOMEN)


BOTH_KIDNEYS = Task.model_validate_json(
    ABDOMEN.model_copy(
        update={
            "structures": (
                ABDOMEN.structures[0],
                ABDOMEN.structures[1].model_copy(
                    update={"name": "kidneys", "parts": 2, "aliases": ("right kidney", "left kidney")}
                ),
            ),
            "label_codes": {"BTCV": LabelCoding(codes={"liver": 6, "kidneys": (2, 3)}, ignored=(1,))},
        }
    ).model_dump_json()
)


def test_several_codes_of_a_data_set_are_one_structure(tmp_path: Path) -> None:
    """One structure for both kidneys, in a data set whose codes distinguish them."""
    values = labelmap([[6, 2], [3, 1]])
    path = tmp_path / "labelsTr" / "x.nii.gz"
    write_volume(values, path)
    assert read_labelmap(path, BOTH_KIDNEYS, "BTCV").array[1, 1:3, 1:3].tolist() == [[1, 2], [2, 0]]
    assert read_labels(path, BOTH_KIDNEYS, "BTCV").unmatched == ()
    parts = {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 6}
    region = {"spleen": 1, "right": 2, "left": 3, "kidneys": [2, 3], "liver": 6}
    both = {"spleen": 1, "right kidney": 2, "left kidney": 3, "kidneys": [2, 3], "liver": 6, "bone": 7}
    for labels in (parts, region, both):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **labels}}))
        read = read_labels(path, BOTH_KIDNEYS)
        assert read.labelmap.array[1, 1:3, 1:3].tolist() == [[1, 2], [2, 0]]
        assert read.unmatched == ("spleen",)
    coding = BOTH_KIDNEYS.label_codes["BTCV"]
    assert coding.fits([2, 3, 6])
    assert not coding.fits([2, 3, 6, 9])


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ({"liver": 0}, "give 'liver' a code of 1 or more, or a list of such codes"),
        ({"liver": []}, "give 'liver' a code of 1 or more, or a list of such codes"),
        ({"liver": [3, 2], "spleen": 2}, "the code 2 is given twice"),
        ({"liver": [1.5]}, r"label_codes\.mine\.codes\.liver, input should be a valid integer"),
    ],
)
def test_invalid_codes_are_refused(tmp_path: Path, codes: dict[str, Any], reason: str) -> None:
    content = json.loads(ABDOMEN.model_dump_json()) | {"label_codes": {"mine": {"codes": codes}}}
    (tmp_path / "task.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=reason):
        load_task(tmp_path / "task.json")


def test_invalid_cohorts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    files(tmp_path / "alone", "p1_image.nii.gz", "p1_label.nrrd", "p2_image.mha")
    files(tmp_path / "orphan", "p1_image.nii.gz", "p1_label.nrrd", "p2_label.mha")
    (tmp_path / "bad.csv").write_text("patient,image,label\nx,nothing.nii.gz,nothing.nii.gz\n")
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    for path, sentence in (
        (tmp_path / "empty", "holds no"), (tmp_path / "nowhere", "does not exist"), (tmp_path / "alone", "p2_image"),
        (tmp_path / "orphan", "p2_label"), (tmp_path / "bad.csv", r"line 2, names .*nothing\.nii\.gz"),
        (tmp_path / "columns.csv", "columns"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            find_cases(path, labelled=True)
    with pytest.raises(InputError, match="holds no"):
        find_cases(tmp_path / "empty", labelled=False)


def test_folders_are_scored_by_name_and_mismatches_reported(tmp_path: Path) -> None:
    values = np.array([[1, 2], [3, 4]])
    write_volume(labelmap(values), tmp_path / "p" / "a_segmentation.nii.gz")
    write_volume(labelmap(values), tmp_path / "p" / "b_segmentation.nii.gz")
    write_volume(labelmap(values), tmp_path / "r" / "a_label.nii.gz")
    write_volume(labelmap(values), tmp_path / "r" / "a_image.nii.gz")
    write_volume(labelmap(values), tmp_path / "r" / "c_label.nii.gz")
    table = evaluate(tmp_path / "p", tmp_path / "r", ABDOMEN)
    assert [(row.subject, row.structure, row.scores.dice) for row in table.rows] == [
        ("a", name, 1.0) for name in ("liver", "right kidney", "left kidney", "spleen")
    ]
    assert [Path(name).name for name in table.unmatched] == ["b_segmentation.nii.gz", "c_label.nii.gz"]
    assert "no counterpart" in table.text()
    with pytest.raises(InputError, match="No file in"):
        evaluate(tmp_path / "p", _with(tmp_path / "z", "other_label.nii.gz"), ABDOMEN)


def _with(folder: Path, name: str) -> Path:
    files(folder, name)
    return folder


def test_the_table_tells_empty_masks_and_resampled_references(tmp_path: Path) -> None:
    geometry = Geometry((5, 4, 4), OBLIQUE.spacing, OBLIQUE.origin, OBLIQUE.direction)
    write_volume(labelmap(1), tmp_path / "prediction.nrrd")
    write_volume(labelmap(2, geometry), tmp_path / "reference.nrrd")
    table = evaluate(tmp_path / "prediction.nrrd", tmp_path / "reference.nrrd", ABDOMEN)
    notes = {row.structure: row.note for row in table.rows}
    assert notes["liver"].startswith("reference empty; reference resampled: size")
    assert notes["right kidney"].startswith("prediction empty")
    assert notes["spleen"].startswith("both empty")
    # A subject without a reference is not counted.
    alone = Row("d", "liver", Scores(*[nan] * 4, 3.0, nan, nan))
    counts = {
        c.structure: (c.scored, c.both_empty, c.one_empty) for c in replace(table, rows=(*table.rows, alone)).counts()
    }
    assert counts == {"liver": (0, 0, 1), "right kidney": (0, 0, 1), "left kidney": (0, 1, 0), "spleen": (0, 1, 0)}
    table.write(tmp_path / "scores.json")
    rows = json.loads((tmp_path / "scores.json").read_text())["rows"]
    assert (rows[0]["dice"], rows[0]["asd"], rows[3]["dice"]) == (0.0, None, None)
    table.write(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text().splitlines()[0].startswith("subject,structure,dice,asd_mm,hd95_mm")
    with pytest.raises(InputError, match=r"\.csv or \.json"):
        table.write(tmp_path / "scores.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"scores\.csv can't be written"):
        table.write(tmp_path / "file" / "scores.csv")


def test_statistics_are_of_one_method_each() -> None:
    def row(subject: str, dice: float, method: str) -> Row:
        return Row(subject, "liver", Scores(dice, 1.0, 2.0, 0.5, 0.0 if dice == 0 else 9.0, 9.0, 0.0), method=method)

    table = ScoreTable((row("a", 0.9, "adapted"), row("a", 0.0, "not"), row("b", 0.7, "adapted"), row("b", 0.2, "not")))
    means = table.means("dice")
    assert means == pytest.approx(
        {("adapted", "liver"): 0.8, ("adapted", "mean"): 0.8, ("not", "liver"): 0.1, ("not", "mean"): 0.1}
    )
    assert [(c.method, c.scored, c.one_empty) for c in table.counts()] == [("adapted", 2, 0), ("not", 1, 1)]
    assert [(r.subject, r.method, r.scores.dice) for r in table.subject_means()] == [
        ("a", "adapted", 0.9), ("a", "not", 0.0), ("b", "adapted", 0.7), ("b", "not", 0.2),
    ]  # fmt: skip
    assert "liver (not): 1 scored, 0 with both masks empty, 1 with one empty" in table.text()
    assert [line.split(",")[-2] for line in table.csv().splitlines()[:3]] == ["method", "adapted", "not"]


def test_a_structure_has_a_tolerance_of_its_own(tmp_path: Path) -> None:
    """Surfaces of single voxels that lie one voxel, in this direction 2.5 mm, apart."""
    liver, spleen = ABDOMEN.structures[0], ABDOMEN.structures[3]
    wide = spleen.model_copy(update={"tolerance_mm": 50.0})
    task = ABDOMEN.model_copy(update={"structures": (liver, *ABDOMEN.structures[1:3], wide)})
    for name, values in (("a", [[1, 0], [4, 0]]), ("b", [[0, 1], [0, 4]])):
        write_volume(labelmap(np.array(values)), tmp_path / f"{name}.nii.gz")
    table = evaluate(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", task, tolerance=0.1)
    rows = {row.structure: row for row in table.rows}
    assert (rows["liver"].scores.surface_dice, rows["spleen"].scores.surface_dice) == (0.0, 1.0)
    assert rows["spleen"].note == "surface Dice at 50 mm"
    assert "50 mm" not in rows["liver"].note
    # With distances in voxels, a tolerance in mm is meaningless and not used.
    legacy = {row.structure: row for row in evaluate(
        tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", task, tolerance=0.1, legacy=True
    ).rows}  # fmt: skip
    assert legacy["spleen"].scores.surface_dice == 0.0


def test_without_a_task_the_values_are_the_structures(tmp_path: Path) -> None:
    write_volume(labelmap(7), tmp_path / "p.nrrd")
    table = evaluate(tmp_path / "p.nrrd", tmp_path / "p.nrrd")
    assert [(row.structure, row.scores.dice) for row in table.rows] == [("label 7", 1.0)]


def test_two_empty_labelmaps_have_nothing_to_score_and_are_counted(tmp_path: Path) -> None:
    geometry = Geometry((4, 4, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    array = np.zeros((3, 4, 4), np.uint8)
    for folder in ("predicted", "reference"):
        (tmp_path / folder).mkdir()
        write_volume(Volume(array, geometry, "empty"), tmp_path / folder / "a.nii.gz")
        write_volume(Volume(array + 1, geometry, "full"), tmp_path / folder / "b.nii.gz")
    table = evaluate(tmp_path / "predicted", tmp_path / "reference")
    empty, full = table.rows
    assert (full.subject, full.structure, full.scores.dice) == ("b", "label 1", 1.0)
    # A subject that lacks a label which others have counts as empty.
    assert (empty.subject, empty.structure, empty.note) == ("a", "label 1", "both empty")
    assert np.isnan(empty.scores.dice)
    (count,) = table.counts()
    assert (count.scored, count.both_empty) == (1, 1)


def test_of_some_patients_alone_labels_are_needed(tmp_path: Path) -> None:
    for name in ("p1_image", "p1_label", "p2_image"):
        (tmp_path / f"{name}.nii.gz").touch()
    lines = ["patient,image,label", "p1,p1_image.nii.gz,p1_label.nii.gz", "p2,p2_image.nii.gz,"]
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    for path in (tmp_path, tmp_path / "cases.csv"):
        (case,) = find_cases(path, labelled=True, patients={"p1"})
        assert (case.patient, case.label) == ("p1", tmp_path / "p1_label.nii.gz")
        with pytest.raises(InputError):
            find_cases(path, labelled=True)


def test_a_csv_gives_an_image_a_region_of_its_own(tmp_path: Path) -> None:
    files(tmp_path, "a.nii.gz", "b.nii.gz")
    table = tmp_path / "list.csv"
    table.write_text('patient,image,region\nx,a.nii.gz,"-1,2.5,0,4,-30,20"\ny,b.nii.gz,\n')
    first, second = find_cases(table, labelled=False)
    assert first.region == BoxMM(minimum=(-1, 0, -30), maximum=(2.5, 4, 20))
    assert second.region is None
    assert first.region is not None
    assert parse_box(first.region.text, "") == first.region
    faults = {
        "1,2,3": "is not 6",
        "1,0,0,1,0,1": "has no volume",
        "a,1,0,1,0,1": "is not 6",
        "0,inf,0,1,0,1": "is not 6",
    }
    for text, sentence in faults.items():
        table.write_text(f'patient,image,region\nx,a.nii.gz,"{text}"\n')
        with pytest.raises(InputError, match=rf"list\.csv, line 2, the region '{text}' {sentence}"):
            find_cases(table, labelled=False)


def test_statistics_by_hand() -> None:
    values = [0.1, 0.2, 0.9]
    rows = tuple(Row(str(dice), "liver", Scores(dice, 1.0, 2.0, 0.5, 9.0, 9.0, 0.0)) for dice in values)
    for legacy, degrees in ((False, 1), (True, 0)):
        told = {s.statistic: s.scores.dice for s in ScoreTable(rows, legacy).summaries() if s.structure == "liver"}
        assert told == pytest.approx({"mean": 0.4, "std": np.std(values, ddof=degrees), "median": 0.2})


def test_a_csv_with_semicolons_as_excel_writes_them(tmp_path: Path) -> None:
    files(tmp_path, "a.nii.gz", "a,b.nii.gz")
    table = tmp_path / "list.csv"
    table.write_text(
        "\ufeff;;\r\nPatient;Image;Region\r\nx;a.nii.gz;-1,2.5,0,4,-30,20\r\ny;a,b.nii.gz;\r\n", encoding="utf-8"
    )
    first, second = find_cases(table, labelled=False)
    assert first.region == BoxMM(minimum=(-1, 0, -30), maximum=(2.5, 4, 20))
    assert (second.patient, second.image.name) == ("y", "a,b.nii.gz")
    table.write_text("patient;image\nx;a;b.nii.gz\n")
    with pytest.raises(InputError, match="put quotes around what has a semicolon"):
        find_cases(table, labelled=False)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["x,a.nii.gz,c.nii.gz", "y,b.nii.gz,./c.nii.gz"], r"line 3, names .*c\.nii\.gz, as line 2 does"),
        (["x,a.nii.gz,b.nii.gz", "y,b.nii.gz,c.nii.gz"], r"line 3, names .*b\.nii\.gz, as line 2 does"),
        (["x,a.nii.gz,./a.nii.gz"], r"line 2, gives .*a\.nii\.gz as image and label"),
    ],
)
def test_a_csv_that_gives_a_file_to_two(tmp_path: Path, rows: list[str], sentence: str) -> None:
    files(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    (tmp_path / "list.csv").write_text("\n".join(["patient,image,label", *rows]))
    with pytest.raises(InputError, match=sentence):
        find_cases(tmp_path / "list.csv", labelled=True)


def test_a_csv_with_a_column_twice(tmp_path: Path) -> None:
    files(tmp_path, "a.nii.gz", "b.nii.gz")
    (tmp_path / "list.csv").write_text("patient,image,image\nx,a.nii.gz,b.nii.gz\n")
    with pytest.raises(InputError, match="has the column image twice"):
        find_cases(tmp_path / "list.csv", labelled=False)


@pytest.mark.parametrize("name", ["mean", "Highest"])
def test_what_tables_and_maps_have_a_use_for_is_no_structure(tmp_path: Path, name: str) -> None:
    renamed = ABDOMEN.model_dump_json().replace('"spleen"', f'"{name}"')
    (tmp_path / "task.json").write_text(renamed)
    with pytest.raises(InputError, match=f"no structure can be called '{name.lower()}'"):
        load_task(tmp_path / "task.json")


def test_what_nnunet_predicted_has_the_values_that_it_says(tmp_path: Path) -> None:
    write_volume(labelmap([[4, 1], [2, 3]]), tmp_path / "predicted" / "p1.nii.gz")
    write_volume(labelmap([[1, 4], [2, 3]]), tmp_path / "references" / "p1.nii.gz")
    folders = tmp_path / "predicted", tmp_path / "references"
    assert evaluate(*folders, ABDOMEN).mean("dice") == pytest.approx(0.5)
    names = {"background": 0, "spleen": 1, "liver": 4, "right kidney": 2, "left kidney": 3}
    (tmp_path / "predicted" / "dataset.json").write_text(json.dumps({"labels": names}))
    assert evaluate(*folders, ABDOMEN).mean("dice") == 1
    # SIFA's own labelmaps have the task's values, even beside nnU-Net's label file.
    (tmp_path / "predicted" / "p1.nii.gz").rename(tmp_path / "predicted" / "p1_segmentation.nii.gz")
    assert evaluate(*folders, ABDOMEN).mean("dice") == pytest.approx(0.5)


@pytest.mark.parametrize("case", ["p1_seg", "p1_label", "p1_labels"])
def test_cases_of_nnunet_may_be_called_like_labelmaps(tmp_path: Path, case: str) -> None:
    write_volume(labelmap([[4, 1], [2, 3]]), tmp_path / "predicted" / f"{case}.nii.gz")
    write_volume(labelmap([[1, 4], [2, 3]]), tmp_path / "references" / f"{case}.nii.gz")
    names = {"background": 0, "spleen": 1, "liver": 4, "right kidney": 2, "left kidney": 3}
    (tmp_path / "predicted" / "dataset.json").write_text(json.dumps({"labels": names}))
    assert evaluate(tmp_path / "predicted", tmp_path / "references", ABDOMEN).mean("dice") == 1


def test_segments_have_names_whatever_their_values(tmp_path: Path) -> None:
    write_slicer_segmentation(labelmap([[1, 2], [3, 4]]), ABDOMEN, tmp_path / "a.seg.nrrd")
    write_volume(labelmap([[1, 2], [3, 4]]), tmp_path / "b.nii.gz")
    with pytest.raises(
        InputError, match=r"a\.seg\.nrrd has named segments \(liver, .*\): say by --task which they are"
    ):
        evaluate(tmp_path / "a.seg.nrrd", tmp_path / "b.nii.gz")
    assert evaluate(tmp_path / "a.seg.nrrd", tmp_path / "b.nii.gz", ABDOMEN).mean("dice") == 1


def test_no_pair_is_left_out_for_how_others_are_called(tmp_path: Path) -> None:
    values = labelmap([[1, 2], [3, 4]])
    for name in ("P1_segmentation", "P2", "heart_seg"):
        write_volume(values, tmp_path / "predicted" / f"{name}.nii.gz")
    for name in ("P1_label", "P1_image", "P2", "heart_seg"):
        write_volume(values, tmp_path / "references" / f"{name}.nii.gz")
    # Images with any name and probability maps lie in the same folders.
    image = replace(values, array=values.array.astype(np.float32) + 0.5)
    for name in ("P1_t1", "P3", "P1_segmentation_probability_liver"):
        for folder in ("predicted", "references"):
            write_volume(image, tmp_path / folder / f"{name}.nii.gz")
    for task in (ABDOMEN, None):
        table = evaluate(tmp_path / "predicted", tmp_path / "references", task)
        assert {row.subject for row in table.rows} == {"P1", "P2", "heart"}
        assert table.unmatched == ()


def test_labelmaps_with_codes_of_any_size_or_segments_are_no_images(tmp_path: Path) -> None:
    values = labelmap([[1, 2], [3, 4]])
    codes = {"liver": 500, "right kidney": 600, "left kidney": 420, "spleen": 550}
    task = ABDOMEN.model_copy(update={"label_codes": {"large": LabelCoding(codes=codes)}})
    coded = np.zeros(values.array.shape, np.int16)
    for value, name in task.names_by_value.items():
        coded[values.array == value] = codes[name]
    for name in ("P1_label", "P2"):
        write_volume(replace(values, array=coded), tmp_path / "references" / f"{name}.nii.gz")
    write_slicer_segmentation(values, ABDOMEN, tmp_path / "references" / "P3.nrrd")
    for name in ("P1", "P2", "P3"):
        write_volume(values, tmp_path / "predicted" / f"{name}_segmentation.nii.gz")
    # An image of whole numbers is recognised as an image too.
    image = np.arange(16**3, dtype=np.int16).reshape(16, 16, 16)
    write_volume(Volume(image, replace(values.geometry, size=(16, 16, 16)), "P4"), tmp_path / "references/P4_t1.nii.gz")
    table = evaluate(tmp_path / "predicted", tmp_path / "references", task, "large")
    assert {row.subject for row in table.rows} == {"P1", "P2", "P3"}
    assert table.mean("dice") == 1
    assert table.unmatched == ()


def test_subjects_whose_names_begin_like_another_are_scored(tmp_path: Path) -> None:
    values = labelmap([[1, 2], [3, 4]])
    for name in ("P1_seg", "P10", "P1_2021"):
        write_volume(values, tmp_path / "predicted" / f"{name}.nii.gz")
    write_slicer_segmentation(values, ABDOMEN, tmp_path / "predicted" / "P3.seg.nrrd")
    for name in ("P1-Label", "P10_GT", "P1_2021", "P3.mask"):
        write_volume(values, tmp_path / "references" / f"{name}.nii.gz")
    write_volume(values, tmp_path / "references" / "P1_0000.nii.gz")
    table = evaluate(tmp_path / "predicted", tmp_path / "references", ABDOMEN)
    assert list(dict.fromkeys(row.subject for row in table.rows)) == ["P1", "P10", "P1_2021", "P3"]
    assert table.unmatched == ()


@pytest.mark.parametrize("names", [("P1.nii.gz", "P1.nrrd"), ("P1_seg.nii.gz", "P1_label.nii.gz")])
def test_a_subject_in_two_files_is_not_scored_by_one_of_them(tmp_path: Path, names: tuple[str, str]) -> None:
    files(tmp_path / "predicted", *names)
    files(tmp_path / "references", "P1.nii.gz")
    with pytest.raises(InputError, match="are both called P1: remove or rename one"):
        evaluate(tmp_path / "predicted", tmp_path / "references", ABDOMEN)


@pytest.mark.parametrize("task", ["abdomen", None])
def test_a_damaged_pair_does_not_lose_the_others(tmp_path: Path, task: str | None) -> None:
    predicted, references = tmp_path / "predicted", tmp_path / "references"
    for folder in (predicted, references):
        files(folder, "P1_seg.nii.gz", "P3_seg.nii.gz")
    # A file that can't be read could be an image or a labelmap.
    (predicted / "P2.nii.gz").write_bytes((predicted / "P1_seg.nii.gz").read_bytes()[:100])
    files(references, "P2_seg.nii.gz")
    told: list[tuple[str, int, int]] = []
    with pytest.raises(SomePairsRefusedError, match=r"^1 of 3 pairs could not be scored:\n.*P2\.nii\.gz") as raised:
        evaluate(predicted, references, task, report=lambda *step: told.append(step))
    assert {row.subject for row in raised.value.table.rows} == {"P1", "P3"}
    assert told == [("P1", 1, 3), ("P2", 2, 3), ("P3", 3, 3)]
    # For a single pair, its own error is raised.
    with pytest.raises(InputError, match=r"P2\.nii\.gz") as raised_alone:
        evaluate(predicted / "P2.nii.gz", references / "P2_seg.nii.gz", task)
    assert not isinstance(raised_alone.value, SomePairsRefusedError)


def test_an_unknown_coding_is_told_once(tmp_path: Path) -> None:
    for folder in ("predicted", "references"):
        files(tmp_path / folder, "P1.nii.gz", "P2.nii.gz")
    with pytest.raises(InputError, match=r"^The coding 'BTVC' is not in the task abdomen"):
        evaluate(tmp_path / "predicted", tmp_path / "references", "abdomen", "BTVC")


def test_accents_match_however_a_system_writes_them(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller")
                            for form in ("NFC", "NFD"))  # fmt: skip
    files(tmp_path / "predicted", f"{composed}.nii.gz")
    files(tmp_path / "references", f"{decomposed}.nii.gz")
    table = evaluate(tmp_path / "predicted", tmp_path / "references", ABDOMEN)
    assert {row.subject for row in table.rows} == {composed}
    files(tmp_path / "cases", f"{composed}_image.nii.gz", f"{decomposed}_label.nii.gz")
    (tmp_path / "list.csv").write_text(
        f"patient,image,label\n{decomposed},cases/{composed}_image.nii.gz,cases/{decomposed}_label.nii.gz\n",
        encoding="utf-8",
    )
    for path in (tmp_path / "cases", tmp_path / "list.csv"):
        assert [case.patient for case in find_cases(path, labelled=True)] == [composed]
    assert normal_name(f"{decomposed} links") == normal_name(f"links_{composed}")


@pytest.mark.parametrize("error", [1e-6, 5e-4])
def test_labels_that_were_scaled_are_whole_numbers_nearly(tmp_path: Path, error: float) -> None:
    image = to_image(labelmap([[1, 2], [3, 4]]))
    sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat64) * (1 - error / 4), str(tmp_path / "a.nrrd"))
    assert read_labelmap(tmp_path / "a.nrrd", ABDOMEN).array[1, 1:3, 1:3].tolist() == [[1, 2], [3, 4]]
    assert evaluate(tmp_path / "a.nrrd", tmp_path / "a.nrrd").mean("dice") == 1
