"""Read labelmap files with any label codes as labelmaps with a task's values."""

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

_NEARLY = 1e-3  # Tolerance for whole numbers that were scaled or stored in single precision.
_LARGEST_LABEL = np.iinfo(np.int32).max
_FEW_VALUES = 48  # Most values in a slice of labels, even of a hundred structures; any scan has far more.
_SHOWN_CODES = 8  # Unknown codes that a message lists; a wrong file can have thousands.


class UnknownCodesError(InputError):
    """A file has label codes that its coding does not know."""


def read_labelmap(
    path: str | Path, task: Task, coding: str | LabelCoding | None = None, *, allow_empty: bool = False
) -> Volume:
    """Read a labelmap with the task's values.

    Args:
        path: A labelmap in any format of `read_volume`; a segmentation that Slicer saved (`.seg.nrrd`), whose segments
            are matched to structures by name or alias; or a folder of masks, one file each, matched by the files'
            names. Other segments and masks become background. Where two structures overlap, the later one takes the
            voxel.
        task: The structures.
        coding: How the file's labels map to structures: a name among `task.label_codes`, or a coding. Unless given,
            the `dataset.json` of an nnU-Net data set for a file in `labelsTr` or `labelsTs`, else the task's own
            values. A coding by values has no effect on segments and masks, which are matched by name.
        allow_empty: Accept a labelmap without a labelled voxel.

    Returns:
        Volume of uint8 on the labelmap's own grid, to which Slicer may have cropped it (see `grids.match_grid`).

    Raises:
        InputError: The file can't be read, it has codes that are not in the task or voxels that are not whole numbers,
            a structure has no mask, masks do not fit together, or no voxel is labelled.
    """
    return read_labels(path, task, coding, allow_empty=allow_empty).labelmap


class Labels(NamedTuple):
    """The labels of a file that belong to a task.

    Attributes:
        labelmap: Labelmap as returned by `read_labelmap`.
        overlapping: Number of voxels shared by segments or masks of different structures, which the later one takes; 0
            for a plain labelmap.
        unmatched: Names of segments, or of labels in an nnU-Net data set that the file contains, that are no structure
            of the task. Empty for other labelmaps, and for folders of masks, in which other files are not read.
    """

    labelmap: Volume
    overlapping: int = 0
    unmatched: tuple[str, ...] = ()


def read_labels(
    path: str | Path, task: Task, coding: str | LabelCoding | None = None, *, allow_empty: bool = False
) -> Labels:
    """Read a labelmap as `read_labelmap` does, with its overlapping voxels and unmatched names."""
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
    del image  # It is as large as the array made from it.
    array, unmatched = _recode(volume.array, task, coding, path)
    return Labels(Volume(array, volume.geometry, volume.name), unmatched=unmatched)


def structures_ml(labelmap: Volume, task: Task) -> dict[str, float]:
    """Return the volume of each structure in ml, by name; 0 if it is absent."""
    # Counted slice by slice, since `bincount` converts what it counts to integers of 8 bytes.
    voxels = np.zeros(256, np.int64)
    for plane in labelmap.array:
        voxels += np.bincount(plane.ravel(), minlength=256)
    voxel_ml = labelmap.geometry.voxel_volume_ml
    return {structure.name: float(voxels[structure.value]) * voxel_ml for structure in task.structures}


def whole_numbers(voxels: NDArray[np.generic], source: str) -> NDArray[np.generic]:
    """Round labels (k, j, i) that a program stored as floats, or scaled, to the whole numbers that they nearly are.

    Raises:
        InputError: They are not nearly whole numbers, or are larger than any label; the message names the `source`.
    """
    if voxels.dtype.kind != "f":
        return voxels
    rounded = np.empty(voxels.shape, np.int32)
    # Rounded plane by plane: floats of the whole would need as much memory again.
    for plane, whole in zip(voxels, rounded, strict=True):
        nearest = np.rint(plane)
        if not (np.abs(plane - nearest) <= _NEARLY).all():
            raise InputError(f"{source} is an image: its voxels are not whole numbers", "give its labelmap")
        if (largest := float(np.abs(nearest).max(initial=0))) > _LARGEST_LABEL:
            raise InputError(f"{source} has a voxel of {largest:g}, which is no label", "check that it is a labelmap")
        whole[...] = nearest
    return rounded


def look_like_labels(voxels: NDArray[np.generic]) -> bool:
    """Whether the voxels of a slice are whole numbers with few distinct values, as labels are and scans are not."""
    values = np.unique(voxels)
    if values.size > _FEW_VALUES or not np.isfinite(values).all():
        return False
    return bool((np.abs(values - np.rint(values)) <= _NEARLY).all())


def looks_like_labelmap(path: Path) -> bool:
    """Whether the middle slice of a file looks like labels; False if it can't be read."""
    try:
        return look_like_labels(read_middle_slice(path))
    except InputError:
        # Reading the whole file will report the fault.
        return False


def _recode(
    voxels: NDArray[np.generic], task: Task, coding: str | LabelCoding | None, path: Path
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Convert a file's values to the task's; return them with the `unmatched` names of `Labels`."""
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
        # A data set's coding of a hundred structures would fit too, but mean other structures.
        return "the others are the task's own values: take these out, or give the coding that has all of them"
    return f"they fit {' and '.join(fitting)}, choose that coding" if fitting else "give a coding that has them"


def _map_values(voxels: NDArray[np.generic], mapping: Mapping[int, int]) -> NDArray[np.uint8]:
    """Replace voxels that are keys of `mapping` by its values, and all others by 0."""
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
    """Return the coding of a task by its name.

    Raises:
        InputError: The task has no coding of that name.
    """
    if coding not in task.label_codes:
        raise InputError(
            f"The coding '{coding}' is not in the task {task.name}",
            f"choose {', '.join(task.label_codes)}, or give none" if task.label_codes else "give none",
        )
    return task.label_codes[coding]
