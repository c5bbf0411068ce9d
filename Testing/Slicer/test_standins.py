"""The stand-ins behave as a running Slicer does, and offer nothing that it does not list."""

from __future__ import annotations

import gc
import json
import os
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import numpy as np
import pytest
import qt
import slicer
import vtk

if "standins" not in sys.modules:
    pytest.skip("the stand-ins are not in use inside Slicer", allow_module_level=True)

import trim_api
from standins import emulated, faults, listing, pythonqt
from standins.screenshots import grab

# The listing ---------------------------------------------------------------------------------------------------------


def test_the_listing_is_part_of_a_running_slicers() -> None:
    full_listing = os.environ.get("SIFA_SLICER_API")
    if not full_listing:
        pytest.skip("SIFA_SLICER_API names no full listing")
    full = json.loads(Path(full_listing).read_text(encoding="utf-8"))
    for name, own in listing.listed_classes().items():
        there = full["classes"][name]
        assert own.properties == (there["properties"] or {}), name
        for kind in trim_api.KINDS:
            assert getattr(own, kind) <= set(there[kind] or []), (name, kind)
    for module in trim_api.NAMES:
        assert listing.named_only(module) <= set(full["names"][module])
    assert trim_api.text_of(trim_api.trim(full)) == listing.PATH.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(listing.listed_classes()) - {"slicer.app", "qt.Qt"}))
def test_a_class_offers_what_is_listed_and_nothing_else(name: str) -> None:
    module, _dot, class_name = name.partition(".")
    wrapped = getattr({"qt": qt, "ctk": ctk, "slicer": slicer}[module], class_name)
    own = listing.listed_classes()[name]
    listed = set(own.properties) | own.methods | own.enums | own.enum_values
    listed |= {signal.partition("(")[0] for signal in own.signals}
    offered = {attribute for attribute in dir(wrapped) if not attribute.startswith("_")}
    # PythonQt shows the object name under this name too, without listing it.
    assert offered - listed <= {"name"}


