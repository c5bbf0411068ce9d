"""SIFASegmentation with what people really give it: wrong references, other scenes, volumes that can't be used."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import vtk

from clicks import begin, choose, use_sample
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from timers import every_turn

pytest.importorskip("pydantic", reason="the module installs it at the first use")
pytest.importorskip("onnxruntime", reason="the module installs it at the first use")


def names_of(node: Any) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetSegment(key).GetName() for key in segmentation.GetSegmentIDs()]


def segmentation_of(volume: Any, name: str, parts: dict[str, tuple[slice, slice, slice]], entry: str = "") -> Any:
    """A segmentation with boxes (k, j, i) as segments, drawn on a volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for part, box in parts.items():
        key = node.GetSegmentation().AddEmptySegment(part, part)
        mask = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
        mask[box] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, key, volume)
        if entry:
            segment = node.GetSegmentation().GetSegment(key)
            segment.SetTag(segment.GetTerminologyEntryTagName(), entry)
    return node


def box(start: int, size: int = 4) -> tuple[slice, slice, slice]:
    return (slice(start, start + size),) * 3


def column(table: Any, index: int) -> list[str]:
    return [table.GetCellText(row, index) for row in range(table.GetNumberOfRows())]


def test_another_scene_opened_meanwhile_gets_nothing_of_it(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    volume, _reference = patient
    shape, first_id = slicer.util.arrayFromVolume(volume).shape, volume.GetID()
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "output")
    output_id = output.GetID()
    module.ui.outputSelector.setCurrentNode(output)
    run = begin(module, volume)
    assert run is not None
    slicer.mrmlScene.Clear()
    # The nodes of the next scene get the IDs of those in the last one.
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "other patient")
    slicer.util.updateVolumeFromArray(other, np.zeros(shape, np.int16))
    drawn = []
    while not drawn or drawn[-1].GetID() != output_id:
        drawn.append(segmentation_of(other, "by hand", {"tumour": box(3)}))
    assert other.GetID() == first_id
    process_events_until(lambda: module.widget.run is None, 60)
    assert all(names_of(node) == ["tumour"] for node in drawn)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == drawn
    assert "its volume is gone or was changed" in module.ui.statusLabel.text
    assert list((run.job.folder / "result").glob("*_segmentation.mha"))
    assert not (run.job.folder / "input").exists()


def test_an_output_that_is_a_reference_is_refused(module: Any, patient: tuple[Any, Any], sample_model: Path) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415

    volume, reference = patient
    use_sample(module)
    choose(module, volume, None, reference)
    module.ui.outputSelector.setCurrentNode(reference)
    assert not module.ui.applyButton.enabled
    assert "is also used as a reference" in module.ui.applyButton.toolTip
    with pytest.raises(InputError, match="SIFAAbdomenCT reference is also used as a reference"):
        module.logic.start([module.python.InputRow(volume, None, reference)], sample_model, output=reference)
    module.ui.outputSelector.setCurrentNode(None)
    assert module.ui.applyButton.enabled


def test_a_reference_that_can_not_be_used_takes_no_other_scores_away(
    module: Any, patient: tuple[Any, Any], load_sample: Any, process_events_until: Any
) -> None:
    volume, reference = patient
    second, _its_reference = load_sample("SIFAAbdomenCT", 101)
    odd = segmentation_of(second, "odd", {"tumour": box(3)})
    use_sample(module)
    choose(module, volume, None, reference)
    module.widget.volumes.add(second, None, odd)
    module.ui.applyButton.click()
    process_events_until(lambda: module.widget.run is None, 120)
    table = slicer.util.getNode("SIFA scores")
    notes, dice = column(table, 10), column(table, 2)
    assert all(0 < float(value) <= 1 for value in dice[:4])
    assert dice[4:8] == ["-"] * 4
    assert all("odd has the parts tumour, none of which is a structure" in note for note in notes[4:8])


