"""Whether a labelmap lies on its image's grid, and which values it has."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.evaluation import evaluate
from SIFASegmentationLib.grids import grid_difference, match_grid, same_grid
from SIFASegmentationLib.image_files import from_image, image_geometry, to_image
from SIFASegmentationLib.labelmaps import read_labelmap
from SIFASegmentationLib.phantom_shapes import rotation
from SIFASegmentationLib.structures import load_task
from SIFASegmentationLib.volumes import Geometry, Volume

ABDOMEN = load_task("abdomen")
CT = Geometry((512, 512, 100), (0.7, 0.7, 5.0), (-180.0, -160.5, 1020.25), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def geometry(size: tuple[int, int, int], spacing: list[float], origin: list[float], degrees: list[float]) -> Geometry:
    (i, j, k), (x, y, z) = spacing, origin
    return Geometry(size, (i, j, k), (x, y, z), tuple(rotation(degrees).ravel().tolist()))


grids = st.builds(
    geometry,
    st.tuples(*[st.integers(1, 512)] * 3),
    st.lists(st.floats(0.3, 6), min_size=3, max_size=3),
    st.lists(st.floats(-1500, 1500), min_size=3, max_size=3),
    st.lists(st.floats(-180, 180), min_size=3, max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(grid=grids)
def test_what_nifti_rounds_is_the_same_grid(grid: Geometry, tmp_path_factory: pytest.TempPathFactory) -> None:
    """NIfTI headers have 32-bit floats; a file of few voxels shows how they round grids of any size."""
    image = sitk.Image(2, 2, 2, sitk.sitkUInt8)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    path = str(tmp_path_factory.getbasetemp() / "rounded.nii")
    sitk.WriteImage(image, path)
    rounded = replace(image_geometry(sitk.ReadImage(path)), size=grid.size)
    assert grid_difference(grid, rounded) is None
    assert grid_difference(rounded, grid) is None


@settings(max_examples=200, deadline=None)
@given(grid=grids, axis=st.integers(0, 2), sign=st.sampled_from([-1, 1]), moved=st.floats(0.06, 0.45))
def test_a_far_corner_that_moved_is_another_grid(grid: Geometry, axis: int, sign: int, moved: float) -> None:
    spacing = list(grid.spacing)
    # The far corner lies half a voxel beyond the centre of the last voxel.
    spacing[axis] *= 1 + sign * moved / (grid.size[axis] - 0.5)
    i, j, k = spacing
    assert (grid_difference(grid, replace(grid, spacing=(i, j, k))) or "same").startswith("spacing")
    x, y, z = (grid.axes_mm @ np.eye(3)[axis] * sign * moved + grid.origin).tolist()
    assert (grid_difference(grid, replace(grid, origin=(x, y, z))) or "same").startswith("origin")


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"spacing": (0.70069, 0.70069, 5.0)}, r"spacing \(0\.70069, 0\.70069, 5\.0\) and \(0\.7, 0\.7, 5\.0\) mm"),
        (
            {"direction": tuple(rotation([0, 0, 0.03]).ravel().tolist())},
            r"direction \(1\.0, -0\.000524, .* and \(1, 0, ",
        ),
        ({"direction": tuple(rotation([0.01, 0, 0]).ravel().tolist())}, "direction"),
        ({"origin": (-179.9, -160.5, 1020.25)}, r"origin \(-179\.9, -160\.5, 1020\.25\) and \(-180"),
        ({"direction": (1, 0, 0, 0, 1, 0, 0, 0, -1)}, "direction"),
        ({"direction": (1, 0, 0, 0, 1, 0, 0, 0, -1), "origin": (-180.0, -160.5, 1515.75)}, "direction"),
    ],
    ids=["half a voxel at the far corner", "turned", "tilted", "moved", "flipped in place", "flipped and moved"],
)
def test_a_labelmap_of_another_grid_is_refused(changes: dict[str, tuple[float, ...]], difference: str) -> None:
    # Broadcast arrays need no memory for their voxels.
    image = Volume(np.broadcast_to(np.uint8(0), CT.shape), CT, "ct")
    labelmap = Volume(np.broadcast_to(np.uint8(1), CT.shape), replace(CT, **changes), "label")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"label and the image ct lie on different grids \({difference}"):
        match_grid(labelmap, image)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("cropped", [False, True])
def test_a_labelmap_whose_axes_run_otherwise_is_put_in_order(
    axes: tuple[int, int, int], flips: tuple[bool, bool, bool], cropped: bool
) -> None:
    """ITK's own filters reorder the axes, and leave each voxel at its place in the patient."""
    whole = geometry((6, 5, 4), [0.7, 0.8, 5.0], [-180.0, -160.5, 1020.25], [10.0, -20.0, 30.0])
    labels = np.zeros(whole.shape, np.uint8)
    labels[1:3, 1:4, 1:5] = np.random.default_rng(0).integers(0, 5, (2, 3, 4))
    turned = to_image(Volume(labels, whole, "label"))
    if cropped:
        turned = turned[1:, 1:4, :3]
    turned = sitk.Flip(sitk.PermuteAxes(turned, axes), flips)
    matched = match_grid(from_image(turned, "label"), Volume(np.zeros(whole.shape), whole, "ct"))
    assert np.array_equal(matched.array, labels)
    assert same_grid(matched.geometry, whole)


