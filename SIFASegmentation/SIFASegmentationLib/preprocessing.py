"""The way of a volume: to the slices that the networks see, and from their probabilities back to its own grid.

Orientation by anatomy -> field of view -> intensities -> resampling in the plane; the slice axis is not resampled.
Training and segmentation go through the same functions, and no function here sees a label before the field of view
is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from .errors import InputError
from .field_of_view import BoxMM, VoxelBox, body_box, region_box, whole_box
from .intensity import IntensitySettings, IntensityStatistics, measure, z_score_sample
from .orientation import Orientation, Plane, nearest_orientation
from .resampling import linear_weights, resample
from .schema import Frozen
from .volumes import LARGEST_SPACING, LEAST_SPACING, Geometry, Volume

Float32Array = NDArray[np.float32]
_Scalar = TypeVar("_Scalar", bound=np.generic)

LEAST_SIZE = 32
"""Of the networks' grid: on less, the discriminators have hardly anything to look at."""

MOST_SIZE = 4096
"""Of it: no scan has more rows."""

_SIZE_STEP = 8  # How much the encoder shrinks slices.
_SLAB_VOXELS = 2**24  # Work on slabs of about this many voxels, 64 MiB in float32.


class Preprocessing(Frozen):
    """Everything that turns a volume of one domain into network inputs; stored in the bundle's manifest.

    Attributes:
        plane: Plane of the slices.
        size: Rows and columns of the networks' grid, in pixels.
        spacing: Distance of its pixels, in mm; None stretches the field of view to the grid, as the paper did.
        field_of_view: The body's box, found automatically, or the full slice. A region of interest overrides both.
        intensity: From voxel values to [-1, 1].
        slice_spacings: Smallest and largest distance of slices among the volumes trained on, in mm; None if unknown.
        pixel_spacings: The same of their pixels.
    """

    plane: Plane = "axial"
    size: int = Field(default=256, ge=LEAST_SIZE, le=MOST_SIZE, multiple_of=_SIZE_STEP)
    spacing: FiniteFloat | None = Field(default=None, ge=LEAST_SPACING, le=LARGEST_SPACING)
    field_of_view: Literal["body", "full"] = "body"
    intensity: IntensitySettings = IntensitySettings()
    slice_spacings: tuple[FiniteFloat, FiniteFloat] | None = None
    pixel_spacings: tuple[FiniteFloat, FiniteFloat] | None = None