def test_python_parts_offer_what_is_listed() -> None:
    for name in ("i18n", "packaging", "parameterNodeWrapper", "ScriptedLoadableModule"):
        module = sys.modules[f"slicer.{name}"]
        there = listing.functions(f"slicer.{name}")
        own = {key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        assert {key for key in own if not key.startswith("_") and key != "make_connector"} <= set(there), name
    widget = sys.modules["slicer.ScriptedLoadableModule"].ScriptedLoadableModuleWidget
    there = listing.functions("slicer.ScriptedLoadableModule")["ScriptedLoadableModuleWidget"]
    assert {key for key in vars(widget) if not key.startswith("__")} <= set(there)


def test_what_slicer_does_not_name_is_not_there() -> None:
    for module, name in ((qt, "QNoSuchThing"), (qt, "QQuickWidget"), (ctk, "ctkNoSuchThing")):
        with pytest.raises(AttributeError):
            getattr(module, name)
    with pytest.raises(AttributeError):
        slicer.modules.nosuchmodule  # noqa: B018


# Properties and methods ----------------------------------------------------------------------------------------------


def test_properties_are_attributes_and_methods_are_called() -> None:
    edit, spin, combo, table = qt.QLineEdit("words"), qt.QSpinBox(), qt.QComboBox(), qt.QTableWidget(2, 3)
    assert edit.text == "words"
    with pytest.raises(TypeError):
        edit.text()
    with pytest.raises(TypeError):
        spin.value()
    with pytest.raises(TypeError):
        combo.currentIndex()
    with pytest.raises(TypeError):
        table.rowCount()
    assert (table.rowCount, table.columnCount) == (2, 3)
    assert callable(edit.parent)
    assert edit.parent() is None
    assert callable(edit.layout)
    assert edit.size.width() == edit.width
    assert qt.QTableWidgetItem("cell").text() == "cell"
    assert qt.QPlainTextEdit().toPlainText() == ""
    assert qt.QFormLayout().rowCount() == 0


def test_properties_and_methods_agree() -> None:
    box = qt.QCheckBox("box")
    box.setChecked(True)
    assert box.checked is True
    assert box.isChecked() is True
    box.enabled = False
    assert not box.isEnabled()
    box.setVisible(False)
    assert not box.visible


def test_the_name_is_the_object_name() -> None:
    label = qt.QLabel()
    label.name = "aLabel"
    assert label.objectName == label.name == "aLabel"


def test_unlisted_names_raise() -> None:
    button = qt.QPushButton()
    with pytest.raises(AttributeError):
        button.rowCount  # noqa: B018
    with pytest.raises(AttributeError, match="creating new attributes"):
        button.note = 1
    with pytest.raises(AttributeError, match="can not be overwritten"):
        button.click = None
    with pytest.raises(AttributeError, match="can not be overwritten"):
        button.clicked = None
    with pytest.raises(AttributeError):
        button.width = 3  # it has no setter


def test_keyword_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        qt.QLabel(text="a")
    with pytest.raises(TypeError):
        qt.QLabel("a").setText(text="b")


def test_wrapped_classes_are_no_subclasses_of_each_other() -> None:
    button = qt.QPushButton()
    assert not isinstance(button, qt.QWidget)
    assert not issubclass(qt.QPushButton, qt.QAbstractButton)
    assert button.inherits("QWidget")
    assert button.className() == "QPushButton"
    assert type(button) == qt.QPushButton  # noqa: E721  what Slicer's own connectors ask


def test_a_python_subclass_takes_new_attributes_and_overrides() -> None:
    class Area(qt.QWidget):
        def __init__(self, parent: Any = None) -> None:
            qt.QWidget.__init__(self, parent)
            self.sizes: list[tuple[int, int]] = []

        def resizeEvent(self, event: Any) -> None:  # noqa: N802
            self.sizes.append((event.size().width(), event.size().height()))
            super().resizeEvent(event)

        def sizeHint(self) -> Any:  # noqa: N802
            return qt.QSize(30, 20)

    area = Area()
    area.note = "fine"
    area.show()
    area.resize(50, 40)
    slicer.app.processEvents()
    assert area.note == "fine"
    assert area.sizes[-1] == (50, 40)
    assert isinstance(area, qt.QWidget)
    outer = qt.QWidget()
    layout = qt.QVBoxLayout(outer)
    layout.addWidget(area)
    assert layout.itemAt(0).widget() is area
    assert outer.findChildren(Area) or outer.children()[1] is area
    with pytest.raises(AttributeError, match="can not be overwritten"):
        area.update = None


def test_a_signal_made_in_python_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        qt.Signal(int)


# Values --------------------------------------------------------------------------------------------------------------


def test_values_are_converted_as_pythonqt_does() -> None:
    spin, real, edit = qt.QSpinBox(), qt.QDoubleSpinBox(), qt.QLineEdit()
    spin.value = 2.7
    assert spin.value == 2
    spin.setValue(3.9)
    assert spin.value == 3
    real.value = 4
    assert real.value == 4.0
    edit.text = None
    assert edit.text == "None"
    edit.setText(5)
    assert edit.text == "5"
    for widget in (spin, real):
        with pytest.raises(AttributeError, match="does not accept"):
            widget.value = "3"
    with pytest.raises(ValueError, match="matching overload"):
        spin.setValue("3")
    button = qt.QPushButton()
    button.enabled = []
    assert button.enabled is False
    button.enabled = ["something"]
    assert button.enabled is True


def test_lists_come_back_as_tuples() -> None:
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLVolumeNode"]
    assert combo.nodeTypes == ("vtkMRMLVolumeNode",)
    box = qt.QComboBox()
    box.addItem("a", [1, 2])
    assert box.itemData(0) == (1, 2)
    assert isinstance(qt.QWidget().children(), tuple)


def test_enums_are_ints() -> None:
    flags = qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled
    assert type(flags) is int
    assert isinstance(qt.Qt.AlignLeft, int)
    assert qt.Qt.AlignmentFlag.AlignLeft == qt.Qt.AlignLeft == 1
    item = qt.QTableWidgetItem("a")
    item.setFlags(flags)
    assert item.flags() == flags
    view = qt.QTableWidget(1, 1)
    view.setSelectionBehavior(1)
    assert view.selectionBehavior == qt.QAbstractItemView.SelectRows == 1
    view.selectionBehavior = qt.QAbstractItemView.SelectColumns
    assert view.selectionBehavior == 2
    view.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
    assert view.horizontalHeader().sectionResizeMode(0) == qt.QHeaderView.Stretch
    label = qt.QLabel()
    label.setAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    assert label.alignment == qt.Qt.AlignRight | qt.Qt.AlignVCenter


def test_settings_take_a_key_and_a_default() -> None:
    settings = qt.QSettings()
    assert settings.value("SIFA/none", "default") == "default"
    settings.setValue("SIFA/some", "text")
    assert qt.QSettings().value("SIFA/some") == "text"
    assert slicer.app.userSettings().value("SIFA/some") == "text"
    assert slicer.util.settingsValue("SIFA/some", "") == "text"


# Life and death ------------------------------------------------------------------------------------------------------


def test_a_destroyed_object_is_false_and_equals_none() -> None:
    label = qt.QLabel("a")
    outer = qt.QWidget()
    label.setParent(outer)
    assert bool(label)
    outer.delete()
    assert not label
    assert label == None  # noqa: E711  that is how PythonQt answers
    assert label is not None
    with pytest.raises(ValueError, match="destroyed"):
        label.text  # noqa: B018
    with pytest.raises(ValueError, match="destroyed"):
        label.setText("b")
    with pytest.raises(AttributeError, match="destroyed"):
        label.text = "b"


def test_objects_that_nothing_holds_are_destroyed() -> None:
    header = qt.QTableWidget(1, 1).horizontalHeader()
    gc.collect()
    assert not header
    selector = slicer.qMRMLNodeComboBox()
    selector.setMRMLScene(slicer.mrmlScene)
    child = selector.children()[-1]
    del selector
    gc.collect()
    assert not child


def test_what_a_table_or_layout_holds_lives_without_python(scene: Any) -> None:
    table = qt.QTableWidget(1, 1)
    for column in range(1):
        selector = slicer.qMRMLNodeComboBox()
        selector.nodeTypes = ["vtkMRMLTableNode"]
        selector.setMRMLScene(scene)
        selector.noneDisplay = "mine"
        table.setCellWidget(0, column, selector)
    del selector
    gc.collect()
    assert table.cellWidget(0, 0).noneDisplay == "mine"
    assert table.cellWidget(0, 0).currentNode() is None


# Signals -------------------------------------------------------------------------------------------------------------


def test_slots_are_connected_by_signature_and_by_signal() -> None:
    button, calls = qt.QPushButton(), []
    assert button.connect("clicked(bool)", lambda: calls.append("text")) is True
    assert button.clicked.connect(calls.append) is True
    button.click()
    assert calls == ["text", False]


def test_a_wrong_signature_is_said_and_gives_false(capsys: pytest.CaptureFixture[str]) -> None:
    with faults.expected("has no signal clicked(int)"):
        assert qt.QPushButton().connect("clicked(int)", print) is False
    assert "clicked(int)" in capsys.readouterr().err
    with faults.expected("no signal"):
        assert qt.QLabel().connect("clicked()", print) is False


def test_arguments_are_cut_to_what_is_taken() -> None:
    table, got = qt.QTableWidget(2, 2), []
    table.connect("cellChanged(int,int)", lambda: got.append(()))
    table.connect("cellChanged(int,int)", lambda row: got.append((row,)))
    table.connect("cellChanged(int,int)", lambda row, column=9: got.append((row, column)))
    table.connect("cellChanged(int,int)", lambda *all_: got.append(all_))
    table.setItem(1, 0, qt.QTableWidgetItem("a"))
    assert got == [(), (1,), (1, 0), (1, 0)]


def test_a_slots_exception_is_swallowed_and_recorded() -> None:
    def fail() -> None:
        raise KeyError("in a slot")

    button, calls = qt.QPushButton(), []
    button.connect("clicked()", fail)
    button.connect("clicked()", lambda: calls.append(1))
    with faults.expected("in a slot"):
        button.click()
    assert calls == [1]


def test_a_disconnected_slot_is_not_called() -> None:
    calls: list[int] = []

    class Listener:
        def called(self) -> None:
            calls.append(1)

    listener, button = Listener(), qt.QPushButton()
    button.connect("clicked(bool)", listener.called)
    assert button.disconnect("clicked(bool)", listener.called) is True
    assert button.disconnect("clicked(bool)", listener.called) is False
    button.clicked.connect(listener.called)
    assert button.clicked.disconnect(listener.called) is True
    button.click()
    assert calls == []


def test_bound_methods_keep_their_object_alive() -> None:
    calls: list[int] = []

    class Listener:
        def called(self) -> None:
            calls.append(1)

    button = qt.QPushButton()
    button.connect("clicked()", Listener().called)
    gc.collect()
    button.click()
    assert calls == [1]


def test_of_two_signatures_the_first_declared_is_meant() -> None:
    combo, got = qt.QComboBox(), []
    combo.currentIndexChanged.connect(got.append)
    combo.connect("currentIndexChanged(QString)", got.append)
    combo.addItem("first")
    assert sorted(got, key=str) == [0, "first"]
    assert pythonqt.first_declared(["clicked()", "clicked(bool)"]) == "clicked(bool)"
    assert pythonqt.first_declared(["currentNodeChanged(bool)", "currentNodeChanged(vtkMRMLNode*)"]).endswith("Node*)")


def test_a_signal_blocker_is_no_context() -> None:
    edit = qt.QLineEdit()
    with pytest.raises((TypeError, AttributeError)), qt.QSignalBlocker(edit):
        pass
    was_blocked = edit.blockSignals(True)
    calls: list[str] = []
    edit.textChanged.connect(calls.append)
    edit.text = "silent"
    edit.blockSignals(was_blocked)
    edit.text = "heard"
    assert calls == ["heard"]


def test_timers_call_their_slots_and_record_faults(process_events_until: Callable[..., Any]) -> None:
    calls: list[str] = []
    qt.QTimer.singleShot(0, lambda: calls.append("static"))
    timer = qt.QTimer()
    with pytest.raises(AttributeError):
        timer.singleShot = True
    timer.setSingleShot(True)
    timer.setInterval(1)
    timer.connect("timeout()", lambda: calls.append("timer"))
    timer.start()
    assert timer.active
    process_events_until(lambda: len(calls) == 2)
    with faults.expected("in a timer"):
        qt.QTimer.singleShot(0, _fail_in_timer)
        process_events_until(lambda: any("in a timer" in text for text in faults._recorded))


def _fail_in_timer() -> None:
    raise ValueError("in a timer")


def test_a_process_tells_its_exit_code_and_output(process_events_until: Callable[..., Any]) -> None:
    process, ended, short = qt.QProcess(), [], []
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append((code, status)))
    process.finished.connect(lambda *all_: short.append(all_))
    process.start(sys.executable, ["-c", "print('hello'); raise SystemExit(3)"])
    process_events_until(lambda: ended)
    assert ended == [(3, qt.QProcess.NormalExit)]
    assert short == [(3,)]
    assert process.exitCode() == 3
    assert process.readAllStandardOutput().data().strip() == b"hello"


