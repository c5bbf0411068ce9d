"""Folders of masks, a file for each structure, as TotalSegmentator writes them and its public data sets have them."""

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
from .volumes import Volume, is_volume_file, volume_name

_ALIKE = 0.5  # Of two names, from 0 to 1, as `difflib` measures it.
_SHOWN = 5  # Of such names.

_Files = dict[str, list[Path]]
"""Volume files of a folder by the words of their names (`normal_name`)."""


def holds_masks(path: Path) -> bool:
    """Whether a labelmap is a folder of masks: any folder but that of a DICOM series, which is read as one volume."""
    return path.is_dir() and not dicom_series(path)


def labels_of_masks(folder: Path, task: Task, coding: LabelCoding) -> tuple[Volume, int]:
    """Masks by the names of their files, the later structure where they overlap. Only those of the task are read.

    Args:
        folder: Of files that are 0 outside and have one other value inside.
        task: The structures. The words of a file's name, in any order, are those of the structure's name or an alias;
            several such files are one structure.
        coding: If it has names, they are those of the files, all of which must be there, and a structure that it leaves
            out is not labelled.

    Returns:
        A labelmap with the task's values, and the number of voxels that masks of two structures share.

    Raises:
        InputError: A structure has no file, a name has two, a file can't be read or is no mask, or two lie on different
            grids.
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
    # Of all patients, the folder of masks is called alike.
    return Volume(labels, geometry, f"{folder.absolute().parent.name}/{folder.name}"), overlapping


def _files_of_structures(folder: Path, task: Task, coding: LabelCoding) -> list[tuple[int, Path]]:
    """Files with the values of their structures, in the task's order.

    Raises:
        InputError: As `labels_of_masks`.
    """
    files: _Files = {}
    for path in sorted(folder.iterdir()):
        if is_volume_file(path) and not path.name.startswith("."):
            files.setdefault(normal_name(volume_name(path)), []).append(path)
    found = []
    for structure in task.structures:
        if coding.names:
            _check_named(folder, structure, coding, files)
        else:
            _check_any(folder, structure, files)
        for alike in (files.get(normal_name(name), []) for name in coding.names_of(structure)):
            if len(alike) > 1:
                raise InputError(f"{alike[0]} and {alike[1].name} are masks of the same name", "remove one of the two")
            found += [(structure.value, path) for path in alike]
    return found


def _check_named(folder: Path, structure: Structure, coding: LabelCoding, files: _Files) -> None:
    """Refuse a folder without one of the files that a coding names: a part of the structure would be missing."""
    for name in coding.names_of(structure):
        if normal_name(name) not in files:
            raise InputError(
                f"{folder} has no file called {name}, as the coding calls {structure.name}{_similar(name, files)}",
                "add the file, or correct the coding",
            )


def _check_any(folder: Path, structure: Structure, files: _Files) -> None:
    """Refuse a folder without a file that is called as a structure, which would be background in its images."""
    if not any(normal_name(name) in files for name in structure.all_names):
        raise InputError(
            f"{folder} has no mask of {structure.name}{_similar(structure.name, files)}",
            f"add {file_name(structure.name)}.nii.gz, or give a coding that names its file, or that leaves it out if "
            "it is not labelled",
        )


def _similar(name: str, files: _Files) -> str:
    """What a message says of files that are called nearly so; nothing if there are none."""
    similar = get_close_matches(normal_name(name), files, n=_SHOWN, cutoff=_ALIKE)
    return f" (similar: {', '.join(files[key][0].name for key in similar)})" if similar else ""


def _inside(mask: Volume, path: Path) -> NDArray[np.bool_]:
    """The voxels (k, j, i) of a mask that are not 0.

    Raises:
        InputError: They have several values, as probabilities, labels of several structures, or an image.
    """
    inside: NDArray[np.bool_] = mask.array != 0
    values = mask.array[inside]
    if values.size and values.min() != values.max():
        raise InputError(
            f"{path} is no mask: its voxels have values from {values.min():g} to {values.max():g} besides 0",
            "give a file that is 0 outside of the structure and has one other value inside",
        )
    return inside
