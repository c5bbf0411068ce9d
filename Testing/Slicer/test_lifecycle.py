"""Tests of what happens to an open window: scenes are imported, nodes removed, fields emptied, other charts shown."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import qt
import slicer

WINDOWS = {"SIFASegmentation": "volumes", "SIFATraining": "source"}


@pytest.fixture(params=WINDOWS)
def window(request: pytest.FixtureRequest, load_module: Callable[[str], Any]) -> tuple[Any, Any]:
    """Each module with its window open, and its table of nodes."""
    loaded = load_module(request.param)
    return loaded, getattr(loaded.widget, WINDOWS[request.param])


def new(kind: str, name: str) -> Any:
    return slicer.mrmlScene.AddNewNodeByClass(f"vtkMRML{kind}Node", name)


def labels_column(table: Any) -> int:
    """Return the column of segmentations, which is the last in one window and the second in the other."""
    return next(i for i, (_title, classes, _tip) in enumerate(table._columns) if "vtkMRMLSegmentationNode" in classes)


def fill(table: Any, volume: Any, labels: Any) -> None:
    row: list[Any] = [None] * len(table._columns)
    row[0], row[labels_column(table)] = volume, labels
    table.show([tuple(row)])
    table._on_change()


def shown(table: Any) -> list[tuple[str, ...]]:
    return [tuple(node.GetName() if node is not None else "-" for node in row) for row in table.nodes()]


def test_an_imported_scene_takes_nothing_out_of_the_rows(window: tuple[Any, Any], tmp_path: Path) -> None:
    loaded, table = window
    path = tmp_path / "other.mrml"
    # The scene has no SIFA parameters, which would replace those of the window.
    path.write_text('<MRML version="Slicer4.4.0"><Text id="vtkMRMLTextNode99" name="of another scene"></Text></MRML>')
    volume, labels = new("ScalarVolume", "ours"), new("Segmentation", "our labels")
    fill(table, volume, labels)
    before = shown(table)
    slicer.mrmlScene.SetURL(str(path))
    slicer.mrmlScene.Import()
    assert slicer.mrmlScene.GetFirstNodeByName("of another scene") is not None
    assert shown(table) == before
    # Nor did the window write anything into the parameters that would only show later.
    table._on_change()
    assert shown(table) == before
    # The same holds for an import while another module is open: the rows are there when the user comes back.
    loaded.parent.exit()
    slicer.mrmlScene.Import()
    loaded.parent.enter()
    assert shown(table) == before


def test_a_scene_with_rows_is_loaded_into_an_open_window(window: tuple[Any, Any], tmp_path: Path) -> None:
    _loaded, table = window
    volume, labels = new("ScalarVolume", "saved"), new("Segmentation", "saved labels")
    fill(table, volume, labels)
    before = shown(table)
    path = tmp_path / "scene.mrml"
    slicer.mrmlScene.SetURL(str(path))
    slicer.mrmlScene.Commit(str(path))
    slicer.mrmlScene.Clear(0)
    assert "saved" not in shown(table)[0]
    slicer.mrmlScene.SetURL(str(path))
    slicer.mrmlScene.Import()
    assert shown(table) == before


def test_a_removed_node_is_not_replaced_by_its_neighbour(window: tuple[Any, Any]) -> None:
    _loaded, table = window
    volume = new("ScalarVolume", "volume")
    new("Segmentation", "another patient's")
    labels = new("Segmentation", "labels")
    fill(table, volume, labels)
    slicer.mrmlScene.RemoveNode(labels)
    assert shown(table)[0][0] == "volume"
    assert shown(table)[0][labels_column(table)] == "-"


def test_a_removed_output_is_not_replaced_by_its_neighbour(load_module: Callable[[str], Any]) -> None:
    loaded = load_module("SIFASegmentation")
    new("Segmentation", "reference of a user")
    output = new("Segmentation", "output")
    loaded.ui.outputSelector.setCurrentNode(output)
    assert loaded.logic.getParameterNode().output is output
    slicer.mrmlScene.RemoveNode(output)
    assert loaded.ui.outputSelector.currentNode() is None
    assert loaded.logic.getParameterNode().output is None


def test_a_folder_can_be_emptied_again(load_module: Callable[[str], Any], tmp_path: Path) -> None:
    loaded = load_module("SIFATraining")
    loaded.ui.sourceFolderEdit.currentPath = str(tmp_path)
    assert loaded.logic.getParameterNode().sourceFolder == str(tmp_path)
    assert not loaded.ui.sourceTable.enabled
    loaded.ui.sourceFolderEdit.currentPath = ""
    assert loaded.logic.getParameterNode().sourceFolder == ""
    assert loaded.ui.sourceTable.enabled


def test_a_choice_that_another_version_offered_becomes_the_first_again(load_module: Callable[[str], Any]) -> None:
    loaded = load_module("SIFATraining")
    parameters = loaded.logic.getParameterNode()
    first = parameters.width
    parameters.size = 192
    # Set while the window is disconnected, as in a scene that is loaded.
    loaded.parent.exit()
    loaded.widget._connect_parameters(None)
    parameters.parameterNode.SetParameter("width", "twice")
    loaded.parent.enter()
    again = loaded.widget._parameters
    assert (again.width, again.size) == (first, 192)


def test_opening_a_window_again_ties_nothing_twice(window: tuple[Any, Any]) -> None:
    loaded, _table = window
    before = loaded.widget._parameters
    loaded.parent.exit()
    loaded.parent.enter()
    assert loaded.widget._parameters is before
    slicer.mrmlScene.Clear(0)
    assert loaded.widget._parameters is not before
    assert loaded.widget._parameters is not None


def plot_nodes() -> list[str]:
    kinds = ("vtkMRMLPlotViewNode", "vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode")
    return [node.GetName() for kind in kinds for node in slicer.util.getNodesByClass(kind)]


def test_without_a_training_no_node_of_a_plot_is_made(load_module: Callable[[str], Any]) -> None:
    before = plot_nodes()
    load_module("SIFATraining")
    assert plot_nodes() == before


def test_the_plot_of_losses_is_the_windows_own(load_module: Callable[[str], Any]) -> None:
    from SIFASegmentationLib.jobs import Event  # noqa: PLC0415
    from SIFASegmentationWidgets.score_tables import make_line_plot  # noqa: PLC0415

    loaded = load_module("SIFATraining")
    before = plot_nodes()
    losses = [{"iteration": i, "losses": {"segmentation": 1.0 / i}} for i in (1, 2, 3)]
    loaded.widget.training._monitor.add([Event(0.0, "losses", data) for data in losses])
    # The plot is not in the user's scene: it is neither listed nor saved, and the layout makes no view for it.
    assert plot_nodes() == before
    monitor = loaded.widget.training._monitor
    view = monitor._view
    assert view.GetScene() is monitor.scene
    assert view.GetPlotChartNode().GetNumberOfPlotSeriesNodes() == 1
    other = make_line_plot("x", {"x": [0.0, 1.0], "y": [0.0, 1.0]}, "of a user", "")
    slicer.app.applicationLogic().GetSelectionNode().SetActivePlotChartID(other.GetID())
    slicer.app.applicationLogic().PropagatePlotChartSelection()
    # It survives another chart in the layout, and the closing of the user's scene.
    slicer.mrmlScene.Clear(0)
    assert view.GetPlotChartNode().GetName() == "losses"
    monitor.show(None)
    assert view.GetPlotChartNode() is None


def test_sample_data_without_its_packages_says_so(
    load_module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_module("SIFASegmentation")
    from SIFASegmentationWidgets import sample_data  # noqa: PLC0415
    from SIFASegmentationWidgets.dependencies import InputError  # noqa: PLC0415

    def offline(*_: Any) -> None:
        raise InputError("pydantic can't be installed: connect to the internet.")

    told: list[str] = []
    monkeypatch.setattr(sample_data, "ensure_packages", offline)
    monkeypatch.setattr(slicer.util, "errorDisplay", told.append)
    source = type("Source", (), {"sampleName": "SIFAAbdomenCT"})
    assert sample_data._download(source) == []
    assert told == ["pydantic can't be installed: connect to the internet."]


@pytest.mark.parametrize("name", WINDOWS)
def test_self_tests_are_skipped_where_nothing_may_be_installed(
    name: str, load_module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    python = load_module(name).python
    test = getattr(python, f"{name}Test")()
    test.messageDelay = 0

    def skip(_names: Any, _requirements: Path) -> None:
        raise unittest.SkipTest("not in this Slicer: pydantic")

    monkeypatch.setattr(python, "skip_without", skip)
    # Called as Slicer does, outside unittest, where nothing handles a skip.
    test.runTest()
    from SIFASegmentationWidgets import dependencies  # noqa: PLC0415

    with pytest.raises(unittest.SkipTest, match="not in this Slicer: no_such_package"):
        dependencies.skip_without(("no_such_package",), python.REQUIREMENTS)


@pytest.mark.parametrize("name", WINDOWS)
def test_self_tests_run_to_their_end(
    name: str, load_module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pydantic", reason="the module installs it at the first use")
    python, said = load_module(name).python, []
    test = getattr(python, f"{name}Test")()
    monkeypatch.setattr(test, "delayDisplay", said.append)
    test.runTest()
    assert said == ["All checks passed"]


def test_packages_of_slicer_are_installed_only_where_they_are_missing(
    load_module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements = load_module("SIFASegmentation").python.REQUIREMENTS
    from SIFASegmentationWidgets import dependencies  # noqa: PLC0415

    assert dependencies.packages_to_install(requirements) == ["onnx>=1.16", "onnxruntime>=1.18", "pydantic>=2.6"]
    monkeypatch.setattr(dependencies, "SLICERS_OWN", ("scipy", "no_such_package"))
    assert dependencies.packages_to_install(requirements)[3:] == ["no_such_package"]


@pytest.mark.parametrize(("window", "text"), [("#f0f0f0", "dark"), ("#323232", "light")])
def test_colours_can_be_read_on_the_window(window: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from SIFASegmentationWidgets import colors  # noqa: PLC0415

    palette = SimpleNamespace(color=lambda _role: qt.QColor(window))
    monkeypatch.setattr(colors.slicer, "app", SimpleNamespace(palette=lambda: palette))
    for level in ("ok", "warning", "error"):
        color = colors.color_of(level)
        low, high = sorted(_luminance(one) for one in (color, window))
        assert (high + 0.05) / (low + 0.05) > 4.5, level
        assert (_luminance(color) > _luminance(window)) == (text == "light")


def _luminance(color: str) -> float:
    """Return the relative luminance (WCAG 2.1) of a colour #rrggbb."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_long_text_does_not_widen_a_window(window: tuple[Any, Any]) -> None:
    """Slicer uses a module's size hint as the minimum width of its panel."""
    module, _table = window
    before = module.widget._window.minimumSizeHint.width(), module.widget._window.sizeHint.width()
    for label in (module.ui.statusLabel, module.ui.warningsLabel):
        label.text = "C:\\" + "a_long_name_without_a_space" * 8
        label.visible = True
    module.widget._window.layout().activate()
    assert (module.widget._window.minimumSizeHint.width(), module.widget._window.sizeHint.width()) == before