def test_a_process_that_can_not_start_does_not_finish(process_events_until: Callable[..., Any]) -> None:
    process, errors, ended = qt.QProcess(), [], []
    process.connect("errorOccurred(QProcess::ProcessError)", errors.append)
    process.connect("finished(int,QProcess::ExitStatus)", lambda *_all: ended.append(1))
    process.start("no-such-program-anywhere", [])
    process_events_until(lambda: errors)
    assert errors == [qt.QProcess.FailedToStart]
    assert ended == []


def test_a_killed_process_signals_its_error_and_its_end(process_events_until: Callable[..., Any]) -> None:
    process, errors, ended = qt.QProcess(), [], []
    process.connect("errorOccurred(QProcess::ProcessError)", errors.append)
    process.connect("finished(int,QProcess::ExitStatus)", lambda _code, status: ended.append(status))
    process.start(sys.executable, ["-c", "import time; time.sleep(60)"])
    process.waitForStarted()
    process.kill()
    process_events_until(lambda: ended)
    assert errors == [qt.QProcess.Crashed]
    assert ended == [qt.QProcess.CrashExit]


def test_dialogs_that_wait_for_a_user_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="waits for a user"):
        qt.QFileDialog.getExistingDirectory(None, "title")
    with pytest.raises(RuntimeError, match="waits for a user"):
        qt.QDialog().exec_()
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_args: "chosen")
    assert qt.QFileDialog.getExistingDirectory(None, "title") == "chosen"


