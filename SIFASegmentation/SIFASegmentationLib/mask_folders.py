"""Read folders of masks with one file per structure, as in TotalSegmentator's output and its public data sets."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .dicom_files import check_links, dicom_series
from .errors import InputError
from .files import file_name
from .grids import grid_difference
from .image_files import read_volume
from .structures import LabelCoding, Structure, Task, normal_name
from .volumes import Volume, volume_files, volume_name

_ALIKE = 0.5  # Similarity, from 0 to 1 as `difflib` measures it, from which a message suggests a file's name.
_SHOWN = 5  # Most names that a message suggests.

_Files = dict[str, list[Path]]
"""Volume files of a folder by the words of their names (`normal_name`)."""


def holds_masks(path: Path) -> bool:
    """Whether a labelmap is a folder of masks: any folder but that of a DICOM series, which is read as one volume."""
    return path.is_dir() and not dicom_series(path)


def labels_of_masks(folder: Path, task: Task, coding: LabelCoding) -> tuple[Volume, int]:
    """Make a labelmap from the masks of a task's structures; other files are not read.

    Where masks overlap, the later structure takes the voxel.

    Args:
        folder: Folder of masks, which are 0 outside the structure and have one other value inside.
        task: The structures. A file belongs to a structure if its name has the words of the structure's name or of an
            alias, in any order; several files of a structure are merged.
        coding: Names that it has for a structure are those of the files, all of which must be there. A structure that
            a coding with names leaves out is not labelled.

    Returns:
        A labelmap with the task's values, and the number of voxels that masks of different structures share.

    Raises:
        InputError: A structure has no file, two files have the same name, a file can't be read or is no mask, or two
            lie on different grids.
    """
    masks = _files_of_structures(folder, task, coding)
    check_links(path for _value, path in masks)
    (value, first), *others = masks
    mask = read_volume(first)
    geometry = mask.geometry
    labels = np.where(_inside(mask, first), np.uint8(value), np.uint8(0))
    overlapping = 0
    for value, path in others:
        mask = read_volume(path)
        if difference := grid_difference(mask.geometry, geometry):
            raise InputError(
                f"{path} and {first.name} lie on different grids ({difference})", "resample all masks to their image"
            )
        inside = _inside(mask, path)
        overlapping += int(np.count_nonzero((labels != value) & (labels != 0) & inside))
        labels[inside] = value
    # The folder of masks has the same name for every patient, so the patient's folder is named as well.
    return Volume(labels, geometry, f"{folder.absolute().parent.name}/{folder.name}"), overlapping


def _files_of_structures(folder: Path, task: Task, coding: LabelCoding) -> list[tuple[int, Path]]:
    """Return the files with the label values of their structures, in the task's order.

    Raises:
        InputError: A structure has no file, or two files have the same name.
    """
    files: _Files = {}
    for path in volume_files(folder):
        files.setdefault(normal_name(volume_name(path)), []).append(path)
    found = []
    for structure in task.structures:
        names = coding.names_of(structure)
        if structure.name in coding.names:
            _check_named(folder, structure, names, files)
        elif names:
            _check_any(folder, structure, files)
        for alike in (files.get(normal_name(name), []) for name in names):
            if len(alike) > 1:
                raise InputError(f"{alike[0]} and {alike[1].name} are masks of the same name", "remove one of the two")
            found += [(structure.value, path) for path in alike]
    return found


def _check_named(folder: Path, structure: Structure, names: tuple[str, ...], files: _Files) -> None:
    """Refuse a folder that lacks a file named by the coding: part of the structure would be missing."""
    for name in names:
        if normal_name(name) not in files:
            raise InputError(
                f"{folder} has no file called {name}, as the coding calls {structure.name}{_similar(name, files)}",
                "add the file, or correct the coding",
            )


def _check_any(folder: Path, structure: Structure, files: _Files) -> None:
    """Refuse a folder without any file for a structure, which would be background in the patient's image."""
    if not any(normal_name(name) in files for name in structure.all_names):
        raise InputError(
            f"{folder} has no mask of {structure.name}{_similar(structure.name, files)}",
            f"add {file_name(structure.name)}.nii.gz, or give a coding with the files' names; such a coding may leave "
            "out structures that are not labelled",
        )


def _similar(name: str, files: _Files) -> str:
    """Return a message's list of files with similar names; empty if there are none."""
    similar = get_close_matches(normal_name(name), files, n=_SHOWN, cutoff=_ALIKE)
    return f" (similar: {', '.join(files[key][0].name for key in similar)})" if similar else ""


def _inside(mask: Volume, path: Path) -> NDArray[np.bool_]:
    """Return the voxels (k, j, i) of a mask that are not 0.

    Raises:
        InputError: They have several values, as in a probability map, a labelmap of several structures or an image.
    """
    inside: NDArray[np.bool_] = mask.array != 0
    values = mask.array[inside]
    if values.size and values.min() != values.max():
        raise InputError(
            f"{path} is no mask: its voxels have values from {values.min():g} to {values.max():g} besides 0",
            "give a file that is 0 outside of the structure and has one other value inside",
        )
    return inside