def test_what_was_not_found_is_told(module: Any, patient: tuple[Any, Any], process_events_until: Any) -> None:
    volume, _reference = patient
    found = segmentation_of(volume, "found", {"liver": box(5)})
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.scores_of_nodes import volume_rows  # noqa: PLC0415

    rows = volume_rows(found, volume, load_task("abdomen"), "no reference")
    assert [(row.structure, row.note) for row in rows] == [
        ("liver", "no reference"),
        *((name, "not found; no reference") for name in ("right kidney", "left kidney", "spleen")),
    ]
    assert [row.scores.prediction_ml > 0 for row in rows] == [True, False, False, False]


def test_a_volume_that_can_not_be_used_does_not_end_the_others(
    module: Any, patient: tuple[Any, Any], sample_model: Path, process_events_until: Any
) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415

    before = set(Path(slicer.app.temporaryPath).glob("SIFA-*"))
    volume, _reference = patient
    flat = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "flat")
    slicer.util.updateVolumeFromArray(flat, np.full((4, 16, 16), 7, np.int16))
    use_sample(module)
    choose(module, flat)
    module.widget.volumes.add(volume)
    module.ui.applyButton.click()
    process_events_until(lambda: module.widget.run is None, 120)
    assert module.ui.statusLabel.text.startswith("1 of 2 volumes are done. ")
    assert "flat" in module.ui.statusLabel.text
    assert slicer.util.getNode("SIFAAbdomenCT segmentation")
    results = module.logic.process([flat, volume], sample_model)
    assert ["flat" in result.error for result in results] == [True, False]
    assert [result.segmentation is None for result in results] == [True, False]
    with pytest.raises(InputError, match="flat"):
        module.logic.process([flat], sample_model)
    # A failed job keeps its log, but no patient's volume.
    (kept,) = set(Path(slicer.app.temporaryPath).glob("SIFA-*")) - before
    assert (kept / "log.txt").exists()
    assert not list(kept.rglob("*.mha"))


def test_a_result_that_can_not_be_shown_is_kept(
    module: Any, patient: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, process_events_until: Any
) -> None:
    def no_room(_path: Path) -> Any:
        raise MemoryError

    from SIFASegmentationWidgets import segmentation_run  # noqa: PLC0415

    monkeypatch.setattr(segmentation_run, "_voxels_of_file", no_room)
    run = begin(module, patient[0])
    process_events_until(lambda: module.widget.run is None, 60)
    text = module.ui.statusLabel.text
    assert text.startswith("Segmented in ")
    assert f"could not be put there, see the error log. Its labelmap is kept in {run.job.folder}" in text
    assert list((run.job.folder / "result").glob("*_segmentation.mha"))


