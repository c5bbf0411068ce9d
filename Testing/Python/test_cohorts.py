"""Cohorts are refused if something would be left out, and only then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.evaluation import evaluate
from SIFASegmentationLib.output_names import output_name
from SIFASegmentationLib.volume_folders import unused_folders

FOLDER = ("{}_image.nii.gz", "{}_label.nii.gz")
NNUNET = ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz")


def files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkUInt8), str(path))


def labels_of_many(folder: Path, name: str) -> None:
    """Write a labelmap of a hundred structures, in single precision."""
    blocks = np.arange(100, dtype=np.float32).reshape(4, 5, 5).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    sitk.WriteImage(sitk.GetImageFromArray(blocks * np.float32(1.000001)), str(folder / name))


def scans(folder: Path, *names: str) -> None:
    """Write volumes with more values than labels have."""
    voxels = sitk.GetImageFromArray(np.arange(8**3, dtype=np.int16).reshape(8, 8, 8))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(voxels, str(folder / name))


def unfetched(folder: Path, *names: str) -> None:
    """Make links as git-annex leaves them for files whose content is elsewhere."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(".git/annex/objects/nothing")


def patients(folder: Path, *, labelled: bool, of: tuple[str, ...] | None = None) -> list[str]:
    return [case.patient for case in find_cases(folder, labelled=labelled, patients=of)]


@pytest.mark.parametrize("names", [FOLDER, NNUNET])
def test_images_that_were_not_fetched_are_told(tmp_path: Path, names: tuple[str, str]) -> None:
    image, label = names
    files(tmp_path, image.format("P1"), label.format("P1"))
    unfetched(tmp_path, image.format("P2"), label.format("P2"))
    for labelled in (True, False):
        with pytest.raises(InputError, match=f"{image.format('P2')} is a link to a file that is not there: fetch the"):
            find_cases(tmp_path, labelled=labelled)
        # What other patients lack does not matter.
        assert patients(tmp_path, labelled=labelled, of=("P1",)) == ["P1"]
    (tmp_path / image.format("P2")).unlink()
    files(tmp_path, image.format("P2"))
    with pytest.raises(InputError, match=f"{label.format('P2')} is a link to a file that is not there: fetch the"):
        find_cases(tmp_path, labelled=True)
    # Labelmaps of unlabelled volumes are ignored, whether or not they exist.
    assert patients(tmp_path, labelled=False) == ["P1", "P2"]


def test_volumes_beside_images_of_another_name_are_told(tmp_path: Path) -> None:
    files(tmp_path, "P1_image.nii.gz", "P1_label.nii.gz", "P2.nii.gz")
    for labelled in (True, False):
        with pytest.raises(InputError, match=r"P2\.nii\.gz lies beside files called NAME_image and is neither one nor"):
            find_cases(tmp_path, labelled=labelled)


def test_what_belongs_to_images_may_lie_beside_them(tmp_path: Path) -> None:
    files(
        tmp_path, "P1_image.nii.gz", "P1_label.nii.gz", "P2_image.mha", "P2_label.nrrd", "P1_segmentation.nii.gz",
        "P2_seg.nii.gz", "P1_image_labels.nrrd", "P1_probability_right_kidney.nii.gz", "drawn.seg.nrrd",
        "raw/P3.nii.gz",
    )  # fmt: skip
    for name in ("dataset.json", "estimated_dice.csv", "read me.txt", "README", ".P4.nii.gz"):
        (tmp_path / name).write_text("{}")
    unfetched(tmp_path, "notes.txt", "P1_image.json", "LICENSE", "P1_seg.mha")
    for labelled in (True, False):
        assert patients(tmp_path, labelled=labelled) == ["P1", "P2"]
    # Labels without an image are ignored in an unlabelled cohort.
    files(tmp_path, "P5_label.nii.gz")
    assert patients(tmp_path, labelled=False) == ["P1", "P2"]


def test_dicom_beside_images_is_told(tmp_path: Path) -> None:
    for folder, image, label in ((tmp_path / "named", *FOLDER), (tmp_path / "nnunet", *NNUNET)):
        files(folder, image.format("P1"), label.format("P1"))
        slice_ = folder / Path(image).parent / "slice.dcm"
        slice_.write_bytes(bytes(128) + b"DICM")
        for labelled in (True, False):
            with pytest.raises(InputError, match=r"slice\.dcm is a DICOM file beside volumes"):
                find_cases(folder, labelled=labelled)


