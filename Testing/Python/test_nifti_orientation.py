"""NIfTI files that do not say where their voxels lie, or say it in two ways, all of which ITK silently accepts."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.nifti_orientation import check_orientation
from SIFASegmentationLib.phantom_shapes import rotation
from SIFASegmentationLib.volumes import Geometry, Volume

_CODES, _MATRIX, _MAGIC = 252, 280, 344  # Offsets of these fields in a header.
GEOMETRY = Geometry((30, 20, 10), (1.0, 1.5, 3.0), (5.0, -7.0, 2.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def written(path: Path, geometry: Geometry = GEOMETRY) -> bytearray:
    write_volume(Volume(np.ones(geometry.shape, np.uint8), geometry, "v"), path)
    return bytearray(path.read_bytes())


def test_a_file_without_orientation_is_refused_until_it_is_written_into_it(tmp_path: Path) -> None:
    path = tmp_path / "v.nii"
    content = written(path)
    struct.pack_into("<2h", content, _CODES, 0, 0)
    for name, whole in (("plain.nii", bytes(content)), ("packed.nii.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(whole)
        with pytest.raises(InputError, match=rf"{name} does not say how its axes lie in the patient"):
            read_volume(tmp_path / name)
    # As the README shows.
    image = sitk.ReadImage(str(tmp_path / "plain.nii"))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "plain.nii"))
    assert read_volume(tmp_path / "plain.nii").geometry.direction == (1, 0, 0, 0, -1, 0, 0, 0, 1)


def test_an_analyze_file_has_no_orientation(tmp_path: Path) -> None:
    content = written(tmp_path / "v.nii")
    content[_MAGIC : _MAGIC + 4] = bytes(4)
    (tmp_path / "v.nii").write_bytes(content)
    with pytest.raises(InputError, match="does not say how its axes lie"):
        read_volume(tmp_path / "v.nii")


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 1), (4, 4)])
def test_two_orientations_that_differ_are_refused_and_one_is_enough(tmp_path: Path, codes: tuple[int, int]) -> None:
    path = tmp_path / "v.nii"
    content = written(path)
    x = struct.unpack_from("<4f", content, _MATRIX)
    for millimetres, same in ((0.4, True), (10.0, False)):
        struct.pack_into("<4f", content, _MATRIX, *x[:3], x[3] + millimetres)
        struct.pack_into("<2h", content, _CODES, *codes)
        path.write_bytes(content)
        if same:
            read_volume(path)
        else:
            with pytest.raises(InputError, match=r"in two ways .*, which are up to 10 mm apart"):
                read_volume(path)
    for one in ((codes[0], 0), (0, codes[1])):
        struct.pack_into("<2h", content, _CODES, *one)
        path.write_bytes(content)
        assert read_volume(path).geometry.origin[0] == (5.0 if one[0] else -5.0)


def test_a_matrix_that_is_sheared_is_not_what_the_rotation_says(tmp_path: Path) -> None:
    path = tmp_path / "v.nii"
    content = written(path)
    struct.pack_into("<f", content, _MATRIX + 8, 0.5)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"in two ways .* up to 4\.5 mm apart"):
        read_volume(path)


@pytest.mark.parametrize("mirrored", [False, True])
def test_one_orientation_said_in_two_ways_is_accepted(tmp_path: Path, mirrored: bool) -> None:
    """ITK writes both qform and sform, and they agree for a volume in any orientation."""
    rng = np.random.default_rng(0)
    path = tmp_path / "v.nii"
    turned = [rotation(list(rng.uniform(-180, 180, 3))) for _ in range(40)]
    for axes in (np.eye(3), np.eye(3)[[1, 2, 0]], np.diag([-1, -1, 1]), np.diag([1, -1, -1]), *turned):
        direction = tuple((axes @ np.diag([1, 1, -1 if mirrored else 1])).ravel().tolist())
        content = written(path, Geometry((500, 500, 3), (0.7, 0.8, 5.0), (-180.0, 160.0, 1000.0), direction))
        assert struct.unpack_from("<2h", content, _CODES) == (1, 1)
        check_orientation(path)


def test_fine_voxels_near_half_a_turn_are_accepted(tmp_path: Path) -> None:
    """Stacks tilted about one axis: the quaternion's first component is 0, but 3e-4 in single precision."""
    rng = np.random.default_rng(0)
    path, size, side = tmp_path / "v.nii", (1024, 1024, 150), 0.3
    for first in (0.0, 0.0, 1e-4, 3e-4, 1e-3) * 20:
        tilt = rng.normal(size=3) * rng.choice([(1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)])
        b, c, d = tilt / np.linalg.norm(tilt) * np.sqrt(1 - first**2)
        cross = np.array([[0, -d, c], [d, 0, -b], [-c, b, 0]])
        axes = (2 * first**2 - 1) * np.eye(3) + 2 * np.outer((b, c, d), (b, c, d)) + 2 * first * cross
        for millimetres, accepted in ((0.0, True), (1.0, False)):
            header = bytearray(352)
            struct.pack_into("<i36x8h", header, 0, 348, 3, *size, 1, 1, 1, 1)
            struct.pack_into("<4f", header, 76, 1, side, side, side)
            struct.pack_into("<2h6f", header, _CODES, 1, 1, b, c, d, 9, 8, 7)
            matrix = np.column_stack([axes * side, (9, 8, 7 + millimetres)])
            struct.pack_into("<12f16x4s", header, _MATRIX, *matrix.ravel(), b"n+1\0")
            path.write_bytes(header)
            if accepted:
                check_orientation(path)
            else:
                with pytest.raises(InputError, match="says in two ways"):
                    check_orientation(path)


def test_the_second_version_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "v.nii"
    matrix = np.array([[1, 0, 0, 9], [0, 2, 0, 8], [0, 0, 3, 7]], float)

    def write(codes: tuple[int, int], x: float) -> None:
        header = bytearray(544)
        struct.pack_into(">i4s", header, 0, 540, b"n+2\0")
        struct.pack_into(">8q", header, 16, 3, 10, 10, 10, 1, 1, 1, 1)
        struct.pack_into(">4d", header, 104, 1, 1, 2, 3)
        struct.pack_into(">2i", header, 344, *codes)
        struct.pack_into(">6d", header, 352, 0, 0, 0, x, 8, 7)
        struct.pack_into(">12d", header, 400, *matrix.ravel())
        path.write_bytes(header)

    for codes in ((1, 1), (2, 0), (0, 1)):
        write(codes, 9)
        check_orientation(path)
    for codes, x, sentence in (((1, 1), 12, "up to 3 mm apart"), ((0, 0), 9, "does not say")):
        write(codes, x)
        with pytest.raises(InputError, match=sentence):
            check_orientation(path)
