"""Tests of SIFASegmentation on real MRML: nodes, processes, the window. The same file runs inside Slicer."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import qt
import slicer
import vtk

from clicks import begin, choose, use_sample
from pictures import picture
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from timers import every_turn

pytest.importorskip("pydantic", reason="the module installs it at the first use")
pytest.importorskip("onnxruntime", reason="the module installs it at the first use")


def rotate(volume: Any, shear: float = 0.0) -> Any:
    """Put a node under a rotation (and a shear), and return the transform node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "turn")
    transform = vtk.vtkTransform()
    transform.RotateZ(20)
    transform.Translate(5, -6, 7)
    matrix = transform.GetMatrix()
    matrix.SetElement(0, 1, matrix.GetElement(0, 1) + shear)
    node.SetMatrixTransformToParent(matrix)
    volume.SetAndObserveTransformNodeID(node.GetID())
    return node


def segments(node: Any) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetSegment(key).GetName() for key in segmentation.GetSegmentIDs()]


def test_a_result_has_names_colours_terminology_and_its_place(module: Any, patient: tuple[Any, Any]) -> None:
    volume, reference = patient
    assert segments(reference) == ["liver", "right kidney", "left kidney", "spleen"]
    segment = reference.GetSegmentation().GetSegment(reference.GetSegmentation().GetNthSegmentID(1))
    entry = vtk.mutable("")
    assert segment.GetTag("TerminologyEntry", entry)
    assert "64033007^Kidney" in str(entry)
    assert "24028007^Right" in str(entry)
    assert segment.GetColor() == pytest.approx((205 / 255, 92 / 255, 80 / 255), abs=1e-3)
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert reference.GetNodeReferenceID(role) == volume.GetID()
    names = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLNode")}
    assert not [name for name in names if "__sifa" in name]


def test_process_from_python_gives_what_the_library_gives(
    module: Any, patient: tuple[Any, Any], sample_model: Path
) -> None:
    from SIFASegmentationLib.bundle import read_bundle  # noqa: PLC0415
    from SIFASegmentationLib.segmentation import Segmentor  # noqa: PLC0415
    from SIFASegmentationWidgets.nodes import volume_from_node  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node, parts_of  # noqa: PLC0415

    volume, reference = patient
    bundle = read_bundle(sample_model)
    options = module.python.RunOptions(SegmentationOptions(probabilities=True), device="cpu", baseline=True)
    (result,) = module.logic.process([volume], sample_model, options)
    unadapted = Segmentor(bundle, "cpu", baseline=True).segment(volume_from_node(volume)).labelmap.array
    assert np.array_equal(labels_from_node(result.baseline, volume, bundle.manifest.task).array, unadapted)
    expected = Segmentor(bundle, "cpu").segment(volume_from_node(volume))
    assert not np.array_equal(unadapted, expected.labelmap.array)
    found = (
        labels_from_node(result.segmentation, volume, bundle.manifest.task).array
        if parts_of(result.segmentation)
        else np.zeros_like(expected.labelmap.array)
    )
    assert np.array_equal(found, expected.labelmap.array)
    assert result.confidence == pytest.approx(expected.confidence.tolist(), abs=1e-4)
    assert set(result.probabilities) == {"liver", "right kidney", "left kidney", "spleen", "highest"}
    assert result.baseline is not None
    table = module.logic.evaluate([(result.segmentation, reference, volume)], sample_model)
    assert [row.structure for row in table.rows] == ["liver", "right kidney", "left kidney", "spleen"]
    assert all(0 <= row.scores.dice <= 1 for row in table.rows)


def test_under_a_rotation_the_labels_stay_on_the_volume(module: Any, patient: tuple[Any, Any]) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.nodes import segmentation_from_labels  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415

    volume, reference = patient
    task = load_task("abdomen")
    before = labels_from_node(reference, volume, task).array
    transform = rotate(volume)
    after = segmentation_from_labels(before, volume, task, "turned")
    assert after.GetTransformNodeID() == transform.GetID()
    assert np.array_equal(labels_from_node(after, volume, task).array, before)


def test_transforms_that_can_not_be_used_are_refused_by_name(module: Any, patient: tuple[Any, Any]) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415
    from SIFASegmentationWidgets.nodes import volume_from_node  # noqa: PLC0415

    volume, _reference = patient
    rotate(volume, shear=0.3)
    with pytest.raises(InputError, match="SIFAAbdomenCT lies under a transform that shears it"):
        volume_from_node(volume)
    grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "grid")
    grid.SetAndObserveTransformToParent(slicer.vtkOrientedGridTransform())
    volume.SetAndObserveTransformNodeID(grid.GetID())
    with pytest.raises(InputError, match="not linear: harden it"):
        volume_from_node(volume)


