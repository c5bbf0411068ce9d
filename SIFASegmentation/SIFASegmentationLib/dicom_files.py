"""DICOM series from folders; refused where their slices make no rectangular grid, for no reader says so by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError

_POSITION, _FRAMES, _SLOPE, _INTERCEPT = "0020|0032", "0028|0008", "0028|1053", "0028|1052"
_UNEVEN = 0.1  # Of the distance of two slices ...
_ROUNDED_MM, _MOST_UNEVEN = 0.2, 0.3  # ... or what headers round, where that is more; a missing slice is a third off.
_MARK, _MARK_AT = b"DICM", 128


def dicom_series(folder: Path) -> tuple[str, ...]:
    """UIDs of the DICOM series in the folder (not in its sub-folders)."""
    with warnings_off():
        uids: tuple[str, ...] = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    return uids


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its mark."""
    try:
        with path.open("rb") as file:
            return file.read(_MARK_AT + len(_MARK))[_MARK_AT:] == _MARK
    except OSError:
        return False


def read_series(folder: Path) -> sitk.Image:
    """The one DICOM series of a folder, as SimpleITK reads it, rescaled to what its values mean (HU).

    Raises:
        InputError: There is none or several, its slices are missing, doubled, at uneven distances or without a place,
            or it is one file of many frames.
        RuntimeError: SimpleITK can't read it.
    """
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
    reader.MetaDataDictionaryArrayUpdateOn()
    files = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    reader.SetFileNames(files)
    image: sitk.Image = reader.Execute()
    headers = [{tag: reader.GetMetaData(number, tag) for tag in (_POSITION, _FRAMES, _SLOPE, _INTERCEPT)
                if reader.HasMetaDataKey(number, tag)} for number in range(len(files))]  # fmt: skip
    if any(_frames(header.get(_FRAMES, "")) > 1 for header in headers):
        raise _many_frames(folder)
    if len({(header.get(_SLOPE), header.get(_INTERCEPT)) for header in headers}) > 1:
        # All slices are stored in the first one's type of numbers, which need not hold the others'.
        reader.SetOutputPixelType(sitk.sitkFloat32)
        image = reader.Execute()
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    _check_places(image, [header.get(_POSITION, "") for header in headers], folder)
    return image


def check_frames(image: sitk.Image, path: Path) -> None:
    """Refuse an image that was read from one DICOM file of many frames: where they lie is not told by SimpleITK.

    Raises:
        InputError: It is one.
    """
    if image.HasMetaDataKey(_FRAMES) and _frames(image.GetMetaData(_FRAMES)) > 1:
        raise _many_frames(path)


def _frames(text: str) -> int:
    return int(text) if text.strip().isdigit() else 1


def _many_frames(path: Path) -> InputError:
    return InputError(
        f"{path} is a DICOM file of many frames, whose places can't be checked: convert it to NRRD or NIfTI first, by "
        "3D Slicer or dcm2niix."
    )


def _check_places(image: sitk.Image, positions: list[str], folder: Path) -> None:
    """Refuse slices that do not follow one another at the distance that the image has."""
    if len(positions) < 2:
        return
    try:
        places = np.array([[float(number) for number in text.split("\\")] for text in positions])
    except ValueError:
        places = np.empty((0, 0))
    if places.shape != (len(positions), 3):
        raise InputError(
            f"{folder} has slices that do not say where they lie (ImagePositionPatient): give an original series of CT "
            "or MR."
        )
    if not np.ptp(places, axis=0).any():
        raise InputError(f"{folder} has {len(places)} slices, all of one place: give a series that is a volume.")
    spacing = image.GetSpacing()[2]
    step = np.reshape(image.GetDirection(), (3, 3))[:, 2] * spacing
    deviation = float(np.linalg.norm(np.diff(places, axis=0) - step, axis=1).max())
    if deviation > max(_UNEVEN * spacing, min(_ROUNDED_MM, _MOST_UNEVEN * spacing)):
        raise InputError(
            f"{folder} has slices at uneven distances (off by up to {deviation:.2f} mm): look for slices that are "
            "missing, or there twice."
        )


@contextmanager
def warnings_off() -> Iterator[None]:
    """ITK's warnings go to stderr in its own words; what matters of them is raised in ours."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
