"""Read DICOM series from folders, and refuse those that are no rectangular grid, which readers do not report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .files import check_name

_POSITION, _FRAMES = "0020|0032", "0028|0008"
# Tags that say what stored numbers mean: slope, intercept, bits allocated, bits stored, signed or unsigned.
_NUMBERS = "0028|1053", "0028|1052", "0028|0100", "0028|0101", "0028|0103"
_THICKNESS = "0018|0050"
_SERIES, _ORIENTATION, _PIXELS = "0020|000e", "0020|0037", "0028|0030"
_ALIKE = 1e-3  # Tolerance of direction cosines, and relative tolerance of spacings: more than the rounding in headers.
# A slice may be off by a tenth of the slice distance, or by what headers round if that is more. The latter is limited
# to 0.3 of the distance, since a missing slice can show as a third.
_UNEVEN = 0.1
_ROUNDED_MM, _MOST_UNEVEN = 0.2, 0.3
_MARK, _MARK_AT = b"DICM", 128
SUFFIXES = (".dcm", ".ima")
"""Suffixes of DICOM files, if their names have one."""

_HEAD = 1024  # Bytes at the start of a file that contain its SOP class.
_CLASS = re.compile(rb"\x02\x00\x02\x00UI..([0-9.]+)", re.DOTALL)


def dicom_series(folder: Path) -> tuple[str, ...]:
    """UIDs of the DICOM series in a folder, without its sub-folders; none if the folder may not be read.

    Raises:
        InputError: A link beside DICOM files is broken. GDCM would stop at it and leave out the remaining files.
    """
    check_name(folder)
    entries = sorted(folder.glob("*"))
    if not all(entry.exists() for entry in entries) and any(map(is_dicom, entries)):
        check_links(entries)
    with warnings_off():
        uids: tuple[str, ...] = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    return uids


def is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM, `DICM` at byte 128."""
    try:
        with path.open("rb") as file:
            return file.read(_MARK_AT + len(_MARK))[_MARK_AT:] == _MARK
    except OSError:
        return False


def check_links(paths: Iterable[Path]) -> None:
    """Check that no path is a broken link, such as a file that git-annex has not fetched.

    Raises:
        InputError: There is a broken link; the message names the first.
    """
    if missing := next((path for path in paths if not path.exists()), None):
        raise InputError(f"{missing} is a link to a file that is not there", "fetch the file, or take the link away")


def read_series(folder: Path) -> sitk.Image:
    """Read the only DICOM series of a folder, with slope and intercept applied (HU for CT).

    Raises:
        InputError: The folder holds no series or several; slices are missing, broken links, duplicates, at uneven
            distances or without a position, or differ in orientation or pixel spacing; or a file has several frames.
        RuntimeError: SimpleITK can't read it.
    """
    series = dicom_series(folder)
    if not series:
        raise InputError(f"{folder} holds no DICOM series", "give a folder of DICOM slices or a volume file")
    if len(series) > 1:
        found = "; ".join(
            f"{uid} ({len(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))} files)" for uid in series
        )
        raise InputError(f"{folder} holds {len(series)} DICOM series ({found})", "give each its own folder")
    reader = sitk.ImageSeriesReader()
    # A tilted gantry then shows as sheared directions, which are refused; ITK would straighten them silently.
    reader.ForceOrthogonalDirectionOff()
    reader.MetaDataDictionaryArrayUpdateOn()
    files = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    _check_left_out(folder, files)
    reader.SetFileNames(files)
    image: sitk.Image = reader.Execute()
    tags = _POSITION, _ORIENTATION, _PIXELS, _FRAMES, *_NUMBERS
    headers = [{tag: reader.GetMetaData(number, tag) for tag in tags if reader.HasMetaDataKey(number, tag)}
               for number in range(len(files))]  # fmt: skip
    if any(_frames(header.get(_FRAMES, "")) > 1 for header in headers):
        raise _many_frames(folder)
    _check_alike(headers, files)
    if len({tuple(header.get(tag) for tag in _NUMBERS) for header in headers}) > 1:
        # ITK stores all slices in the data type of the first, which need not be able to hold the others' values.
        reader.SetOutputPixelType(sitk.sitkFloat32)
        image = reader.Execute()
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    _check_places(image, [header.get(_POSITION, "") for header in headers], folder)
    if len(files) == 1 and reader.HasMetaDataKey(0, _THICKNESS):
        # A single slice has no neighbour to measure the distance from.
        thickness = _numbers(reader.GetMetaData(0, _THICKNESS))
        if len(thickness) == 1 and thickness[0] > 0:
            image.SetSpacing((*image.GetSpacing()[:2], thickness[0]))
    return _upright(image)


