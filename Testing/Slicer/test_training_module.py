"""Tests of SIFATraining on real MRML: cohorts, checks, processes, the window. The same file runs inside Slicer."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
import qt
import slicer

from timers import every_turn

pytest.importorskip("pydantic", reason="the module installs it at the first use")
pytest.importorskip("torch", reason="training needs PyTorch")

QUICK = {"log_every": 1, "preview_every": 4, "checkpoint_every": 2, "pool": 3}


@pytest.fixture
def module(load_module: Any, tmp_path: Path) -> Iterator[Any]:
    loaded = load_module("SIFATraining")
    loaded.logic.getParameterNode().outputFolder = str(tmp_path / "Läufe mit Leerzeichen")
    yield loaded
    # Trainings outlive their window, so a failed test must not leave one running.
    from SIFATrainingWidgets.known_jobs import known_jobs  # noqa: PLC0415

    for job in known_jobs():
        loaded.logic.kill(job)


@pytest.fixture
def checks_in_process(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks run by the same command line in the tests' own process, since another one first imports torch."""
    from SIFATrainingLib.cli import app  # noqa: PLC0415
    from SIFATrainingWidgets import check_process  # noqa: PLC0415

    def check(_module: str, arguments: list[str], output: IO[bytes]) -> Any:
        text = io.StringIO()
        with redirect_stdout(text), suppress(SystemExit):
            app(arguments)
        output.write(text.getvalue().encode())
        return SimpleNamespace(poll=lambda: 0)

    monkeypatch.setattr(check_process, "start_program", check)


@pytest.fixture
def patients(module: Any, load_sample: Any) -> dict[str, list[tuple[Any, Any]]]:
    """Nodes of two labelled MR volumes, and of two CT volumes with references."""
    names = {"mr": "SIFAAbdomenMR", "ct": "SIFAAbdomenCT"}
    return {kind: [load_sample(name, seed) for seed in (1, 2)] for kind, name in names.items()}


def options(module: Any, **changes: Any) -> Any:
    given = {"size": 32, "width": 0.0625, "iterations": 4, "batch": 2, "device": "cpu", "settings": QUICK, **changes}
    return module.python.TrainingOptions(**given)


def start(module: Any, patients: dict[str, list[tuple[Any, Any]]], folder: Path, **changes: Any) -> Any:
    targets = [volume for volume, _reference in patients["ct"]]
    return module.logic.start(patients["mr"], targets, folder, options(module, **changes))


