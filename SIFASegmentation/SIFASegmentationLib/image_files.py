"""Volumes from files and back.

SimpleITK is the only reader and writer here. Its frame is LPS, as DICOM's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .files import write_atomically
from .volumes import DIRECTION_TOLERANCE, Geometry, Volume, check_voxels, volume_name

WRITABLE_SUFFIXES = (".nii.gz", ".nrrd", ".nii", ".mha")
"""Formats that are one file, so that a finished file can be renamed into place."""


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