def test_cancelling_while_volumes_are_written_leaves_nothing(
    module: Any, patient: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib import metaimage  # noqa: PLC0415

    monkeypatch.setattr(metaimage, "PORTION_BYTES", 1)
    before = set(Path(slicer.app.temporaryPath).glob("SIFA-*"))
    use_sample(module)
    choose(module, patient[0])
    timer = every_turn(lambda: module.ui.cancelButton.click())  # noqa: PLW0108  PythonQt and a bound method
    module.ui.applyButton.click()
    timer.stop()
    assert module.widget.run is None
    assert module.ui.statusLabel.text == "Cancelled."
    assert module.ui.applyButton.enabled
    assert set(Path(slicer.app.temporaryPath).glob("SIFA-*")) == before


def test_probabilities_are_no_images_to_segment(module: Any, patient: tuple[Any, Any], sample_model: Path) -> None:
    options = module.python.RunOptions(SegmentationOptions(probabilities=True), surfaces=False)
    (result,) = module.logic.process([patient[0]], sample_model, options)
    assert len(result.probabilities) == 5
    module.ui.addAllButton.click()
    assert module.ui.volumesTable.rowCount == 1


def test_a_table_that_was_removed_comes_back_and_bars_need_a_dice(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    begin(module, patient[0])
    process_events_until(lambda: module.widget.run is None, 60)
    ui = module.ui
    assert not ui.plotButton.enabled
    assert "without a reference" in ui.plotButton.toolTip
    assert ui.copyButton.toolTip == "Copy the table to the clipboard, for a spreadsheet."
    rows = slicer.util.getNode("SIFA scores").GetNumberOfRows()
    slicer.mrmlScene.RemoveNode(slicer.util.getNode("SIFA scores"))
    ui.showTableButton.click()
    assert slicer.util.getNode("SIFA scores").GetNumberOfRows() == rows > 0


def test_equal_terminology_is_decided_by_names(module: Any, patient: tuple[Any, Any]) -> None:
    mass = "Segmentation category and type~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^~^^~"
    volume = patient[0]
    first = segmentation_of(volume, "first", {"tumour core": box(3), "tumour edge": box(12)}, mass)
    second = segmentation_of(volume, "second", {"tumour edge": box(12), "tumour core": box(3)}, mass)
    table = module.logic.compare(first, second)
    assert [(row.structure, row.scores.dice) for row in table.rows] == [("tumour core", 1.0), ("tumour edge", 1.0)]


def test_names_are_matched_as_people_write_them_and_what_is_alone_is_told(
    module: Any, patient: tuple[Any, Any]
) -> None:
    volume = patient[0]
    first = segmentation_of(volume, "first", {"kidney_right": box(3), "liver": box(12)})
    second = segmentation_of(volume, "second", {"Right kidney": box(3), "spleen": box(20)})
    table = module.logic.compare(first, second)
    assert [(row.structure, row.scores.dice) for row in table.rows] == [("kidney_right", 1.0)]
    assert table.unmatched == ("liver", "spleen")


def test_a_structure_of_a_task_with_one_code_for_two_goes_by_its_name(module: Any, patient: tuple[Any, Any]) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415

    task = load_task("abdomen")
    same = [s.model_copy(update={"terminology": task.structures[0].terminology}) for s in task.structures]
    task = task.model_copy(update={"structures": tuple(same)})
    entry = task.structures[0].terminology.entry
    node = segmentation_of(patient[0], "node", {"spleen": box(3, 2), "left kidney": box(12, 3)}, entry)
    labels = labels_from_node(node, patient[0], task).array
    assert np.bincount(labels.ravel(), minlength=5)[1:].tolist() == [0, 0, 27, 8]


def test_the_generic_tissue_says_nothing_of_what_a_segment_is(module: Any, patient: tuple[Any, Any]) -> None:
    from SIFASegmentationLib.structures import Task, load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import Part, structure_of  # noqa: PLC0415

    tissue = "list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~list~^^~^^"
    content = load_task("abdomen").model_dump()
    code = {"code": "85756007", "meaning": "Tissue"}
    content["structures"] = [
        {**content["structures"][0], "name": "tumour", "aliases": (), "terminology": {"category": code, "type": code}}
    ]
    task = Task.model_validate({**content, "label_codes": {}})
    assert structure_of(Part("1", "liver", tissue), task) is None
    assert structure_of(Part("1", "Tumour", tissue), task) == task.structures[0]


def test_segmentations_whose_volume_is_not_loaded_are_compared_on_the_grid_that_they_remember(
    module: Any, patient: tuple[Any, Any]
) -> None:
    volume, reference = patient
    # As loaded from a file: its geometry is known, its volume is not.
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "copy")
    copy.GetSegmentation().DeepCopy(reference.GetSegmentation())
    expected = module.logic.compare(reference, copy)
    slicer.mrmlScene.RemoveNode(volume)
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    table = module.logic.compare(reference, copy)
    assert table == expected
    assert [row.scores.dice for row in table.rows] == [1.0] * 4
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


@pytest.mark.parametrize("as_labelmap", [False, True])
@pytest.mark.parametrize("oblique", [False, True])
def test_what_lies_outside_of_a_cropped_volume_is_compared_as_well(
    module: Any, as_labelmap: bool, oblique: bool
) -> None:
    whole, crop = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in ("whole", "crop"))
    slicer.util.updateVolumeFromArray(whole, np.zeros((40, 20, 24), np.int16))
    slicer.util.updateVolumeFromArray(crop, np.zeros((20, 20, 24), np.int16))
    matrix = vtk.vtkTransform()
    matrix.RotateX(20 if oblique else 0)
    matrix.Scale(2, 2, 3)
    whole.SetIJKToRASMatrix(matrix.GetMatrix())
    matrix.Translate(0, 0, 10)
    crop.SetIJKToRASMatrix(matrix.GetMatrix())
    box = slice(4, 12), slice(6, 18)
    long = segmentation_of(whole, "long", {"liver": (slice(5, 35), *box)})
    short = segmentation_of(crop, "short", {"liver": (slice(0, 20), *box)})
    if as_labelmap:
        long, short = (as_labels(node, volume) for node, volume in ((long, whole), (short, crop)))
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    for first, second in ((short, long), (long, short)):
        (row,) = module.logic.compare(first, second).rows
        assert row.scores.dice == pytest.approx(2 * 20 / (20 + 30))
        volumes = sorted([row.scores.prediction_ml, row.scores.reference_ml])
        assert volumes == pytest.approx([slices * 8 * 12 * 0.012 for slices in (20, 30)])
        assert ("was extended" in row.note) == (first is short)
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def as_labels(node: Any, volume: Any) -> Any:
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", f"{node.GetName()} labels")
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    labels.SetIJKToRASMatrix(matrix)
    voxels = slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), volume)
    slicer.util.updateVolumeFromArray(labels, voxels)
    return labels


