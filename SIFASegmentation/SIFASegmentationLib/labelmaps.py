"""Labelmaps with any codes to the values of a task, and the grids that they must share with their volumes."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydantic import ValidationError

from .boxes import values_in
from .errors import InputError, first_fault
from .image_files import check_grid, from_image, image_geometry, read_image, to_image, write_image
from .structures import LabelCoding, Task, normal_name
from .volumes import Geometry, Volume, volume_name

# Of a voxel, at the outer corners, where errors of spacing and direction have added up: far more than NIfTI's 32-bit
# floats round, and a tenth of what would move a label.
_SAME_VOXEL = 0.05

_SEGMENT_NAME = re.compile(r"Segment(\d+)_Name")
_NNUNET_LABELS = ("labelsTr", "labelsTs")
_NEARLY = 1e-3  # What scaling and single precision leave of a whole number.
_LARGEST_LABEL = np.iinfo(np.int32).max
_SHOWN_CODES = 8  # A wrong file can have thousands.


NNUNET_FILE = "dataset.json"
"""In which nnU-Net says what label values are, above the labels and beside its predictions."""


class UnknownCodesError(InputError):
    """A file has label codes that its coding does not know."""


def read_labelmap(
    path: str | Path, task: Task, coding: str | LabelCoding | None = None, *, allow_empty: bool = False
) -> Volume:
    """A labelmap file with the task's values.

    Args:
        path: A labelmap in any format of `read_volume`, or a segmentation that Slicer saved (`.seg.nrrd`), whose
            segments are matched to structures by name or alias; other segments are background, and where two overlap
            the later one has the voxel.
        task: The structures.
        coding: Codes of the file: a name among `task.label_codes`, or a coding. Unless given, what the `dataset.json`
            of an nnU-Net data set says, for a file in `labelsTr` or `labelsTs`; else the task's own values. Has no
            effect where segments have names.
        allow_empty: Accept a file without a labelled voxel.

    Returns:
        Volume of uint8, on the file's own grid: Slicer may have cropped it, see `match_grid`.

    Raises:
        InputError: Unreadable file, codes that are not in the task, voxels that are not whole numbers, or no label.
    """
    return read_labels(path, task, coding, allow_empty=allow_empty).labelmap


class Labels(NamedTuple):
    """What a file has of a task.

    Attributes:
        labelmap: As `read_labelmap` gives it.
        overlapping: Voxels that two segments share, each of which the later one has; 0 in a plain labelmap.
        unmatched: Names of the segments, or of the labels of an nnU-Net data set that the file has, that are no
            structure of the task; none in another labelmap.
    """

    labelmap: Volume
    overlapping: int = 0
    unmatched: tuple[str, ...] = ()


def read_labels(
    path: str | Path, task: Task, coding: str | LabelCoding | None = None, *, allow_empty: bool = False
) -> Labels:
    """As `read_labelmap`, and what a reader should know of it."""
    path = Path(path)
    image = read_image(path)
    if segments := segment_names(image):
        labels = _from_segments(image, segments, task, path)
    else:
        volume = from_image(image, volume_name(path), source=str(path))
        del image  # As large as what is made of it.
        array, unmatched = _recode(volume.array, task, coding, path)
        labels = Labels(Volume(array, volume.geometry, volume.name), unmatched=unmatched)
    if not allow_empty and not labels.labelmap.array.any():
        raise InputError(f"{path} is empty, no voxel is labelled", "leave it out, or check that it is the right file")
    return labels


def same_grid(a: Geometry, b: Geometry) -> bool:
    """Whether two grids are one, but for rounding in files."""
    return grid_difference(a, b) is None


def grid_difference(a: Geometry, b: Geometry) -> str | None:
    """What two grids differ in, as `size (4, 4, 2) and (4, 4, 3)`; None if they are one but for rounding in files."""
    if a.size != b.size:
        return f"size {a.size} and {b.size}"
    if _apart(a, b) <= _SAME_VOXEL:
        return None
    # What most of it comes from.
    changed = {name: replace(a, **{name: getattr(b, name)}) for name in ("spacing", "direction", "origin")}
    name = max(changed, key=lambda name: _apart(a, changed[name]))
    unit = "" if name == "direction" else " mm"
    return f"{name} {_rounded(getattr(a, name))} and {_rounded(getattr(b, name))}{unit}"


def check_same_grid(labelmap: Volume, image: Volume) -> None:
    """Refuse a labelmap on another grid than its image.

    Raises:
        InputError: Names both, and what differs.
    """
    difference = grid_difference(labelmap.geometry, image.geometry)
    if difference is not None:
        raise InputError(
            f"The labelmap {labelmap.name} and the image {image.name} lie on different grids ({difference})",
            "resample the labelmap to the image",
        )


def match_grid(labelmap: Volume, image: Volume) -> Volume:
    """A labelmap on its image's grid: itself, with its axes in the image's order and directions, or put back into place
    if it was cropped, as Slicer saves segmentations.

    Raises:
        InputError: Its voxels are not those of the image, or some with a label lie outside it; names both.
    """
    if same_grid(labelmap.geometry, image.geometry):
        return labelmap
    turned = _turned(labelmap, image.geometry)
    if same_grid(turned.geometry, image.geometry):
        return turned
    if _is_cropped(turned, image.geometry):
        return resample_labelmap(turned, image.geometry)
    check_same_grid(labelmap, image)
    return labelmap


def resample_labelmap(labelmap: Volume, geometry: Geometry) -> Volume:
    """A labelmap on another grid, by nearest neighbour; 0 outside of its own."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    resampler.SetSize(geometry.size)
    resampler.SetOutputSpacing(geometry.spacing)
    resampler.SetOutputOrigin(geometry.origin)
    resampler.SetOutputDirection(geometry.direction)
    return Volume(sitk.GetArrayFromImage(resampler.Execute(to_image(labelmap))), geometry, labelmap.name)