def test_a_labelmap_that_was_not_fetched_is_not_scored_without_a_word(tmp_path: Path) -> None:
    files(tmp_path, "predicted/P1_segmentation.nii.gz", "predicted/P2_segmentation.nii.gz", "truth/P1_label.nii.gz")
    unfetched(tmp_path, "truth/P2_label.nii.gz", "truth/P3_label.nii.gz")
    with pytest.raises(InputError, match=r"P2_label\.nii\.gz does not exist"):
        evaluate(tmp_path / "predicted", tmp_path / "truth")
    (tmp_path / "truth" / "P2_label.nii.gz").unlink()
    table = evaluate(tmp_path / "predicted", tmp_path / "truth")
    assert [Path(name).name for name in table.unmatched] == ["P2_segmentation.nii.gz", "P3_label.nii.gz"]


LABELMAPS = (
    "P1_mask", "P1-label", "P1_gt", "P1_roi", "P1.label", "P1_Segmentation", "P1_SEG", "P1_LABEL", "P1_annotation",
)  # fmt: skip


@pytest.mark.parametrize("name", LABELMAPS)
def test_labelmaps_beside_images_are_no_images_however_they_are_called(tmp_path: Path, name: str) -> None:
    files(tmp_path / "plain", "P1.nii.gz", "P1_2.nii.gz", "P2.nii.gz", f"{name}.nii.gz")
    assert patients(tmp_path / "plain", labelled=False) == ["P1", "P1_2", "P2"]
    # They are no images beside `*_image` files either.
    files(tmp_path / "named", "P1_image.nii.gz", f"{name}.nii.gz")
    assert patients(tmp_path / "named", labelled=False) == ["P1"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        *((f"{name}.nii.gz", "is named like a labelmap, but not like that of an image beside it: take it away")
          for name in ("P2_mask", "P2-Label_1", "label0001", "GT_P1", "P1_seg_2", "P1mask")),
        *((f"{name}.nii.gz", r"may be a labelmap of P1\.nii\.gz, or another image of the same patient: take it away")
          for name in ("P1_liver", "P1-tumour_2", "P1_0000", "P1 manual")),
    ],
)  # fmt: skip
def test_what_may_be_a_labelmap_is_not_trained_on_without_a_word(tmp_path: Path, name: str, sentence: str) -> None:
    files(tmp_path, "P1.nii.gz", name)
    with pytest.raises(InputError, match=sentence):
        find_cases(tmp_path, labelled=False)


