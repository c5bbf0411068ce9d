"""Voxels of segments on a volume's grid: reading them from the layers gives the same as an export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import slicer
import vtk

SHAPE = (10, 12, 14)
SPACING = (0.8, 0.9, 2.5)


@pytest.fixture(autouse=True)
def module(load_module: Any) -> Any:
    return load_module("SIFASegmentation")


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Slicer's export; until a test allows more, only the test itself may call it."""
    original = slicer.util.arrayFromSegmentBinaryLabelmap

    def refuse(*_arguments: Any) -> None:
        raise AssertionError("exported")

    monkeypatch.setattr(slicer.util, "arrayFromSegmentBinaryLabelmap", refuse)
    return original


def matrix_of(start: tuple[int, ...] = (0, 0, 0), spacing: tuple[float, ...] = SPACING) -> Any:
    """IJK to RAS of an oblique grid whose first voxel is the voxel `start` (i, j, k) of the common one."""
    turn = vtk.vtkTransform()
    turn.RotateZ(30)
    turn.RotateX(15)
    directions = slicer.util.arrayFromVTKMatrix(turn.GetMatrix())[:3, :3]
    matrix = np.eye(4)
    matrix[:3, :3] = directions * spacing
    matrix[:3, 3] = (-20.3, 31.7, 5.1) + directions * SPACING @ start
    return slicer.util.vtkMatrixFromArray(matrix)


def make_volume(shape: tuple[int, ...] = SHAPE, **matrix: Any) -> Any:
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.util.updateVolumeFromArray(volume, np.zeros(shape, np.int16))
    volume.SetIJKToRASMatrix(matrix_of(**matrix))
    return volume


def boxes(shape: tuple[int, ...] = SHAPE) -> dict[str, np.ndarray]:
    """Three masks: the liver and the spleen, which are apart, and the left kidney, which overlaps both."""
    masks = {name: np.zeros(shape, np.uint8) for name in ("liver", "spleen", "left kidney")}
    masks["liver"][2:6, 3:8, 2:6] = 1
    masks["spleen"][4:9, 3:9, 8:12] = 1
    masks["left kidney"][3:8, 4:9, 3:11] = 1
    return masks


def draw(volume: Any, masks: dict[str, np.ndarray]) -> Any:
    """Make a segmentation of masks on the grid of a volume; masks that overlap are put into separate layers."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name, mask in masks.items():
        node.GetSegmentation().AddEmptySegment(name, name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, name, volume)
    # As Slicer does after drawing.
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    return node


def move(node: Any, *, angle: float = 10) -> str:
    """Put a node under a linear transform; return the transform's ID."""
    transform = vtk.vtkTransform()
    transform.RotateY(angle)
    transform.Translate(1, 2, 3)
    above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    above.SetMatrixTransformToParent(transform.GetMatrix())
    node.SetAndObserveTransformNodeID(above.GetID())
    return above.GetID()


def masks_of(node: Any, volume: Any) -> dict[str, np.ndarray]:
    from SIFASegmentationWidgets.part_voxels import voxels_of  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import parts_of  # noqa: PLC0415

    whole = tuple(slice(0, length) for length in slicer.util.arrayFromVolume(volume).shape)
    return {key: voxels.mask(whole) for key, voxels in voxels_of(node, [part.key for part in parts_of(node)], volume)}


def assert_as_exported(node: Any, volume: Any, export: Callable[..., Any]) -> None:
    """The masks of a segmentation are those that Slicer's export gives, and none of them is empty."""
    found = masks_of(node, volume)
    assert list(found) == list(node.GetSegmentation().GetSegmentIDs())
    for key, mask in found.items():
        assert np.array_equal(mask, export(node, key, volume) > 0), key
        assert mask.any()


def test_segments_on_the_grid_are_read_where_they_lie(export: Any) -> None:
    volume = make_volume()
    node = draw(volume, boxes())
    assert node.GetSegmentation().GetNumberOfLayers() == 2
    shared = slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, "liver")
    assert set(np.unique(shared)) == {0, 1, 2}
    cropped = slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, "left kidney")
    assert cropped.shape == (5, 5, 8)
    assert_as_exported(node, volume, export)
    for key, mask in masks_of(node, volume).items():
        assert np.array_equal(mask, boxes()[key])


@pytest.mark.parametrize("start", [(3, -2, 4), (-20, 0, 0), (9, 5, -1)], ids=["beyond", "outside", "cut"])
def test_segments_are_read_on_a_grid_shifted_by_whole_voxels(export: Any, start: tuple[int, int, int]) -> None:
    volume = make_volume((8, 9, 7), start=start)
    node = draw(make_volume(), boxes())
    i, j, k = start
    whole = np.pad(np.stack(list(boxes().values())), [(0, 0), *[(30, 30)] * 3])
    expected = whole[:, 30 + k : 38 + k, 30 + j : 39 + j, 30 + i : 37 + i]
    for (key, mask), right in zip(masks_of(node, volume).items(), expected, strict=True):
        assert np.array_equal(mask, right), key
        assert np.array_equal(mask, export(node, key, volume) > 0), key


