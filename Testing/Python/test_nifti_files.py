"""Incomplete NIfTI files, which ITK reads and writes silently."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SIFASegmentationLib import image_files
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.nifti_files import check_nifti
from SIFASegmentationLib.volumes import Geometry, Volume

GEOMETRY = Geometry((30, 20, 10), (1.0, 1.5, 3.0), (5.0, -7.0, 2.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def volume(kind: type[np.generic]) -> Volume:
    rng = np.random.default_rng(0)
    return Volume(rng.integers(0, 200, GEOMETRY.shape).astype(kind), GEOMETRY, "v")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_what_is_cut_off_or_changed_is_refused(tmp_path: Path, suffix: str, kind: type[np.generic]) -> None:
    whole = tmp_path / f"whole{suffix}"
    write_volume(volume(kind), whole)
    assert np.array_equal(read_volume(whole).array, volume(kind).array)
    content = whole.read_bytes()
    for share in (0.0001, 0.02, 0.5, 0.999):
        (tmp_path / f"cut{suffix}").write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=rf"cut\{suffix} can't be read as an image"):
            read_volume(tmp_path / f"cut{suffix}")
    if suffix == ".nii.gz":
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        (tmp_path / "changed.nii.gz").write_bytes(changed)
        with pytest.raises(InputError, match="cut off or damaged"):
            read_volume(tmp_path / "changed.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr", ".mha", ".nrrd"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_voxels_that_are_no_numbers_are_refused_in_every_format(
    tmp_path: Path, suffix: str, value: float, kind: type[np.floating]
) -> None:
    one = volume(kind)
    array = one.array.copy()
    array[3, 4, 5] = value
    path = tmp_path / f"v{suffix}"
    sitk.WriteImage(image_files.to_image(Volume(array, GEOMETRY, "v")), str(path))
    with pytest.raises(InputError, match=r"v\S+ has voxels that are not finite"):
        read_volume(path)


def test_the_second_version_of_the_format_and_the_other_order_of_bytes(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype=">f4")
    for order, second in ((">", False), ("<", True)):
        header = bytearray(544 if second else 352)
        if second:
            struct.pack_into(f"{order}i", header, 0, 540)
            struct.pack_into(f"{order}2h", header, 12, 16, 32)
            struct.pack_into(f"{order}8q", header, 16, 3, 2, 3, 4, 1, 1, 1, 1)
            struct.pack_into(f"{order}q", header, 168, 544)
        else:
            struct.pack_into(f"{order}i", header, 0, 348)
            struct.pack_into(f"{order}8h", header, 40, 3, 2, 3, 4, 1, 1, 1, 1)
            struct.pack_into(f"{order}2h", header, 70, 16, 32)
            struct.pack_into(f"{order}f", header, 108, 352)
        path = tmp_path / "v.nii.gz"
        for values, complaint in ((voxels, ""), (voxels[:-1], "cut off"), (voxels * np.nan, "not finite")):
            path.write_bytes(gzip.compress(bytes(header) + values.astype(f"{order}f4").tobytes()))
            if complaint:
                with pytest.raises(InputError, match=complaint):
                    check_nifti(path)
            else:
                check_nifti(path)


def test_what_readers_do_not_look_at_is_no_damage(tmp_path: Path) -> None:
    """Bits that do not fit the type, an offset that makes no sense, bytes after the file, several members."""
    write_volume(volume(np.int16), tmp_path / "v.nii")
    content = (tmp_path / "v.nii").read_bytes()
    odd = {"bits": bytearray(content), "offset": bytearray(content), "infinite": bytearray(content)}
    struct.pack_into("<h", odd["bits"], 72, 64)
    struct.pack_into("<f", odd["offset"], 108, -5.0)
    struct.pack_into("<f", odd["infinite"], 108, np.inf)
    for name, changed in odd.items():
        (tmp_path / f"{name}.nii").write_bytes(changed)
        check_nifti(tmp_path / f"{name}.nii")
    (tmp_path / "more.nii").write_bytes(content + b"more")
    packed = gzip.compress(content)
    (tmp_path / "more.nii.gz").write_bytes(packed + b"nobody's")
    (tmp_path / "padded.nii.gz").write_bytes(packed + bytes(512))
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))
    for name in ("more.nii", "more.nii.gz", "padded.nii.gz", "members.nii.gz"):
        assert np.array_equal(read_volume(tmp_path / name).array, volume(np.int16).array), name


def test_a_file_that_may_not_be_opened_is_told_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.nii.gz"
    write_volume(volume(np.int16), path)

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(image_files, "check_nifti", refuse)
    with pytest.raises(InputError, match=r"v\.nii\.gz can't be read \(Permission denied\)"):
        read_volume(path)


def test_a_volume_with_no_numbers_is_written_as_it_is(tmp_path: Path) -> None:
    array = np.full(GEOMETRY.shape, np.nan, np.float32)
    write_volume(Volume(array, GEOMETRY, "v"), tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match="not finite"):
        check_nifti(tmp_path / "v.nii.gz")


def test_a_file_that_has_changed_is_looked_through_again(tmp_path: Path) -> None:
    path = tmp_path / "v.nii"
    write_volume(volume(np.int16), path)
    check_nifti(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="cut off"):
        check_nifti(path)


def test_a_file_that_is_not_compressed_may_be_called_so(tmp_path: Path) -> None:
    write_volume(volume(np.int16), tmp_path / "v.nii")
    (tmp_path / "v.nii").rename(tmp_path / "v.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "v.nii.gz").array, volume(np.int16).array)


def test_a_header_and_its_voxels_in_two_files(tmp_path: Path) -> None:
    path, voxels = tmp_path / "pair.hdr", tmp_path / "pair.img"
    one = volume(np.int16)
    sitk.WriteImage(image_files.to_image(one), str(path))
    assert np.array_equal(read_volume(path).array, one.array)
    content = voxels.read_bytes()
    for share in (0.0, 0.5, 0.999):
        voxels.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"pair\.hdr can't be read as an image \(it is cut off"):
            read_volume(path)
    voxels.write_bytes(content)
    assert np.array_equal(read_volume(path).array, one.array)
    for file in (path, voxels):
        file.rename(file.with_suffix(file.suffix.upper()))
    assert np.array_equal(read_volume(path.with_suffix(".HDR")).array, one.array)
    voxels.with_suffix(".IMG").unlink()
    with pytest.raises(InputError, match=r"pair\.HDR can't be read"):
        read_volume(path.with_suffix(".HDR"))
