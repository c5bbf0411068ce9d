"""Read volumes from files and write them.

SimpleITK is the only reader and writer here. Its coordinate frame is LPS, like that of DICOM.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .dicom_files import check_alone, read_series, warnings_off
from .errors import InputError, unwritable
from .files import check_name, write_atomically
from .nifti_files import check_nifti, is_nifti, is_whole_nifti
from .nifti_orientation import check_orientation
from .volumes import DIRECTION_TOLERANCE, VOLUME_SUFFIXES, Geometry, Volume, check_spacing, check_voxels, volume_name

_ADDRESS = re.compile(r"\w+\(0x[0-9a-f]+\): ")  # Class and address of the ITK object that reports an error.

# Last lines of the headers of NRRD and MetaImage, as ITK writes them; one compressed stream follows.
_LAST_LINES = (b"\n", b"ElementDataFile = LOCAL\n")
_PORTION = 2**16  # Bytes decompressed at a time, which can become a thousand times as many.

WRITABLE_SUFFIXES = (".nii.gz", ".nrrd", ".nii", ".mha")
"""Formats that consist of one file, so that a finished file can be renamed into place."""


def read_volume(path: str | Path) -> Volume:
    """Read one scalar 3D image.

    Args:
        path: A file that SimpleITK reads (NRRD, NIfTI, MetaImage, ...) or a folder with one DICOM series.

    Raises:
        InputError: The path is missing, unreadable, or not one 3D scalar image with finite voxels and orthonormal
            directions; the folder does not hold exactly one DICOM series of parallel slices at even distances; or the
            file is one slice of a DICOM series.
    """
    path = Path(path)
    return from_image(read_image(path), volume_name(path), source=str(path))


def read_image(path: Path) -> sitk.Image:
    """Read the image in a file or DICOM folder, of any dimension and pixel type.

    Raises:
        InputError: As for `read_volume`, without its checks of dimension, voxels and directions.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the path")
    check_name(path)
    try:
        with warnings_off():
            if path.is_dir():
                return read_series(path)
            if is_nifti(path):
                check_nifti(path)
                check_orientation(path)
            image: sitk.Image = sitk.ReadImage(str(path))
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror or error})", "check its permissions and its disk"
        ) from error
    except RuntimeError as error:
        reason = _ADDRESS.sub("", str(error).strip().rsplit("ERROR: ", 1)[-1].splitlines()[0])
        if "direction" in reason.lower() or "orthonormal" in reason.lower():
            raise InputError(
                f"{path} has singular or sheared axis directions", "resample it to a rectangular grid"
            ) from error
        raise InputError(f"{path} can't be read as an image ({reason})", "check that the file is complete") from error
    # Files of these suffixes can carry DICOM tags along from the series that they were converted from.
    if not path.name.lower().endswith(VOLUME_SUFFIXES):
        check_alone(image, path)
    return image


def read_middle_slice(path: Path) -> NDArray[np.generic]:
    """Read the plane (..., j, i) of a file that is in the middle of all axes but i and j, without any checks.

    In many formats, the rest of the file is not read.

    Raises:
        InputError: The file can't be read.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with warnings_off():
            reader.ReadImageInformation()
            size = reader.GetSize()
            reader.SetExtractIndex([0, 0, *(count // 2 for count in size[2:])])
            reader.SetExtractSize([*size[:2], *(1 for _ in size[2:])])
            voxels: NDArray[np.generic] = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise InputError(f"{path} can't be read as an image", "check that the file is complete") from error
    return voxels


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume, compressed, in the format of the path's suffix; folders are made as needed.

    MetaImage (.mha) keeps the geometry exactly, NRRD to the rounding of doubles, NIfTI to that of 32-bit floats.

    Raises:
        InputError: The suffix is none of `WRITABLE_SUFFIXES`, or the file can't be written.
    """
    path = Path(path)
    suffix = next((s for s in WRITABLE_SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise InputError(f"{path} can't be written", f"end its name with one of {', '.join(WRITABLE_SUFFIXES)}")
    write_image(to_image(volume), path)


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image, compressed and atomically; folders are made as needed.

    Raises:
        InputError: The file can't be written.
    """
    check_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as partial, warnings_off():
            # Where the file can't be made, this raises an error with a reason; ITK would only print it.
            partial.touch()
            sitk.WriteImage(image, str(partial), useCompression=True)
            _check_written(partial)
    except (OSError, RuntimeError) as error:
        raise unwritable(path, error) from error


def _check_written(path: Path) -> None:
    """Check that a file just written is complete: ITK does not notice when a full disk cuts it off.

    Raises:
        OSError: The file is incomplete.
    """
    if not (is_whole_nifti(path) if is_nifti(path) else _is_whole(path)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_whole(path: Path) -> bool:
    """Whether a NRRD or MetaImage file written by ITK contains its whole compressed stream, whose end is a checksum."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # Accepts zlib and gzip.
    with path.open("rb") as file:
        for line in file:
            if line in _LAST_LINES:
                break
        try:
            while portion := file.read(_PORTION):
                stream.decompress(portion)
        except zlib.error:
            return False
    return stream.eof


def from_image(image: sitk.Image, name: str, source: str | None = None) -> Volume:
    """Make a volume from a SimpleITK image.

    The voxels are copied; 64-bit floats become 32-bit ones, which all computations use. A 4D image with a single time
    step counts as 3D.

    Args:
        image: Any image.
        name: The volume's name.
        source: Name of the image in error messages, such as its path; `name` unless given.

    Raises:
        InputError: It is not one 3D scalar image with at least one slice, finite voxels and orthonormal directions.
    """
    source = source or name
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        # For NIfTI the reader already drops such an axis.
        image = image[..., 0]
    check_grid(image, source)
    voxels = sitk.GetArrayViewFromImage(image)
    check_voxels(voxels, source)
    array = voxels.astype(np.float32 if voxels.dtype == np.float64 else voxels.dtype)
    return Volume(array, image_geometry(image), name)


def to_image(volume: Volume) -> sitk.Image:
    """Make a SimpleITK image with the volume's voxels (copied; bool becomes uint8) and geometry."""
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
    """Check that an image lies on a rectangular 3D grid.

    Raises:
        InputError: The image is not 3D, has an empty axis, a spacing that no scan has, or directions that are not
            orthonormal within 1e-3.
    """
    if image.GetDimension() != 3:
        raise InputError(f"{source} is a {image.GetDimension()}D image", "give one 3D volume")
    if min(image.GetSize()) < 1:
        raise InputError(f"{source} has no slice, its size is {image.GetSize()}", "give one 3D volume")
    check_spacing(image.GetSpacing(), source)
    axes = np.reshape(image.GetDirection(), (3, 3))
    if not np.allclose(axes.T @ axes, np.eye(3), rtol=0, atol=DIRECTION_TOLERANCE):
        raise InputError(f"{source} has singular or sheared axis directions", "resample it to a rectangular grid")
