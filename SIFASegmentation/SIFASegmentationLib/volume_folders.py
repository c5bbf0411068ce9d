"""Find the volumes, or the patients with masks, in a folder, and whatever would be left out."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from .dicom_files import SUFFIXES, check_links, dicom_series, is_dicom
from .errors import InputError
from .volume_names import MAP_INFIX, labelmap_subject
from .volumes import is_volume_file, volume_files, volume_name

MASKS_FOLDER = "segmentations"
"""Name of the folder of masks beside a patient's image in TotalSegmentator's data sets."""

_DICOM_SUFFIXES = ("", *SUFFIXES)
_LOOKED_AT = 3  # Number of files of a folder that are read to find out whether it holds DICOM.
_SHOWN = 12  # Most folders that a message lists; there can be a hundred.


def volumes_in(folder: Path, *, but: Collection[str] = ()) -> list[Path]:
    """Return the volume files, broken links to such, and DICOM series folders directly in a folder, sorted by name.

    Entries whose names are in `but` are left out.

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
    """Return the folders directly in a folder, sorted by name, without hidden ones."""
    return [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]


def folders_of_masks(folder: Path) -> list[Path]:
    """Return each patient's folder of masks, `ROOT/s0001/segmentations`, in a folder of patients, sorted by patient.

    There are none if volume files lie directly in the folder.
    """
    if volume_files(folder):
        return []
    return [patient / MASKS_FOLDER for patient in subfolders(folder) if (patient / MASKS_FOLDER).is_dir()]


def unused_folders(path: Path) -> list[Path]:
    """Return the folders that hold images, at any depth, which `find_cases` leaves out; none if `path` is a file.

    `find_cases` looks for volumes, and for series in folders of their own, only directly in the folder `path` or, if it
    holds patients' folders, directly in these.
    """
    folder = path / "imagesTr" if (path / "imagesTr").is_dir() else path
    if not folder.is_dir():
        return []
    looked_at = subfolders(folder) if folders_of_masks(folder) else [folder]
    below = [entry for place in looked_at for entry in subfolders(place)]
    return [entry for entry in below if entry.name != MASKS_FOLDER and _holds_images(entry)]


def folder_names(folders: Sequence[Path]) -> str:
    """Return a list of folders as text for a message."""
    return ", ".join(folder.name for folder in folders[:_SHOWN]) + (", ..." if len(folders) > _SHOWN else "")


def check_nothing_is_missed(folder: Path, volumes: list[Path]) -> None:
    """Refuse a folder if some of its patients would be left out silently.

    Raises:
        InputError: There are DICOM slices outside a folder of their series, a series further down, or a broken link
            that may have led to either.
    """
    known, has_files = set(volumes), any(not path.is_dir() for path in volumes)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "DICOMDIR" or entry in known:
            continue
        # Volume files may have been converted from series beside them.
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
    """Whether a folder holds volumes that are not named like labelmaps or maps, or DICOM files further down.

    DICOM files directly in it don't count, since such a series is found.
    """
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
    """Whether a path is a broken link that, by its name, may have led to a series or a slice.

    Such names have a suffix of DICOM's, none, or the end of a UID.
    """
    suffix = path.suffix.lower()
    return not path.exists() and (suffix in _DICOM_SUFFIXES or suffix[1:].isdecimal())


def _deeper_dicom(folder: Path) -> Path | None:
    """Return a folder in this one with DICOM files among its first files; None if there is none."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        if any(is_dicom(Path(place, name)) for name in sorted(files)[:_LOOKED_AT]):
            return Path(place)
    return None
