"""A 3D image as plain data: an array and where its voxels lie in the patient; from files and back.

SimpleITK is the only reader and writer here. Its frame is LPS, as DICOM's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .errors import InputError
from .files import write_atomically

Triple = tuple[float, float, float]

VOLUME_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd", ".hdr")
"""File name endings of volumes that `read_volume` expects in a folder; the longer ones first."""

WRITABLE_SUFFIXES = (".nii.gz", ".nrrd", ".nii", ".mha")
"""Formats that are one file, so that a finished file can be renamed into place."""

DIRECTION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a volume lie, in the LPS frame of DICOM, ITK and NIfTI readers built on ITK.

    Attributes:
        size: Voxels along i, j, k (i is the fastest axis in memory; an array of the volume has shape (k, j, i)).
        spacing: Distance of neighbouring voxels along i, j, k, in mm.
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

    def index_of(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Continuous voxel indices (n, 3), order i, j, k, of points (n, 3) in mm, LPS."""
        axes = self.direction_matrix * np.asarray(self.spacing)
        indices: NDArray[np.float64] = np.linalg.solve(axes, (points - np.asarray(self.origin)).T).T
        return indices


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image or labelmap.

    Attributes:
        array: Voxels, shape (k, j, i).
        geometry: Where they lie.
        name: What to call the volume in messages and tables: the file's name without its suffixes, or the node's.
    """

    array: NDArray[Any]
    geometry: Geometry
    name: str


def volume_name(path: str | Path) -> str:
    """The file's (or folder's) name without the suffixes of a volume: `ct_1.5mm.nii.gz` -> `ct_1.5mm`."""
    path = Path(path)
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem if path.is_file() else path.name


def read_volume(path: str | Path) -> Volume:
    """Read one scalar 3D image.

    Args:
        path: A file that SimpleITK reads (NRRD, NIfTI, MetaImage, ...) or a folder with one DICOM series.

    Raises:
        InputError: The path is missing, unreadable, or not one 3D scalar image with finite voxels and orthonormal
            directions; or the folder holds no DICOM series or several.
    """
    path = Path(path)
    return from_image(read_image(path), volume_name(path), source=str(path))


def read_image(path: Path) -> sitk.Image:
    """Read whatever image the file or DICOM folder holds, of any dimension and pixel type.

    Raises:
        InputError: As `read_volume`, but for the checks of dimension, pixels and directions.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: check the path.")
    try:
        with _warnings_off():
            image: sitk.Image = _read_series(path) if path.is_dir() else sitk.ReadImage(str(path))
            return image
    except RuntimeError as error:
        reason = str(error).strip().rsplit("ERROR: ", 1)[-1].splitlines()[0]
        if "direction" in reason.lower() or "orthonormal" in reason.lower():
            raise InputError(
                f"{path} has singular or sheared axis directions: resample it to a rectangular grid."
            ) from error
        raise InputError(
            f"{path} can't be read as an image ({reason}): check that the file is complete."
        ) from error


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume, compressed, in the format that the path's suffix names; folders are made as needed.

    MetaImage (.mha) keeps the geometry to the last bit, NRRD to rounding of doubles, NIfTI to that of 32-bit floats.

    Raises:
        InputError: The suffix is none of `WRITABLE_SUFFIXES`, or the place can't be written to.
    """
    path = Path(path)
    suffix = next((s for s in WRITABLE_SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise InputError(f"{path} can't be written: end its name with one of {', '.join(WRITABLE_SUFFIXES)}.")
    write_image(to_image(volume), path)


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image, compressed, whole or not at all; folders are made as needed.

    Raises:
        InputError: The place can't be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as partial:
            sitk.WriteImage(image, str(partial), useCompression=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} can't be written: check the folder's permissions and the free space.") from error


def from_image(image: sitk.Image, name: str, source: str | None = None) -> Volume:
    """A volume from a SimpleITK image; the voxels are copied.

    Args:
        image: Any image.
        name: The volume's name.
        source: What error messages call it, such as its path; the name unless given.

    Raises:
        InputError: It is not one 3D scalar image with at least one slice, finite voxels and orthonormal directions.
    """
    source = source or name
    check_grid(image, source)
    array = sitk.GetArrayFromImage(image)
    check_voxels(array, source)
    return Volume(array, image_geometry(image), name)


def check_voxels(array: NDArray[Any], source: str) -> None:
    """Refuse voxels (k, j, i) that are no scalars or not finite.

    Raises:
        InputError: Several values a voxel, complex or not finite; names the `source`.
    """
    if array.ndim != 3:
        raise InputError(
            f"{source} has {array.shape[-1]} values a voxel (vector, colour or complex): give an image with one."
        )
    if np.iscomplexobj(array):
        raise InputError(f"{source} has complex voxels: give the magnitude image.")
    # Slice by slice: the mask of a large volume would cost as much as the volume.
    if array.dtype.kind == "f" and not all(np.isfinite(voxels).all() for voxels in array):
        raise InputError(f"{source} has voxels that are not finite (NaN or infinite): replace them first.")


def to_image(volume: Volume) -> sitk.Image:
    """A SimpleITK image with the volume's voxels (copied; bool becomes uint8) and geometry."""
    array = volume.array.astype(np.uint8) if volume.array.dtype == np.bool_ else volume.array
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(volume.geometry.spacing)
    image.SetOrigin(volume.geometry.origin)
    image.SetDirection(volume.geometry.direction)
    return image