def test_nothing_is_opened_elsewhere(tmp_path: Path) -> None:
    assert qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(tmp_path))) is True
    assert emulated.opened[-1].endswith(tmp_path.name)


def test_message_boxes_are_answered_in_testing_mode() -> None:
    slicer.util.infoDisplay("said")
    slicer.util.errorDisplay("said")
    assert slicer.util.confirmOkCancelDisplay("asked") in (True, False)
    with pytest.raises(KeyError), slicer.util.tryWithErrorDisplay("failed", waitCursor=True):
        raise KeyError("again")


# CTK -----------------------------------------------------------------------------------------------------------------


def test_a_collapsible_button_hides_what_is_in_it() -> None:
    section, seen = ctk.ctkCollapsibleButton(), []
    layout = qt.QVBoxLayout(section)
    shown, hidden = qt.QLabel("shown"), qt.QLabel("hidden")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.visible = False
    section.connect("contentsCollapsed(bool)", seen.append)
    section.show()
    assert shown.visible
    section.collapsed = True
    assert not shown.visible
    height = section.sizeHint.height()
    late = qt.QLabel("late")
    layout.addWidget(late)
    slicer.app.processEvents()
    assert not late.visible
    section.collapsed = False
    assert shown.visible
    assert late.visible
    assert not hidden.visible
    assert seen == [True, False]
    assert section.sizeHint.height() > height