def test_from_nodes_to_a_bundle_without_a_window_then_opened_with_damaged_events(
    module: Any, patients: dict[str, Any], tmp_path: Path, process_events_until: Any
) -> None:
    from SIFASegmentationLib.bundle import read_bundle  # noqa: PLC0415
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415

    as_the_paper = {"stretch": True, "percentiles": (0, 98), "min_max": True}
    job = start(module, patients, tmp_path / "job ä", baseline_iterations=2, preparation=as_the_paper)
    process_events_until(lambda: module.logic.process_of(job).poll() is not None, 300)
    assert job.state() is State.FINISHED, (job.folder / "log.txt").read_text()
    manifest = read_bundle(job.folder / "result" / "bundle").manifest
    assert manifest.training.iterations == 4
    assert manifest.baseline is not None
    assert len(manifest.training.source_volumes) == 2
    assert manifest.preprocessing["source"].spacing is None
    assert manifest.preprocessing["source"].intensity.percentiles == (0, 98)
    assert not manifest.preprocessing["target"].intensity.clip
    # A damaged line of its events is no fault.
    content = job.events_path.read_bytes()
    job.events_path.write_bytes(content[: len(content) // 2] + b"\x00{ half\n" + content[len(content) // 2 :])
    module.widget.training.open(job.folder)
    assert module.widget.ui.useButton.enabled


def test_what_is_written_is_what_the_scene_shows(module: Any, patients: dict[str, Any], tmp_path: Path) -> None:
    import numpy as np  # noqa: PLC0415

    from SIFASegmentationLib.cohorts import find_cases  # noqa: PLC0415
    from SIFASegmentationLib.image_files import read_volume  # noqa: PLC0415
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.nodes import volume_from_node  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415
    from SIFATrainingWidgets.cohorts_of_nodes import SourceRow, write_source  # noqa: PLC0415

    volume, labels = patients["mr"][1]
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    roi.SetCenterWorld(0, 0, 0)
    roi.SetSizeWorld(200, 150, 100)
    task = load_task("abdomen")
    write_source([SourceRow(volume, labels, roi)], task, tmp_path, lambda *_: None)
    (case,) = find_cases(tmp_path / "cohort.csv", labelled=True)
    assert case.region is not None
    assert case.region.minimum == pytest.approx((-100, -75, -50))
    assert read_volume(case.image).geometry == volume_from_node(volume).geometry
    assert np.array_equal(read_volume(case.image).array, slicer.util.arrayFromVolume(volume))
    assert case.label is not None
    assert np.array_equal(read_volume(case.label).array, labels_from_node(labels, volume, task).array)


def test_targets_are_written_with_their_regions_and_what_is_watched_apart(
    module: Any, patients: dict[str, Any], tmp_path: Path
) -> None:
    import numpy as np  # noqa: PLC0415

    from SIFASegmentationLib.cohorts import find_cases  # noqa: PLC0415
    from SIFASegmentationLib.image_files import read_volume  # noqa: PLC0415
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationWidgets.structures_of_nodes import labels_from_node  # noqa: PLC0415
    from SIFATrainingWidgets.cohorts_of_nodes import TargetRow, write_target  # noqa: PLC0415

    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    roi.SetCenterWorld(10, 0, 0)
    roi.SetSizeWorld(200, 150, 100)
    task = load_task("abdomen")
    # Labelled MR patients stand in for target patients with a reference.
    (first, labels), (second, other_labels) = patients["mr"]
    rows = [TargetRow(first, roi, labels), TargetRow(patients["ct"][0][0], roi), TargetRow(second, None, other_labels)]
    assert write_target(rows, task, tmp_path, lambda *_: None) == []
    files = [tmp_path / f"{name}_image.mha" for name in ("SIFAAbdomenMR", "SIFAAbdomenCT", "SIFAAbdomenMR_1")]
    assert [file.exists() for file in files] == [True] * 3
    trained = {case.image.resolve(): case for case in find_cases(tmp_path / "cohort.csv", labelled=False)}
    assert [trained[file].label for file in files] == [None] * 3
    assert [trained[file].region is not None for file in files] == [True, True, False]
    box = trained[files[0]].region
    assert box is not None
    assert box.maximum == pytest.approx((90, 75, 50))
    assert not [path for path in tmp_path.glob("*") if "label" in path.name]
    watched = {case.image.resolve(): case for case in find_cases(tmp_path / "monitoring" / "cohort.csv", labelled=True)}
    assert set(watched) == {files[0], files[2]}
    assert watched[files[0]].region == box
    for file, (volume, reference) in zip((files[0], files[2]), patients["mr"], strict=True):
        label = watched[file].label
        assert label is not None
        assert np.array_equal(read_volume(label).array, labels_from_node(reference, volume, task).array)


def test_all_that_the_window_says_reaches_the_job(
    module: Any, patients: dict[str, Any], sample_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ui, parameters = module.widget.ui, module.logic.getParameterNode()
    for table, kind in ((ui.sourceTable, "mr"), (ui.targetTable, "ct")):
        table.cellWidget(0, 0).setCurrentNode(patients[kind][0][0])
    ui.sourceTable.cellWidget(0, 1).setCurrentNode(patients["mr"][0][1])
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    roi.SetCenterWorld(10, 0, 0)
    roi.SetSizeWorld(200, 150, 100)
    parameters.region, parameters.name = roi, "my model"
    parameters.size, parameters.batch, parameters.iterations, parameters.seed = 64, 3, 1200, 7
    parameters.width, parameters.plane = module.python.Width.eighth, module.python.Plane.coronal
    parameters.preset, parameters.device = module.python.Preset.paper, module.python.Device.cpu
    parameters.baseline, parameters.settings = True, "ema_decay=0.5"
    parameters.sourceWindow, parameters.sourceWindowLow, parameters.sourceWindowHigh = True, -100, 250
    parameters.targetWindow, parameters.targetWindowLow, parameters.targetWindowHigh = True, -150, 300
    parameters.outputFolder = str(tmp_path)
    monkeypatch.setattr(type(module.logic), "resume", lambda _self, _job: None)
    # The sample model has no weights to start from.
    parameters.initial = str(sample_model)
    assert module.widget.options().initial == sample_model
    ui.startButton.click()
    assert "weights.safetensors is missing" in ui.statusLabel.text
    parameters.initial = ""
    ui.startButton.click()
    job = module.widget.training.job
    assert job is not None, ui.statusLabel.text
    said, preparation, config = job.specification, job.specification["preparation"], job.specification["config"]
    assert (said["device"], said["baseline_iterations"], said["bundle_name"]) == ("cpu", 300, "my model")
    assert job.folder == tmp_path / "my model"
    assert {key: preparation[key] for key in ("size", "plane", "source_window", "target_window")} == {
        "size": 64, "plane": "coronal", "source_window": [-100.0, 250.0], "target_window": [-150.0, 300.0],
    }  # fmt: skip
    assert preparation["roi"] == {"minimum": [-110.0, -75.0, -50.0], "maximum": [90.0, 75.0, 50.0]}
    assert {key: config[key] for key in ("width", "batch", "iterations", "seed", "schedule", "ema_decay")} == {
        "width": 0.125, "batch": 3, "iterations": 1200, "seed": 7, "schedule": "sequential", "ema_decay": 0.5,
    }  # fmt: skip


def test_the_mapping_is_shown_changed_and_used(module: Any, patients: dict[str, Any], tmp_path: Path) -> None:
    from SIFASegmentationLib.image_files import read_volume  # noqa: PLC0415
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFATrainingWidgets.cohorts_of_nodes import (  # noqa: PLC0415
        SourceRow,
        shown_mapping,
        stored_mapping,
        write_source,
    )

    volume, labels = patients["mr"][0]
    ui, task = module.widget.ui, load_task("abdomen")
    ui.sourceTable.cellWidget(0, 0).setCurrentNode(volume)
    ui.sourceTable.cellWidget(0, 1).setCurrentNode(labels)
    assert ui.mappingTable.rowCount == 4
    assert ui.mappingTable.item(0, 1).text() == "liver"
    selector = ui.mappingTable.cellWidget(0, 2)
    assert selector.currentText == "liver"
    selector.setCurrentIndex(4)
    selector.activated(4)
    key = labels.GetSegmentation().GetNthSegmentID(0)
    assert stored_mapping(labels)[key] == "spleen"
    assert shown_mapping(labels, task)[key] == "spleen"
    write_source([SourceRow(volume, labels)], task, tmp_path, lambda *_: None)
    (written,) = tmp_path.glob("*_label.mha")
    found = read_volume(written).array
    assert set(found[found > 0]) == {2, 3, 4}


def test_ones_own_structures_become_the_task(module: Any, patients: dict[str, Any], process_events_until: Any) -> None:
    volume, labels = patients["mr"][0]
    segmentation, ui = labels.GetSegmentation(), module.widget.ui
    segmentation.GetSegment(segmentation.GetNthSegmentID(3)).SetName("Milz")
    assert not ui.ownTaskButton.enabled
    ui.sourceTable.cellWidget(0, 0).setCurrentNode(volume)
    ui.sourceTable.cellWidget(0, 1).setCurrentNode(labels)
    ui.ownTaskButton.click()
    assert ui.ownTaskButton.text == "Cancel"
    assert "still being looked at" in ui.startButton.toolTip
    assert "still being looked at" in ui.checkButton.toolTip
    process_events_until(lambda: "Counting the parts of Milz" in ui.statusLabel.text)
    process_events_until(lambda: ui.ownTaskButton.text == "My structures...")
    assert "Milz" in ui.taskLabel.text
    assert ui.statusLabel.text == ui.startButton.toolTip == "Add unlabelled target volumes first."
    assert module.widget.task().structures[3].terminology.type.code == "78961009"


def test_ones_own_structures_are_given_up(module: Any, patients: dict[str, Any], process_events_until: Any) -> None:
    """Taking them is cancelled by a click, by a change of the segmentation, and by closing the scene."""
    volume, labels = patients["mr"][0]
    segmentation, ui, parameters = labels.GetSegmentation(), module.ui, module.logic.getParameterNode()
    ui.sourceTable.cellWidget(0, 0).setCurrentNode(volume)
    ui.sourceTable.cellWidget(0, 1).setCurrentNode(labels)
    ui.ownTaskButton.click()
    ui.ownTaskButton.click()
    assert ui.ownTaskButton.text == "My structures..."
    ui.ownTaskButton.click()
    process_events_until(lambda: ui.statusLabel.text.startswith("Counting"))
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(3))
    process_events_until(lambda: ui.ownTaskButton.text == "My structures...")
    assert "was changed while it was looked through: press My structures again" in ui.statusLabel.text
    ui.ownTaskButton.click()
    process_events_until(lambda: ui.statusLabel.text.startswith("Counting"))
    assert parameters.ownTask == ""
    slicer.mrmlScene.Clear(0)
    assert ui.ownTaskButton.text == "My structures..."
    assert not ui.ownTaskButton.enabled
    assert "Counting" not in ui.statusLabel.text
    slicer.app.processEvents()


def test_any_further_setting_can_be_given(
    module: Any, patients: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFATrainingWidgets import check_process  # noqa: PLC0415

    ui = module.widget.ui
    assert "loss_weights.cycle=10.0" in ui.settingsEdit.toolTip
    for column, node in enumerate(patients["mr"][0]):
        ui.sourceTable.cellWidget(0, column).setCurrentNode(node)
    ui.targetTable.cellWidget(0, 0).setCurrentNode(patients["ct"][0][0])
    for text, words in (
        ("ema_decay", "is not NAME=VALUE"), ("ema=0", "The setting 'ema'"), ("width.x=1", "'width'"),
        ("preparation.size=64", "The setting 'preparation.size=64' is unknown: choose from preparation.spacing, "),
        ("preparation.spacing=wide", "The setting 'spacing' of the preparation is not usable"),
        ("preparation.percentiles=98,0", "The percentiles (98.0, 0.0) can't be used"),
    ):  # fmt: skip
        ui.settingsEdit.setText(text)
        ui.startButton.click()
        assert words in ui.statusLabel.text
        assert module.widget.training.job is None
    ui.settingsEdit.setText("ema_decay=0.9 loss_weights.cycle=5  width=0.25")
    options = module.widget.options()
    assert options.settings == {"ema_decay": "0.9", "loss_weights": {"cycle": "5"}, "width": "0.25"}
    monkeypatch.setattr(module.logic, "resume", lambda _job: None)
    config = start(module, patients, tmp_path / "job", settings=options.settings).specification["config"]
    assert (config["ema_decay"], config["loss_weights"]["cycle"], config["width"]) == (0.9, 5.0, 0.25)
    ui.settingsEdit.setText("preparation.percentiles=0,98 preparation.stretch=true preparation.min_max=no seed=3")
    options = module.widget.options()
    assert options.settings == {"seed": "3"}
    assert options.preparation == {"percentiles": (0.0, 98.0), "stretch": True, "min_max": False}
    # The check process gets the same settings.
    arguments = check_process._arguments(options, Path("task.json"), tmp_path, "", "")
    assert {"--percentiles=0,98", "--stretch"} < set(arguments)
    assert "--min-max" not in arguments


def test_what_the_rows_hold_that_is_odd_is_said(
    module: Any, patients: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_events_until: Any
) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFATrainingWidgets.cohorts_of_nodes import SourceRow  # noqa: PLC0415
    from SIFATrainingWidgets.row_checks import check_rows  # noqa: PLC0415

    ui, (volume, labels) = module.ui, patients["mr"][0]
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "away")
    matrix = slicer.util.arrayFromTransformMatrix(transform)
    matrix[0, 3] = 5000
    slicer.util.updateTransformMatrixFromArray(transform, matrix)
    labels.SetAndObserveTransformNodeID(transform.GetID())
    wrong = [f for f in check_rows([SourceRow(volume, labels)], None, load_task("abdomen")) if f.level == "error"]
    assert [(f.subject, f.message) for f in wrong] == [(labels.GetName(), f"does not lie on {volume.GetName()}")]
    labels.SetAndObserveTransformNodeID(None)
    # Two segments overlap; the note about it stays on display as long as the training is shown.
    segmentation = labels.GetSegmentation()
    liver = slicer.util.arrayFromSegmentBinaryLabelmap(labels, segmentation.GetNthSegmentID(0), volume)
    slicer.util.updateSegmentBinaryLabelmapFromArray(liver, labels, segmentation.GetNthSegmentID(3), volume)
    for column, node in enumerate((volume, labels)):
        ui.sourceTable.cellWidget(0, column).setCurrentNode(node)
    ui.targetTable.cellWidget(0, 0).setCurrentNode(patients["ct"][0][0])
    monkeypatch.setattr(module.logic, "resume", lambda _job: None)
    job = start(module, patients, tmp_path / "job")
    module.widget.training.show(job)
    process_events_until(lambda: "overlap in" in ui.warningsLabel.text, 30)
    module.widget.training.show(None)
    assert ui.warningsLabel.text == ""
    elsewhere = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "elsewhere")
    elsewhere.SetCenterWorld(5000, 0, 0)
    elsewhere.SetSizeWorld(100, 100, 100)
    far = [f for f in check_rows([SourceRow(volume, labels, elsewhere)], None, load_task("abdomen")) if f.fix]
    assert ("elsewhere", f"does not lie on {volume.GetName()}") in [(f.subject, f.message) for f in far]
    # A volume can't be of both modalities.
    ui.targetTable.cellWidget(0, 0).setCurrentNode(volume)
    assert f"{volume.GetName()} is in the tables twice" in ui.startButton.toolTip
    ui.targetTable.cellWidget(0, 0).setCurrentNode(patients["ct"][0][0])
    parameters = module.logic.getParameterNode()
    parameters.targetWindow, parameters.targetWindowLow = True, 900
    assert "lower value first" in ui.startButton.toolTip
    parameters.targetWindow = False
    kept, parameters.outputFolder = parameters.outputFolder, ""
    assert "Choose an output folder" in ui.startButton.toolTip
    parameters.outputFolder = kept
    # The name of a training becomes the name of a folder.
    assert ui.startButton.enabled
    ui.nameEdit.setText("../elsewhere")
    assert "leave out" in ui.startButton.toolTip
    ui.nameEdit.setText("Lauf ä 1")
    assert ui.startButton.enabled
    # Structures stored in the scene that can't be read.
    parameters.ownTask = '{"name": 5}'
    parameters.task = module.python.TaskChoice.own
    assert "Choose your structures first" in ui.startButton.toolTip


def test_rows_that_make_no_training_are_refused(module: Any, patients: dict[str, Any], tmp_path: Path) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415

    (volume, labels), (other, _labels) = patients["mr"][0], patients["ct"][0]
    ribs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "ribs")
    for source, target, words in (
        ([(volume, labels)], [(other, None, ribs)], "ribs has none of liver, right kidney, left kidney, spleen"),
        ([], [other], "Add labelled source volumes"),
        ([(volume, labels)], [], "Add unlabelled target volumes"),
        ([(volume, labels)], [volume], "in the tables twice"),
        ([volume], [other], "has no segmentation: choose one"),
        ([(labels, volume)], [other], f"{labels.GetName()} is no volume"),
    ):
        with pytest.raises(InputError, match=words):
            module.logic.start(source, target, tmp_path / "job", options(module))
        assert not (tmp_path / "job").exists()
    with pytest.raises(InputError, match="The device 'gpu' is unknown"):
        start(module, patients, tmp_path / "job", device="gpu")