def image_geometry(image: sitk.Image) -> Geometry:
    """Geometry of a 3D SimpleITK image."""
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def check_grid(image: sitk.Image, source: str) -> None:
    """Refuse an image that is not on a rectangular 3D grid.

    Raises:
        InputError: Another dimension than 3, an empty axis, or directions that are not orthonormal within 1e-3.
    """
    if image.GetDimension() != 3:
        raise InputError(f"{source} is a {image.GetDimension()}D image: give one 3D volume.")
    if min(image.GetSize()) < 1:
        raise InputError(f"{source} has no slice: its size is {image.GetSize()}.")
    axes = np.reshape(image.GetDirection(), (3, 3))
    if not np.allclose(axes.T @ axes, np.eye(3), rtol=0, atol=DIRECTION_TOLERANCE):
        raise InputError(
            f"{source} has singular or sheared axis directions: resample it to a rectangular grid."
        )


def dicom_series(folder: Path) -> tuple[str, ...]:
    """UIDs of the DICOM series in the folder (not in its sub-folders)."""
    with _warnings_off():
        uids: tuple[str, ...] = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    return uids


def _read_series(folder: Path) -> sitk.Image:
    series = dicom_series(folder)
    if not series:
        raise InputError(f"{folder} holds no DICOM series: give a folder of DICOM slices or a volume file.")
    if len(series) > 1:
        found = "; ".join(
            f"{uid} ({len(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))} files)"
            for uid in series
        )
        raise InputError(f"{folder} holds {len(series)} DICOM series, give each its own folder: {found}.")
    reader = sitk.ImageSeriesReader()
    # A tilted gantry then shows as a sheared direction, which is refused; ITK would straighten it silently.
    reader.ForceOrthogonalDirectionOff()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
    image: sitk.Image = reader.Execute()
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    _check_even_slices(image, folder)
    return image


def _check_even_slices(image: sitk.Image, folder: Path) -> None:
    key = "ITK_non_uniform_sampling_deviation"
    if not image.HasMetaDataKey(key):
        return
    # ITK stores the number as text with its type around it.
    deviation = float(re.findall(r"[-+.\deE]*\d", image.GetMetaData(key))[-1])
    if deviation > 0.1 * image.GetSpacing()[2]:
        raise InputError(
            f"{folder} has slices at uneven distances (off by up to {deviation:.2f} mm): look for missing slices."
        )


@contextmanager
def _warnings_off() -> Iterator[None]:
    """ITK's warnings go to stderr in its own words; what matters of them is raised in ours."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