@pytest.mark.parametrize(
    "names",
    [
        ("CT_ROI_1", "CT_ROI_2"), ("Mask_CT_001",), ("GT-25", "AB-03"), ("abd_label_free",), ("P1", "P1_roi"),
        ("P1_T2", "P1_T2_post"), ("CT", "CT_abdomen"), ("liver_1", "liver_1_arterial"), ("segmented.mask",),
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", [".", "imagesTs"])
def test_a_name_may_be_anything_if_the_voxels_are_no_labels(
    tmp_path: Path, names: tuple[str, ...], folder: str
) -> None:
    scans(tmp_path / folder, *(f"{name}.nii.gz" for name in names))
    assert patients(tmp_path / folder, labelled=False) == sorted(names)
    labels_of_many(tmp_path / folder, f"{names[0]}_organs.nrrd")
    with pytest.raises(InputError, match=r"_organs\.nrrd (may be a|is named like a) labelmap"):
        find_cases(tmp_path / folder, labelled=False)


def test_a_part_of_an_image_is_not_taken_for_its_labelmap(tmp_path: Path) -> None:
    scans(tmp_path, "P1_image.nii.gz", "P1_roi.nii.gz")
    files(tmp_path, "P1_label.nii.gz")
    for labelled in (True, False):
        with pytest.raises(InputError, match=r"P1_roi\.nii\.gz lies beside files called NAME_image and is neither"):
            find_cases(tmp_path, labelled=labelled)


@pytest.mark.parametrize("place", [".", "imagesTr"])
def test_volumes_in_subfolders_alone_are_told(tmp_path: Path, place: str) -> None:
    files(tmp_path / place, *(f"s{number:04}/ct.nii.gz" for number in range(1, 15)))
    advice = r"put .*, or list the volumes that lie in its subfolders \(s0001, .*, s0012, \.\.\.\) in a CSV file"
    for labelled in (True, False):
        with pytest.raises(InputError, match=rf"{tmp_path} holds no (labelled )?volumes: {advice}"):
            find_cases(tmp_path, labelled=labelled)


def test_images_named_alike_are_images(tmp_path: Path) -> None:
    names = ["P1", "P1-2", "P10", "P1_2021-03-04", "segovia", "unmasked_1"]
    files(tmp_path, *(f"{name}.nii.gz" for name in names))
    assert patients(tmp_path, labelled=False) == sorted(names)


@pytest.mark.parametrize(
    "names", [("P1_0000", "P1_0001"), ("a_0000", "a_0001", "b_0000", "b_0001"), ("a_0000", "a_0001", "b_0000")]
)
def test_channels_are_no_patients(tmp_path: Path, names: tuple[str, ...]) -> None:
    files(tmp_path, *(f"{name}.nii.gz" for name in names))
    with pytest.raises(InputError, match=r"_0001.* and .*_0000.* are named like channels of one volume: keep one"):
        find_cases(tmp_path, labelled=False)


@pytest.mark.parametrize(
    "counts",
    [{"patient": 2}, {"site1": 3}, {"BTCV2015": 13}, {"siteA": 6, "siteB": 2}],
)
@pytest.mark.parametrize("folder", [".", "imagesTs"])
def test_patients_may_be_numbered_as_channels_are(tmp_path: Path, counts: dict[str, int], folder: str) -> None:
    names = [f"{stem}_{number:04}" for stem, count in counts.items() for number in range(count)]
    files(tmp_path / folder, *(f"{name}.nii.gz" for name in names))
    assert patients(tmp_path / folder, labelled=False) == names


def test_channels_in_a_folder_of_images_are_told(tmp_path: Path) -> None:
    files(tmp_path, *(f"imagesTs/{name}.nii.gz" for name in ("a_0000", "a_0001", "b_0000", "b_0001")))
    with pytest.raises(InputError, match=r"a_0001\.nii\.gz does not end in _0000: give volumes of one channel"):
        find_cases(tmp_path / "imagesTs", labelled=False)


def test_endings_of_pairs_in_capitals_or_after_another_separator(tmp_path: Path) -> None:
    files(tmp_path, "A_Image.nii.gz", "A_Label.nii.gz", "B-image.nii.gz", "B.label.nii.gz")
    for labelled in (True, False):
        assert patients(tmp_path, labelled=labelled) == ["A", "B"]
    # Their outputs have the same names, by which they are scored against these labels.
    assert output_name(tmp_path / "A_Image.nii.gz") == "A"


def test_the_layout_of_the_medical_decathlon(tmp_path: Path) -> None:
    files(tmp_path, *(f"{folder}/liver_{number}.nii.gz" for folder in ("imagesTr", "labelsTr") for number in (1, 10)))
    files(tmp_path, "imagesTs/liver_3.nii.gz")
    (tmp_path / "imagesTr" / "._liver_1.nii.gz").touch()
    for labelled in (True, False):
        assert patients(tmp_path, labelled=labelled) == ["liver_1", "liver_10"]
    assert patients(tmp_path / "imagesTs", labelled=False) == ["liver_3"]
    (tmp_path / "labelsTr" / "liver_10.nii.gz").unlink()
    with pytest.raises(InputError, match=r"imagesTr/liver_10\.nii\.gz has no labelmap: add .*labelsTr/liver_10"):
        find_cases(tmp_path, labelled=True)


def test_subfolders_with_images_that_are_not_used(tmp_path: Path) -> None:
    files(
        tmp_path, "P1.nii.gz", "more/P2.nii.gz", "deep/er/P3.nrrd", "baseline/P1_segmentation.nii.gz",
        "maps/P1_probability_liver.nii.gz", ".trash/P4.nii.gz",
    )  # fmt: skip
    for name in ("P5/1.dcm", "series/P6/1.dcm"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    assert [folder.name for folder in unused_folders(tmp_path)] == ["deep", "more", "series"]
    assert unused_folders(tmp_path / "P1.nii.gz") == []
    files(tmp_path / "nnunet", "imagesTr/P1_0000.nii.gz", "labelsTr/P1.nii.gz", "imagesTr/old/P1_0000.nii.gz")
    assert unused_folders(tmp_path / "nnunet") == [tmp_path / "nnunet" / "imagesTr" / "old"]
