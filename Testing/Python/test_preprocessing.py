"""A volume to the networks' grid and back: the round trip of labels over orientations, spacings and sizes."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.field_of_view import body_box
from SIFASegmentationLib.intensity import FULL_RANGE, IntensitySettings, estimate_intensity_range, measure
from SIFASegmentationLib.orientation import Plane, nearest_orientation
from SIFASegmentationLib.phantom_shapes import rotation
from SIFASegmentationLib.preprocessing import (
    Preprocessing,
    choose_spacing,
    labels_on_grid,
    place_volume,
    prepare_volume,
)
from SIFASegmentationLib.regions import BoxMM, parse_box
from SIFASegmentationLib.volumes import Geometry, Volume

AXES = list(permutations(range(3)))
FLIPS = list(product((1, -1), repeat=3))


def direction(axes: tuple[int, ...], flips: tuple[int, ...], oblique: float = 0.0) -> tuple[float, ...]:
    """Direction of array axes i, j, k along these patient axes, all turned by `oblique` degrees."""
    matrix = np.eye(3)[:, list(axes)] * np.asarray(flips)
    return tuple((rotation((oblique, -oblique, oblique / 2)) @ matrix).ravel())


def blobs(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Three ellipsoids of different labels."""
    labels = np.zeros(shape, np.uint8)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    for value, centre, radii in ((1, (0, -0.3, -0.35), (0.9, 0.35, 0.3)), (2, (0.1, 0.3, 0.4), (0.7, 0.3, 0.25)),
                                 (3, (-0.1, 0.45, -0.4), (0.6, 0.2, 0.3))):  # fmt: skip
        labels[sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) < 1] = value
    return labels


def round_trip(labels: NDArray[np.uint8], geometry: Geometry, preprocessing: Preprocessing) -> Volume:
    """Resample labels to the grid, and back as probabilities."""
    image = Volume((labels > 0).astype(np.float32) * 100 + 20, geometry, "image")
    placement = place_volume(image, preprocessing)
    on_grid = labels_on_grid(Volume(labels, geometry, "labels"), placement)
    probabilities = (on_grid[:, np.newaxis] == np.arange(4)[:, np.newaxis, np.newaxis]).astype(np.float32)
    back, view = placement.canvas(np.uint8)
    view[:] = placement.restore_probabilities(probabilities).argmax(1)
    return Volume(back, geometry, "labels")


def assert_kept(labels: NDArray[np.uint8], back: Volume, geometry: Geometry) -> None:
    assert back.geometry == geometry
    assert back.array.shape == labels.shape
    for value in (1, 2, 3):
        before, after = labels == value, back.array == value
        if before.sum() <= 500:
            continue
        assert 2 * (before & after).sum() / (before.sum() + after.sum()) >= 0.98
        shift = np.argwhere(before).mean(0) - np.argwhere(after).mean(0)
        assert np.abs(shift).max() < 0.5


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    axes=st.sampled_from(AXES),
    flips=st.sampled_from(FLIPS),
    oblique=st.sampled_from([0.0, 7.0, 20.0]),
    in_plane=st.integers(64, 160),
    slices=st.integers(3, 40),
    spacing=st.tuples(*[st.floats(0.5, 3.0)] * 3),
    plane=st.sampled_from(["axial", "coronal", "sagittal"]),
    stretch=st.booleans(),
)
def test_labels_survive_the_round_trip(
    axes: tuple[int, ...],
    flips: tuple[int, ...],
    oblique: float,
    in_plane: int,
    slices: int,
    spacing: tuple[float, float, float],
    plane: Plane,
    stretch: bool,
) -> None:
    across = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    i, j, k = (slices if axis == across else in_plane for axis in axes)
    labels = blobs((k, j, i))
    geometry = Geometry((i, j, k), spacing, (11.0, -7.0, 3.0), direction(axes, flips, oblique))
    image = Volume(labels.astype(np.float32), geometry, "image")
    base = Preprocessing(plane=plane, size=256, field_of_view="full")
    # The spacing must be fine enough for the finer in-plane axis and let the longer one fit the grid.
    extent = max(place_volume(image, base).extent_mm)
    fits = choose_spacing([(extent, extent)], 256)
    finest = min(mm for mm, axis in zip(spacing, axes, strict=True) if axis != across)
    spaced = base.model_copy(update={"spacing": None if stretch or fits > finest else fits})
    assert_kept(labels, round_trip(labels, geometry, spaced), geometry)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_every_order_and_direction_of_the_axes(plane: Plane) -> None:
    across = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    base = Preprocessing(plane=plane, size=96, spacing=1.0, field_of_view="full")
    for axes, flips in product(AXES, FLIPS):
        i, j, k = (6 if axis == across else 72 for axis in axes)
        labels = blobs((k, j, i))
        geometry = Geometry((i, j, k), (1.0, 1.0, 1.0), (11.0, -7.0, 3.0), direction(axes, flips))
        assert_kept(labels, round_trip(labels, geometry, base), geometry)