def test_a_path_edit_signals_a_new_path_and_remembers_it(tmp_path: Path) -> None:
    edit, seen = ctk.ctkPathLineEdit(), []
    edit.connect("currentPathChanged(QString)", seen.append)
    edit.filters = ctk.ctkPathLineEdit.Dirs
    edit.currentPath = str(tmp_path)
    assert seen == [str(tmp_path)]
    edit.settingKey = "SIFA/paths"
    edit.currentPath = str(tmp_path)
    edit.addCurrentPathToHistory()
    other = ctk.ctkPathLineEdit()
    other.settingKey = "SIFA/paths"
    assert other.comboBox().itemText(0) == str(tmp_path)
    button = ctk.ctkDirectoryButton()
    button.directory = str(tmp_path)
    assert button.directory == str(tmp_path)


def test_a_slider_signals_its_value_and_a_range_holds_two() -> None:
    slider, seen = ctk.ctkSliderWidget(), []
    slider.minimum, slider.maximum, slider.singleStep = 0.0, 2.0, 0.5
    slider.connect("valueChanged(double)", seen.append)
    slider.value = 1.5
    assert seen == [1.5]
    limits = ctk.ctkRangeWidget()
    limits.setRange(-100, 400)
    limits.setValues(-20.0, 300.0)
    assert (limits.minimumValue, limits.maximumValue) == (-20.0, 300.0)


# qMRML ---------------------------------------------------------------------------------------------------------------


def _selector(*types: str, **properties: Any) -> Any:
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = list(types)
    for name, value in properties.items():
        setattr(selector, name, value)
    selector.setMRMLScene(slicer.mrmlScene)
    return selector


def test_a_selector_follows_the_scene(scene: Any) -> None:
    selector, nodes, ids = _selector("vtkMRMLTableNode", noneEnabled=True), [], []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", nodes.append)
    selector.connect("currentNodeIDChanged(QString)", ids.append)
    first = scene.AddNewNodeByClass("vtkMRMLTableNode", "first")
    scene.AddNewNodeByClass("vtkMRMLTextNode", "another kind")
    assert selector.nodeCount() == 1
    assert selector.currentNode() is None
    selector.setCurrentNode(first)
    assert selector.currentNode() is first
    assert (nodes, ids) == ([first], [first.GetID()])
    assert selector.currentNodeID == first.GetID()
    scene.RemoveNode(first)
    assert selector.currentNode() is None
    assert nodes[-1] is None


def test_without_none_the_first_node_is_chosen(scene: Any) -> None:
    selector = _selector("vtkMRMLTableNode")
    assert selector.currentNode() is None
    first = scene.AddNewNodeByClass("vtkMRMLTableNode", "first")
    second = scene.AddNewNodeByClass("vtkMRMLTableNode", "second")
    assert selector.currentNode() is first
    scene.RemoveNode(first)
    assert selector.currentNode() is second
    assert _selector("vtkMRMLTableNode").currentNode() is second


def test_a_selector_offers_visible_nodes_of_its_types_and_attributes(scene: Any) -> None:
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    hidden = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hidden")
    hidden.SetHideFromEditors(True)
    both = _selector("vtkMRMLScalarVolumeNode")
    images = _selector("vtkMRMLScalarVolumeNode", showChildNodeTypes=False)
    assert [both.nodeFromIndex(index) for index in range(both.nodeCount())] == [volume, labels]
    assert [images.nodeFromIndex(index) for index in range(images.nodeCount())] == [volume]
    images.setCurrentNode(labels)
    assert images.currentNode() is None
    both.addAttribute("vtkMRMLScalarVolumeNode", "kind", "CT")
    assert both.nodeCount() == 0
    volume.SetAttribute("kind", "CT")
    both.removeAttribute("vtkMRMLScalarVolumeNode", "kind")
    both.addAttribute("vtkMRMLScalarVolumeNode", "kind", "CT")
    assert both.nodeCount() == 1


def test_a_renamed_node_is_shown_by_its_new_name(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "old")
    selector = _selector("vtkMRMLTableNode")
    box = next(child for child in selector.children() if child.inherits("QComboBox"))
    node.SetName("new")
    assert box.itemText(0) == "new"


def test_a_selector_without_a_scene_is_disabled_and_remembers(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "a")
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLTableNode"]
    selector.noneEnabled = True
    assert not selector.enabled
    selector.setCurrentNode(node)
    assert selector.currentNode() is None
    selector.setMRMLScene(scene)
    assert selector.enabled
    assert selector.currentNode() is node


