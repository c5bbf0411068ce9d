"""Labelmaps with any codes to the values of a task, and the grids that they must share with their volumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .errors import InputError
from .structures import LabelCoding, Task
from .volumes import (
    Geometry,
    Volume,
    check_grid,
    from_image,
    image_geometry,
    read_image,
    to_image,
    volume_name,
    write_image,
)

_POSITION_TOLERANCE = 1e-3  # Of a voxel.
_DIRECTION_TOLERANCE = 1e-4


def read_labelmap(
    path: str | Path, task: Task, coding: str | LabelCoding | None = None, *, allow_empty: bool = False
) -> Volume:
    """A labelmap file with the task's values.

    Args:
        path: A labelmap in any format of `read_volume`, or a segmentation that Slicer saved (`.seg.nrrd`), whose
            segments are matched to structures by name.
        task: The structures.
        coding: Codes of the file: a name among `task.label_codes`, or a coding; the task's own values unless given.
            Has no effect on `.seg.nrrd`.
        allow_empty: Accept a file without a labelled voxel.

    Returns:
        Volume of uint8.

    Raises:
        InputError: Unreadable file, codes that are not in the task, voxels that are not whole numbers, or no label.
    """
    path = Path(path)
    if path.name.lower().endswith(".seg.nrrd"):
        labelmap = _read_slicer_segmentation(path, task)
    else:
        volume = from_image(read_image(path), volume_name(path), source=str(path))
        labelmap = Volume(_recode(volume.array, task, coding, path), volume.geometry, volume.name)
    if not allow_empty and not labelmap.array.any():
        raise InputError(f"{path} is empty, no voxel is labelled: leave it out, or check that it is the right file.")
    return labelmap


def same_grid(a: Geometry, b: Geometry) -> bool:
    """Whether two grids are one, but for rounding in files."""
    return grid_difference(a, b) is None


def grid_difference(a: Geometry, b: Geometry) -> str | None:
    """What two grids differ in, as `size (4, 4, 2) and (4, 4, 3)`; None if they are one but for rounding in files."""
    if a.size != b.size:
        return f"size {a.size} and {b.size}"
    spacing = np.asarray(a.spacing)
    # The far corner shows what an error of spacing adds up to.
    if np.abs((spacing - b.spacing) * a.size).max() > _POSITION_TOLERANCE * spacing.min() * max(a.size):
        return f"spacing {_rounded(a.spacing)} and {_rounded(b.spacing)} mm"
    if np.abs(np.subtract(a.direction, b.direction)).max() > _DIRECTION_TOLERANCE:
        return f"direction {_rounded(a.direction)} and {_rounded(b.direction)}"
    if np.abs(np.subtract(a.origin, b.origin)).max() > max(_POSITION_TOLERANCE * spacing.min(), 1e-3):
        return f"origin {_rounded(a.origin)} and {_rounded(b.origin)} mm"
    return None


def check_same_grid(labelmap: Volume, image: Volume) -> None:
    """Refuse a labelmap on another grid than its image.

    Raises:
        InputError: Names both, and what differs.
    """
    difference = grid_difference(labelmap.geometry, image.geometry)
    if difference is not None:
        raise InputError(
            f"The labelmap {labelmap.name} and the image {image.name} lie on different grids ({difference}): resample "
            "the labelmap to the image."
        )


def resample_labelmap(labelmap: Volume, geometry: Geometry) -> Volume:
    """A labelmap on another grid, by nearest neighbour; 0 outside of its own."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    resampler.SetSize(geometry.size)
    resampler.SetOutputSpacing(geometry.spacing)
    resampler.SetOutputOrigin(geometry.origin)
    resampler.SetOutputDirection(geometry.direction)
    return Volume(sitk.GetArrayFromImage(resampler.Execute(to_image(labelmap))), geometry, labelmap.name)