@pytest.mark.parametrize("pixels", [64, 257, 512, 1024])
@pytest.mark.parametrize("slices", [1, 4])
def test_sizes_up_to_1024_and_a_single_slice(pixels: int, slices: int) -> None:
    labels = blobs((slices, pixels, pixels))
    spacing = (400 / pixels, 400 / pixels, 5.0)
    geometry = Geometry((pixels, pixels, slices), spacing, (0, 0, 0), direction((0, 1, 2), (1, 1, 1)))
    assert_kept(labels, round_trip(labels, geometry, Preprocessing(field_of_view="full", spacing=1.6)), geometry)


@pytest.mark.parametrize("pixels", [64, 257, 512, 1024])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("oblique", [0.0, 15.0])
def test_small_structures_survive_as_what_a_network_would_say_at_its_best(
    pixels: int, axes: tuple[int, ...], oblique: float
) -> None:
    """The share that a structure has of each pixel of the grid survives.

    Labels, which are all or nothing, would lose too much of the border of small structures.
    """
    rng = np.random.default_rng(pixels)
    labels = np.zeros((2, pixels, pixels), np.uint8)
    rows, columns = np.mgrid[:pixels, :pixels]
    radius = max(10.0, 13 * pixels / 1024)  # At least 600 voxels in the two slices.
    for value, centre in ((1, 0.25), (2, 0.5), (3, 0.75)):
        row, column = pixels * centre + rng.uniform(-0.5, 0.5, 2)
        labels[:, (rows - row) ** 2 + (columns - column) ** 2 < radius**2] = value
    spacing = (400 / pixels, 400 / pixels, 5.0)
    geometry = Geometry((pixels, pixels, 2), spacing, (5, -3, 8), direction(axes, (1, -1, 1), oblique))
    plane: Plane = {2: "axial", 1: "coronal", 0: "sagittal"}[axes[2]]  # type: ignore[assignment]
    settings_ = Preprocessing(field_of_view="full", spacing=1.6, plane=plane)
    placement = place_volume(Volume(labels.astype(np.float32), geometry, "image"), settings_)
    shares = [placement.to_grid((placement.view(labels) == value).astype(np.float32)) for value in (1, 2, 3)]
    back, view = placement.canvas(np.uint8)
    view[:] = placement.restore_probabilities(np.stack([1 - sum(shares), *shares], 1)).argmax(1)
    assert min(np.count_nonzero(labels == value) for value in (1, 2, 3)) > 500
    assert_kept(labels, Volume(back, geometry, "labels"), geometry)