def test_a_selector_makes_nodes_and_survives_a_closed_scene(scene: Any) -> None:
    selector = _selector("vtkMRMLTableNode", noneEnabled=True)
    added: list[Any] = []
    selector.connect("nodeAddedByUser(vtkMRMLNode*)", added.append)
    made = selector.addNode()
    assert added == [made]
    assert selector.currentNode() is made
    scene.Clear(0)
    assert selector.nodeCount() == 0
    assert selector.currentNode() is None


def test_a_checkable_selector_tells_which_nodes_are_checked(scene: Any) -> None:
    selector = slicer.qMRMLCheckableNodeComboBox()
    selector.nodeTypes = ["vtkMRMLTableNode"]
    selector.setMRMLScene(scene)
    first = scene.AddNewNodeByClass("vtkMRMLTableNode", "first")
    second = scene.AddNewNodeByClass("vtkMRMLTableNode", "second")
    selector.check(second)
    assert selector.checkedNodes() == (second,)
    assert selector.uncheckedNodes() == (first,)


def test_a_table_view_shows_its_node(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "table")
    column = node.AddColumn()
    column.SetName("structure")
    node.AddEmptyRow()
    node.SetCellText(0, 0, "liver")
    view = slicer.qMRMLTableView()
    view.setMRMLScene(scene)
    view.setMRMLTableNode(node)
    model = view.model()
    # Without titles as headers, the names are the first row.
    assert (model.rowCount(), model.index(0, 0).data()) == (2, "structure")
    node.SetUseColumnTitleAsColumnHeader(True)
    assert model.rowCount() == 1
    assert model.index(0, 0).data() == "liver"
    node.SetCellText(0, 0, "spleen")
    assert model.index(0, 0).data() == "spleen"
    scene.RemoveNode(node)
    assert view.mrmlTableNode() is None


def test_a_plot_view_draws_its_series(scene: Any) -> None:
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "values")
    for name, values in (("x", [0.0, 1.0, 2.0]), ("y", [1.0, 3.0, 2.0])):
        array = vtk.vtkDoubleArray()
        array.SetName(name)
        for value in values:
            array.InsertNextValue(value)
        table.AddColumn(array)
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "a series")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName("y")
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetColor(1.0, 0.0, 0.0)
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", "chart")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    view_node = scene.AddNewNodeByClass("vtkMRMLPlotViewNode", "view")
    view = slicer.qMRMLPlotView()
    view.resize(300, 200)
    view.setMRMLPlotViewNode(view_node)
    assert not _has_red(view)
    view_node.SetPlotChartNodeID(chart.GetID())
    assert _has_red(view)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeBar)
    assert _has_red(view)


def _has_red(widget: Any) -> bool:
    image = widget.grab().toImage()
    colors = (qt.QColor(image.pixel(x, y)) for x in range(image.width()) for y in range(image.height()))
    return any(color.red() > 200 and color.green() < 60 and color.blue() < 60 for color in colors)