def structures_ml(labelmap: Volume, task: Task) -> dict[str, float]:
    """Volume of each structure, by name; 0 where it is not there."""
    # By slices: a count of all voxels at once would make numbers of 8 bytes of them.
    voxels = np.zeros(256, np.int64)
    for plane in labelmap.array:
        voxels += np.bincount(plane.ravel(), minlength=256)
    voxel_ml = labelmap.geometry.voxel_volume_ml
    return {structure.name: float(voxels[structure.value]) * voxel_ml for structure in task.structures}


def write_slicer_segmentation(labelmap: Volume, task: Task, path: Path) -> None:
    """Write a labelmap as a segmentation that Slicer opens with names, colours and terminology (`.seg.nrrd`)."""
    image = to_image(labelmap)
    extent = " ".join(f"0 {n - 1}" for n in labelmap.geometry.size)
    image.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    image.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    image.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    for index, structure in enumerate(task.structures):
        fields = {
            "ID": f"Segment_{structure.value}",
            "Name": structure.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{channel / 255:.6f}" for channel in structure.color),
            "ColorAutoGenerated": "0",
            "LabelValue": str(structure.value),
            "Layer": "0",
            "Extent": extent,
            "Tags": f"Segmentation.Status:inprogress|TerminologyEntry:{structure.terminology.entry}|",
        }
        for key, value in fields.items():
            image.SetMetaData(f"Segment{index}_{key}", value)
    write_image(image, path)


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


