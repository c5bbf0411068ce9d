"""Reading and writing volumes in files of any format."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SIFASegmentationLib import image_files
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.volumes import Geometry, Volume

GEOMETRY = Geometry((30, 20, 10), (1.0, 1.5, 3.0), (5.0, -7.0, 2.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def volume(kind: type[np.generic]) -> Volume:
    rng = np.random.default_rng(0)
    return Volume(rng.integers(0, 200, GEOMETRY.shape).astype(kind), GEOMETRY, "v")


@pytest.mark.parametrize("suffix", [*image_files.WRITABLE_SUFFIXES, ".seg.nrrd"])
@pytest.mark.parametrize("kept", [0, 100, 2000, -1])
def test_a_disk_that_takes_only_part_of_a_file(
    tmp_path: Path, suffix: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ITK's writer does not report this."""
    path = tmp_path / f"v{suffix}"
    path.write_bytes(b"before")
    write = sitk.WriteImage

    def write_part(image: sitk.Image, name: str, **options: bool) -> None:
        write(image, name, **options)
        with Path(name).open("r+b") as file:
            file.truncate(kept if kept >= 0 else file.seek(0, os.SEEK_END) + kept)

    monkeypatch.setattr(sitk, "WriteImage", write_part)
    with pytest.raises(InputError, match=rf"v{re.escape(suffix)} can't be written to \(No space left on device\)"):
        write_volume(volume(np.int16), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_floats_of_64_bits_are_read_as_those_of_32(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(0, 1000, GEOMETRY.shape)
    write_volume(Volume(array, GEOMETRY, "v"), tmp_path / "v.nrrd")
    read = read_volume(tmp_path / "v.nrrd").array
    assert read.dtype == np.float32
    assert np.array_equal(read, array.astype(np.float32))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_a_fourth_axis_of_one_step_is_none_in_any_format(tmp_path: Path, suffix: str) -> None:
    one = volume(np.int16)
    image = image_files.to_image(one)
    sitk.WriteImage(sitk.JoinSeries([image]), str(tmp_path / f"one{suffix}"))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / f"two{suffix}"))
    read = read_volume(tmp_path / f"one{suffix}")
    assert np.array_equal(read.array, one.array)
    assert read.geometry == GEOMETRY
    with pytest.raises(InputError, match=r"two.* is a 4D image: give one 3D volume"):
        read_volume(tmp_path / f"two{suffix}")