def test_a_training_whose_folder_went_is_no_fault(module: Any, patients: dict[str, Any], tmp_path: Path) -> None:
    job = start(module, patients, tmp_path / "job")
    module.widget.training.show(job)
    module.logic.kill(job)
    job.folder.rename(tmp_path / "elsewhere")
    module.widget.training._stop()
    assert "can't be written to" in module.ui.statusLabel.text
    module.widget.training.refresh_list()
    module.widget.enter()


def test_a_mapping_is_of_its_task_and_leaves_new_segments_to_their_names(module: Any, patients: dict[str, Any]) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFATrainingWidgets.cohorts_of_nodes import shown_mapping, store_mapping, task_from_parts  # noqa: PLC0415

    _volume, labels = patients["mr"][0]
    task, segmentation = load_task("abdomen"), labels.GetSegmentation()
    keys = list(segmentation.GetSegmentIDs())
    segmentation.GetSegment(keys[0]).SetName("Leber")
    store_mapping(labels, {keys[0]: "spleen", keys[3]: ""})
    # Chosen structures count; segments without a choice go by their names.
    assert list(shown_mapping(labels, task).values()) == ["spleen", "right kidney", "left kidney", ""]
    own = task_from_parts(labels)
    assert list(shown_mapping(labels, own).values()) == ["spleen", "right kidney", "left kidney", ""]
    segmentation.GetSegment(keys[3]).SetName("Milz")
    own = task_from_parts(labels)
    assert list(shown_mapping(labels, own).values()) == ["Leber", "right kidney", "left kidney", "Milz"]


def test_jobs_whose_folder_or_process_is_gone_are_told(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_events_until: Any
) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415
    from SIFATrainingWidgets.known_jobs import known_jobs, remember_job  # noqa: PLC0415

    first, second = (Job.create(tmp_path / name, "train", {}) for name in ("first", "second"))
    for job in (first, second):
        job.emit("error", message="a disk was full")
        job.emit_state(State.STOPPED)
        module.widget.training.open(job.folder)
    # A job whose folder has disappeared since the list was made.
    first.folder.rename(tmp_path / "elsewhere")
    index = module.ui.jobsComboBox.findData(str(first.folder))
    module.ui.jobsComboBox.setCurrentIndex(index)
    module.widget.training._select(index)
    assert "is not a job folder" in module.ui.statusLabel.text
    assert module.ui.jobsComboBox.itemData(module.ui.jobsComboBox.currentIndex) == str(second.folder)
    # A job whose folder has been replaced by a file.
    remember_job(second)
    (tmp_path / "third").write_text("")
    with pytest.raises(InputError, match="is not a job folder"):
        Job(tmp_path / "third" / "job")
    assert [job.folder for job in known_jobs()] == [second.folder]
    # A process that dies before it writes an event.
    monkeypatch.setattr(module.logic, "ensure_dependencies", lambda: None)
    monkeypatch.setattr(
        module.python, "start_process",
        lambda job, _module, _arguments: subprocess.Popen([sys.executable, "-c", "raise ImportError"], cwd=job.folder),
    )  # fmt: skip
    module.widget.training.open(second.folder)
    process_events_until(lambda: module.ui.resumeButton.enabled)
    module.ui.resumeButton.click()
    process_events_until(lambda: "could not be resumed" in module.ui.statusLabel.text, 30)
    assert module.ui.resumeButton.enabled


def test_an_old_sign_of_life_is_nobody_to_kill_and_an_old_error_is_no_reason(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415
    from SIFASegmentationWidgets.follower import last_words  # noqa: PLC0415

    job = Job.create(tmp_path / "job", "train", {})
    job.emit("error", message="a disk was full")
    job.emit_state(State.FAILED)
    assert last_words(job) == "a disk was full"
    job.emit_state(State.RUNNING)
    beat = {"host": socket.gethostname(), "process": 1234567, "started": 0.0, "time": 0.0}
    (job.folder / "heartbeat.json").write_text(json.dumps(beat))
    killed: list[int] = []
    monkeypatch.setattr(module.python, "kill_process", killed.append)
    module.logic.kill(job)
    assert killed == []
    assert "ran out of memory" in last_words(job)


def test_a_folder_that_can_not_be_read_is_waited_for_but_not_for_ever(module: Any, tmp_path: Path) -> None:
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415
    from SIFASegmentationWidgets.follower import JobFollower  # noqa: PLC0415

    job = Job.create(tmp_path / "share" / "job", "train", {})
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended: list[State] = []
    follower = JobFollower(job, lambda _events: None, ended.append, process)
    (tmp_path / "share").rename(tmp_path / "away")
    (tmp_path / "share").write_text("")
    follower.poll()
    assert ended == []
    process.communicate(b"\n")
    follower.wait()
    assert ended == [State.LOST]


def test_a_labelmap_without_an_image_leaves_the_window_alive(module: Any, patients: dict[str, Any]) -> None:
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "empty")
    module.ui.sourceTable.cellWidget(0, 0).setCurrentNode(patients["mr"][0][0])
    module.ui.sourceTable.cellWidget(0, 1).setCurrentNode(empty)
    module.widget._refresh()
    assert module.ui.startButton.toolTip == "Add unlabelled target volumes first."