def _recode(
    voxels: NDArray[np.generic], task: Task, coding: str | LabelCoding | None, path: Path
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The task's values of a file's, and the `unmatched` of `Labels`."""
    voxels = whole_numbers(voxels, str(path))
    found = [code for code in values_in(voxels) if code != 0]
    beside = _labels_beside(path, task) if coding is None else None
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


class NnunetLabels(NamedTuple):
    """What a `dataset.json` of nnU-Net, or of the Medical Decathlon, says of label values.

    Attributes:
        coding: Of a task. Values that are no structure's are background, but for what nnU-Net is told to ignore, which
            is nothing.
        others: Name and values of each label, or region of labels, that is no structure of the task.
    """

    coding: LabelCoding
    others: tuple[tuple[str, list[int]], ...]

    def lost(self, found: Iterable[int]) -> tuple[str, ...]:
        """Names of what becomes background of the values `found` in a file."""
        lost = {*found} & {*self.coding.ignored}
        return tuple(name for name, values in self.others if lost & {*values})


def _labels_beside(path: Path, task: Task) -> NnunetLabels | None:
    """What the `dataset.json` of an nnU-Net data set says of its labels; None where there is none.

    Raises:
        InputError: As `nnunet_labels`.
    """
    file = path.parent.parent / NNUNET_FILE
    return nnunet_labels(file, task) if path.parent.name in _NNUNET_LABELS and file.is_file() else None


def nnunet_labels(file: Path, task: Task) -> NnunetLabels:
    """What a `dataset.json` says of label values, which are in its own order.

    Raises:
        InputError: It can't be read, names no structure of the task, names one twice, or gives two the same value.
    """
    try:
        labels = json.loads(file.read_text(encoding="utf-8-sig"))["labels"]
        # nnU-Net names values, and lists those of a region; the Medical Decathlon values names.
        pairs = [(value, name) if name.isdigit() else (name, value) for name, value in labels.items()]
        values = [(str(name), _whole_numbers(value)) for name, value in pairs]
        matched = _values_of_structures(values, task)
        named = {number for name, numbers in values if name != "ignore" for number in numbers}
        ignored = named - {0, *itertools.chain(*matched.values())}
        coding = LabelCoding(codes=matched, ignored=tuple(sorted(ignored)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = first_fault(error)[1] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise InputError(f"{file} has no readable labels ({reason})", "correct it, or give a coding") from error
    if not matched:
        names = ", ".join(name for name, numbers in values if numbers != [0])
        raise InputError(
            f"{file} names {names}, none of which is in the task {task.name}",
            f"choose another task, give a coding, or name them {', '.join(task.names)}",
        )
    return NnunetLabels(coding, tuple((name, some) for name, some in values if task.structure_named(name) is None))


def _whole_numbers(value: Any) -> list[int]:
    """The values of a label: one, or those of a region.

    Raises:
        ValueError: Any of them is no whole number.
        TypeError: They are no numbers.
    """
    numbers = [float(number) for number in (value if isinstance(value, list) else [value])]
    if not all(number.is_integer() for number in numbers):
        raise ValueError(f"{value} is no whole number")
    return [int(number) for number in numbers]


def _values_of_structures(values: Iterable[tuple[str, list[int]]], task: Task) -> dict[str, tuple[int, ...]]:
    """By structure, of names and values those that are the task's: all of its labels, which may be regions.

    Raises:
        ValueError: Two names are one.
    """
    matched: dict[str, set[int]] = {}
    seen: set[str] = set()
    for name, numbers in values:
        structure = task.structure_named(name)
        if structure is None or numbers == [0]:
            continue
        # Two aliases are two parts of it, such as both kidneys; one name twice is an error.
        if normal_name(name) in seen:
            raise ValueError(f"{name} is there twice")
        seen.add(normal_name(name))
        matched.setdefault(structure.name, set()).update(numbers)
    return {name: tuple(sorted(numbers)) for name, numbers in matched.items()}


def segment_names(image: sitk.Image) -> dict[int, str]:
    """Number and name of each segment that Slicer described in the file, in Slicer's order; empty for a plain file."""
    matches = (_SEGMENT_NAME.fullmatch(key) for key in image.GetMetaDataKeys())
    return dict(sorted((int(match[1]), image.GetMetaData(match[0])) for match in matches if match))


def _from_segments(image: sitk.Image, segments: dict[int, str], task: Task, path: Path) -> Labels:
    """Segments by name, the later one where they overlap, for which they lie in layers."""
    structures = {number: task.structure_named(name) for number, name in segments.items()}
    if not any(structures.values()):
        raise InputError(
            f"{path} has the segments {', '.join(segments.values())}, none of which is in the task {task.name}",
            f"name them {', '.join(task.names)}",
        )
    layers, geometry = _layers(image, path)
    labels, overlapping = np.zeros(geometry.shape, np.uint8), 0
    for number, structure in structures.items():
        if structure is not None:
            # Slicer 4.10 and before gave each segment a layer of its own with the value 1, and did not write so.
            layer = _segment_number(image, f"Segment{number}_Layer", number, path)
            if not 0 <= layer < len(layers):
                raise InputError(
                    f"{path} has {len(layers)} layers, its segment {segments[number]} lies in layer {layer}",
                    "save the segmentation from Slicer again",
                )
            mask = layers[layer] == _segment_number(image, f"Segment{number}_LabelValue", 1, path)
            overlapping += int(np.count_nonzero((labels != structure.value) & (labels != 0) & mask))
            labels[mask] = structure.value
    unmatched = tuple(segments[number] for number, structure in structures.items() if structure is None)
    return Labels(Volume(labels, geometry, volume_name(path)), overlapping, unmatched)


def _layers(image: sitk.Image, path: Path) -> tuple[list[NDArray[np.generic]], Geometry]:
    """Layers (k, j, i): components of the voxels, or steps of a fourth axis; and their common geometry."""
    if image.GetDimension() == 4:
        images = [image[..., index] for index in range(image.GetSize()[3])]
        check_grid(images[0], str(path))
        return [sitk.GetArrayFromImage(layer) for layer in images], image_geometry(images[0])
    check_grid(image, str(path))
    pixels = sitk.GetArrayFromImage(image)
    layered = image.GetNumberOfComponentsPerPixel() > 1
    return list(np.moveaxis(pixels, -1, 0)) if layered else [pixels], image_geometry(image)


def _segment_number(image: sitk.Image, key: str, default: int, path: Path) -> int:
    if not image.HasMetaDataKey(key):
        return default
    text = image.GetMetaData(key)
    if not text.strip().isdecimal():
        raise InputError(f"{path} has the {key} '{text}', no number", "save the segmentation from Slicer again")
    return int(text)


def _turned(volume: Volume, other: Geometry) -> Volume:
    """The same voxels in the same places, with the axes in the order and the directions that come nearest to those of
    another grid; itself where two of its axes come nearest to one."""
    own = volume.geometry
    cosines = other.direction_matrix.T @ own.direction_matrix
    axes = np.abs(cosines).argmax(axis=1).tolist()
    if sorted(axes) != [0, 1, 2]:
        return volume
    flips = (cosines[range(3), axes] < 0).tolist()
    return from_image(sitk.Flip(sitk.PermuteAxes(to_image(volume), axes), flips), volume.name)


def _is_cropped(labelmap: Volume, whole: Geometry) -> bool:
    """Whether the labelmap is of another size, its voxels are voxels of `whole`, and all labels lie in it."""
    own = labelmap.geometry
    # The same size at another place is an error of origin rather than a crop.
    if own.size == whole.size:
        return False
    start = np.rint(whole.index_of(np.array([own.origin]))[0])
    x, y, z = (whole.direction_matrix @ (start * whole.spacing) + whole.origin).tolist()
    if not same_grid(own, replace(whole, size=own.size, origin=(x, y, z))):
        return False
    for axis, (first, size) in enumerate(zip(start, whole.size, strict=True)):
        labelled = np.flatnonzero(labelmap.array.any(axis=tuple({0, 1, 2} - {2 - axis}))) + first
        if labelled.size and (labelled[0] < 0 or labelled[-1] >= size):
            return False
    return True


def _apart(a: Geometry, b: Geometry) -> float:
    """How far two grids of one size lie apart at their outer corners, in voxels of the first along one of its axes."""
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in a.size))))
    return float(np.abs(a.index_of(corners @ b.axes_mm.T + b.origin) - corners).max())


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values)