def test_however_a_volume_is_stored_the_networks_see_the_same() -> None:
    rng = np.random.default_rng(0)
    lps = rng.normal(size=(10, 24, 20)).astype(np.float32)  # k superior, j posterior, i left
    reference: NDArray[np.float32] | None = None
    settings_ = Preprocessing(size=32, spacing=1.0, field_of_view="full")
    for axes, flips in product(AXES, FLIPS):
        array = lps.transpose([2 - axes[2 - a] for a in range(3)])
        for axis, flip in enumerate(flips):
            array = array if flip > 0 else np.flip(array, 2 - axis)
        spacing = tuple((1.0, 1.5, 4.0)[axis] for axis in axes)
        geometry = Geometry(array.shape[::-1], spacing, (0, 0, 0), direction(axes, flips))
        slices = prepare_volume(Volume(array, geometry, "v"), settings_).slices
        reference = slices if reference is None else reference
        assert np.allclose(slices, reference, atol=1e-5)


def test_axial_slices_lie_as_radiologists_see_them() -> None:
    array = np.zeros((3, 4, 5))
    array[2, 3, 4] = 1  # The most superior, posterior, left voxel.
    geometry = Geometry((5, 4, 3), (1, 1, 1), (0, 0, 0), direction((0, 1, 2), (1, 1, 1)))
    assert nearest_orientation(geometry, "axial").apply(array)[-1, -1, -1] == 1
    coronal = nearest_orientation(geometry, "coronal").apply(array)
    assert coronal.shape == (4, 3, 5)
    assert coronal[-1, 0, -1] == 1
    # In sagittal slices, slices go to the left, rows to the feet, columns to the back.
    sagittal = nearest_orientation(geometry, "sagittal").apply(array)
    assert sagittal.shape == (5, 3, 4)
    assert sagittal[-1, 0, -1] == 1


def test_intensities_reach_from_minus_one_to_one_and_outside_is_minus_one() -> None:
    rng = np.random.default_rng(1)
    geometry = Geometry((40, 30, 6), (2, 2, 5), (0, 0, 0), direction((0, 1, 2), (1, 1, 1)))
    volume = Volume(rng.normal(50, 20, (6, 30, 40)), geometry, "v")
    slices = prepare_volume(volume, Preprocessing(size=64, spacing=2.0, field_of_view="full")).slices
    assert slices.shape == (6, 64, 64)
    assert (slices[:, 0] == -1).all()
    assert -1 <= slices.min() < slices.max() <= 1
    inside = slices[:, 17:47, 12:52]
    assert 0.2 < inside.std() < 0.6


def test_percentiles_make_the_scale_of_a_volume_irrelevant_and_a_window_does_not() -> None:
    rng = np.random.default_rng(2)
    geometry = Geometry((32, 32, 4), (1, 1, 1), (0, 0, 0), direction((0, 1, 2), (1, 1, 1)))
    one = Volume(rng.normal(0, 100, (4, 32, 32)), geometry, "v")
    other = Volume(3 * one.array + 17, geometry, "v")
    free = Preprocessing(size=32, spacing=1.0, field_of_view="full")
    window = free.model_copy(update={"intensity": IntensitySettings(window=(-100, 100))})
    assert np.allclose(prepare_volume(one, free).slices, prepare_volume(other, free).slices, atol=1e-4)
    assert not np.allclose(prepare_volume(one, window).slices, prepare_volume(other, window).slices, atol=0.1)


@pytest.mark.parametrize("padding", [-2000, -3024, -32768])
def test_what_pads_a_ct_makes_no_difference(padding: int) -> None:
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[:64, :64] - 31.5
    outside = np.hypot(rows, columns) > 32
    body = np.where(np.hypot(rows, columns) < 28, 40 + rng.normal(0, 60, (4, 64, 64)), -1000)
    percentiles = IntensitySettings()
    padded, plain = (measure(np.where(outside, value, body), percentiles, "ct") for value in (padding, -1024))
    assert padded == plain
    # Low values that are not padding are left alone.
    phases = rng.uniform(-4096, 4096, (4, 64, 64))
    assert measure(phases, percentiles, "mr").low == pytest.approx(np.percentile(phases, 0.5))