def test_a_relative_output_folder_is_below_the_working_directory(
    module: Any, patients: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started: list[list[str]] = []

    def start_nothing(job: Any, _module: str, arguments: list[str]) -> Any:
        started.append(arguments)
        return subprocess.Popen([sys.executable, "-c", ""], cwd=job.folder)

    monkeypatch.setattr(module.python, "start_process", start_nothing)
    job = start(module, patients, Path("trainings") / "abdomen")
    assert started == [["run", str(tmp_path / "trainings" / "abdomen")]]
    module.logic.process_of(job).wait()


def test_what_a_model_made_is_not_learnt_from(module: Any, patients: dict[str, Any]) -> None:
    from SIFASegmentationWidgets.nodes import mark_as_result  # noqa: PLC0415

    for _volume, reference in patients["ct"]:
        mark_as_result(reference)
    module.ui.sourceAddAllButton.click()
    assert [row[0] for row in module.widget.source.nodes()] == [volume for volume, _labels in patients["mr"]]
    module.ui.targetAddAllButton.click()
    assert [row[0] for row in module.widget.target.nodes()] == [volume for volume, _labels in patients["ct"]]


def test_labels_from_files_find_their_volumes(module: Any, patients: dict[str, Any]) -> None:
    """Neither a segmentation file nor a labelmap has a reference to its volume in Slicer."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    (mr, mr_labels), (second, second_labels) = patients["mr"]
    for name, volume, labels in (("P1", mr, mr_labels), ("P2", second, second_labels)):
        volume.SetName(f"{name}_image")
        labels.SetName(f"{name}_label_1")
        labels.SetNodeReferenceID(role, None)
    for _volume, reference in patients["ct"]:
        slicer.mrmlScene.RemoveNode(reference)
    ct = patients["ct"][0][0]
    labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "of the CT")
    labelmap.Copy(ct)
    labelmap.SetName("of the CT")
    # The other CT lies on the same grid as well, but its name does not match that of the labelmap.
    patients["ct"][1][0].SetName("other")
    ct.SetName("of the CT image")
    module.ui.sourceAddAllButton.click()
    rows = [(row[0], row[1]) for row in module.widget.source.nodes()]
    assert rows == [(mr, mr_labels), (second, second_labels), (ct, labelmap)]
    module.ui.targetAddAllButton.click()
    assert [row[0] for row in module.widget.target.nodes()] == [patients["ct"][1][0]]


def test_a_scene_without_labels_has_no_source(module: Any, patients: dict[str, Any]) -> None:
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        slicer.mrmlScene.RemoveNode(node)
    module.ui.sourceAddAllButton.click()
    assert "load labels, or add rows by hand" in module.ui.statusLabel.text
    assert [row[0] for row in module.widget.source.nodes()] == [None]
    module.ui.targetAddAllButton.click()
    assert len(module.widget.target.nodes()) == 4


def test_a_scene_closed_while_volumes_are_written_starts_nothing(
    module: Any, patients: dict[str, Any], tmp_path: Path
) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415

    def close(_name: str, done: int, _total: int) -> None:
        if done == 1:
            slicer.mrmlScene.Clear()

    targets = [volume for volume, _reference in patients["ct"]]
    with pytest.raises(InputError, match="was removed from the scene while volumes were being written"):
        module.logic.start(patients["mr"], targets, tmp_path / "job", options(module), progress=close)
    assert not (tmp_path / "job").exists()


def test_fine_tuning_takes_up_what_must_be_the_same(module: Any, patients: dict[str, Any], tmp_path: Path) -> None:
    from SIFASegmentationWidgets.models import SAMPLE_MODEL  # noqa: PLC0415
    from SIFATrainingWidgets.cohorts_of_nodes import task_from_parts  # noqa: PLC0415

    _volume, labels = patients["mr"][0]
    labels.GetSegmentation().GetSegment(labels.GetSegmentation().GetNthSegmentID(3)).SetName("Milz")
    own = task_from_parts(labels)
    parameters = module.logic.getParameterNode()
    for folder, task, plane, chosen in (("own", own, "coronal", "own"), ("preset", "abdomen", None, "abdomen")):
        window = (-200.0, 400.0) if folder == "own" else None
        job = start(module, patients, tmp_path / folder, task=task, width=0.125, plane=plane, target_window=window)
        module.logic.kill(job)
        shutil.copytree(SAMPLE_MODEL, job.folder / "result" / "bundle")
        module.widget.training.show(job)
        module.widget._fine_tune()
        assert parameters.initial == str(job.folder / "result" / "bundle")
        assert (parameters.width.value, parameters.size) == ("eighth", 32)
        assert (parameters.task.value, parameters.plane.value) == (chosen, plane or "task")
        assert (parameters.sourceWindow, parameters.targetWindow) == (False, window is not None)
        assert (parameters.targetWindowLow, parameters.targetWindowHigh) == (-200, 400)
    assert module.widget.task().name == "abdomen"
    module.ui.settingsEdit.setText("seed=3 preparation.spacing=2")
    odd = {"stretch": True, "percentiles": (0, 98)}
    job = start(module, patients, tmp_path / "odd", width=0.125, preparation=odd)
    module.logic.kill(job)
    shutil.copytree(SAMPLE_MODEL, job.folder / "result" / "bundle")
    module.widget.training.show(job)
    module.widget._fine_tune()
    assert parameters.settings == "seed=3 preparation.stretch=true preparation.percentiles=0,98"
    assert module.widget.options().preparation == odd


def test_torch_is_installed_before_what_would_bring_one_of_its_own(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415

    installed: list[str] = []
    monkeypatch.setattr(module.python, "missing_packages", lambda names: [name for name in names if name == "torch"])
    monkeypatch.setattr(module.python, "ensure_packages", lambda *_: installed.append("packages"))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(InputError, match="install the extension PyTorch"):
        module.logic.ensure_dependencies()
    assert installed == []

    def install_torch(*, askConfirmation: bool) -> str:  # noqa: N803  PyTorchUtils' name
        installed.append(f"torch, asking: {askConfirmation}")
        return "torch"

    logic = SimpleNamespace(installTorch=install_torch)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", SimpleNamespace(PyTorchUtilsLogic=lambda: logic))
    for tested in (True, False):
        monkeypatch.setattr(module.python, "asks_nobody", lambda tested=tested: tested)
        if tested:
            # While Slicer is being tested, the extension would download it without asking.
            with pytest.raises(InputError, match="nothing is installed while Slicer is tested"):
                module.logic.ensure_dependencies()
            assert installed == []
    module.logic.ensure_dependencies()
    assert installed == ["torch, asking: True", "packages"]


def test_what_needs_no_torch_installs_none(
    module: Any, patients: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh Slicer, pip would install torch along with the packages for training."""
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415
    from SIFASegmentationLib.jobs import Job  # noqa: PLC0415
    from SIFASegmentationWidgets.models import SAMPLE_MODEL  # noqa: PLC0415
    from SIFATrainingWidgets import training_panel  # noqa: PLC0415

    asked: list[str] = []

    def offline(_names: tuple[str, ...], requirements: Path, _requester: str) -> None:
        asked.append(requirements.read_text(encoding="utf-8"))
        raise InputError("no internet here")

    monkeypatch.setattr(module.python, "ensure_packages", offline)
    monkeypatch.setattr(training_panel, "ensure_packages", offline)
    volume, labels = patients["mr"][0]
    module.ui.sourceTable.cellWidget(0, 0).setCurrentNode(volume)
    module.ui.sourceTable.cellWidget(0, 1).setCurrentNode(labels)
    training = module.widget.training
    training.job = Job.create(tmp_path / "job", "train", {})
    shutil.copytree(SAMPLE_MODEL, training.job.folder / "result" / "bundle")
    model = tmp_path / "model.zip"
    for do in (module.ui.ownTaskButton.click, lambda: training.save_model(model), module.widget._fine_tune):
        module.widget._say("")
        do()
        assert module.ui.statusLabel.text == "no internet here."
    assert len(asked) == 3
    assert not any(name in text for text in asked for name in ("torch", "lightning"))


def test_while_packages_are_installed_nothing_else_can_be_pressed(
    module: Any, patients: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ui, installed = module.ui, []
    volume, labels = patients["mr"][0]
    ui.sourceTable.cellWidget(0, 0).setCurrentNode(volume)
    ui.sourceTable.cellWidget(0, 1).setCurrentNode(labels)
    ui.targetTable.cellWidget(0, 0).setCurrentNode(patients["ct"][0][0])

    def install() -> None:
        # Stands in for pip, which takes minutes while events are processed.
        installed.append(ui.statusLabel.text)
        for button in (ui.checkButton, ui.startButton, ui.ownTaskButton):
            button.click()
        slicer.app.processEvents()

    monkeypatch.setattr(module.logic, "ensure_dependencies", install)
    monkeypatch.setattr(module.python, "CheckProcess", lambda *_arguments, **_more: None)
    ui.checkButton.click()
    assert installed == ["Looking for the Python packages..."]
    assert ui.checkButton.enabled


def test_a_task_of_ones_own_has_as_many_parts_as_its_segments(module: Any, patients: dict[str, Any]) -> None:
    from SIFATrainingWidgets.cohorts_of_nodes import task_from_parts  # noqa: PLC0415

    volume, labels = patients["mr"][0]
    segmentation = labels.GetSegmentation()
    right, left = (segmentation.GetSegmentIdBySegmentName(f"{side} kidney") for side in ("right", "left"))
    both = slicer.util.arrayFromSegmentBinaryLabelmap(labels, right, volume)
    both |= slicer.util.arrayFromSegmentBinaryLabelmap(labels, left, volume)
    segmentation.RemoveSegment(left)
    slicer.util.updateSegmentBinaryLabelmapFromArray(both, labels, right, volume)
    segmentation.GetSegment(right).SetName("kidneys")
    empty = segmentation.AddEmptySegment("", "tumour")
    assert segmentation.GetSegment(empty) is not None
    task = task_from_parts(labels)
    assert {structure.name: structure.parts for structure in task.structures} == {
        "liver": 1, "kidneys": 2, "spleen": 1, "tumour": 1
    }  # fmt: skip


def test_the_model_of_a_training_is_used_by_one_click(
    module: Any, load_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415
    from SIFASegmentationWidgets.models import SAMPLE_MODEL, known_models  # noqa: PLC0415

    job = Job.create(tmp_path / "job", "train", {})
    shutil.copytree(SAMPLE_MODEL, job.folder / "result" / "bundle")
    job.emit_state(State.FINISHED)
    box = load_module("SIFASegmentation").ui.modelComboBox
    assert box.itemData(box.currentIndex) == str(SAMPLE_MODEL)
    module.widget.training.open(job.folder)
    # Tests have no main window, which is what selects modules.
    selected: list[str] = []
    monkeypatch.setattr(slicer.util, "selectModule", selected.append)
    module.ui.useButton.click()
    assert selected == ["SIFASegmentation"]
    assert box.itemData(box.currentIndex) == str(job.folder / "result" / "bundle")
    assert known_models()[0] == job.folder / "result" / "bundle"


@pytest.mark.parametrize("action", ["_start", "_resume"])
def test_a_start_that_fails_by_a_fault_says_so(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    from SIFASegmentationLib.jobs import Job  # noqa: PLC0415

    def broken() -> None:
        raise ImportError("DLL load failed")

    monkeypatch.setattr(module.logic, "ensure_dependencies", broken)
    module.widget.training.job = Job.create(tmp_path / "job", "train", {})
    with pytest.raises(ImportError, match="DLL"):
        getattr(module.widget if action == "_start" else module.widget.training, action)()
    assert module.ui.statusLabel.text == "It could not be started because of an internal error: see the error log."
    assert not module.widget._starting


def test_the_log_is_shown_anew_only_when_there_is_more(module: Any, tmp_path: Path) -> None:
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415

    job = Job.create(tmp_path / "job", "train", {})
    # With Windows line endings.
    (job.folder / "log.txt").write_bytes(b"one\r\ntwo\r\n")
    module.widget.training._monitor.show(job)
    module.widget.training._monitor.add([])
    assert module.ui.logEdit.plainText.split() == ["one", "two"]
    module.ui.logEdit.setPlainText("what is being read")
    module.widget.training._monitor.add([])
    assert module.ui.logEdit.plainText == "what is being read"
    job.log("three")
    module.widget.training._monitor.add([])
    assert module.ui.logEdit.plainText.split("\n")[0] == "what is being read"
    assert module.ui.logEdit.plainText.split()[-1] == "three"
    # An incomplete line is shown once it is complete, and the log of another run replaces what is shown.
    (job.folder / "log.txt").write_bytes(b"anew\nto be con")
    module.widget.training._monitor.add([])
    assert module.ui.logEdit.plainText.strip() == "anew"
    job.emit_state(State.FAILED)
    module.widget.training._monitor.add(job.events()[0])
    assert module.ui.logEdit.plainText.split() == ["anew", "to", "be", "con"]


def test_a_training_that_cannot_be_read_now_is_listed_as_lost(module: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415
    from SIFATrainingWidgets.known_jobs import remember_job, state_of  # noqa: PLC0415

    job = Job.create(tmp_path / "job", "train", {})
    job.emit_state(State.RUNNING)
    remember_job(job)

    def unreadable(_self: Job) -> State:
        raise PermissionError(13, "another program has it")

    monkeypatch.setattr(Job, "state", unreadable)
    assert state_of(job) is State.LOST
    module.widget.training.refresh_list()
    assert module.ui.jobsComboBox.findData(str(job.folder)) > 0


def test_a_sample_cohort_is_shared_out_by_its_segmentations(module: Any, small_samples: Any) -> None:
    from SIFASegmentationWidgets.sample_data import load_cohort  # noqa: PLC0415

    small_samples(32)
    nodes = load_cohort("SIFAHeartTraining", patients=2)
    assert [node.GetName() for node in nodes] == [
        "SIFAHeartMR 1", "SIFAHeartMR 1 reference", "SIFAHeartMR 2", "SIFAHeartMR 2 reference", "SIFAHeartCT 1",
        "SIFAHeartCT 2",
    ]  # fmt: skip
    module.ui.sourceAddAllButton.click()
    module.ui.targetAddAllButton.click()
    assert module.widget.source.nodes() == [(nodes[0], nodes[1], None), (nodes[2], nodes[3], None)]
    assert module.widget.target.nodes() == [(nodes[4], None, None), (nodes[5], None, None)]


def test_folders_of_files_are_checked_and_used_with_their_codes(
    module: Any, checks_in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_events_until: Any
) -> None:
    import numpy as np  # noqa: PLC0415

    from SIFASegmentationLib.image_files import write_volume  # noqa: PLC0415
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415
    from SIFASegmentationLib.phantoms import make_patient, write_cohort  # noqa: PLC0415
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFASegmentationLib.volumes import Volume  # noqa: PLC0415
    from SIFATrainingLib.dataset import PreparedDataset  # noqa: PLC0415
    from SIFATrainingLib.training import train  # noqa: PLC0415

    codes = load_task("abdomen").label_codes["BTCV"].codes
    for seed in (1, 2):
        image, label = make_patient("abdomen", "mr", seed, size=32)
        recoded = label.array.copy()
        for structure in load_task("abdomen").structures:
            recoded[label.array == structure.value] = codes[structure.name]
        write_volume(image, tmp_path / "mr" / f"{seed}_image.nii.gz")
        write_volume(Volume(recoded, label.geometry, label.name), tmp_path / "mr" / f"{seed}_label.nii.gz")
    write_cohort(tmp_path / "ct", "abdomen", "ct", (1, 2), labelled=False, size=32)
    widget, ui = module.widget, module.widget.ui
    assert not ui.sourceCodingComboBox.visible
    ui.sourceFolderEdit.currentPath = str(tmp_path / "mr")
    ui.targetFolderEdit.currentPath = str(tmp_path / "ct")
    parameters = module.logic.getParameterNode()
    parameters.size, parameters.iterations, parameters.batch = 32, 2, 1
    parameters.width, parameters.baseline = module.python.Width.eighth, False

    def checked() -> list[Any]:
        widget.check()
        process_events_until(lambda: any(finding.subject == "disk" for finding in widget.findings.findings), 300)
        return [finding for finding in widget.findings.findings if finding.level == "error"]

    assert [finding.subject for finding in checked()] == ["1_label.nii.gz", "2_label.nii.gz", "source"]
    ui.sourceCodingComboBox.setCurrentIndex(ui.sourceCodingComboBox.findData("BTCV"))
    assert parameters.sourceCoding == "BTCV"
    assert checked() == []
    monkeypatch.setattr(module.logic, "resume", lambda _job: None)
    ui.startButton.click()
    job = widget.training.job
    prepared = job.folder / "prepared"
    assert train(job, must_stop=prepared.exists) is State.STOPPED
    assert np.unique(PreparedDataset(prepared).labels("source")).tolist() == [0, 1, 2, 3, 4]
    # The label coding of one task is not used for another.
    parameters.task = module.python.TaskChoice.cardiac
    assert widget.options().source_coding is None
    # Either folder is checked without the other.
    parameters.task, parameters.sourceFolder = module.python.TaskChoice.abdomen, ""
    (tmp_path / "ct" / "abdomen_ct_002_image.nii.gz").write_bytes(b"no image")
    assert "abdomen_ct_002_image.nii.gz" in [finding.subject for finding in checked()]


def test_a_check_that_finds_no_room_is_one_finding(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFATrainingWidgets import check_process  # noqa: PLC0415

    monkeypatch.setattr(check_process.tempfile, "tempdir", str(tmp_path / "gone"))
    found = [(finding.level, finding.subject) for finding in module.widget.check()]
    assert found.count(("error", "device")) == 1
    (finding,) = [finding for finding in module.widget.findings.findings if finding.subject == "device"]
    assert finding.message == f"{tmp_path / 'gone'} can't be written to (No such file or directory)"
    assert finding.fix == "check the folder's permissions and the free space"
    assert "device" in module.ui.findingsLabel.text

    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(check_process.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "write_text", refuse)
    assert [f.subject for f in module.widget.check()].count("device") == 1
    assert list(tmp_path.glob("SIFA-check-*")) == []


def test_checks_find_what_is_wrong(module: Any, patients: dict[str, Any]) -> None:
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFATrainingWidgets.cohorts_of_nodes import SourceRow, TargetRow  # noqa: PLC0415
    from SIFATrainingWidgets.findings_panel import findings_html  # noqa: PLC0415
    from SIFATrainingWidgets.row_checks import check_rows  # noqa: PLC0415

    (volume, labels), (other, _labels) = patients["mr"]
    labels.GetSegmentation().RemoveSegment(labels.GetSegmentation().GetNthSegmentID(3))
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "leer")
    ribs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "ribs")
    findings = check_rows(
        [SourceRow(volume, labels), SourceRow(other, None)], [TargetRow(empty, reference=ribs)], load_task("abdomen")
    )
    said = {(finding.level, finding.subject): finding.message for finding in findings}
    assert "never labelled: spleen" in said["error", "task"]
    assert said["error", other.GetName()] == "no segmentation"
    assert "holds no image" in said["error", "leer"]
    assert said["error", "ribs"] == "none of the structures"
    assert "3 of 4" in said["warning", labels.GetName()]
    assert not any("window" in finding.message for finding in findings)
    # The CT volumes of these patients are in HU.
    ct, window = [TargetRow(patients["ct"][0][0])], (-150.0, 300.0)
    for windows, subjects in (((None, None), ["target"]), ((None, window), []), ((window, None), ["source", "target"])):
        found = check_rows([SourceRow(volume, labels)], ct, load_task("abdomen"), windows=windows)
        assert [finding.subject for finding in found if "window" in finding.message] == subjects
    # A CT volume that the tutorial leaves in the scene is easily added to the source by mistake.
    ct_volume = patients["ct"][0][0]
    mixed = check_rows([SourceRow(one, labels) for one in (volume, other, ct_volume)], None, load_task("abdomen"))
    (told,) = [finding.message for finding in mixed if "unlike the others" in finding.message]
    assert told.startswith("1 of 3 volumes go below -500")
    assert told.endswith(ct_volume.GetName())
    # Axial slices are counted, however the volume is stored; in these patients they lie along the first axis.
    count = slicer.util.arrayFromVolume(volume).shape[0] + slicer.util.arrayFromVolume(other).shape[0]
    assert said["warning", "source"] == f"volumes: 2, slices: {count}"
    assert findings_html(findings).index("never labelled") < findings_html(findings).index("slices")


def test_findings_of_other_inputs_are_forgotten(
    module: Any, patients: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned: list[bool] = []

    class Probe:
        def __init__(self, _options: Any, _output: Path, _on_findings: Any, **_more: Any) -> None:
            pass

        def abandon(self) -> None:
            abandoned.append(True)

    monkeypatch.setattr(module.python, "CheckProcess", Probe)
    ui, parameters = module.ui, module.logic.getParameterNode()
    for column, node in enumerate(patients["mr"][0]):
        ui.sourceTable.cellWidget(0, column).setCurrentNode(node)
    ui.targetTable.cellWidget(0, 0).setCurrentNode(patients["ct"][0][0])
    for change in (
        lambda: setattr(parameters, "batch", parameters.batch + 1),
        lambda: ui.sourceTable.cellWidget(0, 1).setCurrentNode(patients["mr"][1][1]),
        slicer.mrmlScene.Clear,
    ):
        assert module.widget.check()
        assert "still checking" in ui.checkSection.text
        parameters.name = parameters.name + "a"
        assert "slices" in ui.findingsLabel.text
        change()
        assert ui.findingsLabel.text == ""
        assert ui.checkSection.text == "4 Before you start: inputs changed, check again"
    assert len(abandoned) == 3


def test_what_the_scene_adds_to_a_job_is_counted(module: Any, patients: dict[str, Any]) -> None:
    from SIFATrainingWidgets.cohorts_of_nodes import SourceRow, TargetRow, names_of  # noqa: PLC0415
    from SIFATrainingWidgets.row_checks import what_is_written  # noqa: PLC0415

    (mr, labels), (ct, reference) = patients["mr"][0], patients["ct"][0]
    arrays = [slicer.util.arrayFromVolume(volume) for volume in (mr, ct)]
    slices, written = what_is_written([SourceRow(mr, labels)], [TargetRow(ct)], "axial")
    assert slices == sum(len(array) for array in arrays)
    assert written == sum(array.nbytes for array in arrays) + arrays[0].size
    watched = what_is_written(None, [TargetRow(ct, None, reference)], "axial")
    assert watched == (len(arrays[1]), arrays[1].nbytes + arrays[1].size)
    # On a file system that ignores case, these two names would be the same file.
    mr.SetName("CT_a")
    ct.SetName("ct_A")
    assert names_of([SourceRow(mr), SourceRow(ct)]) == ["CT_a", "ct_A_2"]


def test_while_it_checks_the_title_says_so(
    module: Any, checks_in_process: None, patients: dict[str, Any], process_events_until: Any
) -> None:
    for volume, labels in patients["mr"]:
        module.widget.source.add(volume, labels)
    for volume, _reference in patients["ct"]:
        module.widget.target.add(volume)
    parameters = module.logic.getParameterNode()
    parameters.size, parameters.batch, parameters.baseline = 32, 1, False
    parameters.width = module.python.Width.eighth
    module.widget.check()
    assert module.ui.checkSection.text == "4 Before you start: still checking..."
    process_events_until(lambda: "still" not in module.ui.checkSection.text, 120)
    assert "errors" in module.ui.checkSection.text


def test_checks_live_beside_the_window_and_are_given_up(
    module: Any, patients: dict[str, Any], monkeypatch: pytest.MonkeyPatch, process_events_until: Any
) -> None:
    ui, parameters = module.ui, module.logic.getParameterNode()
    monkeypatch.setattr(module.python, "CheckProcess", lambda *_arguments, **_more: None)
    for volume, labels in patients["mr"]:
        module.widget.source.add(volume, labels)
    module.widget.target.add(patients["ct"][0][0])
    turns: list[str] = []
    timer = every_turn(lambda: turns.append(ui.checkSection.text))

    def begin() -> None:
        turns.clear()
        ui.checkButton.click()
        process_events_until(lambda: "4 Before you start: still checking..." in turns)
        assert ui.checkButton.text == "Cancel"

    for give_up, why in (
        (ui.checkButton.click, "cancelled"),
        (lambda: setattr(parameters, "batch", parameters.batch + 1), "inputs changed, check again"),
    ):
        begin()
        give_up()
        assert ui.checkButton.text == "Check everything"
        assert ui.checkSection.text == f"4 Before you start: {why}"
        slicer.app.processEvents()
        assert ui.findingsLabel.text == ""
    begin()
    process_events_until(lambda: ui.checkButton.text == "Check everything")
    assert "slices" in ui.findingsLabel.text
    begin()
    slicer.mrmlScene.StartState(slicer.mrmlScene.ImportState)
    slicer.mrmlScene.EndState(slicer.mrmlScene.ImportState)
    assert ui.checkButton.text == "Check everything"
    assert ui.checkSection.text == "4 Before you start: cancelled"
    begin()
    slicer.mrmlScene.Clear(0)
    assert ui.checkButton.text == "Check everything"
    assert not ui.checkButton.enabled
    slicer.app.processEvents()
    timer.stop()


def test_a_model_is_saved_while_the_window_lives(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_events_until: Any
) -> None:
    from SIFASegmentationLib import bundle_files  # noqa: PLC0415
    from SIFASegmentationLib.bundle import read_bundle  # noqa: PLC0415
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415
    from SIFASegmentationWidgets.models import SAMPLE_MODEL  # noqa: PLC0415

    job = Job.create(tmp_path / "job", "train", {})
    job.emit_state(State.FINISHED)
    shutil.copytree(SAMPLE_MODEL, job.folder / "result" / "bundle")
    monkeypatch.setattr(bundle_files, "_PORTION_BYTES", 2**19)
    training, ui = module.widget.training, module.ui
    training.open(job.folder)
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "model.zip"
    training.save_model(path)
    process_events_until(lambda: list(path.parent.iterdir()))
    assert ui.saveModelButton.text == "Cancel"
    ui.saveModelButton.click()
    assert ui.statusLabel.text == "Nothing was saved."
    assert list(path.parent.iterdir()) == []
    turns: list[bool] = []
    timer = every_turn(lambda: turns.append(path.exists()))
    training.save_model(path)
    process_events_until(lambda: ui.saveModelButton.text == "Save as file...")
    timer.stop()
    # Each of the sample's two models is checked in four portions, and written in four.
    assert turns.count(False) >= 8
    assert ui.statusLabel.text == f"Saved {path}."
    assert read_bundle(path).manifest.name
    # No incomplete file is left behind when the module is closed.
    training.save_model(path.with_name("other.zip"))
    process_events_until(lambda: len(list(path.parent.iterdir())) > 1)
    training.close()
    assert list(path.parent.iterdir()) == [path]


def test_previews_say_what_they_are(module: Any, tmp_path: Path) -> None:
    from SIFASegmentationLib.jobs import Job  # noqa: PLC0415

    job = Job.create(tmp_path / "job", "train", {})
    module.widget.training._monitor.show(job)
    for number, (stage, folder) in enumerate((("baseline", "baseline/previews"), ("training", "previews"))):
        (job.folder / folder).mkdir(parents=True)
        picture = qt.QPixmap(8, 4)
        picture.fill(qt.QColor(255, 0, 0))
        picture.save(str(job.folder / folder / "p.png"))
        job.emit("preview", iteration=1500, file=f"{folder}/p.png", stage=stage)
        module.widget.training._monitor.add(job.events()[0])
        assert module.ui.previewSlider.value == number
        baseline = stage == "baseline"
        assert ("without adaptation" in module.ui.previewLabel.toolTip) is baseline
        assert "after iteration 1,500" in module.ui.previewLabel.toolTip
        assert ("reconstructed" in module.ui.previewCaption.text) is not baseline


def test_an_empty_window_says_what_to_do_first(module: Any) -> None:
    ui = module.widget.ui
    assert not ui.startButton.enabled
    assert ui.startButton.toolTip == ui.statusLabel.text == "Add labelled source volumes first."
    assert not ui.stopButton.enabled
    assert not ui.resumeButton.enabled
    assert ui.jobsComboBox.currentText == "New training"


def test_start_stop_resume_and_kill_by_the_window(
    module: Any, patients: dict[str, Any], process_events_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415

    ui, widget = module.widget.ui, module.widget
    for table, kind in ((ui.sourceTable, "mr"), (ui.targetTable, "ct")):
        table.cellWidget(0, 0).setCurrentNode(patients[kind][0][0])
    ui.sourceTable.cellWidget(0, 1).setCurrentNode(patients["mr"][0][1])
    parameters = module.logic.getParameterNode()
    parameters.size, parameters.batch, parameters.iterations = 32, 1, 100000
    parameters.width = module.python.Width.eighth
    parameters.baseline = False
    assert ui.startButton.enabled, ui.startButton.toolTip
    ui.startButton.click()
    job = widget.training.job
    assert job is not None, ui.statusLabel.text
    # Progress is reported after the losses.
    process_events_until(lambda: "iteration" in widget.training._monitor.latest.get("progress", {}), 300)
    assert "left" in ui.statusLabel.text
    assert ui.progressBar.value > 0
    assert widget.training._monitor.scene.GetFirstNodeByName("losses").GetNumberOfPlotSeriesNodes() > 4
    ui.stopButton.click()
    process_events_until(lambda: job.state() is State.STOPPED and ui.resumeButton.enabled, 60)
    assert not ui.killButton.enabled
    assert "stopped" in ui.jobsComboBox.currentText
    done = widget.training._monitor.latest["progress"]["iteration"]
    ui.resumeButton.click()
    process_events_until(lambda: widget.training._monitor.latest.get("progress", {}).get("iteration", 0) > done, 300)
    answers = [False, True]
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda _question: answers.pop(0))
    ui.killButton.click()
    assert job.is_alive()
    ui.killButton.click()
    process_events_until(lambda: job.state() is State.LOST, 60)
    process_events_until(lambda: ui.resumeButton.enabled, 60)
    assert "lost" in ui.statusLabel.text


def test_the_window_lives_while_volumes_are_written_and_starts_once(
    module: Any, patients: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib import metaimage  # noqa: PLC0415
    from SIFATrainingWidgets.known_jobs import known_jobs  # noqa: PLC0415

    ui, seen = module.ui, []
    monkeypatch.setattr(metaimage, "PORTION_BYTES", 1)
    (mr, labels), (ct, _reference) = patients["mr"][0], patients["ct"][0]
    for table, nodes in ((ui.sourceTable, (mr, labels)), (ui.targetTable, (ct,))):
        for column, node in enumerate(nodes):
            table.cellWidget(0, column).setCurrentNode(node)

    def click() -> None:
        seen.append((ui.statusLabel.text, ui.startButton.enabled))
        module.widget._refresh()
        ui.startButton.click()

    timer = every_turn(click)
    ui.startButton.click()
    timer.stop()
    assert len(known_jobs()) == 1
    assert not any(enabled for _text, enabled in seen)
    slices = slicer.util.arrayFromVolume(mr).shape[0]
    # The window gets a turn at each slice of the volume and of its labels.
    assert sum("writing volume 1 of 1: SIFAAbdomenMR" in text for text, _enabled in seen) >= 2 * slices - 2


def test_a_start_is_cancelled_while_volumes_are_written(
    module: Any, patients: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib import metaimage  # noqa: PLC0415
    from SIFATrainingWidgets.known_jobs import known_jobs  # noqa: PLC0415

    ui = module.ui
    monkeypatch.setattr(metaimage, "PORTION_BYTES", 1)
    for column, node in enumerate(patients["mr"][0]):
        ui.sourceTable.cellWidget(0, column).setCurrentNode(node)
    ui.targetTable.cellWidget(0, 0).setCurrentNode(patients["ct"][0][0])
    ui.outputFolderEdit.currentPath = str(tmp_path / "trainings")
    assert ui.cancelStartButton.isHidden()

    def click() -> None:
        if "writing volume" in ui.statusLabel.text:
            assert not ui.cancelStartButton.isHidden()
            ui.cancelStartButton.click()

    timer = every_turn(click)
    ui.startButton.click()
    timer.stop()
    assert ui.statusLabel.text == "Cancelled: nothing was started."
    assert known_jobs() == []
    assert list((tmp_path / "trainings").glob("*")) == []
    assert ui.startButton.enabled
    assert ui.cancelStartButton.isHidden()


def test_a_training_is_found_again_after_a_reload_and_a_closed_scene(
    module: Any, patients: dict[str, Any], tmp_path: Path, load_module: Any, process_events_until: Any
) -> None:
    job = start(module, patients, tmp_path / "job", iterations=100000)
    try:
        module.widget.training.show(job)
        process_events_until(lambda: "losses" in module.widget.training._monitor.latest, 300)
        slicer.mrmlScene.Clear()
        seen = module.widget.training._monitor.latest["losses"]["iteration"]
        process_events_until(lambda: module.widget.training._monitor.latest["losses"]["iteration"] > seen, 60)
        module.widget.cleanup()
        assert job.is_alive()
        again = load_module("SIFATraining")
        assert again.widget.training.job.folder == job.folder
        process_events_until(lambda: "losses" in again.widget.training._monitor.latest, 30)
        # The process belongs to another window, and is only known by its heartbeat.
        again.logic.kill(again.widget.training.job)
        process_events_until(lambda: not job.is_alive(), 30)
    finally:
        module.logic.kill(job)


def test_a_failed_training_that_is_resumed_is_said_to_start(
    module: Any, tmp_path: Path, process_events_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415
    from SIFASegmentationWidgets import follower  # noqa: PLC0415

    monkeypatch.setattr(follower, "POLL_MS", 20)
    # A process that writes no events, and ends when the file `go` appears.
    waiting = "import time; from pathlib import Path\nwhile not Path('go').exists(): time.sleep(0.02)"

    def start_waiting(job: Any, _module: str, _arguments: list[str]) -> Any:
        return subprocess.Popen([sys.executable, "-c", waiting], cwd=job.folder)

    monkeypatch.setattr(module.python, "start_process", start_waiting)
    monkeypatch.setattr(module.logic, "ensure_dependencies", lambda: None)
    job, ui = Job.create(tmp_path / "old", "train", {}), module.ui
    job.emit("error", message="a disk was full")
    job.emit_state(State.FAILED)
    module.widget.training.open(job.folder)
    process_events_until(lambda: ui.resumeButton.enabled)
    assert ui.statusLabel.text == "failed: a disk was full"
    ui.resumeButton.click()
    assert ui.statusLabel.text == "Resuming..."
    process = module.logic.process_of(module.widget.training.job)
    try:
        module.widget.training.show_state()
        assert ui.statusLabel.text == "Resuming..."
        assert not ui.resumeButton.enabled
        job.emit_state(State.PREPARING)
        process_events_until(lambda: ui.statusLabel.text == "preparing")
        # Its last events are not taken for old ones, even while its process is still ending.
        job.emit("error", message="another disk was full")
        job.emit_state(State.FAILED)
        process_events_until(lambda: ui.statusLabel.text == "failed: another disk was full")
    finally:
        (job.folder / "go").touch()
        process.wait()
    process_events_until(lambda: ui.resumeButton.enabled)


def test_what_can_not_start_leaves_nothing(module: Any, patients: dict[str, Any], tmp_path: Path) -> None:
    from SIFASegmentationLib.errors import InputError  # noqa: PLC0415

    with pytest.raises(InputError, match="has no segmentation"):
        module.logic.start([patients["mr"][0][0]], [patients["ct"][0][0]], tmp_path / "job", options(module))
    assert not (tmp_path / "job").exists()
    with pytest.raises(InputError, match="size"):
        start(module, patients, tmp_path / "job", size=30)
    assert not (tmp_path / "job").exists()


def test_the_list_remembers_and_forgets(module: Any, tmp_path: Path) -> None:
    from SIFASegmentationLib.jobs import Job  # noqa: PLC0415

    job = Job.create(tmp_path / "old", "train", {})
    job.emit("state", state="stopped")
    module.widget.training.open(job.folder)
    assert module.widget.ui.jobsComboBox.currentText == "old (stopped)"
    module.widget.ui.forgetButton.click()
    assert module.widget.ui.jobsComboBox.count == 1
    assert json.loads((job.folder / "job.json").read_text())["kind"] == "train"
    module.widget.training.open(tmp_path)
    assert "is not a job folder" in module.widget.ui.statusLabel.text


def test_a_training_of_another_machine_is_not_killed_here(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415

    job = Job.create(tmp_path / "job", "train", {})
    job.emit_state(State.RUNNING)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    beat = {"host": "elsewhere", "process": other.pid, "started": 0.0, "time": time.time()}
    (job.folder / "heartbeat.json").write_text(json.dumps(beat))
    module.widget.training.open(job.folder)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda _question: True)
    module.ui.killButton.click()
    assert module.ui.statusLabel.text == "The training runs on elsewhere: stop it instead."
    assert other.poll() is None
    other.communicate(b"\n")
    (job.folder / "heartbeat.json").unlink()


def test_a_running_training_can_be_stopped_or_killed_but_not_resumed_or_forgotten(module: Any, tmp_path: Path) -> None:
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415

    job = Job.create(tmp_path / "job", "train", {})
    job.emit_state(State.RUNNING)
    with job.heartbeat():
        module.widget.training.open(job.folder)
        assert not module.ui.forgetButton.enabled
        assert not module.ui.resumeButton.enabled
        assert module.ui.killButton.enabled
        assert module.ui.stopButton.enabled


def test_the_dice_that_is_told_is_the_trainings_own(module: Any) -> None:
    from SIFATrainingWidgets.monitor import status_text  # noqa: PLC0415

    progress = {"iteration": 20, "iterations": 2000, "eta_seconds": 600.0, "stage": "training"}
    watched = {"dice": {"mean": 0.41}, "stage": "baseline"}
    assert status_text({"progress": progress, "monitor": watched}, "running") == "iteration 20 of 2,000, 10 min left"
    own = {"progress": progress, "monitor": {**watched, "stage": "training"}}
    assert status_text(own, "running").endswith("; Dice of the monitored volumes 0.41")


@pytest.mark.parametrize("main_window_is_there", [True, False])
def test_a_last_window_that_is_closed_while_volumes_are_written_ends_the_start_beside_a_main_window(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main_window_is_there: bool
) -> None:
    """The application signals its end only once they are written and the training has been started."""
    if "standins" not in sys.modules:
        pytest.skip("it would close Slicer")
    from PySide6.QtWidgets import QApplication  # noqa: PLC0415

    if main_window_is_there:
        request.getfixturevalue("main_window")
    module, patients = (request.getfixturevalue(name) for name in ("module", "patients"))
    ui, parameters = module.widget.ui, module.logic.getParameterNode()
    for table, kind in ((ui.sourceTable, "mr"), (ui.targetTable, "ct")):
        table.cellWidget(0, 0).setCurrentNode(patients[kind][0][0])
    ui.sourceTable.cellWidget(0, 1).setCurrentNode(patients["mr"][0][1])
    parameters.outputFolder = str(tmp_path)
    started: list[Any] = []
    monkeypatch.setattr(type(module.logic), "resume", lambda _self, job: started.append(job))
    show = module.widget._show_writing

    def close(name: str, done: int, total: int) -> None:
        QApplication.instance().lastWindowClosed.emit()
        show(name, done, total)

    monkeypatch.setattr(module.widget, "_show_writing", close)
    ui.startButton.click()
    if main_window_is_there:
        assert started == []
        assert "Cancelled" in ui.statusLabel.text
        assert list(tmp_path.iterdir()) == []
    else:
        assert len(started) == 1


def test_ones_own_structures_that_are_not_chosen_are_said_and_are_no_fault(
    module: Any, patients: dict[str, Any]
) -> None:
    """The button can only be disabled for it if the packages needed to find that out are installed."""
    ui, parameters = module.widget.ui, module.logic.getParameterNode()
    ui.sourceTable.cellWidget(0, 0).setCurrentNode(patients["mr"][0][0])
    parameters.task = module.python.TaskChoice.own
    (finding,) = module.widget.check()
    assert (finding.level, finding.message) == ("error", "Choose your structures first")
    module.widget._start()
    assert "Choose your structures first: add a source segmentation" in ui.statusLabel.text
    assert module.widget.training.job is None


def test_only_a_choice_of_the_user_selects_its_row(module: Any, patients: dict[str, Any]) -> None:
    """Selectors emit signals for any change, such as a node that leaves the scene or is renamed."""
    ui = module.widget.ui
    ui.sourceAddAllButton.click()
    table = ui.sourceTable
    assert table.rowCount >= 2
    # The program filled the table, which selectors signal like a user's choice; still, Remove takes the blank row.
    assert not table.selectionModel().selectedRows()
    patients_there = module.widget.source.nodes()
    ui.sourceAddButton.click()
    ui.sourceRemoveButton.click()
    assert module.widget.source.nodes() == patients_there
    table.selectRow(0)
    other = table.cellWidget(1, 0)
    other.currentNodeChanged.emit(other.currentNode())
    assert [index.row() for index in table.selectionModel().selectedRows()] == [0]
    other.nodeActivated.emit(other.currentNode())
    assert [index.row() for index in table.selectionModel().selectedRows()] == [1]


def test_volumes_of_one_name_in_both_tables_and_a_folder_in_place_of_one(
    module: Any, patients: dict[str, Any], tmp_path: Path
) -> None:
    ui, parameters = module.ui, module.logic.getParameterNode()
    (mr, labels), (ct, _reference) = patients["mr"][0], patients["ct"][0]
    ui.sourceTable.cellWidget(0, 0).setCurrentNode(mr)
    ui.sourceTable.cellWidget(0, 1).setCurrentNode(labels)
    ui.targetTable.cellWidget(0, 0).setCurrentNode(ct)
    # Patients are identified by name.
    ct.SetName(mr.GetName().lower())
    module.widget._refresh()
    assert f"{mr.GetName()} (source) and {ct.GetName()} (target) would count as one patient" in ui.startButton.toolTip
    ct.SetName("another")
    module.widget._refresh()
    assert ui.startButton.enabled
    adding = [ui.targetAddAllButton, ui.targetAddButton, ui.targetRemoveButton, ui.targetTable]
    parameters.targetFolder = str(tmp_path)
    assert not any(widget.enabled for widget in adding)
    assert all("A folder is chosen instead" in widget.toolTip for widget in adding)
    parameters.targetFolder = ""
    assert all(widget.enabled for widget in adding)
    assert ui.targetAddButton.toolTip == "One more target volume."


def test_defaults_are_those_of_the_library(module: Any) -> None:
    """The module repeats them, since the window is shown before the packages that the library needs are installed."""
    from SIFATrainingLib.config import make_config  # noqa: PLC0415
    from SIFATrainingLib.prepare import Preparation  # noqa: PLC0415

    node, options, config = module.logic.getParameterNode(), module.python.TrainingOptions(), make_config()
    for name in ("iterations", "batch", "seed"):
        assert getattr(node, name) == getattr(options, name) == getattr(config, name)
    assert module.python.WIDTHS[node.width.value] == options.width == config.width
    prepared = {name: field.default for name, field in Preparation.model_fields.items()}
    assert node.size == options.size == prepared["size"]
    assert node.task.value == options.task == prepared["task"]