def test_a_common_transform_changes_nothing(export: Any) -> None:
    volume = make_volume()
    node = draw(volume, boxes())
    node.SetAndObserveTransformNodeID(move(volume))
    assert_as_exported(node, volume, export)


@pytest.mark.parametrize("which", ["volume", "segmentation", "finer", "turned", "surfaces"])
def test_what_does_not_lie_on_the_grid_is_exported(export: Any, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make_volume()
    drawn_on = volume
    if which == "finer":
        drawn_on = make_volume(spacing=tuple(length / 2 for length in SPACING))
    elif which == "turned":
        drawn_on = make_volume((SHAPE[0], SHAPE[2], SHAPE[1]))
        matrix = slicer.util.arrayFromVTKMatrix(matrix_of())[:, [1, 0, 2, 3]]
        drawn_on.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    node = draw(drawn_on, boxes(slicer.util.arrayFromVolume(drawn_on).shape))
    if which == "surfaces":
        node.CreateClosedSurfaceRepresentation()
        name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        node.GetSegmentation().SetSourceRepresentationName(name)
        node.CreateBinaryLabelmapRepresentation()
    elif which in ("volume", "segmentation"):
        move(volume if which == "volume" else node, angle=4)
    exported: list[str] = []

    def count(node: Any, key: str, volume: Any) -> Any:
        exported.append(key)
        return export(node, key, volume)

    monkeypatch.setattr(slicer.util, "arrayFromSegmentBinaryLabelmap", count)
    assert_as_exported(node, volume, export)
    assert exported == list(boxes())


def test_an_empty_segment_has_no_voxel(export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make_volume()
    node = draw(volume, boxes())
    node.GetSegmentation().AddEmptySegment("shared", "shared")
    alone = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "alone")
    alone.GetSegmentation().AddEmptySegment("nothing", "nothing")
    assert not masks_of(node, volume)["shared"].any()
    monkeypatch.setattr(slicer.util, "arrayFromSegmentBinaryLabelmap", export)
    assert not masks_of(alone, volume)["nothing"].any()


@pytest.mark.parametrize("order", [("liver", "spleen", "left kidney"), ("liver", "left kidney", "spleen")])
def test_of_segments_that_overlap_the_later_one_has_the_voxel(export: Any, order: tuple[str, ...]) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415

    volume, task, masks = make_volume(), load_task("abdomen"), boxes()
    node = draw(volume, masks)
    for index, key in enumerate(order):
        node.GetSegmentation().SetSegmentIndex(key, index)
    found = labels_from_node(node, volume, task)
    expected, overlap = np.zeros(SHAPE, np.uint8), 0
    for name in order:
        overlap += np.count_nonzero(expected[masks[name] > 0])
        expected[masks[name] > 0] = task.structure_named(name).value
    assert np.array_equal(found.array, expected)
    assert overlap > 0
    assert found.notes == (f"segments of drawn overlap in {overlap} voxels, which go to the later one",)


def test_volumes_of_structures_are_counted_in_the_layers(export: Any, module: Any) -> None:
    volume = make_volume()
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415

    task = load_task("abdomen")
    structures = [s.model_copy(update={"name": name}) for s, name in zip(task.structures, boxes(), strict=False)]
    task = task.model_copy(update={"structures": tuple(structures)})
    from SIFASegmentationWidgets.scores_of_nodes import volume_rows  # noqa: PLC0415

    rows = volume_rows(draw(volume, boxes()), volume, task, "")
    ml = float(np.prod(SPACING)) / 1000
    assert {row.structure: row.scores.prediction_ml for row in rows} == pytest.approx(
        {name: mask.sum() * ml for name, mask in boxes().items()}
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_the_parts_of_a_labelmap_are_the_values_in_it(dtype: Any) -> None:
    from SIFASegmentationWidgets.structures_of_nodes import parts_of  # noqa: PLC0415

    array = np.zeros(SHAPE, dtype)
    array[0, 0, 0], array[3, 4, 5:9], array[-1, -1, -1] = 7, 120, 3
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(node, array)
    assert [part.key for part in parts_of(node)] == ["3", "7", "120"]
    # After a change in place, what is remembered of a labelmap must be that of its new voxels.
    slicer.util.arrayFromVolume(node)[0, 0, 1] = 9
    slicer.util.arrayFromVolumeModified(node)
    assert [part.key for part in parts_of(node)] == ["3", "7", "9", "120"]
    slicer.util.updateVolumeFromArray(node, np.zeros(SHAPE, dtype))
    assert parts_of(node) == []
