"""Folders of patients with a file for each structure, as in TotalSegmentator's data sets."""

from __future__ import annotations

import dataclasses
import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.evaluation import evaluate
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.labelmaps import read_labelmap, read_labels
from SIFASegmentationLib.output_names import distinct_names, possible_names
from SIFASegmentationLib.regions import BoxMM
from SIFASegmentationLib.result_records import Origin
from SIFASegmentationLib.segmentation_requests import Request, requests_of
from SIFASegmentationLib.segmented_folder import SegmentedFolder
from SIFASegmentationLib.structures import LabelCoding, Task, load_task
from SIFASegmentationLib.volume_folders import unused_folders
from SIFASegmentationLib.volumes import Geometry, Volume
from SIFATrainingLib.dataset import PreparedDataset, SetName
from SIFATrainingLib.findings import Finding
from SIFATrainingLib.prepare import make_preparation, prepare
from SIFATrainingLib.steps import Step, say_nothing
from SIFATrainingLib.volume_checks import VolumeChecks

ABDOMEN = load_task("abdomen")
GRID = Geometry((4, 3, 2), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
SETS: tuple[SetName, ...] = ("source", "target", "monitor")
FILES = ("liver", "kidney_right", "kidney_left", "spleen", "autochthon_left")
"""Structures with a file. The mask of each is a single voxel of the first slice: the first, the second, ..."""


def write(path: Path, *voxels: int, value: float = 1, grid: Geometry = GRID) -> None:
    """Write a mask of these voxels, given by their flat indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(grid.shape, np.uint8 if value == int(value) else np.float32)
    array.flat[list(voxels)] = value
    write_volume(Volume(array, grid, path.name), path)


def patient(root: Path, name: str, image: str = "ct.nii.gz") -> Path:
    """Make a patient's folder with an image and masks; return the folder of masks."""
    (root / name).mkdir(parents=True, exist_ok=True)
    scan = np.arange(24, dtype=np.int16).reshape(GRID.shape)
    write_volume(Volume(scan, GRID, name), root / name / image)
    for voxel, structure in enumerate(FILES):
        write(root / name / "segmentations" / f"{structure}.nii.gz", voxel)
    return root / name / "segmentations"


def names_of(requests: list[Request]) -> list[dict[str, str]]:
    return [possible_names(request) for request in requests]


def both_kidneys(**codes: object) -> Task:
    """Make a task of liver and kidneys, whose coding `mine` has these codes."""
    task = json.loads(ABDOMEN.model_dump_json())
    task["structures"] = task["structures"][:2]
    task["structures"][1] |= {"name": "kidneys", "parts": 2, "aliases": []}
    return Task.model_validate(task | {"label_codes": {"mine": {"codes": codes}}})


def test_results_are_called_after_the_patients(tmp_path: Path) -> None:
    for name in ("s0001", "s0002"):
        patient(tmp_path, name)
    requests = requests_of(tmp_path)
    assert [request.patient for request in requests] == ["s0001", "s0002"]
    assert distinct_names(names_of(requests)) == [["s0001", "s0001_ct", "ct"], ["s0002", "s0002_ct", "ct"]]
    # One patient alone has the same name, by which `evaluate` finds its reference.
    assert distinct_names(names_of(requests_of(tmp_path)[:1])) == [["s0001", "s0001_ct", "ct"]]
    # A table can list two scans of a patient.
    patient(tmp_path, "s0001", "mri.nii.gz")
    table = tmp_path / "two.csv"
    table.write_text("patient,image\ns0001,s0001/ct.nii.gz\ns0001,s0001/mri.nii.gz\n")
    assert [first for first, *_ in distinct_names(names_of(requests_of(table)))] == ["s0001_ct", "s0001_mri"]


@pytest.mark.parametrize("name", [unicodedata.normalize("NFD", "José"), "P1.nii"])
def test_folders_of_patients_may_have_any_name(tmp_path: Path, name: str) -> None:
    patient(tmp_path, name)
    (request,) = requests_of(tmp_path)
    assert next(iter(possible_names(request))) == request.patient


def test_results_of_earlier_versions_are_found(tmp_path: Path) -> None:
    patient(tmp_path, "s0001")
    names = distinct_names(names_of(requests_of(tmp_path)))
    folder, (origin,) = SegmentedFolder(tmp_path / "out"), [Origin(tmp_path / "s0001" / "ct.nii.gz", "made")]
    assert folder.names(names, [origin])[0][0] == "s0001"
    with folder.claimed(["ct"], origin):
        write(tmp_path / "out" / "ct_segmentation.nii.gz")
        folder.finish("ct", origin, [tmp_path / "out" / "ct_segmentation.nii.gz"], ())
    assert folder.names(names, [origin])[0][0] == "ct"


def test_patients_are_called_as_their_folders(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("s0002", "s0001"):
        patient(root, name)
    (root / "meta.csv").touch()
    (root / "scripts").mkdir()
    for labelled in (True, False):
        cases = find_cases(root, labelled=labelled)
        assert [case.patient for case in cases] == ["s0001", "s0002"]
        assert [case.image for case in cases] == [root / name / "ct.nii.gz" for name in ("s0001", "s0002")]
        masks = [root / name / "segmentations" for name in ("s0001", "s0002")]
        assert [case.label for case in cases] == (masks if labelled else [None, None])
    assert cases[0].shown(cases[0].image) == "s0001/ct.nii.gz"
    assert unused_folders(root) == []
    # A hidden file of macOS changes nothing.
    (root / "._meta.nii.gz").touch()
    assert len(find_cases(root, labelled=True)) == 2
    # A folder that was not fetched is not left out silently.
    (root / "s0003").symlink_to(tmp_path / "annex" / "object")
    with pytest.raises(InputError, match="s0003 is a link to a file that is not there"):
        find_cases(root, labelled=True)


def test_a_table_may_name_folders_of_masks(tmp_path: Path) -> None:
    patient(tmp_path, "s0001")
    table = tmp_path / "some.csv"
    table.write_text("patient,image,label\nP,s0001/ct.nii.gz,s0001/segmentations\n")
    (case,) = find_cases(table, labelled=True)
    assert case.label is not None
    assert read_labelmap(case.label, ABDOMEN).array.ravel()[:5].tolist() == [1, 2, 3, 4, 0]


def test_patients_whose_folders_lack_something(tmp_path: Path) -> None:
    patient(tmp_path, "s0001")
    patient(tmp_path, "s0002", "mri.nii.gz")
    (tmp_path / "s0002" / "mri.nii.gz").unlink()
    assert [case.patient for case in find_cases(tmp_path, labelled=True, patients=["s0001"])] == ["s0001"]
    assert [case.patient for case in find_cases(tmp_path, labelled=False)] == ["s0001"]
    with pytest.raises(InputError, match="s0002 has no image: put one beside segmentations, or take the folder away"):
        find_cases(tmp_path, labelled=True)
    (tmp_path / "s0002" / "segmentations").rename(tmp_path / "s0001" / "other")
    patient(tmp_path, "s0002", "mri.nii.gz")
    write(tmp_path / "s0003" / "ct.nii.gz", value=9)
    assert [case.patient for case in find_cases(tmp_path, labelled=False)] == ["s0001", "s0002", "s0003"]
    with pytest.raises(InputError, match="s0003 has no folder segmentations: put its masks there"):
        find_cases(tmp_path, labelled=True)
    # Images further down are reported.
    assert unused_folders(tmp_path) == [tmp_path / "s0001" / "other"]
    patient(tmp_path, "s0002")
    for labelled in (True, False):
        with pytest.raises(InputError, match=r"s0002 has two images, ct\.nii\.gz and mri\.nii\.gz: keep one of them"):
            find_cases(tmp_path, labelled=labelled)


def test_what_is_another_layout_stays_so(tmp_path: Path) -> None:
    patient(tmp_path, "s0001")
    # Without any masks, nothing shows that folders are patients.
    write(tmp_path / "unlabelled" / "s0001" / "ct.nii.gz")
    with pytest.raises(InputError, match=r"list the volumes that lie in its subfolders \(s0001\) in a CSV file"):
        find_cases(tmp_path / "unlabelled", labelled=False)
    # A patient's own folder is treated as a folder of volumes.
    assert [case.patient for case in find_cases(tmp_path / "s0001", labelled=False)] == ["ct"]
    assert unused_folders(tmp_path / "s0001") == []
    with pytest.raises(InputError, match=r"no labelled volumes: .*, or, if it is one patient's, give the folder"):
        find_cases(tmp_path / "s0001", labelled=True)
    # So is a folder with volumes beside the patients' folders.
    write(tmp_path / "P1.nii.gz", 3)
    assert [case.patient for case in find_cases(tmp_path, labelled=False)] == ["P1"]
    assert unused_folders(tmp_path) == [tmp_path / "s0001", tmp_path / "unlabelled"]
    with pytest.raises(InputError, match="holds no labelled volumes"):
        find_cases(tmp_path, labelled=True)


def test_masks_by_the_words_of_their_names(tmp_path: Path) -> None:
    masks = patient(tmp_path, "s0001")
    (masks / "kidney_right.nii.gz").rename(masks / "Kidney-RIGHT.nii.gz")
    # Masks of structures that the task does not have are not read.
    (masks / "autochthon_left.nii.gz").write_bytes(b"no image")
    read = read_labels(masks, ABDOMEN)
    assert read.labelmap.array.ravel()[:5].tolist() == [1, 2, 3, 4, 0]
    assert (read.overlapping, read.unmatched, read.labelmap.geometry) == (0, (), GRID)
    # A coding by values has no effect on names.
    assert np.array_equal(read_labelmap(masks, ABDOMEN, "TotalSegmentator").array, read.labelmap.array)
    write(masks / "spleen.nii.gz", 0, 3, value=255)
    again = read_labels(masks, ABDOMEN)
    assert (again.labelmap.array.ravel()[:5].tolist(), again.overlapping) == ([4, 2, 3, 4, 0], 1)


def test_a_coding_names_masks(tmp_path: Path) -> None:
    masks = patient(tmp_path, "s0001")
    kidneys = both_kidneys(liver="Liver", kidneys=["left kidney", "kidney_right"])
    assert read_labelmap(masks, kidneys, "mine").array.ravel()[:5].tolist() == [1, 2, 2, 0, 0]
    # Where it has only values of a structure, the structure's own names apply.
    task = both_kidneys(liver=6, kidneys=[2, "kidney_left"])
    assert read_labelmap(masks, task, "mine").array.ravel()[:3].tolist() == [1, 0, 2]
    # Structures that the coding leaves out are not labelled.
    assert read_labelmap(masks, both_kidneys(kidneys="spleen"), "mine").array.ravel()[:5].tolist() == [0, 0, 0, 2, 0]
    missing = both_kidneys(kidneys=["kidney_left", "kidney_rigth"])
    reason = r"segmentations has no file called kidney_rigth, as the coding calls kidneys \(similar: kidney_right\.nii"
    with pytest.raises(InputError, match=reason):
        read_labelmap(masks, missing, "mine")


def test_a_coding_names_segments(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.array([[[0, 1, 2, 3]]], np.uint8))
    for number, name in enumerate(("Left kidney", "Right kidney", "liver")):
        for key, text in {"Name": name, "Layer": "0", "LabelValue": str(number + 1)}.items():
            image.SetMetaData(f"Segment{number}_{key}", text)
    sitk.WriteImage(image, str(tmp_path / "drawn.seg.nrrd"))
    task = both_kidneys(kidneys=["kidney_left", "kidney_right"])
    assert read_labelmap(tmp_path / "drawn.seg.nrrd", task, "mine").array.ravel().tolist() == [0, 2, 2, 0]
    assert read_labels(tmp_path / "drawn.seg.nrrd", task).unmatched == ("Left kidney", "Right kidney")
    # Where a coding has only values of a structure, the structure's own names apply.
    task = both_kidneys(liver=6, kidneys=[2, 3, "kidney_left", "kidney_right"])
    assert read_labelmap(tmp_path / "drawn.seg.nrrd", task, "mine").array.ravel().tolist() == [0, 2, 2, 1]
    with pytest.raises(ValueError, match="in the coding 'mine' two structures have the name 'liver'"):
        both_kidneys(liver=6, kidneys="Liver")


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ({"liver": ["Liver", "liver"]}, "the name 'liver' is given twice"),
        ({"liver": "right_part", "spleen": "part right"}, "the name 'part right' is given twice"),
        ({"liver": "__"}, "the name '__' of 'liver' has no letter"),
        ({"liver": "5,6"}, r"the name '5,6' of 'liver' has no letter; write values as numbers, \[5, 6\]"),
        ({"liver": ["a", 0]}, "give 'liver' a code of 1 or more"),
    ],
)
def test_names_in_a_coding_that_are_none(codes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LabelCoding.model_validate({"codes": codes})


def test_values_and_names_in_one_coding() -> None:
    coding = LabelCoding.model_validate({"codes": {"liver": [5, "liver"], "kidneys": ["kl", "kr"], "spleen": "7"}})
    assert coding.names_by_value == {5: "liver", 7: "spleen"}
    assert coding.names == {"liver": ("liver",), "kidneys": ("kl", "kr")}
    assert LabelCoding.model_validate_json(coding.model_dump_json()) == coding


def test_masks_that_can_not_be_used(tmp_path: Path) -> None:
    def refused(name: str, reason: str) -> None:
        with pytest.raises(InputError, match=reason):
            read_labelmap(tmp_path / name / "segmentations", ABDOMEN)

    (patient(tmp_path, "lacking") / "kidney_right.nii.gz").unlink()
    advice = r"add right_kidney\.nii\.gz, or give a coding with the files' names; such a coding may leave out"
    refused(
        "lacking", rf"lacking/segmentations has no mask of right kidney \(similar: kidney_left\.nii\.gz\): {advice}"
    )
    write(patient(tmp_path, "twice") / "right kidney.nrrd", 1)
    refused("twice", r"twice/segmentations/kidney_right\.nii\.gz and right kidney\.nrrd are masks of the same name")
    masks = patient(tmp_path, "moved")
    write(masks / "spleen.nii.gz", 3, grid=Geometry((4, 3, 3), GRID.spacing, GRID.origin, GRID.direction))
    refused("moved", r"moved/segmentations/spleen\.nii\.gz and liver\.nii\.gz lie on different grids \(size")
    masks = patient(tmp_path, "probable")
    graded = np.zeros(GRID.shape, np.float32)
    graded.flat[:3] = 0.25, 0.5, 1
    write_volume(Volume(graded, GRID, "liver"), masks / "liver.nii.gz")
    refused("probable", r"liver\.nii\.gz is no mask: its voxels have values from 0\.25 to 1 besides 0: give a file")
    masks = patient(tmp_path, "unfetched")
    (masks / "liver.nii.gz").unlink()
    (masks / "liver.nii.gz").symlink_to(".git/annex/objects/nothing")
    refused("unfetched", r"segmentations/liver\.nii\.gz is a link to a file that is not there: fetch the file")
    for structure in FILES:
        write(tmp_path / "empty" / "segmentations" / f"{structure}.nii.gz")
    refused("empty", "empty/segmentations is empty, no voxel is labelled")
    (tmp_path / "nothing" / "segmentations").mkdir(parents=True)
    refused("nothing", "nothing/segmentations has no mask of liver: add liver")


def test_masks_are_scored(tmp_path: Path) -> None:
    masks = [patient(tmp_path / "truth", name) for name in ("s0001", "s0002")]
    (tmp_path / "found").mkdir()
    for folder in masks:
        write_volume(read_labelmap(folder, ABDOMEN), tmp_path / "found" / f"{folder.parent.name}_segmentation.nii.gz")
    file = tmp_path / "found" / "s0001_segmentation.nii.gz"
    for pair in ((tmp_path / "found", tmp_path / "truth"), (tmp_path / "truth", tmp_path / "found")):
        table = evaluate(*pair, ABDOMEN)
        assert [(row.subject, row.scores.dice) for row in table.rows] == [("s0001", 1.0)] * 4 + [("s0002", 1.0)] * 4
    for pair in ((file, masks[0]), (masks[0], file)):
        assert {(row.subject, row.scores.dice) for row in evaluate(*pair, ABDOMEN).rows} == {("s0001", 1.0)}
        with pytest.raises(InputError, match="segmentations is a folder of masks: say by --task which structures"):
            evaluate(*pair)


def test_two_folders_of_masks_are_one_pair(tmp_path: Path) -> None:
    predicted, reference = (patient(tmp_path / which, "s0001") for which in ("predicted", "truth"))
    write(predicted / "liver.nii.gz", 0, 7)
    # Nothing is read as a labelmap without a task, or with one that has other structures.
    with pytest.raises(InputError, match="segmentations is a folder of masks: say by --task which structures"):
        evaluate(predicted, reference)
    with pytest.raises(InputError, match="segmentations has no mask of"):
        evaluate(predicted, reference, "cardiac")
    # With a task, the names of the files show what the folder holds.
    renamed = predicted.rename(tmp_path / "predicted" / "masks")
    table = evaluate(renamed, reference, ABDOMEN)
    assert [(row.subject, row.structure) for row in table.rows] == [("masks", name) for name in ABDOMEN.names]
    assert table.rows[0].scores.dice == pytest.approx(2 / 3)
    assert evaluate(renamed.rename(predicted), reference, ABDOMEN).rows[0].subject == "s0001"


def test_a_folder_called_segmentations_may_hold_labelmaps(tmp_path: Path) -> None:
    labels = read_labelmap(patient(tmp_path, "s0001"), ABDOMEN)
    folders = tmp_path / "predicted" / "segmentations", tmp_path / "truth" / "segmentations"
    for folder in folders:
        write_volume(labels, folder / "P1_segmentation.nii.gz")
    assert [row.subject for row in evaluate(*folders, ABDOMEN).rows] == ["P1"] * 4
    # It is not taken for one patient's.
    file = folders[0] / "P1_segmentation.nii.gz"
    for pair in ((file, folders[1]), (folders[1], file)):
        with pytest.raises(InputError, match="are a file and a folder: give two files, two folders, or"):
            evaluate(*pair, ABDOMEN)


def test_a_coding_names_predicted_masks_too(tmp_path: Path) -> None:
    masks = patient(tmp_path, "s0001")
    task = both_kidneys(kidneys=["kidney_left", "kidney_right"])
    liver, kidneys = evaluate(masks, masks, task, "mine").rows
    assert (kidneys.scores.dice, liver.note) == (1.0, "both empty")


def masks_of(cohort: Path, root: Path, image: str) -> Path:
    """Make a folder with image and masks for each patient of a labelled folder."""
    for case in find_cases(cohort, labelled=True):
        assert case.label is not None
        (root / case.patient).mkdir(parents=True)
        (root / case.patient / image).symlink_to(case.image)
        labels = read_labelmap(case.label, ABDOMEN)
        for structure in ABDOMEN.structures:
            mask = Volume((labels.array == structure.value).astype(np.uint8), labels.geometry, structure.name)
            write_volume(mask, root / case.patient / "segmentations" / f"{structure.name.replace(' ', '_')}.nii.gz")
    return root


def test_a_preparation_from_masks_is_that_from_labelmaps(cohort: Path, prepared: Path, tmp_path: Path) -> None:
    mr = masks_of(cohort / "mr", tmp_path / "mr", "mri.nii.gz")
    ct = masks_of(cohort / "ct", tmp_path / "ct", "ct.nii.gz")
    steps: list[Step] = []
    told: list[Finding] = []
    prepare(mr, ct, tmp_path / "set", size=32, report=steps.append, warn=told.append)
    assert "abdomen_mr_000/mri.nii.gz" in str(steps[0])
    assert told == []
    from_masks, usual = PreparedDataset(tmp_path / "set"), PreparedDataset(prepared)
    assert from_masks.entry("target").volumes[0].image == "abdomen_ct_000/ct.nii.gz"
    assert np.array_equal(from_masks.labels("source"), usual.labels("source"))
    assert not from_masks.entry("target").labelled
    checks = VolumeChecks(make_preparation(source=mr, target=ct, size=32), say_nothing, "source")
    checks.run()
    (finding,) = (one for one in checks.findings if one.subject == "abdomen_mr_000/segmentations")
    assert (finding.level, finding.message) == ("ok", "all 4 structures")


def without_structures(patient: Path, copy: Path) -> Path:
    """Copy a patient's folder, with the masks of all structures empty and one of another structure."""
    shutil.copytree(patient, copy, symlinks=True)
    for path in (copy / "segmentations").iterdir():
        mask = read_volume(path)
        if path.name == "liver.nii.gz":
            write_volume(mask, path.with_name("femur_left.nii.gz"))
        write_volume(Volume(np.zeros_like(mask.array), mask.geometry, mask.name), path)
    return copy


def test_volumes_without_any_structure_are_left_out_of_what_is_learnt_from(cohort: Path, tmp_path: Path) -> None:
    mr = masks_of(cohort / "mr", tmp_path / "mr", "mri.nii.gz")
    ct = masks_of(cohort / "ct", tmp_path / "ct", "ct.nii.gz")
    without_structures(mr / "abdomen_mr_000", mr / "legs")
    without_structures(ct / "abdomen_ct_000", ct / "feet")
    steps: list[Step] = []
    told: list[Finding] = []
    prepare(mr, ct, tmp_path / "set", size=32, monitor=ct, report=steps.append, warn=told.append)
    assert [str(finding) for finding in told] == [
        f"{name}: volumes left out, since their masks show none of the structures: 1 of 3 ({image}); if a structure is "
        "visible there, correct its mask"
        for name, image in (("source", "legs/mri.nii.gz"), ("monitor", "feet/ct.nii.gz"))
    ]
    made = PreparedDataset(tmp_path / "set")
    patients = {name: [volume.patient for volume in made.entry(name).volumes] for name in SETS}
    assert patients == {
        "source": ["abdomen_mr_000", "abdomen_mr_001"],
        "target": ["abdomen_ct_000", "abdomen_ct_001", "feet"],
        "monitor": ["abdomen_ct_000", "abdomen_ct_001"],
    }
    assert (steps[-1].done, steps[-1].total) == (15, 16)
    checks = VolumeChecks(make_preparation(source=mr, target=ct, size=32), say_nothing)
    checks.run()
    assert told[0] in checks.findings
    slices = len(made.slices("source"))
    assert checks.slices["source"] == slices
    assert f"volumes: 2, slices: {slices}" in [one.message for one in checks.findings if one.subject == "source"]
    # Nothing else of it matters, such as a region of interest that only the others have.
    roi = BoxMM(minimum=(-50, -50, -50), maximum=(50, 50, 50))
    image = read_volume(mr / "legs" / "mri.nii.gz")
    far = dataclasses.replace(image.geometry, origin=(9999.0, 0.0, 0.0))
    (mr / "legs" / "mri.nii.gz").unlink()
    for path in [mr / "legs" / "mri.nii.gz", *(mr / "legs" / "segmentations").iterdir()]:
        array = image.array if path.name == "mri.nii.gz" else np.zeros(far.shape, np.uint8)
        write_volume(Volume(array, far, path.name), path)
    prepare(mr, ct, tmp_path / "in the region", size=32, roi=roi, warn=told.append)
    checks = VolumeChecks(make_preparation(source=mr, target=ct, size=32, roi=roi), say_nothing, "source")
    checks.run()
    assert [finding for finding in checks.findings if finding.level == "error"] == []


def test_labels_of_the_target_leave_nothing_out(cohort: Path, tmp_path: Path) -> None:
    ct = masks_of(cohort / "ct", tmp_path / "ct", "ct.nii.gz")
    without_structures(ct / "abdomen_ct_000", ct / "legs")
    told: list[Finding] = []
    prepare(cohort / "mr", ct, tmp_path / "set", size=32, target_labels=True, warn=told.append)
    target = PreparedDataset(tmp_path / "set").entry("target")
    assert [volume.patient for volume in target.volumes] == ["abdomen_ct_000", "abdomen_ct_001", "legs"]
    (finding,) = told
    assert str(finding).startswith("legs/segmentations: none of the structures is labelled, so all of the volume is")
    checks = VolumeChecks(make_preparation(source=cohort / "mr", target=ct, size=32, target_labels=True), say_nothing)
    checks.run()
    assert finding in checks.findings


@pytest.mark.parametrize(("name", "modality"), [("source", "mr"), ("monitor", "ct")])
def test_a_set_without_any_structure_is_refused(cohort: Path, tmp_path: Path, name: str, modality: str) -> None:
    masks = masks_of(cohort / modality, tmp_path / "masks", "image.nii.gz")
    legs = without_structures(masks / f"abdomen_{modality}_000", tmp_path / "legs" / "legs").parent
    sets = {"source": cohort / "mr", "target": cohort / "ct", name: legs}
    refused = f"No volume of the {name} set shows any of the structures liver, right kidney, left kidney, spleen"
    with pytest.raises(InputError, match=refused):
        prepare(out=tmp_path / "set", size=32, **sets)
    assert not (tmp_path / "set").exists()
    checks = VolumeChecks(make_preparation(size=32, **sets), say_nothing)
    checks.run()
    assert [(one.subject, one.message) for one in checks.findings if one.level == "error"] == [(name, refused)]