def test_a_crop_of_another_spacing_is_refused() -> None:
    whole = replace(CT, size=(512, 20, 4))
    image = Volume(np.zeros(whole.shape, np.uint8), whole, "ct")
    crop = replace(whole, size=(500, 10, 3))
    for spacing, same in (((0.7, 0.7, 5.0), True), ((0.70001, 0.7, 5.0), True), ((0.7002, 0.7, 5.0), False)):
        labelmap = Volume(np.ones(crop.shape, np.uint8), replace(crop, spacing=spacing), "label")
        if same:
            assert int(match_grid(labelmap, image).array.sum()) == 500 * 10 * 3
        else:
            with pytest.raises(InputError, match="different grids"):
                match_grid(labelmap, image)


def test_the_thickness_of_one_slice_is_part_of_its_grid() -> None:
    one = replace(CT, size=(512, 512, 1))
    assert same_grid(one, one)
    assert grid_difference(one, replace(one, spacing=(0.7, 0.7, 2.5))) is not None


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_values_of_any_type_are_read_if_they_are_whole(tmp_path: Path, kind: type[np.generic]) -> None:
    labels = np.zeros((4, 5, 6), kind)
    labels[1, 2:, 1:3], labels[3, 4, 5] = 2, 4
    path = tmp_path / "labels.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(path))
    assert np.array_equal(read_labelmap(path, ABDOMEN).array, labels)
    if np.issubdtype(kind, np.floating):
        labels[3, 4, 5] = 3.5
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(path))
        with pytest.raises(InputError, match="its voxels are not whole numbers"):
            read_labelmap(path, ABDOMEN)


@pytest.mark.parametrize("value", [1e20, -1e20, 2.0**31])
def test_a_value_that_no_label_has(tmp_path: Path, value: float) -> None:
    labels = np.ones((4, 5, 6))
    labels[1, 2, 3] = value
    path = tmp_path / "labels.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(path))
    for read in (lambda: read_labelmap(path, ABDOMEN), lambda: evaluate(path, path)):
        with pytest.raises(InputError, match=r"labels\.nrrd has a voxel of (1e\+20|2\.1\d+e\+09), which is no label"):
            read()
    sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 5, 6), 2**64 - 1, np.uint64)), str(path))
    with pytest.raises(InputError, match="label codes 18446744073709551615, which are not in the task"):
        read_labelmap(path, ABDOMEN)


def test_labels_stored_as_floats_of_64_bits_need_little_memory(tmp_path: Path) -> None:
    labels = np.zeros((60, 100, 100))
    labels[10:20, 30:50, 30:50] = 2
    path = tmp_path / "labels.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(path), useCompression=True)
    tracemalloc.start()
    try:
        read = read_labelmap(path, ABDOMEN)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(read.array, labels)
    # 32-bit floats, 32-bit integers, the result, and a mask of one value.
    assert peak < 11 * labels.size
