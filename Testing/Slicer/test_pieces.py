"""Long work in pieces, with the window responsive between them; the results are those of Slicer in one go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from timers import every_turn

pytest.importorskip("pydantic", reason="the module installs it at the first use")
pytest.importorskip("onnxruntime", reason="the module installs it at the first use")


@pytest.fixture
def pieces(module: Any) -> Any:
    from SIFASegmentationWidgets.pieces import Pieces  # noqa: PLC0415

    return Pieces()


def work(name: str, done: list[str], count: int = 2) -> Iterator[None]:
    for number in range(count):
        done.append(f"{name}{number}")
        yield
    done.append(f"{name} ended")


def test_works_are_done_one_after_the_other_a_piece_a_turn(pieces: Any, process_events_until: Any) -> None:
    done: list[str] = []
    timer = every_turn(lambda: done.append("turn"))
    pieces.add(work("a", done))
    pieces.add(work("b", done))
    assert done == []
    process_events_until(lambda: "b ended" in done)
    timer.stop()
    assert [one for one in done if one != "turn"] == ["a0", "a1", "a ended", "b0", "b1", "b ended"]
    assert all("turn" in done[done.index(one) : done.index(other)] for one, other in (("a0", "a1"), ("a1", "b0")))


def test_a_work_that_raises_is_left_and_the_next_goes_on(
    pieces: Any, process_events_until: Any, expected_fault: Any
) -> None:
    done: list[str] = []

    def broken() -> Iterator[None]:
        yield
        raise RuntimeError("a broken piece")

    pieces.add(broken())
    pieces.add(work("b", done))
    with expected_fault("a broken piece"):
        process_events_until(lambda: "b ended" in done)
    pieces.add(broken())
    with pytest.raises(RuntimeError, match="a broken piece"):
        pieces.finish()


def test_a_button_starts_a_work_and_cancels_it(module: Any, process_events_until: Any) -> None:
    from SIFASegmentationWidgets.button_work import ButtonWork  # noqa: PLC0415

    done: list[str] = []
    button = module.ui.compareButton
    text = button.text
    one = ButtonWork(button, lambda: done.append(button.text))
    one.start(work("a", done))
    assert one.is_running
    assert button.text == "Cancel"
    process_events_until(lambda: not one.is_running)
    assert done == ["a0", "a1", "a ended", text]
    for begin in (lambda: None, lambda: process_events_until(lambda: "b0" in done)):
        done.clear()
        one.start(work("b", done))
        begin()
        one.stop()
        one.stop()
        assert done[-1] == text
        assert done.count(text) == 1
        slicer.app.processEvents()
        assert "b ended" not in done
        assert not one.is_running


def test_what_a_thread_computes_is_waited_for_while_events_come_in(module: Any) -> None:
    from SIFASegmentationWidgets.background import in_background  # noqa: PLC0415

    assert module
    let_go, looks = threading.Event(), list[int]()

    def look() -> None:
        looks.append(threading.get_ident())
        if len(looks) == 3:
            let_go.set()

    def compute(result: int) -> int:
        assert let_go.wait(10)
        assert threading.get_ident() != looks[0]
        return 1 // result

    assert in_background(lambda: compute(1), look) == 1
    assert set(looks) == {threading.get_ident()}
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: compute(0), look)


def test_the_rest_is_done_at_once_or_not_at_all(pieces: Any) -> None:
    from SIFASegmentationLib.work import result_of  # noqa: PLC0415

    done: list[str] = []
    pieces.add(work("a", done))
    pieces.finish()
    assert done == ["a0", "a1", "a ended"]
    pieces.add(work("b", done))
    pieces.stop()
    pieces.finish()
    slicer.app.processEvents()
    assert done[3:] == []

    def sum_up() -> Any:
        yield from work("c", done)
        return len(done)

    assert result_of(sum_up()) == 6


def test_a_piece_that_lets_events_in_is_not_entered_again(pieces: Any, process_events_until: Any) -> None:
    done: list[str] = []

    def impatient() -> Iterator[None]:
        for number in range(2):
            for _ in range(3):
                slicer.app.processEvents()
            pieces.finish()
            done.append(f"impatient{number}")
            yield

    pieces.add(impatient())
    pieces.add(work("b", done))
    process_events_until(lambda: "b ended" in done)
    assert done == ["impatient0", "impatient1", "b0", "b1", "b ended"]


# Segmentations


def imported(labels: np.ndarray, volume: Any) -> Any:
    """Make a segmentation by Slicer's own import of a labelmap."""
    labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    labelmap.SetIJKToRASMatrix(matrix)
    slicer.util.updateVolumeFromArray(labelmap, labels)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "imported")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    assert slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labelmap, node)
    return node


def layers(node: Any) -> list[tuple[Any, ...]]:
    """Return value, layer, extent and geometry of each segment."""
    from SIFASegmentationWidgets.nodes import BINARY_LABELMAP  # noqa: PLC0415

    segmentation, found = node.GetSegmentation(), []
    for key in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(key)
        image = segment.GetRepresentation(BINARY_LABELMAP)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        geometry = slicer.util.arrayFromVTKMatrix(matrix).tolist()
        kind = image.GetScalarTypeAsString()
        found.append((segment.GetLabelValue(), segmentation.GetLayerIndex(key), image.GetExtent(), kind, geometry))
    return found


