"""SimpleITK reads back the MetaImage files that are written in portions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from SIFASegmentationLib import metaimage
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.metaimage import write_in_portions
from SIFASegmentationLib.volumes import Geometry, Volume

TURNED = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64", "bool", ">i2")


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metaimage, "PORTION_BYTES", 600)


def make_volume(dtype: str = "int16", shape: tuple[int, int, int] = (7, 8, 9)) -> Volume:
    values = np.random.default_rng(0).integers(0, 256, shape) - (100 if np.dtype(dtype).kind in "if" else 0)
    array = values.astype(dtype) / (3 if np.dtype(dtype).kind == "f" else 1)
    spacing, origin = (0.1, 1 / 3, 1 / 370), (-123.456789012345, 1e-9, 7e20)
    return Volume(array.astype(dtype), Geometry((shape[2], shape[1], shape[0]), spacing, origin, TURNED), "volume")


@pytest.mark.parametrize("dtype", DTYPES)
def test_simpleitk_reads_the_same_voxels_and_geometry(tmp_path: Path, dtype: str) -> None:
    volume, path = make_volume(dtype), tmp_path / "new folder" / "ä.mha"
    portions = list(write_in_portions(volume, path))
    slices_at_once = max(1, 600 // (8 * 9 * volume.array.itemsize))
    assert len(portions) == -(-7 // slices_at_once)
    image = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.array)
    kept = np.uint8 if dtype == "bool" else volume.array.dtype.newbyteorder("=")
    assert sitk.GetArrayFromImage(image).dtype == kept
    assert image.GetSpacing() == volume.geometry.spacing
    assert image.GetOrigin() == volume.geometry.origin
    assert image.GetDirection() == volume.geometry.direction
    assert read_volume(path).geometry == volume.geometry


def test_arrays_that_are_views_of_others(tmp_path: Path) -> None:
    volume = make_volume(shape=(6, 9, 8))
    turned = Volume(volume.array.transpose(0, 2, 1)[::-1], make_volume(shape=(6, 8, 9)).geometry, "turned")
    for _ in write_in_portions(turned, tmp_path / "turned.mha"):
        pass
    assert np.array_equal(read_volume(tmp_path / "turned.mha").array, turned.array)


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, portions = tmp_path / "volume.mha", write_in_portions(make_volume(), tmp_path / "volume.mha")
    next(portions)
    assert not path.exists()
    portions.close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"volume\.mha can't be written to \(.*\): check the folder's"):
        list(write_in_portions(make_volume(), tmp_path / "file" / "volume.mha"))

    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metaimage, "_portions", full)
    with pytest.raises(InputError, match="free space"):
        list(write_in_portions(make_volume(), path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