def test_the_range_of_a_domain_covers_its_volumes() -> None:
    low, high = estimate_intensity_range([np.linspace(-1, 2, 1000), np.linspace(-2, 1, 1000)])
    assert low == pytest.approx(-2, abs=0.02)
    assert high == pytest.approx(2, abs=0.02)
    # 1 in 1,000 at either end is left out, unless the full range is asked for.
    assert estimate_intensity_range([np.arange(10001.0)]) == pytest.approx((10, 9990))
    assert estimate_intensity_range([np.arange(10001.0), np.array([-5.0])], FULL_RANGE) == (-5, 10000)


def test_what_lies_beyond_the_range_of_the_domain_is_clipped_unless_it_is_to_be_kept() -> None:
    ramp = np.linspace(0, 100, 1000).reshape(1, 1, 1000)
    settings = IntensitySettings(percentiles=FULL_RANGE, z_low=-1, z_high=1)
    statistics = measure(ramp, settings, "mr")
    kept = statistics.normalize(ramp, settings.model_copy(update={"clip": False}))
    # The ends of a uniform distribution lie sqrt(3) standard deviations from the mean.
    assert (kept.min(), kept.max()) == pytest.approx((-np.sqrt(3), np.sqrt(3)), rel=1e-2)
    assert np.array_equal(statistics.normalize(ramp, settings), np.clip(kept, -1, 1))


@pytest.mark.parametrize("clip", [True, False])
def test_the_networks_see_what_lies_beyond_the_range_where_nothing_is_clipped(clip: bool) -> None:
    geometry = Geometry((32, 32, 4), (1, 1, 1), (0, 0, 0), direction((0, 1, 2), (1, 1, 1)))
    volume = Volume(np.random.default_rng(3).normal(0, 100, (4, 32, 32)), geometry, "v")
    intensity = IntensitySettings(z_low=-1, z_high=1, clip=clip)
    settings = Preprocessing(size=48, spacing=1.0, field_of_view="full", intensity=intensity)
    slices = prepare_volume(volume, settings).slices
    assert (slices.min() == -1, slices.max() == 1) == (clip, clip)
    assert (slices[:, 0] == -1).all()  # Outside of the field of view.


def test_intensities_are_measured_within_the_field_of_view() -> None:
    """A table or an arm outside the field of view must not affect the intensities inside."""
    rng = np.random.default_rng(5)
    geometry = Geometry((64, 64, 4), (1, 1, 1), (0, 0, 0), direction((0, 1, 2), (1, 1, 1)))
    array = rng.normal(50, 20, (4, 64, 64))
    changed = array.copy()
    changed[:, :, 40:] = 5000
    region = BoxMM(minimum=(0, 0, 0), maximum=(30, 63, 3))
    settings = Preprocessing(size=64, spacing=1.0)
    one, other = (prepare_volume(Volume(some, geometry, "v"), settings, region).slices for some in (array, changed))
    assert np.array_equal(one, other)


def test_a_constant_volume_is_refused_by_name() -> None:
    geometry = Geometry((8, 8, 2), (1, 1, 1), (0, 0, 0), direction((0, 1, 2), (1, 1, 1)))
    with pytest.raises(InputError, match="The volume flat is constant"):
        prepare_volume(Volume(np.ones((2, 8, 8)), geometry, "flat"), Preprocessing(size=32))