def test_where_a_volume_lies_is_told_in_lps(module: Any) -> None:
    """Compares numbers, since the sample patients are placed with the same signs and would hide a wrong one."""
    from SIFASegmentationLib.volumes import Geometry  # noqa: PLC0415
    from SIFASegmentationWidgets.nodes import volume_from_node, world_point  # noqa: PLC0415

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "placed")
    slicer.util.updateVolumeFromArray(node, np.zeros((3, 4, 5), np.int16))
    node.SetSpacing(0.5, 0.75, 2.0)
    node.SetOrigin(10.0, -20.0, 30.0)
    expected = Geometry((5, 4, 3), (0.5, 0.75, 2.0), (-10.0, 20.0, 30.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert volume_from_node(node).geometry == expected
    assert world_point(node, (2, 1, 4)) == pytest.approx((12.0, -19.25, 34.0))


def test_a_region_is_a_box_in_lps(module: Any) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415
    from SIFASegmentationWidgets.nodes import region_from_node  # noqa: PLC0415

    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    with pytest.raises(InputError, match="box has no volume"):
        region_from_node(roi)
    roi.SetCenterWorld(10, 20, 30)
    roi.SetSizeWorld(4, 6, 8)
    box = region_from_node(roi)
    assert box.minimum == pytest.approx((-12, -23, 26))
    assert box.maximum == pytest.approx((-8, -17, 34))


def test_any_two_segmentations_are_compared_by_terminology_then_name(module: Any, patient: tuple[Any, Any]) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415

    volume, reference = patient
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "copy")
    copy.GetSegmentation().DeepCopy(reference.GetSegmentation())
    copy.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    copy.GetSegmentation().GetSegment(copy.GetSegmentation().GetNthSegmentID(0)).SetName("Leber")
    last = copy.GetSegmentation().GetSegment(copy.GetSegmentation().GetNthSegmentID(3))
    last.SetName("SPLEEN")
    last.RemoveTag("TerminologyEntry")
    table = module.logic.compare(copy, reference)
    assert [row.structure for row in table.rows] == ["Leber", "right kidney", "left kidney", "SPLEEN"]
    assert [row.scores.dice for row in table.rows] == [1.0] * 4
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    other.GetSegmentation().AddEmptySegment("tumour", "tumour")
    with pytest.raises(InputError, match=r"No segment of copy \(Leber, .*\) matches one of other"):
        module.logic.compare(copy, other)


def test_labelmap_nodes_are_references_too(module: Any, patient: tuple[Any, Any]) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415

    volume, reference = patient
    task = load_task("abdomen")
    labels = labels_from_node(reference, volume, task).array
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    slicer.util.updateVolumeFromArray(node, labels)
    found = labels_from_node(node, volume, task)
    assert np.array_equal(found.array, labels)
    assert "matched by number" in found.notes[0]


def test_samples_are_offered_as_sample_data_wants_them(
    module: Any, small_samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationWidgets.sample_data import COHORTS, SAMPLES, register_samples  # noqa: PLC0415

    registered = []
    logic = SimpleNamespace(registerCustomSampleDataSource=lambda **given: registered.append(given))
    monkeypatch.setitem(sys.modules, "SampleData", SimpleNamespace(SampleDataLogic=logic))
    register_samples()
    assert [given["sampleName"] for given in registered] == [*SAMPLES, *COHORTS]
    # Slicer checks this too: one file name for one address, both strings.
    assert all(isinstance(given[key], str) for given in registered for key in ("uris", "fileNames", "nodeNames"))
    small_samples(32)
    volume, _reference = registered[0]["customDownloader"](SimpleNamespace(sampleName="SIFAAbdomenCT"))
    assert volume.GetName() == "SIFAAbdomenCT"


# The window


def test_an_empty_window_says_what_to_do_first(module: Any) -> None:
    ui = module.widget.ui
    assert not ui.applyButton.enabled
    assert "Choose a volume first" in ui.applyButton.toolTip
    assert ui.applyButton.toolTip == ui.statusLabel.text
    assert "sample" in ui.modelComboBox.currentText
    assert ui.volumesTable.rowCount == 1
    disabled = [
        ui.copyButton, ui.exportButton, ui.showTableButton, ui.plotButton, ui.rescoreButton, ui.leastSureButton,
        ui.confidencePlotButton, ui.compareButton,
    ]  # fmt: skip
    for button in disabled:
        assert not button.enabled
        assert button.toolTip.startswith(("There is no ", "Choose "))
    assert not ui.compareButton.enabled
    picture(module, "segmentation_empty")


def test_the_volume_that_is_shown_is_chosen(module: Any, load_sample: Any) -> None:
    # The module was opened before there was a volume, and is opened again with two.
    first, _reference = load_sample("SIFAAbdomenCT")
    selection = slicer.app.applicationLogic().GetSelectionNode()
    selection.SetActiveVolumeID(first.GetID())
    second, _reference = load_sample("SIFAAbdomenCT", 101)
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    for view in views or [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")]:
        view.SetBackgroundVolumeID(second.GetID())
    module.widget.enter()
    assert [row[0] for row in module.widget.volumes.nodes()] == [second]
    # A choice once made is kept.
    slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0].SetBackgroundVolumeID(first.GetID())
    module.widget.enter()
    assert [row[0] for row in module.widget.volumes.nodes()] == [second]


def test_a_cohort_is_drawn_once_at_a_time_and_for_one_scene(module: Any, small_samples: Any) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415
    from SIFASegmentationWidgets import sample_data  # noqa: PLC0415

    small_samples(64)
    refused: list[str] = []

    def click_again() -> None:
        try:
            sample_data.load_cohort("SIFAHeartTraining", 1)
        except InputError as refusal:
            refused.append(str(refusal))

    timer = every_turn(click_again)
    nodes = sample_data.load_cohort("SIFAAbdomenTraining", 1)
    timer.stop()
    assert [node.GetClassName() for node in nodes].count("vtkMRMLScalarVolumeNode") == 2
    assert set(refused) == {"SIFAAbdomenTraining is still being drawn: wait for it."}
    timer = every_turn(lambda: slicer.mrmlScene.Clear(0))
    with pytest.raises(InputError, match="scene was closed while SIFAAbdomenTraining was drawn"):
        sample_data.load_cohort("SIFAAbdomenTraining", 1)
    timer.stop()
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_sample_data_are_drawn_while_the_window_lives_until_they_are_cancelled(
    module: Any, small_samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415
    from SIFASegmentationWidgets import sample_data  # noqa: PLC0415

    small_samples(64)
    make_dialog, dialogs, seen = slicer.util.createProgressDialog, list[Any](), list[tuple[str, int]]()

    def make(**named: Any) -> Any:
        dialogs.append(make_dialog(**named))
        return dialogs[-1]

    def look() -> None:
        seen.append((dialogs[0].labelText, dialogs[0].value))
        assert not dialogs[0].testAttribute(qt.Qt.WA_QuitOnClose)
        if dialogs[0].value == 1:
            dialogs[0].cancel()

    monkeypatch.setattr(slicer.util, "createProgressDialog", make)
    timer = every_turn(look)
    with pytest.raises(InputError, match="Drawing was cancelled"):
        sample_data.load_cohort("SIFAAbdomenTraining", 2)
    timer.stop()
    first, second = ("Drawing SIFAAbdomenMR 1...", 0), ("Drawing SIFAAbdomenMR 2...", 1)
    assert list(dict.fromkeys(seen)) == [first, second]
    assert seen.count(first) > 1
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")] == ["SIFAAbdomenMR 1"]
    # Sample Data shows no error message if the user has cancelled.
    monkeypatch.setattr(slicer.util, "errorDisplay", pytest.fail)

    def cancel() -> None:
        dialogs[-1].cancel()

    timer = every_turn(cancel)
    assert sample_data._download(SimpleNamespace(sampleName="SIFAAbdomenCT")) == []
    timer.stop()


def test_without_a_main_window_windows_may_come_and_go(module: Any) -> None:
    """With one, Slicer ends when the last window is closed, and a run with it."""
    if "standins" not in sys.modules:
        pytest.skip("it would close Slicer")
    from PySide6.QtWidgets import QApplication  # noqa: PLC0415

    assert slicer.util.mainWindow() is None
    QApplication.instance().lastWindowClosed.emit()
    assert module.widget._cancelled is None


@pytest.mark.usefixtures("main_window")
def test_closing_the_last_window_beside_a_main_window_counts_as_cancel(load_module: Any) -> None:
    if "standins" not in sys.modules:
        pytest.skip("it would close Slicer")
    from PySide6.QtWidgets import QApplication  # noqa: PLC0415

    module = load_module("SIFASegmentation")
    QApplication.instance().lastWindowClosed.emit()
    assert module.widget._cancelled is not None


def test_the_window_from_model_to_table(module: Any, patient: tuple[Any, Any], process_events_until: Any) -> None:
    volume, reference = patient
    ui = module.widget.ui
    use_sample(module)
    assert "liver" in ui.cardLabel.text
    assert "Choose a volume" in ui.applyButton.toolTip
    assert "Choose a volume" in ui.statusLabel.text
    choose(module, volume, None, reference)
    assert ui.applyButton.enabled
    assert ui.statusLabel.text == ""
    ui.baselineCheckBox.checked = True
    ui.applyButton.click()
    assert not ui.applyButton.enabled
    assert not ui.cancelButton.isHidden()
    process_events_until(lambda: module.widget.run is None, 60)
    assert ui.statusLabel.text.startswith("Segmented")
    assert ui.applyButton.enabled
    table = slicer.util.getNode("SIFA scores")
    assert table.GetNumberOfColumns() == 12
    assert [table.GetCellText(row, 1) for row in range(4)] == ["liver", "right kidney", "left kidney", "spleen"]
    methods = ["adapted", "without adaptation"]
    assert [table.GetCellText(row, 2) for row in range(8)] == [methods[0]] * 4 + [methods[1]] * 4
    # Statistics are separate for each method; those of a single subject are its own scores.
    means = [row for row in range(8, table.GetNumberOfRows()) if table.GetCellText(row, 0) == "mean"]
    livers = [row for row in means if table.GetCellText(row, 1) == "liver"]
    assert [table.GetCellText(row, 2) for row in livers] == methods
    assert [table.GetCellText(row, 3) for row in livers] == [table.GetCellText(row, 3) for row in (0, 4)]
    picture(module, "segmentation_scored")
    from SIFASegmentationWidgets.nodes import is_result  # noqa: PLC0415

    made = [slicer.util.getNode(f"SIFAAbdomenCT {kind}") for kind in ("segmentation", "without adaptation")]
    assert all(node.IsA("vtkMRMLSegmentationNode") and is_result(node) for node in made)
    assert ui.leastSureButton.enabled
    ui.leastSureButton.click()
    ui.plotButton.click()
    ui.confidencePlotButton.click()
    from SIFASegmentationWidgets.score_tables import series_of  # noqa: PLC0415

    dice, confidence = slicer.util.getNode("SIFA Dice"), slicer.util.getNode("SIFA confidence")
    # The automatic range of Slicer would cut off the first bars.
    assert (dice.GetXAxisRangeAuto(), dice.GetXAxisRange(), dice.GetYAxisRange()) == (False, (-0.5, 1.5), (0, 1))
    slices = slicer.util.arrayFromVolume(volume).shape[0]
    assert (confidence.GetXAxisRange(), confidence.GetYAxisRange()) == ((0, slices - 1), (0, 1))
    bars = series_of(dice)
    assert [one.GetName() for one in bars] == ["liver", "right kidney", "left kidney", "spleen", "mean"]
    assert bars[0].GetTableNode().GetNumberOfRows() == 2  # a bar of each method
    assert [one.GetName() for one in series_of(confidence)] == ["SIFAAbdomenCT"]
    ui.copyButton.click()
    assert "right kidney\t" in slicer.app.clipboard().text()
    slicer.mrmlScene.RemoveNode(volume)
    ui.leastSureButton.click()
    assert not ui.leastSureButton.enabled
    assert ui.leastSureButton.text == "Least sure slice"


def test_refined_in_the_window_is_what_the_library_gives_refined(
    module: Any, patient: tuple[Any, Any], sample_model: Path, process_events_until: Any
) -> None:
    from SIFASegmentationLib.bundle import read_bundle  # noqa: PLC0415
    from SIFASegmentationLib.segmentation import Segmentor  # noqa: PLC0415
    from SIFASegmentationWidgets.nodes import volume_from_node  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415

    volume, _reference = patient
    bundle = read_bundle(sample_model)
    module.widget.ui.refineCheckBox.checked = True
    module.widget.ui.appearanceCheckBox.checked = False
    run = begin(module, volume)
    process_events_until(lambda: module.widget.run is None, 60)
    (result,) = run.results
    found = labels_from_node(result.segmentation, volume, bundle.manifest.task).array
    segmentor, image = Segmentor(bundle, "cpu"), volume_from_node(volume)
    options = SegmentationOptions(appearance=False, refine=True)
    assert np.array_equal(found, segmentor.segment(image, options).labelmap.array)
    for other in ({"refine": True}, {"appearance": False}):
        assert not np.array_equal(found, segmentor.segment(image, SegmentationOptions(**other)).labelmap.array)


def test_what_speaks_against_a_structure_stands_in_its_row(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    volume, reference = patient
    use_sample(module)
    choose(module, volume, None, reference)
    module.widget.ui.applyButton.click()
    run = module.widget.run
    process_events_until(lambda: module.widget.run is None, 60)
    from SIFASegmentationLib.work import result_of  # noqa: PLC0415
    from SIFASegmentationWidgets.scores_of_nodes import score_results_in_pieces  # noqa: PLC0415
    from SIFASegmentationWidgets.shown_results import results_of  # noqa: PLC0415

    (result,) = run.results
    result.doubts = {"spleen": "nothing was found"}
    table = result_of(score_results_in_pieces(results_of(run), run.task, 2.0))
    notes = {row.structure: row.note for row in table.rows}
    assert notes["spleen"].endswith("nothing was found")
    assert "nothing was found" not in notes["liver"]


def test_a_corrected_result_is_scored_again(module: Any, patient: tuple[Any, Any], process_events_until: Any) -> None:
    volume, reference = patient
    ui = module.widget.ui
    assert not ui.rescoreButton.enabled
    run = begin(module, volume)
    process_events_until(lambda: module.widget.run is None, 60)
    assert isnan(module.widget.results.scores.rows[0].scores.dice)
    assert ui.rescoreButton.enabled
    assert ui.rescoreButton.text == "Score again"

    def score_again() -> dict[str, Any]:
        before = module.widget.results.scores
        ui.rescoreButton.click()
        process_events_until(lambda: module.widget.results.scores is not before, 60)
        assert ui.statusLabel.text == "Scored again."
        return {row.structure: row for row in module.widget.results.scores.rows}

    # A reference is chosen after the segmentation.
    choose(module, volume, None, reference)
    first = score_again()
    assert 0 < first["spleen"].scores.dice < 1
    assert first["spleen"].estimate is not None
    # The model's segmentation is corrected by hand.
    (result,) = run.results
    mended = result.segmentation.GetSegmentation()
    keys = {mended.GetSegment(key).GetName(): key for key in mended.GetSegmentIDs()}
    truth = reference.GetSegmentation()
    of_truth = {truth.GetSegment(key).GetName(): key for key in truth.GetSegmentIDs()}
    right = slicer.util.arrayFromSegmentBinaryLabelmap(reference, of_truth["spleen"], volume)
    slicer.util.updateSegmentBinaryLabelmapFromArray(right, result.segmentation, keys["spleen"], volume)
    assert ui.rescoreButton.text == "Score again: corrected since"
    second = score_again()
    assert second["spleen"].scores.dice == 1
    assert second["liver"].scores.dice == first["liver"].scores.dice
    # The model's estimates for its own result do not apply to a corrected one.
    assert all(row.estimate is None for row in second.values())
    assert ui.rescoreButton.text == "Score again"
    # A segment is removed.
    mended.RemoveSegment(keys["liver"])
    assert ui.rescoreButton.text == "Score again: corrected since"
    # The reference is removed as well.
    choose(module, volume, None, None)
    assert all(isnan(row.scores.dice) for row in score_again().values())
    slicer.mrmlScene.RemoveNode(result.segmentation)
    module.widget.results.refresh()
    assert not ui.rescoreButton.enabled


def test_a_result_that_was_corrected_before_the_run_ended_has_no_estimates(
    module: Any, patient: tuple[Any, Any], load_sample: Any, process_events_until: Any
) -> None:
    use_sample(module)
    choose(module, patient[0])
    module.widget.ui.addAllButton.click()
    load_sample("SIFAAbdomenMR")
    module.widget.ui.addAllButton.click()
    module.widget.ui.applyButton.click()
    run = module.widget.run
    process_events_until(lambda: run.results, 60)
    segmentation = run.results[0].segmentation.GetSegmentation()
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))
    process_events_until(lambda: module.widget.run is None, 60)
    estimates = {row.subject: row.estimate for row in module.widget.results.scores.rows if row.structure == "spleen"}
    assert estimates["SIFAAbdomenCT"] is None
    assert module.widget.ui.rescoreButton.text == "Score again"


def test_a_segment_that_is_deleted_while_surfaces_are_made_loses_nothing(module: Any, patient: tuple[Any, Any]) -> None:
    from SIFASegmentationWidgets.nodes import CLOSED_SURFACE, surfaces_in_pieces  # noqa: PLC0415

    segmentation = patient[1].GetSegmentation()
    segmentation.RemoveRepresentation(CLOSED_SURFACE)
    work = surfaces_in_pieces(patient[1])
    next(work)
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(2))
    assert list(work) == [None] * 3
    surfaces = [segmentation.GetSegment(key).GetRepresentation(CLOSED_SURFACE) for key in segmentation.GetSegmentIDs()]
    assert len(surfaces) == 3
    assert all(surface is not None for surface in surfaces)


def test_a_damaged_line_of_events_is_a_warning_and_no_fault(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    run = begin(module, patient[0])
    with run.job.events_path.open("ab") as file:
        file.write(b'{"time": 1.0, "kind": "prog\n')
    process_events_until(lambda: module.widget.run is None, 60)
    assert module.ui.statusLabel.text.startswith("Segmented")
    assert "events file is damaged" in module.ui.warningsLabel.text


def test_a_scene_closed_before_a_comparison_began_leaves_the_button(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    ui = module.ui
    for selector in (ui.firstSelector, ui.secondSelector):
        selector.setCurrentNode(patient[1])
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "copy")
    copy.GetSegmentation().DeepCopy(patient[1].GetSegmentation())
    ui.secondSelector.setCurrentNode(copy)
    ui.compareButton.click()
    slicer.mrmlScene.Clear()
    said, turns = ui.statusLabel.text, []
    process_events_until(lambda: turns.append(1) or len(turns) > 20, 10)
    assert ui.statusLabel.text == said
    assert slicer.util.getNodesByClass("vtkMRMLTableNode") == []
    assert not module.widget._comparing


def test_surfaces_and_names_are_no_corrections(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    from SIFASegmentationWidgets.nodes import state_of  # noqa: PLC0415

    run = begin(module, patient[0])
    process_events_until(lambda: module.widget.run is None, 60)
    (result,) = run.results
    state = state_of(result.segmentation)
    result.segmentation.CreateClosedSurfaceRepresentation()
    segmentation = result.segmentation.GetSegmentation()
    segmentation.GetSegment(segmentation.GetNthSegmentID(0)).SetName("hepar")
    segmentation.GetSegment(segmentation.GetNthSegmentID(0)).SetColor(1, 0, 0)
    assert state_of(result.segmentation) == state
    module.widget.results.refresh()
    assert module.widget.ui.rescoreButton.text == "Score again"


def test_scores_are_saved(module: Any, patient: tuple[Any, Any], tmp_path: Path, process_events_until: Any) -> None:
    _volume, reference = patient
    ui = module.widget.ui
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "copy")
    copy.Copy(reference)
    copy.SetName("copy")
    ui.firstSelector.setCurrentNode(copy)
    ui.secondSelector.setCurrentNode(reference)
    assert ui.compareButton.enabled
    ui.compareButton.click()
    assert ui.statusLabel.text == "Comparing..."
    assert not ui.compareButton.enabled
    process_events_until(lambda: ui.compareButton.enabled)
    assert ui.statusLabel.text == "Compared."
    # Each comparison has its own table, whose titles include the tolerance of surface Dice.
    table = slicer.util.getNode("SIFA comparison")
    titles = [table.GetColumnName(index) for index in range(table.GetNumberOfColumns())]
    assert "surface Dice (2 mm)" in titles
    module.logic.getParameterNode().tolerance = 3.0
    ui.compareButton.click()
    process_events_until(lambda: ui.compareButton.enabled)
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLTableNode")] == [
        "SIFA comparison",
        "SIFA comparison_1",
    ]
    assert "surface Dice (2 mm)" in [table.GetColumnName(index) for index in range(table.GetNumberOfColumns())]
    module.widget.results.save_scores(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text().startswith("subject,structure,dice")
    module.widget.results.save_scores(tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["rows"][0]["dice"] == 1.0
    module.widget.results.save_scores(tmp_path / "scores.docx")
    assert ".csv or .json" in ui.statusLabel.text


def test_a_plot_made_again_shows_what_it_is_given_now(module: Any) -> None:
    from SIFASegmentationWidgets.score_tables import make_line_plot, series_of  # noqa: PLC0415

    first = make_line_plot("slice", {"slice": [0.0, 1.0], "a": [0.5, 0.6]}, "plot", "Title")
    again = make_line_plot("slice", {"slice": [0.0, 1.0], "b": [0.7, 0.8]}, "plot", "Title")
    assert again.GetID() == first.GetID()
    assert [(one.GetName(), one.GetYColumnName()) for one in series_of(again)] == [("b", "b")]
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")) == 1
    many = make_line_plot("slice", {"slice": [0.0], **{str(index): [1.0] for index in range(9)}}, "many", "Title")
    assert len({one.GetColor() for one in series_of(many)}) == 9


def test_volumes_of_one_name_are_two_subjects(module: Any, patient: tuple[Any, Any], sample_model: Path) -> None:
    volume, reference = patient
    twin = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    twin.Copy(volume)
    twin.SetName(volume.GetName())
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    other.Copy(reference)
    other.SetName("other")
    table = module.logic.evaluate([(reference, reference, volume), (other, reference, twin)], sample_model)
    assert [row.subject for row in table.subject_means()] == ["SIFAAbdomenCT", "SIFAAbdomenCT (2)"]
    assert table.methods == [""]
    # Two segmentations of the same volume count as two methods.
    table = module.logic.evaluate([(reference, reference, volume), (other, reference, volume)], sample_model)
    assert table.methods == [reference.GetName(), "other"]
    assert [row.subject for row in table.subject_means()] == ["SIFAAbdomenCT"] * 2


def test_a_comma_in_a_note_stays_in_its_column_when_copied(module: Any) -> None:
    from math import nan  # noqa: PLC0415

    from SIFASegmentationLib.scores import (  # noqa: PLC0415
        Row,
        Scores,
        ScoreTable,
    )

    module.widget.results.scores = ScoreTable((Row("a", "liver", Scores(*[nan] * 7), "overlap, the later one has it"),))
    module.widget.ui.copyButton.enabled = True
    module.widget.ui.copyButton.click()
    assert slicer.app.clipboard().text().splitlines()[1].split("\t")[-1] == "overlap, the later one has it"


def test_cancel_leaves_no_process_and_says_so(module: Any, patient: tuple[Any, Any], process_events_until: Any) -> None:
    run = begin(module, patient[0])
    module.widget.ui.cancelButton.click()
    process_events_until(lambda: module.widget.run is None, 60)
    assert run.process.poll() is not None
    assert not run.job.folder.exists()
    assert module.widget.ui.statusLabel.text == "Cancelled; 0 of 1 volumes are done."


@pytest.mark.skipif(sys.platform == "win32", reason="a process is held up by a signal here")
def test_what_hangs_can_be_ended_by_a_second_click(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    ui = module.ui
    run = begin(module, patient[0])
    number = process_events_until(run.job.last_beat, 60)["process"]
    os.kill(number, signal.SIGSTOP)
    assert ui.cancelButton.text == "Cancel"
    ui.cancelButton.click()
    assert ui.cancelButton.text == "End now"
    # A double click counts as one click.
    ui.cancelButton.click()
    assert run.process.poll() is None
    module.widget._cancelled -= 2
    ui.cancelButton.click()
    process_events_until(lambda: module.widget.run is None, 60)
    assert ui.statusLabel.text == "Cancelled; 0 of 1 volumes are done."
    assert run.process.poll() is not None
    assert not run.job.folder.exists()
    assert ui.applyButton.enabled
    assert ui.cancelButton.isHidden()
    # The next run starts with a fresh button.
    begin(module, patient[0])
    assert ui.cancelButton.text == "Cancel"
    process_events_until(lambda: module.widget.run is None, 60)
    assert ui.statusLabel.text.startswith("Segmented")


def test_a_volume_deleted_meanwhile_loses_nothing(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    run = begin(module, patient[0])
    slicer.mrmlScene.RemoveNode(patient[0])
    process_events_until(lambda: module.widget.run is None, 60)
    assert (
        "A result could not be added to the scene: its volume is gone or was changed."
        in module.widget.ui.statusLabel.text
    )
    assert list((run.job.folder / "result").glob("*_segmentation.mha"))


def test_a_scene_closed_meanwhile_is_no_fault(module: Any, patient: tuple[Any, Any], process_events_until: Any) -> None:
    begin(module, patient[0])
    slicer.mrmlScene.Clear()
    process_events_until(lambda: module.widget.run is None, 60)
    assert module.widget.ui.volumesTable.rowCount == 1


def test_a_killed_process_is_told_with_its_log(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    from SIFASegmentationWidgets.processes import kill_process  # noqa: PLC0415

    begin(module, patient[0])
    kill_process(module.widget.run.process.pid)
    process_events_until(lambda: module.widget.run is None, 60)
    assert "log.txt" in module.widget.ui.statusLabel.text


def test_leaving_ends_the_process(module: Any, patient: tuple[Any, Any]) -> None:
    run = begin(module, patient[0])
    module.widget.cleanup()
    assert run.process.poll() is not None
    assert not run.job.folder.exists()


def job_folders() -> set[Path]:
    return set(Path(slicer.app.temporaryPath).glob("SIFA-*"))


@pytest.fixture
def small_portions(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have volumes written slice by slice."""
    from SIFASegmentationLib import metaimage  # noqa: PLC0415

    monkeypatch.setattr(metaimage, "PORTION_BYTES", 1)


def test_the_window_lives_while_volumes_are_written_and_starts_once(
    module: Any, patient: tuple[Any, Any], small_portions: None, process_events_until: Any
) -> None:
    ui, seen, before = module.ui, [], job_folders()
    use_sample(module)
    choose(module, patient[0])

    def click() -> None:
        seen.append((ui.statusLabel.text, ui.applyButton.enabled, ui.volumesTable.enabled))
        # Stands in for any change in the meantime.
        module.widget._refresh()
        ui.applyButton.click()

    timer = every_turn(click)
    ui.applyButton.click()
    timer.stop()
    run = module.widget.run
    assert [state[1:] for state in seen] == [(False, False)] * len(seen)
    turns = [text for text, *_enabled in seen].count("Preparing SIFAAbdomenCT...")
    assert turns >= slicer.util.arrayFromVolume(patient[0]).shape[0] - 1
    assert job_folders() - before == {run.job.folder}
    process_events_until(lambda: module.widget.run is None, 60)
    assert ui.applyButton.enabled


def test_a_scene_closed_while_volumes_are_written_loses_nothing(
    module: Any, patient: tuple[Any, Any], small_portions: None, process_events_until: Any
) -> None:
    use_sample(module)
    choose(module, patient[0])
    closed: list[bool] = []

    def close() -> None:
        if "SIFAAbdomenCT" in module.ui.statusLabel.text and not closed:
            closed.append(True)
            slicer.mrmlScene.Clear()

    timer = every_turn(close)
    module.ui.applyButton.click()
    timer.stop()
    assert closed
    run = module.widget.run
    process_events_until(lambda: module.widget.run is None, 60)
    assert "its volume is gone or was changed" in module.ui.statusLabel.text
    assert list((run.job.folder / "result").glob("*_segmentation.mha"))


def test_what_keeps_it_from_starting_is_said_and_leaves_the_button(
    module: Any, patient: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, expected_fault: Any
) -> None:
    ui, before = module.ui, job_folders()
    use_sample(module)
    choose(module, patient[0])

    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(module.python.tempfile, "mkdtemp", refuse)
        ui.applyButton.click()
    assert str(slicer.app.temporaryPath) in ui.statusLabel.text
    assert "can't be written to (Permission denied): check the folder's permissions" in ui.statusLabel.text
    assert ui.applyButton.enabled

    def fail(*_arguments: Any, **_named: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(module.python, "SegmentationRun", fail)
    with expected_fault("a fault"):
        ui.applyButton.click()
    assert "could not be started" in ui.statusLabel.text
    assert ui.applyButton.enabled
    assert module.widget.run is None
    assert job_folders() == before


def test_a_damaged_model_is_one_red_line(module: Any, patient: tuple[Any, Any], tmp_path: Path) -> None:
    module.widget.use_model(tmp_path)
    assert "is not a model" in module.widget.ui.statusLabel.text
    (tmp_path / "manifest.json").write_text("{}")
    module.widget.use_model(tmp_path)
    assert "damaged" in module.widget.ui.cardLabel.text
    choose(module, patient[0])
    module.widget.ui.applyButton.click()
    assert "damaged" in module.widget.ui.statusLabel.text
    assert module.widget.run is None
    assert module.widget.ui.applyButton.enabled


def test_a_model_in_one_file(
    module: Any, patient: tuple[Any, Any], tmp_path: Path, process_events_until: Any, sample_model: Path
) -> None:
    from SIFASegmentationLib.bundle import pack_bundle  # noqa: PLC0415

    path = pack_bundle(sample_model, tmp_path / "Modell für alle.zip").path
    module.widget.use_model(path)
    assert module.ui.modelComboBox.toolTip == str(path)
    ui = module.widget.ui
    assert ui.modelComboBox.currentData == str(path)
    assert "liver" in ui.cardLabel.text
    choose(module, patient[0])
    ui.applyButton.click()
    process_events_until(lambda: module.widget.run is None, 120)
    assert ui.statusLabel.text.startswith("Segmented")
    (tmp_path / "photo.zip").write_bytes(b"none")
    module.widget.use_model(tmp_path / "photo.zip")
    assert "no plain zip file" in ui.statusLabel.text
    assert ui.modelComboBox.currentData == str(path)


def test_parameters_are_saved_with_the_scene(
    module: Any, patient: tuple[Any, Any], tmp_path: Path, sample_model: Path
) -> None:
    use_sample(module)
    choose(module, patient[0], None, patient[1])
    module.widget.ui.largestComponentCheckBox.checked = False
    module.widget.ui.fillHolesCheckBox.checked = True
    module.widget.ui.refineCheckBox.checked = True
    assert module.widget.ui.appearanceCheckBox.checked
    module.widget.ui.appearanceCheckBox.checked = False
    path = tmp_path / "scene.mrml"
    slicer.mrmlScene.SetURL(str(path))
    slicer.mrmlScene.Commit(str(path))
    slicer.mrmlScene.Clear()
    slicer.mrmlScene.SetURL(str(path))
    slicer.mrmlScene.Import()
    parameters = module.logic.getParameterNode()
    assert parameters.model == str(sample_model)
    assert parameters.largestComponent is False
    assert parameters.fillHoles is True
    assert parameters.refine is True
    assert parameters.appearance is False


def test_all_volumes_of_the_scene_in_one_batch(
    module: Any, patient: tuple[Any, Any], load_sample: Any, process_events_until: Any
) -> None:
    load_sample("SIFAAbdomenCT", 101)
    use_sample(module)
    module.widget.ui.addAllButton.click()
    assert module.widget.ui.volumesTable.rowCount == 2
    assert module.widget.ui.applyButton.text == "Segment 2 volumes"
    module.widget.ui.applyButton.click()
    process_events_until(lambda: module.widget.run is None, 120)
    assert module.widget.ui.statusLabel.text.startswith("Segmented 2 volumes")
    # The result of the other volume is hidden, since it would cover the one that is shown.
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    made = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    made = [node for node in made if node.GetName().endswith("segmentation")]
    assert sorted(node.GetDisplayNode().GetVisibility() for node in made) == [0, 1]
    for _turn in range(5):
        module.ui.leastSureButton.click()
        (shown,) = (node for node in made if node.GetDisplayNode().GetVisibility())
        volume = slicer.mrmlScene.GetNodeByID(view.GetBackgroundVolumeID())
        assert shown.GetName() == f"{volume.GetName()} segmentation"
    volumes_only = slicer.util.getNode("SIFA scores")
    assert {volumes_only.GetCellText(row, 10) for row in range(volumes_only.GetNumberOfRows())} >= {"no reference"}


@pytest.mark.skipif(sys.platform != "linux", reason="a launcher is a script here, and processes are looked up in /proc")
def test_a_launcher_is_killed_with_what_it_launched(
    module: Any, patient: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_events_until: Any
) -> None:
    """Slicer's Python is started by a launcher; killing only that would leave the interpreter running."""
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@" &\nwait\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    run = begin(module, patient[0])
    number = process_events_until(run.job.last_beat, 60)["process"]
    # Stopped, so that it does not end by itself in the meantime.
    os.kill(number, signal.SIGSTOP)
    words = Path(f"/proc/{number}/cmdline")
    try:
        module.widget.cleanup()
        process_events_until(lambda: not words.exists() or not words.read_bytes(), 30)
    finally:
        if words.exists() and words.read_bytes():
            os.kill(number, signal.SIGKILL)


def test_a_result_lies_beside_its_volume_and_the_least_sure_slice_is_shown(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    volume, _reference = patient
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), folder)
    # With a main window there is one already, and its layout would make a view for a second.
    view = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceNode")
    view = view or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    begin(module, volume)
    process_events_until(lambda: module.widget.run is None, 60)
    made = slicer.util.getNode("SIFAAbdomenCT segmentation")
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(made)) == folder
    (_result, index, _value), *_ = module.widget.results.unsure_slices()
    module.ui.leastSureButton.click()
    k = volume.GetOrigin()[2] + index * volume.GetSpacing()[2]
    assert view.GetSliceToRAS().GetElement(2, 3) == pytest.approx(k)


def test_a_result_that_is_deleted_lives_on_nowhere(
    module: Any, patient: tuple[Any, Any], process_events_until: Any
) -> None:
    use_sample(module)
    choose(module, patient[0])
    module.ui.baselineCheckBox.checked = True
    module.ui.applyButton.click()
    process_events_until(lambda: module.widget.run is None, 60)
    gone: list[str] = []
    for name in ("SIFAAbdomenCT segmentation", "SIFAAbdomenCT without adaptation"):
        node = slicer.util.getNode(name)
        node.GetSegmentation().AddObserver("DeleteEvent", lambda *_, name=name: gone.append(name))
        slicer.mrmlScene.RemoveNode(node)
        del node
        gc.collect()
        assert gone[-1:] == [name]


def test_buttons_that_open_a_dialog_use_what_is_chosen_there(
    module: Any, patient: tuple[Any, Any], sample_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answers:
        """Stands in for `qt`: answers file dialogs, and passes everything else on to Qt."""

        def __init__(self, chosen: str) -> None:
            self.QFileDialog = SimpleNamespace(
                getExistingDirectory=lambda *_: chosen, getSaveFileName=lambda *_: chosen
            )

        def __getattr__(self, name: str) -> Any:
            return getattr(qt, name)

    from SIFASegmentationWidgets import results_panel  # noqa: PLC0415

    monkeypatch.setattr(module.python, "qt", Answers(str(sample_model)))
    module.ui.modelFolderButton.click()
    assert module.ui.modelComboBox.currentData == str(sample_model)
    module.widget.results.show_scores(module.logic.compare(patient[1], patient[1]), "scores")
    monkeypatch.setattr(results_panel, "qt", Answers(str(tmp_path / "scores.csv")))
    module.ui.exportButton.click()
    assert (tmp_path / "scores.csv").exists()
    monkeypatch.setattr(results_panel, "qt", Answers(""))
    module.ui.exportButton.click()
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]