@dataclass(frozen=True)
class Placement:
    """Where the networks' grid lies in a volume: all that the way back needs, and no voxel.

    Attributes:
        geometry: Geometry of the volume.
        orientation: From its array to slice, row, column.
        field_of_view: The part of the oriented array that the networks see, n slices of (rows, columns).
        size: Rows and columns of the networks' grid; its centre is that of the field of view.
        grid_spacing: Distance of the grid's rows and of its columns, in mm.
    """

    geometry: Geometry
    orientation: Orientation
    field_of_view: VoxelBox
    size: int
    grid_spacing: tuple[float, float]

    def __len__(self) -> int:
        """Number of slices in the field of view."""
        return self.field_of_view.shape[0]

    @property
    def extent_mm(self) -> tuple[float, float]:
        """Height and width of the field of view, in mm."""
        _, row_spacing, column_spacing = self.spacings
        _, rows, columns = self.field_of_view.shape
        return rows * row_spacing, columns * column_spacing

    @property
    def spacings(self) -> tuple[float, float, float]:
        """Distance of slices, rows and columns in mm."""
        slices, rows, columns = self.orientation.reorder(self.geometry.spacing)
        return slices, rows, columns

    def view(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """The field of view (n, rows, columns) of an array (k, j, i); writing to it writes to the array."""
        return self.orientation.apply(array)[self.field_of_view.slices]

    def to_grid(self, images: Float32Array) -> Float32Array:
        """Images (..., rows, columns) of the field of view on the grid (..., size, size); 0 outside of it."""
        return resample(images, *self._weights_to_grid)

    def restore_probabilities(self, probabilities: Float32Array) -> Float32Array:
        """Class probabilities (b, K, size, size) of any slices, on the field of view: (b, K, rows, columns).

        Pixels of the field of view that the grid doesn't reach are background, class 0, with probability 1.
        """
        restored = resample(probabilities, *self._weights_from_grid)
        rows, columns = (weights.any(axis=1) for weights in self._weights_from_grid)
        restored[:, 0, ~rows, :] = 1
        restored[:, 0, :, ~columns] = 1
        return restored

    def canvas(self, dtype: type[_Scalar]) -> tuple[NDArray[_Scalar], NDArray[_Scalar]]:
        """A new array (k, j, i) of zeros on the volume's grid, and its field of view (n, rows, columns) to write to.

        Writing slab by slab to the view, a caller never holds a second copy of the volume.
        """
        array: NDArray[_Scalar] = np.zeros(self.geometry.shape, dtype)
        return array, self.view(array)

    @cached_property
    def _weights_to_grid(self) -> tuple[Float32Array, Float32Array]:
        spacings, pixels = self._pixels
        rows, columns = (
            linear_weights(pixels[axis], spacings[axis], self.size, self.grid_spacing[axis]) for axis in (0, 1)
        )
        return rows, columns

    @cached_property
    def _weights_from_grid(self) -> tuple[Float32Array, Float32Array]:
        spacings, pixels = self._pixels
        rows, columns = (
            linear_weights(self.size, self.grid_spacing[axis], pixels[axis], spacings[axis]) for axis in (0, 1)
        )
        return rows, columns

    @property
    def _pixels(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """In-plane spacings and sizes of the field of view: rows, columns."""
        return self.orientation.reorder(self.geometry.spacing)[1:], self.field_of_view.shape[1:]


@dataclass(frozen=True, eq=False)
class PreparedVolume:
    """A volume on its way into the networks; slices are computed when they are asked for.

    Attributes:
        voxels: The field of view (n, rows, columns): a view of the volume's array, in its own number type.
        statistics: Of the intensities in the field of view.
        settings: Of the intensities.
        placement: The way back.
    """

    voxels: NDArray[Any]
    statistics: IntensityStatistics
    settings: IntensitySettings
    placement: Placement

    def __len__(self) -> int:
        """Number of slices n."""
        return len(self.placement)

    def intensities(self, slab: slice) -> Float32Array:
        """The field of view in the networks' range, (b, rows, columns) in its own pixels; see `normalize`."""
        return self.statistics.normalize(self.voxels[slab], self.settings)

    def batch(self, start: int, stop: int) -> Float32Array:
        """Slices from `start` up to and without `stop`: (b, size, size), -1 outside the field of view.

        In [-1, 1], unless the settings clip nothing.
        """
        images = self.intensities(slice(start, stop))
        # Zero weights then leave exactly -1.
        images += 1
        slices = self.placement.to_grid(images)
        slices -= 1
        return self.settings.bounded(slices)

    @property
    def slices(self) -> Float32Array:
        """All slices (n, size, size)."""
        slices = np.empty((len(self), self.placement.size, self.placement.size), np.float32)
        for slab in _slabs(self.placement):
            slices[slab] = self.batch(slab.start, slab.stop)
        return slices


def place_volume(volume: Volume, preprocessing: Preprocessing, region: BoxMM | None = None) -> Placement:
    """Orientation, field of view and grid of a volume.

    Args:
        volume: The image.
        preprocessing: The model's settings.
        region: Region of interest, mm, LPS; takes the place of the automatic field of view.

    Raises:
        InputError: The region lies outside the volume.
    """
    orientation = nearest_orientation(volume.geometry, preprocessing.plane)
    oriented = orientation.apply(volume.array)
    if region is not None:
        box = region_box(region, volume.geometry, orientation, volume.name)
    elif preprocessing.field_of_view == "body":
        box = body_box(oriented)
    else:
        box = whole_box(oriented)
    spacing = preprocessing.spacing
    if spacing is not None:
        return Placement(volume.geometry, orientation, box, preprocessing.size, (spacing, spacing))
    _, row_spacing, column_spacing = orientation.reorder(volume.geometry.spacing)
    _, rows, columns = box.shape
    stretched = rows * row_spacing / preprocessing.size, columns * column_spacing / preprocessing.size
    return Placement(volume.geometry, orientation, box, preprocessing.size, stretched)


def prepare_volume(volume: Volume, preprocessing: Preprocessing, region: BoxMM | None = None) -> PreparedVolume:
    """A volume ready to give slices to the networks; the arguments are those of `place_volume`.

    Raises:
        InputError: The region lies outside the volume, or the field of view is constant.
    """
    placement = place_volume(volume, preprocessing, region)
    voxels = placement.view(volume.array)
    statistics = measure(voxels, preprocessing.intensity, volume.name)
    return PreparedVolume(voxels, statistics, preprocessing.intensity, placement)


def sample_z_scores(volume: Volume, placement: Placement, settings: IntensitySettings) -> Float32Array:
    """A volume's share for `estimate_intensity_range`.

    Args:
        volume: The image.
        placement: Of it, which has the field of view.
        settings: Of its domain's intensities.

    Raises:
        InputError: The field of view is constant.
    """
    return z_score_sample(placement.view(volume.array), settings, volume.name)


def check_size(size: int) -> None:
    """Refuse a size that no grid of the networks can have.

    Raises:
        InputError: It is too small or too large, or no multiple.
    """
    if not LEAST_SIZE <= size <= MOST_SIZE or size % _SIZE_STEP:
        raise InputError(
            f"The size {size} is not usable", f"give a multiple of {_SIZE_STEP} from {LEAST_SIZE} to {MOST_SIZE}"
        )


def labels_on_grid(labelmap: Volume, placement: Placement) -> NDArray[np.uint8]:
    """Labels (n, size, size) on the networks' grid: each structure resampled linearly, then the largest share wins.

    Args:
        labelmap: Labels (uint8) on the grid of the placed volume.
        placement: Of that volume.

    Raises:
        InputError: The labelmap has another size than the volume.
    """
    if labelmap.array.shape != placement.geometry.shape:
        raise InputError(
            f"The labelmap {labelmap.name} has size {labelmap.geometry.size}, its volume {placement.geometry.size}",
            "give a labelmap on the volume's grid",
        )
    view = placement.view(labelmap.array)
    labels = np.zeros((len(placement), placement.size, placement.size), np.uint8)
    for slab in _slabs(placement):
        voxels = view[slab]
        largest = placement.to_grid((voxels == 0).astype(np.float32))
        for value in np.unique(voxels[voxels != 0]):
            share = placement.to_grid((voxels == value).astype(np.float32))
            labels[slab][share > largest] = value
            np.maximum(largest, share, out=largest)
    return labels


def choose_spacing(extents_mm: Iterable[tuple[float, float]], size: int) -> float:
    """Pixel spacing in mm with which 95 % of the fields of view fit the grid, rounded up to 0.01 mm.

    Args:
        extents_mm: Heights and widths of the fields of view of both domains, from `Placement.extent_mm`.
        size: Rows and columns of the grid.
    """
    larger = [max(extent) for extent in extents_mm]
    return ceil(float(np.percentile(larger, 95)) / size * 100 - 1e-6) / 100


def _slabs(placement: Placement) -> list[slice]:
    """Runs of slices that fit `_SLAB_VOXELS`."""
    _, rows, columns = placement.field_of_view.shape
    step = max(1, _SLAB_VOXELS // max(rows * columns, placement.size**2))
    return [slice(start, min(start + step, len(placement))) for start in range(0, len(placement), step)]
