"""Which volumes, or which patients with masks, are in a folder, and what of it would be left out."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from .dicom_files import SUFFIXES, check_links, dicom_series, is_dicom
from .errors import InputError
from .volume_names import MAP_INFIX, labelmap_subject
from .volumes import is_volume_file, volume_name

MASKS_FOLDER = "segmentations"
"""Beside a patient's image, in the data sets of TotalSegmentator."""

_DICOM_SUFFIXES = ("", *SUFFIXES)
_LOOKED_AT = 3  # Files of a folder, to tell whether it holds DICOM.
_SHOWN = 12  # Folders of a list that can have a hundred.


def volumes_in(folder: Path, *, but: Collection[str] = ()) -> list[Path]:
    """Volume files, broken links to such, and DICOM series folders directly in a folder, sorted by name; none that is
    called as one of `but`.

    Raises:
        InputError: A series has a broken link.
    """
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in but:
            continue
        if is_volume_file(entry) or (entry.is_dir() and dicom_series(entry)):
            found.append(entry)
    return found


def subfolders(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted by name, but for hidden ones."""
    return [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]


def folders_of_masks(folder: Path) -> list[Path]:
    """That of each patient in a folder of patients, `ROOT/s0001/segmentations`, sorted by patient; none where volume
    files lie directly in it."""
    if any(map(is_volume_file, folder.iterdir())):
        return []
    return [patient / MASKS_FOLDER for patient in subfolders(folder) if (patient / MASKS_FOLDER).is_dir()]


def unused_folders(path: Path) -> list[Path]:
    """Folders that hold images, at any depth, which `find_cases` leaves out because it looks for volumes, and series in
    folders of their own, directly in the folder `path` alone, or in that of each patient; none where that is a file."""
    folder = path / "imagesTr" if (path / "imagesTr").is_dir() else path
    if not folder.is_dir():
        return []
    looked_at = subfolders(folder) if folders_of_masks(folder) else [folder]
    below = [entry for place in looked_at for entry in subfolders(place)]
    return [entry for entry in below if entry.name != MASKS_FOLDER and _holds_images(entry)]


def folder_names(folders: Sequence[Path]) -> str:
    """What a list of folders is called in a message."""
    return ", ".join(folder.name for folder in folders[:_SHOWN]) + (", ..." if len(folders) > _SHOWN else "")


def check_nothing_is_missed(folder: Path, volumes: list[Path]) -> None:
    """Refuse a folder of whose patients some would be left out without a word.

    Raises:
        InputError: DICOM slices of a series that has no folder, a series that lies deeper, or a broken link that can
            have been to either.
    """
    known, has_files = set(volumes), any(not path.is_dir() for path in volumes)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "DICOMDIR" or entry in known:
            continue
        # Beside volumes that are files, series can be what these were made of.
        if not has_files:
            if entry.is_dir() and (deeper := _deeper_dicom(entry)) is not None:
                raise InputError(
                    f"{entry} holds DICOM files further down, in {deeper}",
                    f"put each series into a folder directly in {folder}, or take this one away",
                )
            check_links(link for link in (entry, *sorted(entry.rglob("*"))) if _is_broken_series(link))
        if volumes and entry.is_file() and is_dicom(entry):
            raise InputError(
                f"{entry} is a DICOM file beside volumes", "put each series into a folder of its own, or take it away"
            )


def _holds_images(folder: Path) -> bool:
    """Whether there are volumes not named like labelmaps or maps, or DICOM files further down, for a series directly in
    the folder is found."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        if Path(place) != folder and any(map(is_dicom, files[:_LOOKED_AT])):
            return True
        volumes = filter(is_volume_file, files)
        if any(labelmap_subject(path) is None and MAP_INFIX not in volume_name(path) for path in volumes):
            return True
    return False


def _is_broken_series(path: Path) -> bool:
    """Whether something in a folder is a broken link that by its name can be to a series or a slice: one with a suffix
    of DICOM's, none, or the end of a UID."""
    suffix = path.suffix.lower()
    return not path.exists() and (suffix in _DICOM_SUFFIXES or suffix[1:].isdecimal())


def _deeper_dicom(folder: Path) -> Path | None:
    """A folder below that holds DICOM files, if there is one; the first files of each are looked at."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        if any(is_dicom(Path(place, name)) for name in sorted(files)[:_LOOKED_AT]):
            return Path(place)
    return None
