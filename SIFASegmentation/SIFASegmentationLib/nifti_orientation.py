"""Check that a NIfTI file says where its voxels lie, and says so without contradiction.

A header has a rotation (qform) and a matrix (sform), each valid if its code is not 0: nifti.nimh.nih.gov. ITK silently
takes one of them, or a default if neither is valid.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .nifti_files import HEADER_BYTES, header_layout, opened

_MOST_APART = 0.5  # How far qform and sform may differ, as a share of a voxel's shortest side.
_ROUNDING = 2**-22  # Rounding of a quaternion's squared length in single precision: two units in the last place.


class _Layout(NamedTuple):
    """Offsets of a header's fields and their formats for `struct`: magic, sizes, spacing, codes, rotation, matrix."""

    magic: int
    sizes: tuple[int, str]
    spacing: tuple[int, str]
    codes: tuple[int, str]
    rotation: tuple[int, str]
    matrix: tuple[int, str]


_LAYOUTS = {
    348: _Layout(344, (42, "3h"), (76, "4f"), (252, "2h"), (256, "6f"), (280, "12f")),
    540: _Layout(4, (24, "3q"), (104, "4d"), (344, "2i"), (352, "6d"), (400, "12d")),
}  # By the size that the header gives for itself.
_MAGIC = (b"n+", b"ni")  # An Analyze file has no magic, and other fields in place of the codes.


def check_orientation(path: Path) -> None:
    """Check that a NIfTI file says unambiguously where its voxels lie; otherwise left and right could be exchanged.

    A file without a whole NIfTI header passes; it is for the reader to refuse.

    Raises:
        InputError: The file has neither qform nor sform, or both, and they differ.
        OSError: The file can't be opened.
    """
    with opened(path) as file:
        content = file.read(max(HEADER_BYTES))
    order, own_size = header_layout(content) or ("", 0)
    if own_size == 0 or len(content) < own_size:
        return
    layout = _LAYOUTS[own_size]

    def field(place: tuple[int, str]) -> NDArray[np.float64]:
        offset, kind = place
        return np.array(struct.unpack_from(order + kind, content, offset), dtype=np.float64)

    named = content[layout.magic : layout.magic + 2] in _MAGIC
    by_rotation, by_matrix = (field(layout.codes) > 0) & named
    if not by_rotation and not by_matrix:
        raise InputError(
            f"{path} does not say how its axes lie in the patient (its qform_code and sform_code are 0)",
            "convert the original again, or write its orientation into it as the README shows under 'Your data'",
        )
    if by_rotation and by_matrix:
        sides = field(layout.spacing)
        rotation, matrix = _affine(field(layout.rotation), sides), field(layout.matrix).reshape(3, 4)
        corners = np.array(list(itertools.product(*((0, size - 1) for size in field(layout.sizes)), (1,))))
        apart = float(np.linalg.norm(corners @ (rotation - matrix).T, axis=1).max())
        extent = float(np.linalg.norm((corners - corners[0]) @ rotation.T, axis=1).max())
        rounded = _uncertain_angle(field(layout.rotation)) * extent
        if apart > _MOST_APART * np.linalg.norm(rotation[:, :3], axis=0).min() + rounded:
            raise InputError(
                f"{path} says in two ways where its voxels lie, qform and sform, which are up to {apart:.3g} mm apart",
                "set the code of the wrong one to 0, or convert the original again",
            )


def _affine(rotation: NDArray[np.float64], sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """The qform as a matrix (3, 4) from voxels to mm.

    Args:
        rotation: Quaternion b, c, d, then offset in mm: (6,).
        sides: Sign of the third axis (qfac), then sides of a voxel in mm: (4,).
    """
    b, c, d = rotation[:3]
    a = np.sqrt(max(0.0, _rest(rotation)))
    a, b, c, d = np.array([a, b, c, d]) / np.linalg.norm([a, b, c, d])
    axes = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    lengths = np.where(sides[1:] > 0, sides[1:], 1.0) * (1, 1, -1 if sides[0] < 0 else 1)
    return np.column_stack([axes * lengths, rotation[3:]])


def _rest(rotation: NDArray[np.float64]) -> float:
    """The square of the quaternion's first component, which is not stored."""
    return 1.0 - float(rotation[:3] @ rotation[:3])


def _uncertain_angle(rotation: NDArray[np.float64]) -> float:
    """Angle in radians by which rounding can turn a qform.

    It is large near half a turn, where the first component of the quaternion is the square root of almost 0.
    """
    rest = _rest(rotation)
    most, least = np.sqrt(np.maximum(0.0, [rest + _ROUNDING, rest - _ROUNDING])).tolist()
    return 2.0 * float(most - least)