def surface_of(name: str, **spheres: tuple[float, float, float] | None) -> Any:
    """A segmentation of closed surfaces: spheres of radius 9 about centres (RAS), or nothing for None."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    for part, centre in spheres.items():
        data = vtk.vtkPolyData()
        if centre is not None:
            sphere = vtk.vtkSphereSource()
            sphere.SetCenter(*centre)
            sphere.SetRadius(9)
            sphere.SetThetaResolution(32)
            sphere.SetPhiResolution(32)
            sphere.Update()
            data.DeepCopy(sphere.GetOutput())
        segment = slicer.vtkSegment()
        segment.SetName(part)
        segment.AddRepresentation("Closed surface", data)
        node.GetSegmentation().AddSegment(segment, part)
    return node


def cube(name: str, size: int = 24, angle: float = 0.0) -> Any:
    """A volume of 1 mm about the origin, turned about z."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.zeros((size,) * 3, np.int16))
    place = vtk.vtkTransform()
    place.RotateZ(angle)
    place.Translate(*[(1 - size) / 2] * 3)
    node.SetIJKToRASMatrix(place.GetMatrix())
    return node


def test_an_empty_surface_is_a_part_without_voxels(module: Any) -> None:
    volume = cube("volume")
    reference = surface_of("reference", liver=(0, 0, 0), spleen=None)
    reference.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    other = surface_of("other", liver=(0, 0, 0), spleen=(0, 0, 0))
    liver, spleen = module.logic.compare(other, reference).rows
    assert liver.scores.dice > 0.99  # Slicer voxelises each surface separately.
    assert spleen.note == "reference empty"


@pytest.mark.parametrize("kind", ["surface", "voxels"])
def test_what_fits_a_turned_volume_is_not_said_to_lie_outside(module: Any, kind: str) -> None:
    """Rotated boxes reach further than what is in them."""
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415

    node, turned = surface_of("ball", liver=(0, 0, 0)), cube("turned", angle=45)
    if kind == "voxels":
        straight = cube("straight")
        k, j, i = np.indices((24,) * 3) - 11.5
        ball = (k**2 + j**2 + i**2 < 81).astype(np.uint8)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "voxels")
        node.SetReferenceImageGeometryParameterFromVolumeNode(straight)
        node.GetSegmentation().AddEmptySegment("liver", "liver")
        slicer.util.updateSegmentBinaryLabelmapFromArray(ball, node, "liver", straight)
    labels = labels_from_node(node, turned, load_task("abdomen"))
    assert labels.array.any()
    assert [note for note in labels.notes if "outside" in note] == []
    small = cube("small", size=14, angle=45)
    (outside,) = [note for note in labels_from_node(node, small, load_task("abdomen")).notes if "outside" in note]
    assert outside.endswith("lies outside of small")


