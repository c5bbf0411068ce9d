"""Labelmap files with any codes to the values of a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .boxes import values_in
from .errors import InputError
from .image_files import from_image, read_image, read_middle_slice
from .mask_folders import holds_masks, labels_of_masks
from .nnunet_labels import labels_beside
from .slicer_segmentations import labels_of_segments, segment_names
from .structures import LabelCoding, Task
from .volumes import Volume, volume_name

_NEARLY = 1e-3  # What scaling and single precision leave of a whole number.
_LARGEST_LABEL = np.iinfo(np.int32).max
_FEW_VALUES = 48  # Of a slice: what lists of a hundred structures show in one, and far less than any scan has.
_SHOWN_CODES = 8  # A wrong file can have thousands.


class UnknownCodesError(InputError):
    """A file has label codes that its coding does not know."""


def read_labelmap(
    path: str | Path, task: Task, coding: str | LabelCoding | None = None, *, allow_empty: bool = False
) -> Volume:
    """A labelmap with the task's values.

    Args:
        path: A labelmap in any format of `read_volume`; a segmentation that Slicer saved (`.seg.nrrd`), whose segments
            are matched to structures by name or alias; or a folder of masks, one file each, matched by the files'
            names. Other segments and masks are background, and where two structures overlap the later one has the
            voxel.
        task: The structures.
        coding: What structures are called: a name among `task.label_codes`, or a coding. Unless given, what the
            `dataset.json` of an nnU-Net data set says, for a file in `labelsTr` or `labelsTs`; else the task's own
            values. Values have no effect where segments or masks have names.
        allow_empty: Accept a labelmap without a labelled voxel.

    Returns:
        Volume of uint8, on the labelmap's own grid: Slicer may have cropped it, see `grids.match_grid`.

    Raises:
        InputError: Unreadable file, codes that are not in the task, voxels that are not whole numbers, a structure
            without mask, masks that do not fit together, or no label.
    """
    return read_labels(path, task, coding, allow_empty=allow_empty).labelmap


class Labels(NamedTuple):
    """What a labelmap has of a task.

    Attributes:
        labelmap: As `read_labelmap` gives it.
        overlapping: Voxels that two segments or masks share, each of which the later one has; 0 in a plain labelmap.
        unmatched: Names of the segments, or of the labels of an nnU-Net data set that the file has, that are no
            structure of the task; none in another labelmap, nor in a folder of masks, of which the others are not read.
    """

    labelmap: Volume
    overlapping: int = 0
    unmatched: tuple[str, ...] = ()


def read_labels(
    path: str | Path, task: Task, coding: str | LabelCoding | None = None, *, allow_empty: bool = False
) -> Labels:
    """As `read_labelmap`, and what a reader should know of it."""
    path = Path(path)
    labels = _labels_of_folder(path, task, coding) if holds_masks(path) else _labels_of_file(path, task, coding)
    if not allow_empty and not labels.labelmap.array.any():
        raise InputError(f"{path} is empty, no voxel is labelled", "leave it out, or check that it is the right file")
    return labels


def _labels_of_folder(path: Path, task: Task, coding: str | LabelCoding | None) -> Labels:
    return Labels(*labels_of_masks(path, task, _coding(task, coding, path)))


def _labels_of_file(path: Path, task: Task, coding: str | LabelCoding | None) -> Labels:
    image = read_image(path)
    if segments := segment_names(image):
        return Labels(*labels_of_segments(image, segments, task, path, _coding(task, coding, path)))
    volume = from_image(image, volume_name(path), source=str(path))
    del image  # As large as what is made of it.
    array, unmatched = _recode(volume.array, task, coding, path)
    return Labels(Volume(array, volume.geometry, volume.name), unmatched=unmatched)


def structures_ml(labelmap: Volume, task: Task) -> dict[str, float]:
    """Volume of each structure, by name; 0 where it is not there."""
    # By slices: a count of all voxels at once would make numbers of 8 bytes of them.
    voxels = np.zeros(256, np.int64)
    for plane in labelmap.array:
        voxels += np.bincount(plane.ravel(), minlength=256)
    voxel_ml = labelmap.geometry.voxel_volume_ml
    return {structure.name: float(voxels[structure.value]) * voxel_ml for structure in task.structures}


def whole_numbers(voxels: NDArray[np.generic], source: str) -> NDArray[np.generic]:
    """Labels (k, j, i) that a program stored as floats, or scaled, as the whole numbers that they are nearly.

    Raises:
        InputError: They are none, or larger than any label; names the `source`.
    """
    if voxels.dtype.kind != "f":
        return voxels
    rounded = np.empty(voxels.shape, np.int32)
    # By planes: floats of the whole would need as much memory again.
    for plane, whole in zip(voxels, rounded, strict=True):
        nearest = np.rint(plane)
        if not (np.abs(plane - nearest) <= _NEARLY).all():
            raise InputError(f"{source} is an image: its voxels are not whole numbers", "give its labelmap")
        if (largest := float(np.abs(nearest).max(initial=0))) > _LARGEST_LABEL:
            raise InputError(f"{source} has a voxel of {largest:g}, which is no label", "check that it is a labelmap")
        whole[...] = nearest
    return rounded


def look_like_labels(voxels: NDArray[np.generic]) -> bool:
    """Whether voxels of a slice are whole numbers of which few differ, as labels are and no scan's."""
    values = np.unique(voxels)
    if values.size > _FEW_VALUES or not np.isfinite(values).all():
        return False
    return bool((np.abs(values - np.rint(values)) <= _NEARLY).all())


