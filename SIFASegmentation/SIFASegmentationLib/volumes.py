"""3D images as plain data: an array, and where its voxels lie in the patient."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Triple = tuple[float, float, float]

VOLUME_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd", ".hdr")
"""File name endings of volumes that are expected in a folder; the longer ones first."""

DIRECTION_TOLERANCE = 1e-3

LEAST_SPACING, LARGEST_SPACING = 1e-3, 1e3
"""Range of voxel spacings of scanners, in mm."""

_LARGEST = 1e30  # Greatest voxel value; sums of greater ones overflow 32-bit floats.


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a volume lie, in the LPS frame of DICOM, ITK and NIfTI readers built on ITK.

    Attributes:
        size: Voxels along i, j, k (i is the fastest axis in memory; an array of the volume has shape (k, j, i)).
        spacing: Distance between the centres of neighbouring voxels along i, j, k, in mm.
        origin: Position of the centre of voxel (0, 0, 0), in mm, LPS.
        direction: 3x3 matrix, row by row; its columns are the unit vectors of the i, j, k axes in LPS.
    """

    size: tuple[int, int, int]
    spacing: Triple
    origin: Triple
    direction: tuple[float, float, float, float, float, float, float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (k, j, i) of an array of the volume."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def direction_matrix(self) -> NDArray[np.float64]:
        """The direction as an array (3, 3)."""
        return np.asarray(self.direction, dtype=np.float64).reshape(3, 3)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000.0

    @property
    def axes_mm(self) -> NDArray[np.float64]:
        """Array (3, 3) whose columns are the steps in mm, LPS, from a voxel to the next along i, j, k."""
        axes: NDArray[np.float64] = self.direction_matrix * np.asarray(self.spacing)
        return axes

    def index_of(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Continuous voxel indices (n, 3) in the order i, j, k of points (n, 3) in mm, LPS."""
        indices: NDArray[np.float64] = np.linalg.solve(self.axes_mm, (points - np.asarray(self.origin)).T).T
        return indices


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image or labelmap.

    Attributes:
        array: Voxels, shape (k, j, i).
        geometry: Where they lie.
        name: Name of the volume in messages and tables: the file's name without its suffixes, or the node's.
    """

    array: NDArray[Any]
    geometry: Geometry
    name: str


def volume_name(path: str | Path) -> str:
    """The file's (or folder's) name without the suffixes of a volume: `ct_1.5mm.nii.gz` -> `ct_1.5mm`.

    Accented letters are composed (NFC): macOS writes them as a letter and an accent, other systems as one character.
    """
    return unicodedata.normalize("NFC", _without_suffix(Path(path)))


def is_volume_file(path: Path) -> bool:
    """Whether something in a folder is a file whose name ends as a volume's, or a link to one, even a broken link."""
    return not path.is_dir() and path.name.lower().endswith(VOLUME_SUFFIXES)


def volume_files(folder: Path) -> list[Path]:
    """Return the volume files directly in a folder, sorted by name; hidden ones (`._ct.nii.gz`) are left out."""
    return [path for path in sorted(folder.iterdir()) if is_volume_file(path) and not path.name.startswith(".")]


def _without_suffix(path: Path) -> str:
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    # `.` and `..` are resolved, so that they have a name too.
    return path.stem if path.is_file() else Path(os.path.abspath(path)).name  # noqa: PTH100  links keep their names


def check_spacing(spacing: Sequence[float], source: str) -> None:
    """Check that a voxel spacing, in mm, can be that of a scan.

    Raises:
        InputError: A spacing is less than a micrometre or more than a metre; the message names the `source`.
    """
    if not all(LEAST_SPACING <= distance <= LARGEST_SPACING for distance in spacing):
        shown = " x ".join(f"{distance:g}" for distance in spacing)
        raise InputError(f"{source} has voxels of {shown} mm", "correct its spacing")


def not_finite(source: object) -> InputError:
    """The error for voxels that are NaN or infinite."""
    return InputError(f"{source} has voxels that are not finite (NaN or infinite)", "replace them first")


def check_voxels(array: NDArray[Any], source: str) -> None:
    """Check that voxels (k, j, i) are real, finite scalars.

    Raises:
        InputError: They have several components, are complex, not finite or too large; the message names the `source`.
    """
    if array.ndim != 3:
        raise InputError(
            f"{source} has {array.shape[-1]} values a voxel (vector, colour or complex)", "give an image with one"
        )
    if np.iscomplexobj(array):
        raise InputError(f"{source} has complex voxels", "give the magnitude image")
    # Slice by slice: the mask of a large volume would cost as much as the volume.
    if array.dtype.kind == "f" and not all(np.isfinite(voxels).all() for voxels in array):
        raise not_finite(source)
    if array.dtype.kind == "f" and any(np.abs(voxels).max(initial=0) > _LARGEST for voxels in array):
        raise InputError(f"{source} has voxels of more than {_LARGEST:.0e}", "check that it is an image")