def test_segmentations_of_two_places_are_told_to_lie_far_apart(module: Any) -> None:
    here, far = cube("here"), cube("far")
    far.SetOrigin(20000, 20000, 0)
    parts = {"liver": (slice(4, 12),) * 3}
    (row,) = module.logic.compare(segmentation_of(here, "one", parts), segmentation_of(far, "other", parts)).rows
    assert "the two lie far apart" in row.note
    assert row.scores.dice == 0


def test_labels_below_zero_are_labels(module: Any) -> None:
    both = []
    for name in ("one", "other"):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
        slicer.util.updateVolumeFromArray(node, np.where(np.indices((6, 6, 6))[0] > 2, -2, 0).astype(np.int16))
        both.append(node)
    (row,) = module.logic.compare(*both).rows
    assert row.scores.dice == 1
    assert row.scores.prediction_ml > 0


def test_a_source_volume_without_its_image_is_said(module: Any) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415

    volume = cube("volume")
    parts = {"liver": (slice(4, 12),) * 3}
    one, other = segmentation_of(volume, "one", parts), segmentation_of(volume, "other", parts)
    volume.SetAndObserveImageData(None)
    with pytest.raises(InputError, match="volume holds no image"):
        module.logic.compare(one, other)


def test_a_reference_that_is_partly_elsewhere_is_noted(
    module: Any, patient: tuple[Any, Any], sample_model: Path
) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415

    volume, reference = patient
    above = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "above")
    slices = slicer.util.arrayFromVolume(volume)
    slicer.util.updateVolumeFromArray(above, slices[len(slices) // 2 :].copy())
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    for axis, at in enumerate(matrix.MultiplyPoint((0, 0, len(slices) // 2, 1))[:3]):
        matrix.SetElement(axis, 3, at)
    above.SetIJKToRASMatrix(matrix)
    task = load_task("abdomen")
    assert labels_from_node(reference, volume, task).notes == ()
    (note,) = labels_from_node(reference, above, task).notes
    assert note == "some of SIFAAbdomenCT reference lies outside of above"


def test_segments_of_one_structure_are_counted_together(module: Any, patient: tuple[Any, Any]) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.scores_of_nodes import volume_rows  # noqa: PLC0415

    volume, _reference = patient
    two = segmentation_of(volume, "two", {"liver": box(0), "Liver ": box(2)})
    two.GetSegmentation().AddEmptySegment("LIVER", "LIVER")
    voxel_ml = np.prod(volume.GetSpacing()) / 1000
    liver, *others = volume_rows(two, volume, load_task("abdomen"), "no reference")
    assert liver.scores.prediction_ml == pytest.approx((64 + 64 - 8) * voxel_ml)
    assert liver.note == "no reference"
    assert [row.note for row in others] == ["not found; no reference"] * 3


def test_an_output_of_another_volume_is_refused(module: Any, patient: tuple[Any, Any]) -> None:
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "other patient")
    slicer.util.updateVolumeFromArray(other, np.zeros((4, 16, 16), np.int16))
    use_sample(module)
    choose(module, patient[0])
    module.ui.outputSelector.setCurrentNode(segmentation_of(other, "result of another", {"liver": box(0)}))
    assert not module.ui.applyButton.enabled
    assert "result of another was drawn on other patient" in module.ui.applyButton.toolTip


def test_a_reference_with_some_of_the_structures_scores_those(
    module: Any, patient: tuple[Any, Any], sample_model: Path
) -> None:
    volume, reference = patient
    alone = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "liver alone")
    alone.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation = reference.GetSegmentation()
    alone.GetSegmentation().CopySegmentFromSegmentation(segmentation, segmentation.GetNthSegmentID(0))
    table = module.logic.evaluate([(reference, alone, volume)], sample_model)
    assert [(row.structure, row.note) for row in table.rows] == [
        ("liver", ""), *((name, "not in the reference") for name in ("right kidney", "left kidney", "spleen")),
    ]  # fmt: skip
    assert table.mean("dice") == 1.0
    assert table.rows[3].scores.prediction_ml > 0


def test_a_reference_that_lies_elsewhere_or_on_another_grid_is_noted(
    module: Any, patient: tuple[Any, Any], sample_model: Path
) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415

    volume, reference = patient
    task = load_task("abdomen")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    labels.SetSpacing(7, 7, 7)
    labels.SetOrigin(-70, -70, -70)
    slicer.util.updateVolumeFromArray(labels, np.ones((20, 20, 20), np.uint8))
    (_by_number, note) = labels_from_node(labels, volume, task).notes
    assert note == "labels resampled to the grid of SIFAAbdomenCT"
    labels.SetOrigin(5000, 0, 0)
    table = module.logic.evaluate([(reference, labels, volume)], sample_model)
    assert "liver of labels does not lie on SIFAAbdomenCT" in table.rows[0].note
    labels.SetAndObserveImageData(None)
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415

    with pytest.raises(InputError, match="labels holds no image"):
        module.logic.compare(labels, reference)


def test_what_slicer_can_not_export_is_said(
    module: Any, patient: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, process_events_until: Any
) -> None:
    def fails(*_arguments: Any) -> Any:
        raise RuntimeError("export")

    ui = module.ui
    ui.firstSelector.setCurrentNode(patient[1])
    ui.secondSelector.setCurrentNode(segmentation_of(patient[0], "second", {"liver": box(3)}))
    monkeypatch.setattr(sys.modules["SIFASegmentationWidgets.comparison"], "voxels_of", fails)
    ui.compareButton.click()
    process_events_until(lambda: ui.compareButton.enabled)
    assert "could not be compared: see the error log" in ui.statusLabel.text


def test_the_confidence_of_a_slice_is_at_its_place(module: Any, patient: tuple[Any, Any], sample_model: Path) -> None:
    volume, _reference = patient
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    slices = slicer.util.arrayFromVolume(volume).shape[0]
    upper_half = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "upper half")
    middle = (bounds[4] + bounds[5]) / 2
    upper_half.SetCenterWorld((bounds[0] + bounds[1]) / 2, (bounds[2] + bounds[3]) / 2, (middle + bounds[5]) / 2)
    upper_half.SetSizeWorld(bounds[1] - bounds[0], bounds[3] - bounds[2], bounds[5] - middle)
    (result,) = module.logic.process([volume], sample_model, regions=[upper_half])
    assert len(result.confidence) == slices
    assert result.slice_axis == 0
    seen = [index for index, value in enumerate(result.confidence) if value is not None]
    assert seen == list(range(slices // 2, slices))
    labels = slicer.util.arrayFromSegmentBinaryLabelmap(
        result.segmentation, result.segmentation.GetSegmentation().GetNthSegmentID(0), volume
    )
    assert set(np.flatnonzero(labels.any(axis=(1, 2)))) <= set(seen)
    from SIFASegmentationWidgets.shown_results import ShownResult  # noqa: PLC0415

    module.widget.results.take((ShownResult.of(result),))
    assert all(index in seen for _result, index, _value in module.widget.results.unsure_slices())


def test_warnings_stay_with_the_result(module: Any, load_sample: Any, process_events_until: Any) -> None:
    mr, _reference = load_sample("SIFAAbdomenMR")
    run = begin(module, mr)
    process_events_until(lambda: module.widget.run is None, 60)
    label = module.ui.warningsLabel
    assert "SIFAAbdomenMR" in label.text
    (result,) = run.results
    assert all(sentence in label.text for sentence in result.warnings)
    assert re.fullmatch(r"Segmented in \d+ s on (cpu|cuda)\.", module.ui.statusLabel.text)


def test_a_model_without_a_baseline_says_so_on_its_card(
    module: Any, patient: tuple[Any, Any], sample_model: Path, tmp_path: Path, process_events_until: Any
) -> None:
    from SIFASegmentationLib.bundle import manifest_json, read_bundle  # noqa: PLC0415

    shutil.copytree(sample_model, tmp_path / "model")
    manifest = read_bundle(sample_model).manifest
    files = {name: digest for name, digest in manifest.files.items() if "baseline" not in name}
    without = manifest.model_copy(update={"baseline": None, "files": files})
    (tmp_path / "model" / "manifest.json").write_text(manifest_json(without), encoding="utf-8")
    module.widget.use_model(tmp_path / "model")
    assert "no unadapted baseline" in module.ui.cardLabel.text
    choose(module, patient[0])
    assert module.ui.baselineCheckBox.checked
    module.ui.applyButton.click()
    run = module.widget.run
    assert run is not None, module.ui.statusLabel.text
    process_events_until(lambda: module.widget.run is None, 60)
    (result,) = run.results
    assert result.segmentation is not None
    assert result.baseline is None
    assert result.warnings == []


def test_one_volume_need_not_be_a_list(module: Any, patient: tuple[Any, Any], sample_model: Path) -> None:
    (result,) = module.logic.process(patient[0], sample_model)
    assert names_of(result.segmentation)


def test_the_row_that_is_selected_by_its_number_is_removed(module: Any, patient: tuple[Any, Any]) -> None:
    volume, reference = patient
    choose(module, volume)
    module.widget.volumes.add(None, None, reference)
    table = module.ui.volumesTable
    table.selectRow(0)
    module.ui.removeRowButton.click()
    assert [row[2] for row in module.widget.volumes.nodes()] == [reference]


def test_pip_keeps_what_slicer_runs_on(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SIFASegmentationWidgets import dependencies  # noqa: PLC0415

    packaging = importlib.import_module("slicer.packaging")
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def fail(_packages: list[str], **options: Any) -> None:
        calls.append((options.pop("constraints").read_text(encoding="utf-8").splitlines(), options))
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(packaging, "pip_ensure", fail)
    answers, questions = [False, True], []

    def answer(question: str, _title: str) -> bool:
        questions.append(question)
        return answers.pop(0)

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", answer)
    packages = ["numpy>=1", "pydantic>=99"]
    with pytest.raises(subprocess.CalledProcessError):
        dependencies._install(packages, "a test")
    assert len(calls) == 1
    with pytest.raises(subprocess.CalledProcessError):
        dependencies._install(packages, "a test")
    _declined, (kept, first), (less, second) = calls
    assert "numpy" in questions[0].partition("won't touch")[2]
    version = importlib.metadata.version
    assert f"numpy=={version('numpy')}" in kept
    assert f"typing-extensions=={version('typing_extensions')}" in kept
    # A package that is too old is not kept, but replaced.
    assert not any(line.startswith("pydantic==") for line in kept)
    assert len(kept) == len({line.partition("==")[0] for line in kept})
    assert first == {"requester": "a test"}
    # Packages that are loaded are never replaced.
    assert {line.partition("==")[0] for line in less} <= {"numpy", "scipy", "simpleitk"}
    assert f"numpy=={version('numpy')}" in less
    # The user is not asked twice whether to install.
    assert second == {"requester": "a test", "prompt_install": False}


def test_who_declines_is_not_sent_to_the_internet(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415
    from SIFASegmentationWidgets import dependencies  # noqa: PLC0415

    def decline(*_: Any, **_named: Any) -> None:
        raise RuntimeError("User declined package installation")

    monkeypatch.setattr(importlib.import_module("slicer.packaging"), "pip_ensure", decline)
    requirements = module.python.REQUIREMENTS
    with pytest.raises(InputError, match=r"^a test needs the Python packages .*: try again, and allow"):
        dependencies.ensure_packages(("no_such_package",), requirements, "a test")


def test_packages_that_are_too_old_are_installed(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415
    from SIFASegmentationWidgets import dependencies  # noqa: PLC0415

    requirements = tmp_path / "requirements.txt"
    requirements.write_text("numpy>=1\npydantic>=99\n")
    assert [line.split()[0] for line in dependencies.outdated_packages(requirements)] == ["pydantic"]
    asked: list[list[str]] = []
    monkeypatch.setattr(dependencies, "_install", lambda packages, _requester: asked.append(packages))
    with pytest.raises(InputError, match=r'-m pip install "numpy>=1" "pydantic>=99"'):
        dependencies.ensure_packages(("pydantic",), requirements, "a test")
    assert asked == [["numpy>=1", "pydantic>=99"]]