def check_alone(image: sitk.Image, path: Path) -> None:
    """Check that an image read from a single DICOM file stands alone; images of other formats pass.

    Raises:
        InputError: The file has several frames, whose positions SimpleITK does not report, or is one slice of a series
            whose other slices are in the same folder.
    """
    if image.HasMetaDataKey(_FRAMES) and _frames(image.GetMetaData(_FRAMES)) > 1:
        raise _many_frames(path)
    if image.HasMetaDataKey(_SERIES):
        with warnings_off():
            files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path.parent), image.GetMetaData(_SERIES).strip())
        if len(files) > 1:
            raise InputError(f"{path} is one of {len(files)} slices of a DICOM series", "give the folder instead")


def _check_left_out(folder: Path, files: Sequence[str]) -> None:
    """Check that GDCM has left no slice out of a series, as it does with files that it can't read.

    Raises:
        InputError: A file is a slice of the series by its name or its kind, but not among `files`; names the file.
    """
    taken = {Path(file).name for file in files}
    kind = _kind(Path(files[0]))
    for path in sorted(folder.iterdir()):
        if path.name in taken or not path.is_file() or path.name.startswith("."):
            continue
        # Other objects, such as structures and reports, may lie beside a series.
        is_slice = _kind(path) == kind if is_dicom(path) else path.suffix.lower() in SUFFIXES
        if is_slice:
            raise InputError(f"{path} can't be read as a slice of its series", "copy the series again")


def _kind(path: Path) -> bytes:
    """SOP class UID of a DICOM file (0002,0002), such as that of CT images; empty if it is not given."""
    with path.open("rb") as file:
        found = _CLASS.search(file.read(_HEAD))
    return found[1] if found else b""


def _frames(text: str) -> int:
    return int(text) if text.strip().isdigit() else 1


def _many_frames(path: Path) -> InputError:
    return InputError(
        f"{path} is a DICOM file of many frames, whose places can't be checked",
        "convert it to NRRD or NIfTI first, by 3D Slicer or dcm2niix",
    )


def _check_alike(headers: Sequence[Mapping[str, str]], files: Sequence[str]) -> None:
    """Check that all slices have the orientation and pixel spacing of the first, which ITK assumes.

    ITK itself checks that they have the same number of rows and columns.
    """
    for tag, name, relative, absolute in (
        (_ORIENTATION, "ImageOrientationPatient", 0.0, _ALIKE), (_PIXELS, "PixelSpacing", _ALIKE, 0.0),
    ):  # fmt: skip
        first = headers[0].get(tag, "").strip()
        for header, file in zip(headers, files, strict=True):
            text = header.get(tag, "").strip()
            one, other = _numbers(first), _numbers(text)
            if len(one) != len(other) or not np.allclose(other, one, rtol=relative, atol=absolute):
                raise InputError(
                    f"{file} and {files[0]} differ in {name} ({text or 'none'} and {first or 'none'})",
                    "give a series whose slices lie alike, or take away those that do not",
                )


def _numbers(text: str) -> list[float]:
    """The numbers in a header's value; empty if it is not a list of numbers."""
    try:
        return [float(number) for number in text.split("\\")]
    except ValueError:
        return []


def _check_places(image: sitk.Image, positions: list[str], folder: Path) -> None:
    """Check that slices follow one another at the image's slice distance."""
    if len(positions) < 2:
        return
    found = [_numbers(text) for text in positions]
    if any(len(numbers) != 3 for numbers in found):
        raise InputError(
            f"{folder} has slices that do not say where they lie (ImagePositionPatient)",
            "give an original series of CT or MR",
        )
    places = np.array(found)
    if not np.ptp(places, axis=0).any():
        raise InputError(f"{folder} has {len(places)} slices, all of one place", "give a series that is a volume")
    spacing = image.GetSpacing()[2]
    step = np.reshape(image.GetDirection(), (3, 3))[:, 2] * spacing
    deviation = float(np.linalg.norm(np.diff(places, axis=0) - step, axis=1).max())
    if deviation > max(_UNEVEN * spacing, min(_ROUNDED_MM, _MOST_UNEVEN * spacing)):
        raise InputError(
            f"{folder} has slices at uneven distances (off by up to {deviation:.2f} mm)",
            "look for slices that are missing, or there twice",
        )


def _upright(image: sitk.Image) -> sitk.Image:
    """Make the slice axis of an image normal to its slices if only rounding of their positions has tilted it.

    With few slices close together, rounding would otherwise look like the shear of a tilted gantry.
    """
    axes = np.reshape(image.GetDirection(), (3, 3))
    normal = np.cross(axes[:, 0], axes[:, 1])
    normal *= np.sign(normal @ axes[:, 2])
    aside = np.linalg.norm(axes[:, 2] - normal) * image.GetSpacing()[2] * (image.GetSize()[2] - 1)
    if aside <= _ROUNDED_MM:
        image.SetDirection(np.column_stack([axes[:, :2], normal]).ravel().tolist())
    return image


@contextmanager
def warnings_off() -> Iterator[None]:
    """Silence ITK's warnings on stderr; those that matter are raised as errors of our own."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
