"""DICOM series: read as they are, and refused if their slices do not form a grid."""

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
from SIFASegmentationLib.segmentation_requests import Request, requests_of
from SIFASegmentationLib.volume_folders import unused_folders


def write_series(
    folder: Path,
    heights: Sequence[float],
    *,
    series: str = "1.2.3.4",
    value: int = 0,
    pixels: Sequence[tuple[float, float]] = (),
    shapes: Sequence[tuple[int, int]] = (),
    further: Sequence[Mapping[str, str]] = (),
) -> Path:
    """Write a slice with value k at the k-th height in mm, in files whose names have the opposite order.

    `pixels`, `shapes` and `further` give for each slice its spacings along i and j in mm, its rows and columns, and
    further tags.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, height in enumerate(heights):
        image = sitk.GetImageFromArray(np.full((1, *(shapes[k] if shapes else (4, 5))), value + k, np.int32))
        image.SetSpacing((*(pixels[k] if pixels else (0.5, 0.5)), 1.0))
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


def turned(*cosines: float) -> dict[str, str]:
    return {"0020|0037": "\\".join(f"{cosine:.6g}" for cosine in cosines)}


AXIAL = turned(1, 0, 0, 0, 1, 0)


@pytest.mark.parametrize(
    "orientations",
    [
        [AXIAL, turned(1, 0, 0, 0, -1, 0)] * 2,
        [AXIAL, AXIAL, turned(0, 1, 0, -1, 0, 0), AXIAL],
        [AXIAL, turned(1, 0, 0, 0, np.cos(0.01), np.sin(0.01)), AXIAL, AXIAL],
        [AXIAL, AXIAL, AXIAL, turned(0, 1, 0, 0, 0, -1)],
    ],
    ids=["rows reversed", "turned by 90 degrees", "tilted", "a sagittal localiser"],
)
def test_slices_that_do_not_lie_alike_are_refused(tmp_path: Path, orientations: list[dict[str, str]]) -> None:
    folder = write_series(tmp_path / "ct", [0, 5, 10, 15], further=orientations)
    with pytest.raises(
        InputError, match=r"\.dcm and .*\.dcm differ in ImageOrientationPatient \(.*1.*and 1.0.0.0.1.0\)"
    ):
        read_volume(folder)


@pytest.mark.parametrize("last", [(0.6, 0.5), (0.5, 0.501)])
def test_slices_of_unlike_pixels_are_refused(tmp_path: Path, last: tuple[float, float]) -> None:
    folder = write_series(tmp_path / "ct", [0, 5, 10], pixels=[(0.5, 0.5), (0.5, 0.5), last])
    with pytest.raises(InputError, match=r"001\.dcm and .*003\.dcm differ in PixelSpacing"):
        read_volume(folder)


@pytest.mark.parametrize("last", [(8, 10), (5, 4)])
def test_slices_of_unlike_rows_and_columns_are_refused(tmp_path: Path, last: tuple[int, int]) -> None:
    folder = write_series(tmp_path / "ct", [0, 5, 10], shapes=[(4, 5), (4, 5), last])
    with pytest.raises(InputError, match="ct can't be read as an image"):
        read_volume(folder)


def test_what_headers_round_is_alike(tmp_path: Path) -> None:
    folder = write_series(
        tmp_path / "ct", [0, 5, 10], pixels=[(0.703125, 0.703125), (0.7031, 0.7031), (0.703, 0.703)],
        further=[AXIAL, turned(0.999999, 1e-4, 0, -1e-4, 1, 0), AXIAL],
    )  # fmt: skip
    assert read_volume(folder).geometry.size == (5, 4, 3)


def test_a_slice_alone_is_an_image_and_one_of_a_series_is_not(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", [0, 5, 10])
    write_series(tmp_path / "ct", [0], series="1.2.9")
    for name in ("1.2.3.4_001", "1.2.3.4_003"):
        with pytest.raises(InputError, match=rf"{name}\.dcm is one of 3 slices of a DICOM series: give the folder"):
            read_volume(folder / f"{name}.dcm")
    assert read_volume(folder / "1.2.9_001.dcm").geometry.size == (5, 4, 1)


@pytest.mark.parametrize("name", ["1.2.3.4_001.dcm", "1.2.3.4_004.dcm", "read me.txt", ".#lock"])
def test_a_series_with_a_broken_link_is_refused(tmp_path: Path, name: str) -> None:
    """GDCM would silently use only the files before the link, and no gap would show that others are missing."""
    folder = write_series(tmp_path / "P1", [0, 5, 10, 15])
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "annex" / "object")
    for use in (read_volume, requests_of):
        with pytest.raises(InputError, match=f"{name} is a link to a file that is not there: fetch the file"):
            use(folder)
    sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkInt16), str(tmp_path / "P2.nii.gz"))
    with pytest.raises(InputError, match=f"{name} is a link to a file that is not there: fetch the file"):
        find_cases(tmp_path, labelled=False)


@pytest.mark.parametrize("which", [0, 2, -1])
@pytest.mark.parametrize("kept", [0, 700])
def test_a_slice_that_can_not_be_read_is_not_left_out(tmp_path: Path, which: int, kept: int) -> None:
    """GDCM leaves it out silently, and at an end of the series no gap would show it."""
    folder = write_series(tmp_path / "series", [0, 3, 6, 9, 12])
    path = sorted(folder.iterdir())[which]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=f"{path.name} can't be read as a slice of its series"):
        read_volume(folder)


def test_what_is_no_slice_may_lie_beside_a_series(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", [0, 3, 6])
    (folder / "notes.txt").write_text("read me")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10")
    (folder / "plan.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x02\x00UI\x1e\x001.2.840.10008.5.1.4.1.1.481.3")
    assert read_volume(folder).geometry.size[2] == 3


def test_files_of_many_frames_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "ct" / "frames.dcm"
    file.parent.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 4, 5), np.uint16)), str(file))
    for path in (file, file.parent):
        with pytest.raises(InputError, match=r"DICOM file of many frames.* convert it to NRRD or NIfTI"):
            read_volume(path)
    # SimpleITK copies the DICOM tags into files that it converts, which are read nevertheless.
    sitk.WriteImage(sitk.ReadImage(str(file)), str(tmp_path / "converted.nrrd"))
    assert read_volume(tmp_path / "converted.nrrd").array.shape == (6, 4, 5)


def test_each_slice_is_rescaled_as_it_says(tmp_path: Path) -> None:
    further = [{"0028|1053": slope, "0028|1052": "0"} for slope in ("1", "2", "2")]
    volume = read_volume(write_series(tmp_path / "pet", [0, 5, 10], value=60_000, further=further))
    # The data type is not that of the first slice, which need not be able to hold the others' values.
    assert volume.array.dtype == np.float32
    assert volume.array[:, 0, 0].tolist() == [60_000, 60_000, 60_002]


def test_a_folder_of_slices_is_a_series_whatever_lies_below(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "P1", [0, 3, 6])
    write_series(folder / "scout", [0, 1], series="1.2.9")
    assert requests_of(folder) == [Request(folder)]
    assert requests_of(tmp_path) == [Request(folder)]
    # Volumes beside slices are not silently ignored.
    sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkInt16), str(folder / "P2.nii.gz"))
    with pytest.raises(InputError, match="is a DICOM file beside volumes"):
        requests_of(folder)


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


def test_masks_beside_series(tmp_path: Path) -> None:
    """TotalSegmentator may have been given the folder of the slices, or the one above."""

    def volume(name: str) -> Path:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkInt16), str(tmp_path / name))
        return (tmp_path / name).parent

    images = [write_series(tmp_path / "P1", [0, 3, 6]), write_series(tmp_path / "P2" / "dicom", [0, 3, 6])]
    labels = [volume(f"{patient}/segmentations/liver.nii.gz") for patient in ("P1", "P2")]
    cases = find_cases(tmp_path, labelled=True)
    assert [(case.patient, case.image, case.label) for case in cases] == [
        ("P1", images[0], labels[0]), ("P2", images[1], labels[1])
    ]  # fmt: skip
    # No patient without masks is left out.
    write_series(tmp_path / "P3", [0, 3, 6])
    volume("P4/ct.nii.gz")
    assert [request.image.name for request in requests_of(tmp_path)] == ["P1", "dicom", "P3", "ct.nii.gz"]
    assert unused_folders(tmp_path) == []
    with pytest.raises(InputError, match="P3 has no folder segmentations: put its masks there"):
        find_cases(tmp_path, labelled=True)
    volume("P1/ct.nii.gz")
    with pytest.raises(InputError, match="is a DICOM file beside volumes"):
        find_cases(tmp_path, labelled=False)


@pytest.mark.parametrize("link", ["P2", "P2/IM0001", "P2/series/1.dcm", "1.2.840.113619"])
def test_series_that_were_not_fetched_are_told(tmp_path: Path, link: str) -> None:
    write_series(tmp_path / "P1", [0, 3, 6])
    for name in ("participants.tsv", "notes/read me.txt", link):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / "annex" / "object")
        if name != link:
            assert [case.patient for case in find_cases(tmp_path, labelled=False)] == ["P1"]
    with pytest.raises(InputError, match=f"{link} is a link to a file that is not there"):
        find_cases(tmp_path, labelled=False)


def test_originals_beside_volumes_are_left_alone(tmp_path: Path) -> None:
    write_series(tmp_path / "originals" / "P1", [0, 3, 6])
    sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkInt16), str(tmp_path / "P1.nii.gz"))
    assert [case.patient for case in find_cases(tmp_path, labelled=False)] == ["P1"]


@pytest.mark.parametrize("slices", [2, 5, 30])
@pytest.mark.parametrize("step", [1.0, 5.0])
@pytest.mark.parametrize("decimals", [1, 2])
def test_oblique_slices_whose_places_were_rounded_are_no_tilted_ones(
    tmp_path: Path, slices: int, step: float, decimals: int
) -> None:
    x, y, z = np.radians((12, -9, 20))
    around = [np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]),
              np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]),
              np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])]  # fmt: skip
    axes = around[2] @ around[1] @ around[0]
    places = [np.round(axes[:, 2] * step * k, decimals) for k in range(slices)]
    further = [
        {**turned(*axes[:, 0], *axes[:, 1]), "0020|0032": "\\".join(f"{value:.10g}" for value in place)}
        for place in places
    ]
    volume = read_volume(write_series(tmp_path / "ct", range(slices), further=further))
    read = volume.geometry.direction_matrix
    assert np.allclose(read, axes, rtol=0, atol=2e-5)
    # The last slice lies where its header says, apart from rounding.
    there = np.asarray(volume.geometry.origin) + read[:, 2] * volume.geometry.spacing[2] * (slices - 1)
    assert np.abs(there - places[-1]).max() < 0.2


def test_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    further = [{"0020|0032": f"10\\{20 + 0.5 * k}\\{5 * k}"} for k in range(6)]
    with pytest.raises(InputError, match="singular or sheared"):
        read_volume(write_series(tmp_path / "ct", range(6), further=further))


def test_slices_of_numbers_with_a_sign_and_without(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", [0, 5, 10], value=-1000)
    image = sitk.ReadImage(str(sorted(folder.iterdir())[-1]))
    unsigned = sitk.Cast(image + 1005, sitk.sitkUInt16)
    for key in image.GetMetaDataKeys():
        if not key.startswith("0028|01"):
            unsigned.SetMetaData(key, image.GetMetaData(key))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(sorted(folder.iterdir())[-1]))
    writer.Execute(unsigned)
    assert read_volume(folder).array[:, 0, 0].tolist() == [5, -999, -998]


def test_a_slice_alone_is_as_thick_as_it_says(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct", [0], further=[{"0018|0050": "14.36"}])
    assert read_volume(folder).geometry.spacing[2] == 14.36


def test_a_series_where_one_works_has_its_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series(tmp_path / "ct", [0, 5])
    monkeypatch.chdir(folder)
    assert read_volume(".").name == "ct"


def test_a_folder_of_slices_is_no_labelmap_whatever_it_is_called(tmp_path: Path) -> None:
    names = ["GT-25", "P1", "P1_label", "P1_probability_map", "P1_roi", "P1_seg"]
    for name in names:
        write_series(tmp_path / name, [0, 5])
    sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkUInt8), str(tmp_path / "P1_mask.nii.gz"))
    assert [case.patient for case in find_cases(tmp_path, labelled=False)] == names