def test_a_segmentation_is_that_of_an_import(module: Any, patient: Any) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.nodes import CLOSED_SURFACE, segmentation_from_labels  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415

    volume, reference = patient
    task = load_task("abdomen")
    labels = labels_from_node(reference, volume, task).array
    # One of the four structures is missing.
    labels[labels == 3] = 0
    made, like = segmentation_from_labels(labels, volume, task, "made"), imported(labels, volume)
    assert [value for value, *_ in layers(made)] == [1, 2, 4]
    assert layers(made) == layers(like)
    first = made.GetSegmentation().GetNthSegmentID(0)
    array = slicer.util.arrayFromSegmentInternalBinaryLabelmap(made, first)
    assert np.array_equal(np.unique(array), [0, 1, 2, 4])
    for index, value in enumerate((1, 2, 4)):
        key = made.GetSegmentation().GetNthSegmentID(index)
        assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(made, key, volume) > 0, labels == value)
    # It also replaces a segmentation whose source is another representation.
    made.CreateClosedSurfaceRepresentation()
    made.GetSegmentation().SetSourceRepresentationName(CLOSED_SURFACE)
    assert segmentation_from_labels(0 * labels, volume, task, "made", made).GetSegmentation().GetNumberOfSegments() == 0
    segmentation_from_labels(labels, volume, task, "made", made)
    assert np.array_equal(labels_from_node(made, volume, task).array, labels)


def test_surfaces_made_one_by_one_are_those_of_slicer(patient: Any) -> None:
    from SIFASegmentationLib.work import result_of  # noqa: PLC0415
    from SIFASegmentationWidgets.nodes import CLOSED_SURFACE, surfaces_in_pieces  # noqa: PLC0415

    _volume, node = patient
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    other.GetSegmentation().DeepCopy(node.GetSegmentation())
    told: list[str] = []
    event = slicer.vtkSegmentation.ContainedRepresentationNamesModified
    node.GetSegmentation().AddObserver(event, lambda *_: told.append("representations"))
    result_of(surfaces_in_pieces(node))
    assert told == ["representations"]
    other.CreateClosedSurfaceRepresentation()
    for key in other.GetSegmentation().GetSegmentIDs():
        segments = [one.GetSegmentation().GetSegment(key) for one in (node, other)]
        surfaces = [segment.GetRepresentation(CLOSED_SURFACE) for segment in segments]
        points = [vtk_to_numpy(surface.GetPoints().GetData()) for surface in surfaces]
        assert len(points[0]) > 100
        assert np.array_equal(*points)


def test_results_and_scores_come_in_pieces_and_the_button_waits_for_them(
    module: Any, patient: Any, process_events_until: Any, sample_model: Path
) -> None:
    volume, reference = patient
    ui, widget = module.ui, module.widget
    widget.use_model(sample_model)
    for column, node in enumerate((volume, None, reference)):
        ui.volumesTable.cellWidget(0, column).setCurrentNode(node)
    turns: list[tuple[str, bool, bool]] = []

    def turn() -> None:
        widget._refresh()
        if ui.statusLabel.text.startswith("Segmented in "):
            turns.append((ui.statusLabel.text, ui.applyButton.enabled, ui.cancelButton.visible))

    timer = every_turn(turn)
    ui.applyButton.click()
    process_events_until(lambda: widget.run is None, 60)
    timer.stop()
    # Both labelmaps and each structure had a turn of their own.
    assert len(turns) > 6
    assert [turn[1:] for turn in turns[:-1]] == [(False, False)] * (len(turns) - 1)
    assert ui.applyButton.enabled
    assert slicer.util.getNode("SIFA scores").GetCellText(0, 1) == "liver"


def test_a_scene_closed_while_results_are_scored_has_none_of_them(
    module: Any, patient: Any, process_events_until: Any, sample_model: Path
) -> None:
    volume, reference = patient
    widget = module.widget
    widget.use_model(sample_model)
    for column, node in enumerate((volume, None, reference)):
        module.ui.volumesTable.cellWidget(0, column).setCurrentNode(node)
    module.ui.applyButton.click()
    process_events_until(lambda: module.ui.statusLabel.text.startswith("Segmented in "), 60)
    assert widget.run is not None
    slicer.mrmlScene.Clear()
    process_events_until(lambda: widget.run is None, 10)
    assert widget.results.scores is None
    assert not module.ui.copyButton.enabled
    assert slicer.util.getNodesByClass("vtkMRMLTableNode") == []


def test_leaving_while_results_are_scored_ends_it(
    module: Any, patient: Any, process_events_until: Any, sample_model: Path
) -> None:
    module.widget.use_model(sample_model)
    module.ui.volumesTable.cellWidget(0, 0).setCurrentNode(patient[0])
    module.ui.applyButton.click()
    run = module.widget.run
    process_events_until(lambda: module.ui.statusLabel.text.startswith("Segmented in "), 60)
    module.close()
    slicer.app.processEvents()
    assert not run.job.folder.exists()