def write_slicer_segmentation(labelmap: Volume, task: Task, path: Path) -> None:
    """Write a labelmap as a segmentation that Slicer opens with names, colours and terminology (`.seg.nrrd`)."""
    image = to_image(labelmap)
    extent = " ".join(f"0 {n - 1}" for n in labelmap.geometry.size)
    image.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    image.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    image.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    for index, structure in enumerate(task.structures):
        terms = structure.terminology
        codes = [f"{c.code}^{c.meaning}" if c else "^" for c in (terms.category, terms.type, terms.modifier)]
        category, kind, modifier = (f"SCT^{code}" if code != "^" else "^^" for code in codes)
        tags = f"Segmentation category and type - 3D Slicer General Anatomy list~{category}~{kind}~{modifier}"
        fields = {
            "ID": f"Segment_{structure.value}",
            "Name": structure.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{channel / 255:.6f}" for channel in structure.color),
            "ColorAutoGenerated": "0",
            "LabelValue": str(structure.value),
            "Layer": "0",
            "Extent": extent,
            "Tags": f"Segmentation.Status:inprogress|TerminologyEntry:{tags}~Anatomic codes - DICOM master list~^^~^^|",
        }
        for key, value in fields.items():
            image.SetMetaData(f"Segment{index}_{key}", value)
    write_image(image, path)


def _recode(
    voxels: NDArray[np.generic], task: Task, coding: str | LabelCoding | None, path: Path
) -> NDArray[np.uint8]:
    codes = np.unique(voxels)
    if codes.dtype.kind == "f" and (codes != np.rint(codes)).any():
        raise InputError(f"{path} has voxels that are no whole numbers: it is an image, give its labelmap.")
    found = [int(code) for code in codes if code != 0]
    chosen = _coding(task, coding, path)
    known = {*chosen.codes.values(), *chosen.ignored}
    if unknown := [code for code in found if code not in known]:
        fitting = [name for name, other in task.label_codes.items() if other.fits(found)]
        advice = f"they fit {' and '.join(fitting)}, choose that coding" if fitting else "give a coding that has them"
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        raise InputError(f"{path} has the label codes {shown}, which are not in the task {task.name}: {advice}.")
    values = {structure.name: structure.value for structure in task.structures}
    return _map_values(voxels, {code: values[name] for name, code in chosen.codes.items()})


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
        return coding
    if coding not in task.label_codes:
        known = ", ".join(task.label_codes) or "none"
        raise InputError(f"The coding '{coding}' for {path} is not in the task {task.name}: it has {known}.")
    return task.label_codes[coding]


def _read_slicer_segmentation(path: Path, task: Task) -> Volume:
    """Segments by name; overlapping ones lie in layers, which are the components of the file's voxels."""
    image = read_image(path)
    names = [key for key in image.GetMetaDataKeys() if key.startswith("Segment") and key.endswith("_Name")]
    if not names:
        raise InputError(f"{path} has no segments: save the segmentation from Slicer again, or give a labelmap.")
    if image.GetDimension() == 4:
        layers = [_layer(image[..., index], path) for index in range(image.GetSize()[3])]
    else:
        check_grid(image, str(path))
        pixels = sitk.GetArrayFromImage(image)
        layers = list(np.moveaxis(pixels, -1, 0)) if image.GetNumberOfComponentsPerPixel() > 1 else [pixels]
    geometry = image_geometry(image[..., 0] if image.GetDimension() == 4 else image)
    labels = np.zeros(layers[0].shape, np.uint8)
    matched = False
    for key in sorted(names):
        prefix = key.removesuffix("_Name")
        structure = task.structure_named(image.GetMetaData(key))
        if structure is None:
            continue
        matched = True
        layer = int(image.GetMetaData(f"{prefix}_Layer")) if image.HasMetaDataKey(f"{prefix}_Layer") else 0
        value = int(image.GetMetaData(f"{prefix}_LabelValue")) if image.HasMetaDataKey(f"{prefix}_LabelValue") else 1
        labels[layers[layer] == value] = structure.value
    if not matched:
        found = ", ".join(image.GetMetaData(key) for key in sorted(names))
        wanted = ", ".join(structure.name for structure in task.structures)
        raise InputError(
            f"{path} has the segments {found}, none of which is in the task {task.name}: name them {wanted}."
        )
    return Volume(labels, geometry, volume_name(path))


def _layer(image: sitk.Image, path: Path) -> NDArray[np.generic]:
    check_grid(image, str(path))
    layer: NDArray[np.generic] = sitk.GetArrayFromImage(image)
    return layer


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)