def looks_like_labelmap(path: Path) -> bool:
    """Whether the middle slice of a file looks so; what can't be read is not known to be a labelmap."""
    try:
        return look_like_labels(read_middle_slice(path))
    except InputError:
        # Who reads all of it says so.
        return False


def _recode(
    voxels: NDArray[np.generic], task: Task, coding: str | LabelCoding | None, path: Path
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The task's values of a file's, and the `unmatched` of `Labels`."""
    voxels = whole_numbers(voxels, str(path))
    found = [code for code in values_in(voxels) if code != 0]
    beside = labels_beside(path, task) if coding is None else None
    chosen = beside.coding if beside is not None else _coding(task, coding, path)
    known = {*chosen.names_by_value, *chosen.ignored}
    if unknown := [code for code in found if code not in known]:
        shown = ", ".join(map(str, unknown[:_SHOWN_CODES])) + (", ..." if len(unknown) > _SHOWN_CODES else "")
        where = f"the coding '{coding}'" if isinstance(coding, str) else f"the task {task.name}"
        if beside is not None:
            raise UnknownCodesError(
                f"{path} has the label codes {shown}, which its dataset.json does not name or says to ignore",
                "correct one of them",
            )
        raise UnknownCodesError(
            f"{path} has the label codes {shown}, which are not in {where}", _coding_advice(task, found)
        )
    values = {structure.name: structure.value for structure in task.structures}
    recoded = _map_values(voxels, {code: values[name] for code, name in chosen.names_by_value.items()})
    return recoded, beside.lost(found) if beside is not None else ()


def _coding_advice(task: Task, found: list[int]) -> str:
    fitting = [f"'{name}'" for name, coding in task.label_codes.items() if coding.fits(found)]
    if task.own_coding.fits(found):
        return "they are the task's own values, give no coding"
    if set(task.own_coding.names_by_value) <= set(found):
        # Some data set's list of a hundred would fit, too, and mean other structures.
        return "the others are the task's own values: take these out, or give the coding that has all of them"
    return f"they fit {' and '.join(fitting)}, choose that coding" if fitting else "give a coding that has them"


def _map_values(voxels: NDArray[np.generic], mapping: Mapping[int, int]) -> NDArray[np.uint8]:
    """Voxels with `mapping`'s keys replaced by its values, all others 0."""
    mapped = np.zeros(voxels.shape, np.uint8)
    for code, value in mapping.items():
        mapped[voxels == code] = value
    return mapped


def _coding(task: Task, coding: str | LabelCoding | None, path: Path) -> LabelCoding:
    if coding is None:
        return task.own_coding
    if isinstance(coding, LabelCoding):
        if strangers := sorted(set(coding.codes) - set(task.names)):
            raise InputError(
                f"The coding for {path} names '{strangers[0]}', which is not in the task {task.name}",
                f"leave it out, or name it {', '.join(task.names)}",
            )
        return coding
    return coding_named(coding, task)


def coding_named(coding: str, task: Task) -> LabelCoding:
    """A coding by its name.

    Raises:
        InputError: The task has none of that name.
    """
    if coding not in task.label_codes:
        raise InputError(
            f"The coding '{coding}' is not in the task {task.name}",
            f"choose {', '.join(task.label_codes)}, or give none" if task.label_codes else "give none",
        )
    return task.label_codes[coding]
