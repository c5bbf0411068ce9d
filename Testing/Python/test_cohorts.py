"""Cohorts of which something would be left out: refused, and no more than that."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk

from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.evaluation import evaluate

FOLDER = ("{}_image.nii.gz", "{}_label.nii.gz")
NNUNET = ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz")


def files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkUInt8), str(path))


def unfetched(folder: Path, *names: str) -> None:
    """As git-annex leaves files whose content is elsewhere."""
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
        # What the others lack does not matter.
        assert patients(tmp_path, labelled=labelled, of=("P1",)) == ["P1"]
    (tmp_path / image.format("P2")).unlink()
    files(tmp_path, image.format("P2"))
    with pytest.raises(InputError, match=f"{label.format('P2')} is a link to a file that is not there: fetch the"):
        find_cases(tmp_path, labelled=True)
    # Labelmaps of unlabelled volumes are left alone, there or not.
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
    # Labels of which there is no image are none of an unlabelled cohort's.
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
