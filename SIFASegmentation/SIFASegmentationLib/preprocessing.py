"""From a volume to the slices that the networks see, and from their probabilities back to the volume's own grid.

The steps are anatomical orientation, field of view, intensities, and resampling in the plane; the slice axis is not
resampled. Training and segmentation use the same functions, and none of them sees a label before the field of view is
chosen.
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
from .field_of_view import VoxelBox, body_box, region_box, whole_box
from .intensity import IntensitySettings, IntensityStatistics, measure, z_score_sample
from .orientation import Orientation, Plane, nearest_orientation
from .regions import BoxMM
from .resampling import linear_weights, resample
from .schema import Frozen
from .volumes import LARGEST_SPACING, LEAST_SPACING, Geometry, Volume

Float32Array = NDArray[np.float32]
_Scalar = TypeVar("_Scalar", bound=np.generic)

LEAST_SIZE = 32
"""Least size of the networks' grid: on a smaller one, little is left for the discriminators to look at."""

MOST_SIZE = 4096
"""Greatest size of the networks' grid: no scan has more rows."""

_SIZE_STEP = 8  # The factor by which the encoder shrinks slices.
_SLAB_VOXELS = 2**24  # Voxels processed at a time, 64 MiB in float32.


class Preprocessing(Frozen):
    """Settings that turn a volume of one domain into network inputs; stored in the bundle's manifest.

    Attributes:
        plane: Plane of the slices.
        size: Rows and columns of the networks' grid, in pixels.
        spacing: Pixel spacing of that grid, in mm; None stretches the field of view to the grid, as in the paper.
        field_of_view: The body's bounding box, found automatically, or the full slice. A region of interest overrides
            both.
        intensity: Mapping of voxel values to [-1, 1].
        slice_spacings: Smallest and largest slice distance among the training volumes, in mm; None if unknown.
        pixel_spacings: Smallest and largest pixel spacing among the training volumes, in mm; None if unknown.
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
    """Where the networks' grid lies in a volume: all that is needed to map results back, without any voxels.

    Attributes:
        geometry: Geometry of the volume.
        orientation: Maps the volume's array to slice, row, column.
        field_of_view: The part of the oriented array that the networks see, n slices of (rows, columns).
        size: Rows and columns of the networks' grid, which has the same centre as the field of view.
        grid_spacing: Spacing of the grid's rows and of its columns, in mm.
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
        """Spacing of the volume's slices, rows and columns, in mm."""
        slices, rows, columns = self.orientation.reorder(self.geometry.spacing)
        return slices, rows, columns

    def view(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """The field of view (n, rows, columns) of an array (k, j, i); writing to it writes to the array."""
        return self.orientation.apply(array)[self.field_of_view.slices]

    def to_grid(self, images: Float32Array) -> Float32Array:
        """Resample images (..., rows, columns) of the field of view to the grid (..., size, size); 0 outside."""
        return resample(images, *self._weights_to_grid)

    def restore_probabilities(self, probabilities: Float32Array) -> Float32Array:
        """Resample class probabilities (b, K, size, size) of slices to the field of view, (b, K, rows, columns).

        Pixels of the field of view outside the grid are background, class 0, with probability 1.
        """
        restored = resample(probabilities, *self._weights_from_grid)
        rows, columns = (weights.any(axis=1) for weights in self._weights_from_grid)
        restored[:, 0, ~rows, :] = 1
        restored[:, 0, :, ~columns] = 1
        return restored

    def canvas(self, dtype: type[_Scalar]) -> tuple[NDArray[_Scalar], NDArray[_Scalar]]:
        """A new array (k, j, i) of zeros on the volume's grid, and a view (n, rows, columns) of its field of view.

        A caller that writes to the view slab by slab never holds a second copy of the volume.
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
    """A volume prepared for the networks, whose slices are computed on request.

    Attributes:
        voxels: The field of view (n, rows, columns): a view of the volume's array, in its own data type.
        statistics: Intensity statistics of the field of view.
        settings: Intensity settings of the domain.
        placement: Where the networks' grid lies in the volume.
    """

    voxels: NDArray[Any]
    statistics: IntensityStatistics
    settings: IntensitySettings
    placement: Placement

    def __len__(self) -> int:
        """Number of slices n."""
        return len(self.placement)

    def intensities(self, slab: slice) -> Float32Array:
        """Normalised intensities (b, rows, columns) of a slab, on the volume's own pixels.

        See `IntensityStatistics.normalize`.
        """
        return self.statistics.normalize(self.voxels[slab], self.settings)

    def batch(self, start: int, stop: int) -> Float32Array:
        """Network inputs (b, size, size) of the slices from `start` to `stop` (exclusive).

        Values are in [-1, 1], unless the settings do not clip, and -1 outside the field of view.
        """
        images = self.intensities(slice(start, stop))
        # Shifted by 1 during resampling, so that zero weights end at exactly -1.
        images += 1
        slices = self.placement.to_grid(images)
        slices -= 1
        return self.settings.bounded(slices)

    @property
    def slices(self) -> Float32Array:
        """Network inputs (n, size, size) of all slices."""
        slices = np.empty((len(self), self.placement.size, self.placement.size), np.float32)
        for slab in _slabs(self.placement):
            slices[slab] = self.batch(slab.start, slab.stop)
        return slices


def place_volume(volume: Volume, preprocessing: Preprocessing, region: BoxMM | None = None) -> Placement:
    """Determine the orientation, field of view and grid of a volume.

    Args:
        volume: The image.
        preprocessing: Settings of the volume's domain.
        region: Region of interest in mm, LPS, instead of the automatic field of view.

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
    """Prepare a volume for the networks; the arguments are those of `place_volume`.

    Raises:
        InputError: The region lies outside the volume, or the field of view is constant.
    """
    placement = place_volume(volume, preprocessing, region)
    voxels = placement.view(volume.array)
    statistics = measure(voxels, preprocessing.intensity, volume.name)
    return PreparedVolume(voxels, statistics, preprocessing.intensity, placement)


def sample_z_scores(volume: Volume, placement: Placement, settings: IntensitySettings) -> Float32Array:
    """Sample z-scores of a volume's field of view, for `intensity.estimate_intensity_range`.

    Args:
        volume: The image.
        placement: Placement of the image.
        settings: Intensity settings of its domain.

    Returns:
        z-scores (m,).

    Raises:
        InputError: The field of view is constant.
    """
    return z_score_sample(placement.view(volume.array), settings, volume.name)


def check_size(size: int) -> None:
    """Check that the networks' grid can have a size.

    Raises:
        InputError: The size is less than `LEAST_SIZE`, greater than `MOST_SIZE`, or not a multiple of 8.
    """
    if not LEAST_SIZE <= size <= MOST_SIZE or size % _SIZE_STEP:
        raise InputError(
            f"The size {size} is not usable", f"give a multiple of {_SIZE_STEP} from {LEAST_SIZE} to {MOST_SIZE}"
        )


def labels_on_grid(labelmap: Volume, placement: Placement) -> NDArray[np.uint8]:
    """Resample labels to the networks' grid, (n, size, size): each pixel gets the label with the largest share of it.

    Shares come from resampling the mask of each label linearly.

    Args:
        labelmap: Labels (uint8) on the grid of the placed volume.
        placement: Placement of that volume.

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
    """Pixel spacing in mm at which 95 % of the fields of view fit the grid, rounded up to 0.01 mm.

    Args:
        extents_mm: Height and width of each field of view of both domains, in mm, from `Placement.extent_mm`.
        size: Rows and columns of the grid.
    """
    larger = [max(extent) for extent in extents_mm]
    return ceil(float(np.percentile(larger, 95)) / size * 100 - 1e-6) / 100


def _slabs(placement: Placement) -> list[slice]:
    """Runs of slices of about `_SLAB_VOXELS` voxels each."""
    _, rows, columns = placement.field_of_view.shape
    step = max(1, _SLAB_VOXELS // max(rows * columns, placement.size**2))
    return [slice(start, min(start + step, len(placement))) for start in range(0, len(placement), step)]
