"""DICOM series: read as they are, refused where their slices make no grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.dicom_files import _check_places
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.segment_files import _expand


def write_series(
    folder: Path,
    heights: Sequence[float],
    *,
    series: str = "1.2.3.4",
    value: int = 0,
    further: Sequence[Mapping[str, str]] = (),
) -> Path:
    """A slice at each height in mm, the later ones in files that come first; slice k has the value k."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, height in enumerate(heights):
        image = sitk.GetImageFromArray(np.full((1, 4, 5), value + k, np.int32))
        image.SetSpacing((0.5, 0.5, 1.0))
        tags = {"0008|0060": "CT", "0020|000e": series, "0020|000d": "1.2.3", "0008|0018": f"{series}.{k}",
                "0020|0013": str(k), "0020|0032": f"10\\20\\{height:g}",
                "0020|0037": "1\\0\\0\\0\\1\\0"}  # fmt: skip
        for key, text in {**tags, **(further[k] if further else {})}.items():
            image.SetMetaData(key, text)
        writer.SetFileName(str(folder / f"{series}_{len(heights) - k:03}.dcm"))
        writer.Execute(image)
    return folder


def test_a_series_folder(tmp_path: Path) -> None:
    volume = read_volume(write_series(tmp_path / "ct", [0, 5, 10]))
    assert volume.array[:, 0, 0].tolist() == [0, 1, 2]
    assert volume.geometry.origin == (10, 20, 0)
    assert volume.geometry.spacing[2] == 5
    assert volume.name == "ct"


@pytest.mark.parametrize("step", [1.25, 5 / 3, 0.7, 0.625, 1 / 3])
def test_positions_that_were_rounded_are_even(tmp_path: Path, step: float) -> None:
    heights = [round(step * k, 1) for k in range(12)]
    volume = read_volume(write_series(tmp_path / "ct", heights))
    assert volume.geometry.spacing[2] == pytest.approx(step, abs=0.02)


@pytest.mark.parametrize(
    "heights",
    [[0, 3, 6, 12, 15], [0, 3, 3.1, 6, 9], [*range(0, 60, 3), *range(63, 120, 3)], [0, 3, 6, 9, 80], [0, 0.3, 0.9]],
    ids=["one missing", "one twice", "one missing of many", "a scout", "one missing of three"],
)
def test_slices_that_make_no_grid_are_refused(tmp_path: Path, heights: list[float]) -> None:
    with pytest.raises(InputError, match=r"ct has slices at uneven distances \(off by up to \d+\.\d\d mm\)"):
        read_volume(write_series(tmp_path / "ct", heights))


def test_slices_without_a_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ct has 3 slices, all of one place"):
        read_volume(write_series(tmp_path / "ct", [0, 0, 0]))
    image = sitk.Image(4, 4, 3, sitk.sitkInt16)
    for positions in (["", "", ""], ["0\\0\\0", "0\\0", "0\\0\\2"], ["x\\0\\0"] * 3):
        with pytest.raises(InputError, match="slices that do not say where they lie"):
            _check_places(image, positions, tmp_path / "captures")
    _check_places(image, ["0\\0\\0", "0\\0\\1", "0\\0\\2"], tmp_path)


def test_files_of_many_frames_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "ct" / "frames.dcm"
    file.parent.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 4, 5), np.uint16)), str(file))
    for path in (file, file.parent):
        with pytest.raises(InputError, match=r"DICOM file of many frames.* convert it to NRRD or NIfTI"):
            read_volume(path)
    # SimpleITK takes the tags along into what it converts.
    sitk.WriteImage(sitk.ReadImage(str(file)), str(tmp_path / "converted.nrrd"))
    assert read_volume(tmp_path / "converted.nrrd").array.shape == (6, 4, 5)


def test_each_slice_is_rescaled_as_it_says(tmp_path: Path) -> None:
    further = [{"0028|1053": slope, "0028|1052": "0"} for slope in ("1", "2", "2")]
    volume = read_volume(write_series(tmp_path / "pet", [0, 5, 10], value=60_000, further=further))
    # Not in the first slice's type of numbers, which need not hold the others'.
    assert volume.array.dtype == np.float32
    assert volume.array[:, 0, 0].tolist() == [60_000, 60_000, 60_002]


def test_a_folder_of_slices_is_a_series_whatever_lies_below(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "P1", [0, 3, 6])
    write_series(folder / "scout", [0, 1], series="1.2.9")
    assert _expand(folder) == [folder]
    assert _expand(tmp_path) == [folder]
    # Volumes beside slices are not passed over.
    sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkInt16), str(folder / "P2.nii.gz"))
    with pytest.raises(InputError, match="is a DICOM file beside volumes"):
        _expand(folder)


def test_no_patient_is_left_out_without_a_word(tmp_path: Path) -> None:
    write_series(tmp_path / "P1", [0, 3, 6])
    assert [case.patient for case in find_cases(tmp_path, labelled=False)] == ["P1"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read me.txt").write_text("nothing")
    assert len(find_cases(tmp_path, labelled=False)) == 1
    deeper = write_series(tmp_path / "P2" / "study" / "series", [0, 3, 6])
    with pytest.raises(InputError, match=r"P2 holds DICOM files further down, in .*series"):
        find_cases(tmp_path, labelled=False)
    deeper.rename(tmp_path / "P3")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    loose = next((tmp_path / "P3").iterdir())
    loose.rename(tmp_path / loose.name)
    with pytest.raises(InputError, match="is a DICOM file beside volumes"):
        find_cases(tmp_path, labelled=False)
    (tmp_path / loose.name).unlink()
    (tmp_path / "P4.nii.gz").symlink_to(tmp_path / "annex" / "object")
    with pytest.raises(InputError, match=r"P4\.nii\.gz is a link to a file that is not there"):
        find_cases(tmp_path, labelled=False)


def test_originals_beside_volumes_are_left_alone(tmp_path: Path) -> None:
    write_series(tmp_path / "originals" / "P1", [0, 3, 6])
    sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkInt16), str(tmp_path / "P1.nii.gz"))
    assert [case.patient for case in find_cases(tmp_path, labelled=False)] == ["P1"]