def test_segments_are_listed(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segmentation")
    view = slicer.qMRMLSegmentsTableView()
    view.setMRMLScene(scene)
    view.setSegmentationNode(node)
    first = node.GetSegmentation().AddEmptySegment("", "liver", (1.0, 0.0, 0.0))
    assert view.segmentCount == 1
    assert view.displayedSegmentIDs() == (first,)
    view.setSelectedSegmentIDs([first])
    assert view.selectedSegmentIDs() == (first,)


# The application and the scene ---------------------------------------------------------------------------------------


def test_nodes_come_into_the_subject_hierarchy_and_go(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
    hierarchy = scene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(node)
    assert item
    assert hierarchy.GetItemParent(item) == hierarchy.GetSceneItemID()
    scene.RemoveNode(node)
    assert hierarchy.GetNumberOfItems() == 0
    hidden = scene.CreateNodeByClass("vtkMRMLTableNode")
    hidden.UnRegister(None)
    hidden.SetHideFromEditors(True)
    scene.AddNode(hidden)
    assert not hierarchy.GetItemByDataNode(hidden)


def test_without_a_main_window_there_is_no_layout(scene: Any) -> None:
    assert slicer.util.mainWindow() is None
    assert slicer.app.layoutManager() is None
    assert slicer.util.showStatusMessage("nobody reads it") is False
    with pytest.raises(RuntimeError):
        slicer.util.selectModule("SampleModule")
    assert slicer.app.testingEnabled()
    assert Path(slicer.app.temporaryPath).is_dir()
    assert Path(slicer.util.tempDirectory()).is_dir()


def test_with_a_main_window_there_is_one(main_window: Any, load_module: Callable[[str], Any]) -> None:
    load_module("SampleModule").close()
    layout = slicer.app.layoutManager()
    assert slicer.util.mainWindow() == main_window
    assert slicer.util.showStatusMessage("read") is True
    assert main_window.statusBar().currentMessage() == "read"
    assert layout.sliceViewNames() == ("Red", "Green", "Yellow")
    volume = slicer.util.addVolumeFromArray(np.ones((3, 4, 5)))
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    assert layout.sliceWidget("Red").sliceLogic().GetBackgroundLayer().GetVolumeNode() is volume
    slicer.util.resetSliceViews()
    slicer.util.selectModule("SampleModule")
    assert slicer.util.selectedModule() == "SampleModule"
    assert slicer.modules.SampleModuleWidget.calls == ["enter", "enter"]
    slicer.util.selectModule("")


def test_core_modules_have_their_real_logic(scene: Any) -> None:
    assert slicer.modules.segmentations.logic().IsA("vtkSlicerSegmentationsModuleLogic")
    assert slicer.modules.plots.logic().GetMRMLScene() is scene
    assert slicer.moduleNames.Segmentations == "Segmentations"
    assert slicer.app.applicationLogic().GetSelectionNode() is not None


# A module ------------------------------------------------------------------------------------------------------------


def test_a_module_from_its_file(load_module: Callable[[str], Any]) -> None:
    loaded = load_module("SampleModule")
    module = slicer.modules.samplemodule
    assert module.title == "Sample"
    assert module.categories == ("Testing",)
    assert slicer.util.modulePath("SampleModule").endswith("SampleModule.py")
    with pytest.raises(AttributeError):
        module.nothing = 1
    assert loaded.parent.isEntered
    assert loaded.widget.parent is loaded.parent
    assert loaded.ui.titleEdit.className() == "QLineEdit"
    assert loaded.ui.folderEdit.filters == ctk.ctkPathLineEdit.Dirs | ctk.ctkPathLineEdit.Writable
    assert loaded.ui.volumeSelector.enabled
    assert loaded.widget.calls == ["enter", "enter"]
    slicer.selfTests["SampleModule"](msec=0)
    loaded.close()
    assert loaded.widget.calls[-2:] == ["exit", "cleanup"]
    assert not loaded.parent


def test_parameters_and_widgets_are_one(load_module: Callable[[str], Any], scene: Any) -> None:
    loaded = load_module("SampleModule")
    ui, parameters, python = loaded.ui, loaded.widget.parameters, loaded.python
    assert (ui.countSpinBox.value, ui.toleranceSlider.value, ui.smoothCheckBox.checked) == (3, 2.0, True)
    assert (ui.titleEdit.text, ui.folderEdit.currentPath, ui.modeComboBox.currentText) == (
        "a title", "somewhere", "exact"
    )  # fmt: skip
    assert (ui.countSpinBox.minimum, ui.countSpinBox.maximum) == (1, 10)
    ui.countSpinBox.value = 7
    ui.modeComboBox.currentIndex = 0
    ui.titleEdit.text = "another"
    assert (parameters.count, parameters.mode, parameters.title) == (7, python.Mode.fast, "another")
    parameters.tolerance = 5
    assert ui.toleranceSlider.value == 5.0
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
    assert not ui.applyButton.enabled
    ui.volumeSelector.setCurrentNode(volume)
    assert parameters.volume is volume
    assert ui.applyButton.enabled
    scene.RemoveNode(volume)
    assert parameters.volume is None
    assert not ui.applyButton.enabled


def test_parameters_are_checked(load_module: Callable[[str], Any], scene: Any) -> None:
    parameters = load_module("SampleModule").widget.parameters
    for name, value, error in (
        ("count", 11, ValueError), ("count", 2.5, TypeError), ("title", None, ValueError), ("title", 3, TypeError),
        ("smooth", 1, TypeError), ("folder", "text", TypeError),
        ("volume", scene.AddNewNodeByClass("vtkMRMLTableNode"), TypeError),
    ):  # fmt: skip
        with pytest.raises(error):
            setattr(parameters, name, value)
    parameters.tags.append("one")
    parameters.tags += ["two"]
    assert parameters.tags == ["one", "two"]
    with pytest.raises(ValueError, match="Cannot find"):
        parameters.getValue("nothing")


def test_parameters_are_saved_with_the_scene(load_module: Callable[[str], Any], scene: Any, tmp_path: Path) -> None:
    loaded = load_module("SampleModule")
    parameters = loaded.widget.parameters
    parameters.volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
    parameters.reference = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "reference")
    parameters.count, parameters.mode, parameters.tags = 9, loaded.python.Mode.fast, ["a", "b"]
    path = str(tmp_path / "scene.mrml")
    scene.SetURL(path)
    scene.Commit(path)
    scene.Clear(0)
    assert loaded.widget.parameters.count == 3
    scene.SetURL(path)
    scene.Import()
    again = loaded.logic.getParameterNode()
    assert (again.count, again.mode, again.tags) == (9, loaded.python.Mode.fast, ["a", "b"])
    assert again.volume.GetName() == "volume"
    assert again.reference.GetName() == "reference"


def test_joining_takes_a_widgets_own_limits_away(scene: Any) -> None:
    from slicer.parameterNodeWrapper import parameterNodeWrapper  # noqa: PLC0415

    @parameterNodeWrapper
    class Parameters:
        number: int
        share: float

    spin, real = qt.QSpinBox(), qt.QDoubleSpinBox()
    spin.setRange(1, 5)
    real.setRange(0, 1)
    parameters = Parameters(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    tag = parameters.connectParametersToGui({"number": spin, "share": real})
    assert spin.maximum == 2**31 - 1
    assert real.maximum > 1e300
    parameters.disconnectGui(tag)
    spin.value = 4
    assert parameters.number == 0


def test_widgets_that_do_not_fit_a_parameter_are_refused(scene: Any) -> None:
    from slicer.parameterNodeWrapper import parameterNodeWrapper  # noqa: PLC0415

    @parameterNodeWrapper
    class Parameters:
        path: str
        number: float
        node: slicer.vtkMRMLTableNode | None
        choice: str

    parameters = Parameters(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    hints: Any = typing.get_type_hints(Parameters)
    assert set(hints) == {"path", "number", "node", "choice"}
    for name, widget in (
        ("path", ctk.ctkPathLineEdit()), ("number", ctk.ctkSliderWidget()), ("node", slicer.qMRMLNodeComboBox()),
        ("choice", qt.QComboBox()),
    ):  # fmt: skip
        with pytest.raises(RuntimeError):
            parameters.connectParametersToGui({name: widget})


def test_a_closed_scene_gives_a_new_parameter_node(load_module: Callable[[str], Any], scene: Any) -> None:
    loaded = load_module("SampleModule")
    loaded.ui.countSpinBox.value = 8
    scene.Clear(0)
    assert loaded.ui.countSpinBox.value == 3
    loaded.ui.countSpinBox.value = 5
    assert loaded.logic.getParameterNode().count == 5


def test_the_sample_modules_button_doubles_a_volume(load_module: Callable[[str], Any], scene: Any) -> None:
    loaded = load_module("SampleModule")
    volume = slicer.util.addVolumeFromArray(np.ones((2, 3, 4)), name="ones")
    loaded.ui.volumeSelector.setCurrentNode(volume)
    loaded.ui.applyButton.click()
    assert slicer.util.arrayFromVolume(slicer.util.getNode("double")).max() == 2
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 2
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2


def test_a_ui_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "wrong.ui"
    path.write_text(
        '<ui version="4.0"><class>W</class><widget class="QWidget" name="W">'
        '<widget class="QLabel" name="l"><property name="checked"><bool>true</bool></property></widget>'
        "</widget></ui>"
    )
    with faults.expected("QLabel l: has no property checked"):
        slicer.util.loadUI(str(path))
    # As the designer of Qt 6 writes it.
    path.write_text(
        '<ui version="4.0"><class>W</class><widget class="QWidget" name="W"><widget class="QSlider" name="s">'
        '<property name="orientation"><enum>Qt::Orientation::Horizontal</enum></property></widget></widget></ui>'
    )
    with faults.expected("Qt::Orientation::Horizontal: Qt 5"):
        slicer.util.loadUI(str(path))
    with pytest.raises(RuntimeError, match="file not found"):
        slicer.util.loadUI(str(tmp_path / "none.ui"))


def test_reloading_keeps_the_window(load_module: Callable[[str], Any], scene: Any) -> None:
    load_module("SampleModule").close()
    module = slicer.util.getModule("SampleModule")
    parent = module.widgetRepresentation()
    first = slicer.modules.SampleModuleWidget
    slicer.util.reloadScriptedModule("SampleModule")
    assert slicer.modules.SampleModuleWidget is not first
    assert first.calls[-1] == "cleanup"
    assert parent.self() is slicer.modules.SampleModuleWidget
    parent.self().cleanup()


def test_a_picture_has_the_width_that_is_asked_for(load_module: Callable[[str], Any], tmp_path: Path) -> None:
    loaded = load_module("SampleModule")
    grab(loaded.parent, tmp_path / "pictures" / "sample.png", width=400)
    picture = qt.QImage(str(tmp_path / "pictures" / "sample.png"))
    assert picture.width() == 400
    assert picture.height() > 200