def test_a_region_in_mm_is_the_field_of_view_in_any_storage_order() -> None:
    for axes, flips in product(AXES, FLIPS):
        size = tuple((20, 30, 40)[axis] for axis in axes)
        matrix = np.reshape(direction(axes, flips), (3, 3))
        # The corner of the volume with the least coordinates is at the origin of LPS.
        far = matrix @ (np.asarray(size) - 1)
        origin = tuple(np.where(far < 0, -far, 0.0))
        # The value of each voxel encodes its position.
        x, y, z = np.einsum("pa,akji->pkji", matrix, np.indices(size[::-1])[::-1]) + np.reshape(origin, (3, 1, 1, 1))
        volume = Volume(x + 100 * y + 10000 * z, Geometry(size, (1, 1, 1), origin, tuple(matrix.ravel())), "v")
        placement = place_volume(volume, Preprocessing(size=64), BoxMM(minimum=(2, 3, 4), maximum=(12, 18, 24)))
        assert placement.field_of_view.shape == (21, 16, 11)
        view = placement.view(volume.array)
        assert (view[0, 0, 0], view[-1, -1, -1]) == (40302, 241812)
    # A box that ends on faces of voxels covers the same voxels, from a scene as from the text of a table.
    geometry = Geometry((128, 128, 10), (0.78125, 0.78125, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    faces = BoxMM(minimum=(8.203125, 8.203125, 0), maximum=(77.734375, 77.734375, 3))
    volume = Volume(np.zeros(geometry.shape), geometry, "v")
    for box in (faces, parse_box(faces.text, ""), BoxMM(minimum=(8.203, 8.203, 0), maximum=(77.7344, 77.7344, 3))):
        assert place_volume(volume, Preprocessing(size=64), box).field_of_view.shape == (4, 89, 89)
    with pytest.raises(InputError, match="lies outside the volume v"):
        place_volume(volume, Preprocessing(size=64), BoxMM(minimum=(90, 90, 90), maximum=(99, 99, 99)))


def test_the_body_is_found_beside_the_table() -> None:
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:200, :200]
    body = ((rows - 90) / 50) ** 2 + ((columns - 100) / 70) ** 2 < 1
    table = (rows > 165) & (rows < 168)
    pixels = np.where(body, 40.0, np.where(table, -200.0, -1000.0))
    volume = np.stack([pixels + rng.normal(0, 20, pixels.shape) for _ in range(4)])
    box = body_box(volume)
    assert box.shape[0] == 4
    assert 36 - box.start[1] <= 8
    assert 0 < box.stop[1] - 140 <= 12
    assert abs(box.start[2] - 30) <= 8
    assert abs(box.stop[2] - 170) <= 8


def test_a_second_body_counts_if_it_is_large_and_without_any_all_is_looked_at() -> None:
    rng = np.random.default_rng(6)
    pixels = np.full((2, 128, 128), -1000.0) + rng.normal(0, 5, (2, 128, 128))
    pixels[:, 20:60, 20:60] = 40
    # The second body has more than a quarter of the first one's area, then less.
    large, small = pixels.copy(), pixels.copy()
    large[:, 80:104, 80:104] = 40
    small[:, 80:94, 80:94] = 40
    assert body_box(large).stop[1:] == (106, 106)
    assert body_box(small).stop[1:] == (62, 62)
    assert body_box(small).start[1:] == (18, 18)
    # The only component is too small to be a body.
    speck = np.full((2, 128, 128), -1000.0)
    speck[:, 60:70, 60:70] = 40
    assert body_box(speck).shape == (2, 128, 128)


def test_what_the_grid_does_not_reach_is_background() -> None:
    geometry = Geometry((100, 80, 2), (1, 1, 1), (0, 0, 0), direction((0, 1, 2), (1, 1, 1)))
    volume = Volume(np.zeros((2, 80, 100), np.float32), geometry, "v")
    placement = place_volume(volume, Preprocessing(size=64, spacing=1.0, field_of_view="full"))
    probabilities = np.zeros((2, 3, 64, 64), np.float32)
    probabilities[:, 2] = 1
    restored = placement.restore_probabilities(probabilities)
    np.testing.assert_allclose(restored.sum(1), 1, atol=1e-6)
    assert (restored.argmax(1)[:, 8:72, 18:82] == 2).all()
    assert np.count_nonzero(restored.argmax(1)) == 2 * 64 * 64


def test_spacing_is_chosen_so_that_nearly_all_fit() -> None:
    assert choose_spacing([(256.0, 300.0)] * 20, 256) == pytest.approx(1.18)


def test_one_large_patient_among_many_makes_no_coarser_grid() -> None:
    assert 100 / 256 < choose_spacing([(100.0, 100.0)] * 19 + [(900.0, 900.0)], 256) < 1.0
