"""Cases of data sets like TotalSegmentator's: a folder for each patient, with an image and a folder of masks."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .cases import Case
from .dicom_files import dicom_series
from .errors import InputError
from .volume_folders import MASKS_FOLDER, check_nothing_is_missed, subfolders, volumes_in
from .volume_names import check_names, images_among, plainly_named
from .volumes import volume_name


def cases_of_patients(folder: Path, labelled: bool, patients: Collection[str] | None) -> list[Case]:
    """Find the cases in a folder of patients' folders; see `cohorts.find_cases`.

    Folders with neither an image nor masks are ignored and, where labels are not read, so are those with masks alone.
    """
    places = subfolders(folder)
    check_nothing_is_missed(folder, places)
    cases = []
    for place in places:
        patient, masks = volume_name(place), place / MASKS_FOLDER
        if patients is not None and patient not in patients:
            continue
        image = _image_in(place)
        if image is not None:
            if labelled and not masks.is_dir():
                raise InputError(
                    f"{place} has no folder {MASKS_FOLDER}", "put its masks there, a file for each structure"
                )
            cases.append(Case(patient, image, masks if labelled else None))
        elif labelled and masks.is_dir():
            raise InputError(f"{place} has no image", f"put one beside {MASKS_FOLDER}, or take the folder away")
    if not cases:
        raise InputError(f"{folder} holds no images", f"put one into each patient's folder, beside {MASKS_FOLDER}")
    return cases


def _image_in(place: Path) -> Path | None:
    """Return the image in a patient's folder, or the folder itself if it holds DICOM slices; None if there is none.

    Raises:
        InputError: There are several images, the only one looks like a labelmap, or DICOM slices lie beside them.
    """
    volumes = volumes_in(place, but=[MASKS_FOLDER])
    if not volumes and dicom_series(place):
        return place
    images = plainly_named(images_among(volumes))
    check_names(images)
    check_nothing_is_missed(place, volumes)
    if len(images) > 1:
        first, second, *_ = images.values()
        raise InputError(
            f"{place} has two images, {first.name} and {second.name}",
            "keep one of them there, or list the images and their masks in a CSV file",
        )
    return next(iter(images.values()), None)
