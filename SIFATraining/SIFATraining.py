"""The Slicer module that makes a model: from labelled volumes of one modality and unlabelled ones of the other.

A training is a job folder and a process of its own. The window follows the folder, so that a training goes on when
the module is reloaded, the scene closed or Slicer ended, and is found again. Packages from pip are imported at the
moment of need.
"""

from __future__ import annotations

import logging
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import qt
import slicer
from slicer import vtkMRMLMarkupsROINode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

import SIFATrainingWidgets  # noqa: F401  isort: skip  puts the sibling module on the import path
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import Job
from SIFASegmentationLib.work import Work, result_of
from SIFASegmentationWidgets.button_work import ButtonWork
from SIFASegmentationWidgets.dependencies import (
    asks_nobody,
    ensure_packages,
    held,
    missing_packages,
    run_unless_skipped,
    skip_without,
)
from SIFASegmentationWidgets.labels_of_volumes import label_nodes, labels_by_volume
from SIFASegmentationWidgets.messages import allow, say
from SIFASegmentationWidgets.node_rows import NodeRows
from SIFASegmentationWidgets.nodes import region_from_node
from SIFASegmentationWidgets.nodes_table import (
    REFERENCES,
    REGIONS,
    VOLUMES,
    NodesTable,
    let_go_of_removed,
    scene_volumes,
)
from SIFASegmentationWidgets.parameter_link import ParameterLink, forget_unknown_names
from SIFASegmentationWidgets.processes import kill_process, start_fault, start_process
from SIFASegmentationWidgets.sample_data import REQUIREMENTS as BUNDLE_REQUIREMENTS
from SIFASegmentationWidgets.sample_data import load_patient
from SIFATrainingLib.findings import Finding
from SIFATrainingWidgets import further_preparation
from SIFATrainingWidgets.check_process import CheckProcess
from SIFATrainingWidgets.cohorts_of_nodes import (
    Progress,
    SourceRow,
    TargetRow,
    check_labels,
    names_of,
    stored_mapping,
    task_from_parts_in_pieces,
    unlabelled_fault,
    write_source,
    write_target,
)
from SIFATrainingWidgets.findings_panel import FindingsPanel
from SIFATrainingWidgets.known_jobs import remember_job
from SIFATrainingWidgets.mapping_table import MappingTable
from SIFATrainingWidgets.row_checks import check_rows, check_rows_in_pieces, what_is_written
from SIFATrainingWidgets.training_panel import TrainingPanel

if TYPE_CHECKING:
    from SIFASegmentationLib.structures import Task

PACKAGES = ("onnxruntime", "pydantic", "lightning_fabric", "safetensors", "onnx", "onnxscript", "PIL", "typer")
REQUIREMENTS = Path(__file__).parent / "Resources" / "requirements-training.txt"
Row = TypeVar("Row", SourceRow, TargetRow)
WIDTHS = {"full": 1.0, "half": 0.5, "quarter": 0.25, "eighth": 0.125}
_UNCHECKED = ("name", "initial")  # Parameters that no check looks at.
_ENDS = ("lastWindowClosed()", "aboutToQuit()")  # Of the application.
_UNSAFE = re.compile(r'[\\/:*?"<>|]|^\.')  # In the name of a folder, on some system.
# Where the scene's volumes are written, in the job's folder.
SOURCE_COHORT = Path("data", "source", "cohort.csv")
TARGET_COHORT = Path("data", "target", "cohort.csv")
MONITOR_COHORT = Path("data", "target", "monitoring", "cohort.csv")


class SIFATraining(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("SIFA Training")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["SIFASegmentation", "Segmentations", "Markups", "Plots"]
        self.parent.contributors = [_("SIFA contributors")]
        self.parent.helpText = _(
            "Trains a model that segments CT with labels of MR, or MR with labels of CT. 1. Choose what to segment. "
            "2. Choose labelled volumes of one modality. 3. Choose unlabelled volumes of the other. 4. Start: the "
            "training runs in the background, and goes on when Slicer is closed."
        )
        self.parent.acknowledgementText = _(
            "An implementation of SIFA: C. Chen, Q. Dou, H. Chen, J. Qin, P. A. Heng, IEEE Transactions on Medical "
            "Imaging 39 (2020), 2494-2505. Research use; check every segmentation."
        )


class TaskChoice(Enum):
    """What to segment; the names are what the combo box shows."""

    abdomen = "abdomen"
    cardiac = "cardiac"
    own = "own"


class Plane(Enum):
    """Plane of the slices."""

    task = "task"
    axial = "axial"
    coronal = "coronal"
    sagittal = "sagittal"


class Preset(Enum):
    """Of the settings."""

    recommended = "recommended"
    paper = "paper"


class Width(Enum):
    """Size of the networks."""

    full = "full"
    half = "half"
    quarter = "quarter"
    eighth = "eighth"


class Device(Enum):
    """Where to train."""

    auto = "auto"
    cuda = "cuda"
    mps = "mps"
    cpu = "cpu"


@parameterNodeWrapper
class SIFATrainingParameterNode:
    """What is saved with the scene, beside the rows of source and target (`NodeRows`)."""

    task: TaskChoice = TaskChoice.abdomen
    ownTask: str = ""  # noqa: N815  names as those of dynamic properties, in Slicer's style
    sourceFolder: str = ""  # noqa: N815
    sourceCoding: str = ""  # noqa: N815
    sourceWindow: bool = False  # noqa: N815
    sourceWindowLow: Annotated[int, WithinRange(-2000, 4000)] = -150  # noqa: N815
    sourceWindowHigh: Annotated[int, WithinRange(-2000, 4000)] = 300  # noqa: N815
    targetFolder: str = ""  # noqa: N815
    targetWindow: bool = False  # noqa: N815
    targetWindowLow: Annotated[int, WithinRange(-2000, 4000)] = -150  # noqa: N815
    targetWindowHigh: Annotated[int, WithinRange(-2000, 4000)] = 300  # noqa: N815
    plane: Plane = Plane.task
    size: Annotated[int, WithinRange(32, 1024)] = 256
    region: vtkMRMLMarkupsROINode
    preset: Preset = Preset.recommended
    width: Width = Width.full
    iterations: Annotated[int, WithinRange(1, 1000000)] = 20000
    batch: Annotated[int, WithinRange(1, 256)] = 8
    device: Device = Device.auto
    seed: Annotated[int, WithinRange(0, 1000000)] = 0
    baseline: bool = True
    initial: str = ""
    outputFolder: str = ""  # noqa: N815
    name: str = ""
    settings: str = ""

    if TYPE_CHECKING:  # What the decorator adds.
        parameterNode: Any  # noqa: N815

        def __init__(self, node: Any) -> None: ...


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; see the parameter node.

    Attributes:
        task: A preset's name, or a task (`SIFASegmentationLib.structures.Task`).
        source_coding: Name of the task's label coding that the labelmaps of a source folder use; the task's own values,
            or the segments' names, unless given.
        source_window: Clip the source to this window in HU; its own percentiles unless given.
        target_window: The same for the target.
        plane: The task's unless given.
        size: Rows and columns of the grid, a multiple of 8.
        region: Markups ROI node for every volume without one of its own.
        baseline_iterations: Train without adaptation first, for so many iterations; 0 for not.
        initial: Folder of a model to start from.
        name: Of the training and its model.
        settings: Any further settings of the training (`sifa settings`), nested ones as dictionaries; they win.
        preparation: Any further ones of `SIFATrainingLib.prepare.Preparation`, which win too: for the paper's
            preprocessing of hearts `{"stretch": True, "percentiles": (0, 98), "min_max": True}`.
    """

    task: str | Task = "abdomen"
    source_coding: str | None = None
    source_window: tuple[float, float] | None = None
    target_window: tuple[float, float] | None = None
    plane: str | None = None
    size: int = 256
    region: Any | None = None
    preset: str = "recommended"
    width: float = 1.0
    iterations: int = 20000
    batch: int = 8
    device: str = "auto"
    seed: int = 0
    baseline_iterations: int = 0
    initial: Path | None = None
    name: str = ""
    settings: dict[str, Any] | None = None
    preparation: dict[str, Any] | None = None

    def loaded_task(self) -> Task:
        """The structures.

        Raises:
            InputError: There is no such preset.
        """
        from SIFASegmentationLib.structures import load_task  # noqa: PLC0415  needs pydantic, which comes from pip

        return load_task(self.task) if isinstance(self.task, str) else self.task


class SIFATrainingLogic(ScriptedLoadableModuleLogic):
    """Everything that the window can do, from Python.

    >>> logic = SIFATrainingLogic()
    >>> job = logic.start([(mr, mrSegmentation)], [ct1, ct2], "trainings/abdomen", TrainingOptions(iterations=2000))
    >>> job.state()
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}

    def getParameterNode(self) -> SIFATrainingParameterNode:  # noqa: N802  Slicer's name
        """The module's parameters in the scene."""
        node = super().getParameterNode()
        forget_unknown_names(node, SIFATrainingParameterNode)
        return SIFATrainingParameterNode(node)

    def ensure_dependencies(self) -> None:
        """Install what is missing, after asking; torch through the PyTorch extension.

        Raises:
            InputError: Declined, offline or failed.
        """
        # First: pip would bring a torch of its own choice along with lightning-fabric.
        if missing_packages(("torch",)):
            _install_torch()
        ensure_packages(PACKAGES, REQUIREMENTS, "SIFA Training")

    def start(
        self,
        source: Sequence[Any] | str | Path,
        target: Sequence[Any] | str | Path,
        folder: str | Path,
        options: TrainingOptions | None = None,
        *,
        progress: Progress = lambda _name, _done, _total: None,
    ) -> Job:
        """Make a training of nodes or files in a new folder and start it in a process of its own.

        Args:
            source: Rows of volume, segmentation and (optional) region nodes; or a folder or CSV of files.
            target: Volume nodes, or rows of volume, region and reference; or a folder or CSV of files.
            folder: To make.
            options: How; the defaults unless given.
            progress: Called before each volume is written, and again and again while it is.

        Raises:
            InputError: Something can't be used, or a package can't be installed; nothing is left behind.
        """
        self.ensure_dependencies()
        from SIFATrainingLib.config import make_config  # noqa: PLC0415
        from SIFATrainingLib.prepare import make_preparation  # noqa: PLC0415
        from SIFATrainingLib.training import create_training_job  # noqa: PLC0415

        options, folder = options or TrainingOptions(), Path(folder).resolve()
        _check_device(options.device)
        task = options.loaded_task()
        source_rows, target_rows = _rows_of(source, SourceRow), _rows_of(target, TargetRow)
        if fault := _rows_fault(source_rows, target_rows):
            raise fault
        check_labels(source_rows or (), target_rows or (), task)
        references = target_rows is not None and any(row.reference is not None for row in target_rows)
        own: dict[str, Any] = {
            "source": SOURCE_COHORT if source_rows is not None else _resolved(source),
            "target": TARGET_COHORT if target_rows is not None else _resolved(target),
            "monitor": MONITOR_COHORT if references else None,
            "task": task,
            "size": options.size,
            "plane": options.plane,
            "source_coding": options.source_coding if source_rows is None else None,
            "source_window": options.source_window,
            "target_window": options.target_window,
            "roi": region_from_node(options.region) if options.region is not None else None,
        }
        preparation = make_preparation(**{**own, **(options.preparation or {})})
        config = make_config(
            options.preset,
            **{
                "width": options.width, "iterations": options.iterations, "batch": options.batch,
                "seed": options.seed, **(options.settings or {}),
            },
        )  # fmt: skip
        job = create_training_job(
            folder, preparation, config, options.device, bundle_name=options.name or None, initial=options.initial,
            baseline_iterations=options.baseline_iterations,
        )  # fmt: skip
        try:
            notes = []
            if source_rows is not None:
                notes += write_source(source_rows, task, folder / SOURCE_COHORT.parent, progress)
            if target_rows is not None:
                notes += write_target(target_rows, task, folder / TARGET_COHORT.parent, progress)
            for note in notes:
                job.emit("warning", message=note)
            self.resume(job)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return job

    def resume(self, job: Job) -> None:
        """Start the process of a job that is queued, was stopped, or was cut off."""
        process = start_process(job, "SIFATrainingLib", ["run", str(job.folder.resolve())])
        remember_job(job)
        self._processes[job.folder] = process

    def stop(self, job: Job) -> None:
        """Ask a training to finish the iteration or volume at hand, save and end."""
        job.request_stop()

    def kill(self, job: Job) -> None:
        """End a training on this machine at once.

        Raises:
            InputError: It runs on another machine.
        """
        # A process number of long ago may be another program's by now.
        beat = job.last_beat() if job.is_alive() else None
        if beat is not None and beat["host"] != socket.gethostname():
            raise InputError(_("The training runs on {host}").format(host=beat["host"]), _("stop it instead"))
        own = self._processes.get(job.folder)
        processes = {beat["process"]} if beat is not None else set()
        if own is not None and own.poll() is None:
            processes.add(own.pid)
        for process in processes:
            kill_process(process)
        if own is not None:
            own.wait()

    def process_of(self, job: Job) -> subprocess.Popen[bytes] | None:
        """The process of a job that was last started here; None if another window or machine started it."""
        process = self._processes.get(job.folder)
        if process is not None and process.poll() is not None and job.is_alive():
            # It has ended, and somebody else has resumed the job.
            return None
        return process


class SIFATrainingWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The window."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SIFATrainingLogic | None = None
        self._parameters: SIFATrainingParameterNode | None = None
        self._filling = False
        self._starting = self._cancelled = self._settings_are_listed = False
        self._own_task_problem = ""

    def setup(self) -> None:
        """Called once, when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        self._window = slicer.util.loadUI(self.resourcePath("UI/SIFATraining.ui"))
        self.layout.addWidget(self._window)
        self.ui = slicer.util.childWidgetVariables(self._window)
        self._window.setMRMLScene(slicer.mrmlScene)
        self._link = ParameterLink(self, self.ui, self._refresh)
        self.logic = SIFATrainingLogic()
        volume = (_("Volume"), VOLUMES, _("A volume of this modality."))
        region_tip = _(
            "Optional box: only what lies inside it is used (for a rotated box, inside the axis-aligned box around "
            "it). If empty, the body is found automatically."
        )
        region = (_("Region"), REGIONS, region_tip)
        self.source = NodesTable(
            self.ui.sourceTable,
            [volume, (_("Segmentation"), REFERENCES, _("Its labels, which the training learns from.")), region],
            self._store_rows,
        )
        reference = (_("Reference"), REFERENCES, _("Optional, for monitoring only: nothing learns from it."))
        self.target = NodesTable(self.ui.targetTable, [volume, region, reference], self._store_rows)
        self.mapping = MappingTable(self.ui.mappingTable, self._refresh)
        self.findings = FindingsPanel(self.ui)
        self.training = TrainingPanel(self.ui, self._window, self.logic, self._say, self._refresh)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._on_scene_start_close)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self._on_scene_end_close)
        self._link.let_go_while_importing(self._connect_parameters, self.initializeParameterNode)
        let_go_of_removed(self.ui.regionSelector)
        self._own_tasks = ButtonWork(self.ui.ownTaskButton, self._own_task_ended)
        self._checks = ButtonWork(self.ui.checkButton, self._allow_buttons)
        self._connect_widgets()
        # Volumes would go on being written, and the training be started, without a window: while they are, the
        # application's end is told when they have been.
        for signal in _ENDS:
            slicer.app.connect(signal, self._cancel_start)
        self.initializeParameterNode()
        self.training.show_running()

    def _connect_widgets(self) -> None:
        buttons = {
            self.ui.ownTaskButton: self._own_task, self.ui.checkButton: self._begin_checks,
            self.ui.startButton: self._start, self.ui.cancelStartButton: self._cancel_start,
            self.ui.fineTuneButton: self._fine_tune, self.ui.useButton: self._use_model,
        }  # fmt: skip
        for button, method in buttons.items():
            button.connect("clicked(bool)", _slot(method))
        for table, prefix in ((self.source, "source"), (self.target, "target")):
            add_all, add, remove = (getattr(self.ui, f"{prefix}{name}Button") for name in ("AddAll", "Add", "Remove"))
            add_all.connect("clicked(bool)", _slot(self._add_all, table))
            add.connect("clicked(bool)", _slot(table.add))
            remove.connect("clicked(bool)", _slot(table.remove))
        self.ui.sourceCodingComboBox.connect("currentIndexChanged(int)", self._select_coding)
        # By hand: Slicer connects path widgets to `pathlib.Path` alone, for which "none" is the folder at work.
        for parameter, edit in self._path_edits().items():
            edit.connect("currentPathChanged(QString)", _slot(self._store_path, parameter))
            # An emptied field is no valid input, of which the signal above says nothing.
            edit.connect("validInputChanged(bool)", _slot(self._store_path, parameter))

    def _path_edits(self) -> dict[str, Any]:
        """The widgets of folders, by parameter."""
        return {
            "sourceFolder": self.ui.sourceFolderEdit, "targetFolder": self.ui.targetFolderEdit,
            "initial": self.ui.initialEdit, "outputFolder": self.ui.outputFolderEdit,
        }  # fmt: skip

    def _store_path(self, parameter: str) -> None:
        if self._parameters is not None and not self._filling:
            setattr(self._parameters, parameter, self._path_edits()[parameter].currentPath)

    def cleanup(self) -> None:
        """Called when the application closes and before the module is reloaded: trainings go on."""
        for signal in _ENDS:
            slicer.app.disconnect(signal, self._cancel_start)
        self._cancel_start()
        self.findings.abandon_probe()
        self._connect_parameters(None)
        self.removeObservers()
        self.training.close()

    def enter(self) -> None:
        """Called each time the module is opened."""
        self.initializeParameterNode()
        self.training.enter()

    def exit(self) -> None:
        """Called each time another module is opened; trainings go on."""

    def initializeParameterNode(self) -> None:  # noqa: N802  Slicer's name
        """Take up the scene's parameter node, with sensible first values."""
        if self.logic is None:
            return
        if not self._link.is_tied_to(ScriptedLoadableModuleLogic.getParameterNode(self.logic)):
            self._connect_parameters(self.logic.getParameterNode())
        assert self._parameters is not None
        if not self._parameters.outputFolder:
            documents = qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation)
            self._parameters.outputFolder = str(Path(documents) / "SIFA")
        for rows in (self._rows("source"), self._rows("target")):
            if not rows.read():
                rows.write([(None, None, None)])
        self._refresh()

    def _rows(self, table: str) -> NodeRows:
        assert self._parameters is not None
        roles = SourceRow._fields if table == "source" else TargetRow._fields
        return NodeRows(self._parameters.parameterNode, table, roles)

    def _source_rows(self) -> list[SourceRow]:
        return [SourceRow(*row) for row in self._rows("source").read() if row[0] is not None]

    def _target_rows(self) -> list[TargetRow]:
        return [TargetRow(*row) for row in self._rows("target").read() if row[0] is not None]

    def _connect_parameters(self, parameters: SIFATrainingParameterNode | None) -> None:
        if parameters is None:
            # They look at nodes that are about to go.
            self._own_tasks.stop()
            self._stop_checks()
        self._parameters = parameters
        self._link.connect(parameters)

    def _on_scene_start_close(self, _caller: Any, _event: Any) -> None:
        self._connect_parameters(None)

    def _on_scene_end_close(self, _caller: Any, _event: Any) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()

    # What is to be trained -----------------------------------------------------------------------------------------

    def task(self) -> Task | None:
        """The task that is chosen; None where it can't be known yet."""
        if self._parameters is None or missing_packages(("pydantic",)):
            return None
        from SIFASegmentationLib.structures import Task, load_task  # noqa: PLC0415

        if self._parameters.task is not TaskChoice.own:
            return load_task(self._parameters.task.value)
        try:
            return Task.model_validate_json(self._parameters.ownTask)
        except ValueError:
            # None are chosen yet, or the scene is from a SIFA that wrote them otherwise.
            return None

    def options(self) -> TrainingOptions:
        """What the window says.

        Raises:
            InputError: No structures are chosen, a further setting is not NAME=VALUE, or one of the preparation is
                unknown or out of bounds.
        """
        from SIFATrainingLib.config import with_settings  # noqa: PLC0415

        p, task = self._parameters, self.task()
        assert p is not None
        if task is None:
            raise _no_structures()
        # What was chosen for another task is not meant for this one.
        settings, preparation = further_preparation.split(p.settings.split())
        coded = bool(p.sourceFolder) and p.sourceCoding in task.label_codes
        return TrainingOptions(
            task=task,
            source_coding=p.sourceCoding if coded else None,
            source_window=_window(p, "source"),
            target_window=_window(p, "target"),
            plane=None if p.plane is Plane.task else p.plane.value,
            size=p.size,
            region=p.region,
            preset=p.preset.value,
            width=WIDTHS[p.width.value],
            iterations=p.iterations,
            batch=p.batch,
            device=p.device.value,
            seed=p.seed,
            baseline_iterations=max(1, p.iterations // 4) if p.baseline else 0,
            initial=Path(p.initial) if p.initial else None,
            name=p.name,
            settings=with_settings({}, settings),
            preparation=preparation,
        )

    def _refresh(self, _caller: Any = None, _event: Any = None) -> None:
        """Show the parameters, and what can be done next."""
        if self._parameters is None or self._filling:
            return
        self._filling = True
        try:
            self.source.show(self._rows("source").read())
            self.target.show(self._rows("target").read())
            for parameter, edit in self._path_edits().items():
                if edit.currentPath != getattr(self._parameters, parameter):
                    edit.currentPath = getattr(self._parameters, parameter)
            task = self.task()
            labels = [row.labels for row in self._source_rows() if row.labels is not None]
            self.mapping.show(labels, task)
            self._show_codings(task)
        finally:
            self._filling = False
        self.ui.taskLabel.text = _describe(task, self._parameters.task)
        if not self._settings_are_listed and not missing_packages(("pydantic",)):
            self._settings_are_listed = True
            self.ui.settingsEdit.setToolTip(_settings_help())
        for widget in (self.ui.sourceCodingComboBox, self.ui.sourceCodingLabel):
            widget.visible = bool(self._parameters.sourceFolder)
        for widget in (self.ui.mappingTable, self.ui.mappingLabel):
            widget.visible = bool(labels) and not self._parameters.sourceFolder
        instead = _("A folder is chosen instead: empty its field to choose volumes of the scene.")
        for prefix, folder in (("source", self._parameters.sourceFolder), ("target", self._parameters.targetFolder)):
            for name in ("Table", "AddAllButton", "AddButton", "RemoveButton"):
                allow(getattr(self.ui, f"{prefix}{name}"), instead if folder else "")
        if not self.findings.are_of(self._inputs()):
            self._checks.stop()
            self.findings.forget(_("inputs changed, check again"))
        self._check_can_start()

    def _show_codings(self, task: Task | None) -> None:
        """The label codings of the task, which a source folder's labelmaps may use."""
        assert self._parameters is not None
        box, codings = self.ui.sourceCodingComboBox, ["", *(task.label_codes if task is not None else ())]
        if [box.itemData(index) for index in range(box.count)] != codings:
            box.clear()
            for coding in codings:
                box.addItem(coding or _("the task's own, or segment names"), coding)
        box.setCurrentIndex(max(0, box.findData(self._parameters.sourceCoding)))

    def _select_coding(self, index: int) -> None:
        if self._parameters is not None and not self._filling and index >= 0:
            self._parameters.sourceCoding = self.ui.sourceCodingComboBox.itemData(index)

    def _check_can_start(self) -> None:
        """Enable what can be done, and say what is still to be done where nothing else is said."""
        self._allow_buttons()
        # The scene may be closed while events are let in.
        busy = self._starting or self._own_tasks.is_running
        if self._parameters is not None and self.training.job is None and not busy:
            initial = self._parameters.initial
            start_from = _("It will start from the model in {folder}.").format(folder=initial) if initial else ""
            self._say(self._why_not_start() or start_from)

    def _allow_buttons(self) -> None:
        """Enable what can be done; a tool tip says why something can't. A click on what is at work cancels it."""
        if self._parameters is None:
            return
        reason = self._why_not_start()
        self.ui.cancelStartButton.visible = self._starting
        allow(self.ui.startButton, reason)
        allow(self.ui.checkButton, "" if self._checks.is_running else reason)
        no_task = ""
        if self._starting:
            no_task = _being_prepared()
        elif not any(row.labels is not None for row in self._source_rows()):
            no_task = _("Choose a segmentation in the source table first.")
        allow(self.ui.ownTaskButton, "" if self._own_tasks.is_running else no_task)

    def _why_not_start(self) -> str:
        """What is in the way of a training; empty where nothing is."""
        p = self._parameters
        assert p is not None
        reason = ""
        if self._starting:
            reason = _being_prepared()
        elif self._own_tasks.is_running:
            reason = _("Your structures are still being looked at: wait, or cancel that.")
        elif p.task is TaskChoice.own and not missing_packages(("pydantic",)) and self.task() is None:
            reason = str(_no_structures())
        elif fault := _rows_fault(
            None if p.sourceFolder else self._source_rows(), None if p.targetFolder else self._target_rows()
        ):
            reason = str(fault)
        elif (p.sourceWindow and p.sourceWindowLow >= p.sourceWindowHigh) or (
            p.targetWindow and p.targetWindowLow >= p.targetWindowHigh
        ):
            reason = _("A CT window must begin below its end: put the lower value first.")
        elif not Path(p.outputFolder).is_absolute():
            reason = _("Choose an output folder under Advanced.")
        elif p.size % 8:
            reason = _("The grid must be a multiple of 8 pixels.")
        elif _UNSAFE.search(p.name):
            reason = _("The name becomes a folder: leave out {characters}.").format(characters='\\ / : * ? " < > |')
        return reason

    def _store_rows(self) -> None:
        if self._parameters is not None and not self._filling:
            self._rows("source").write(self.source.nodes())
            self._rows("target").write(self.target.nodes())
            self._refresh()

    def _add_all(self, table: NodesTable) -> None:
        other = self.target if table is self.source else self.source
        taken = {row[0].GetID() for row in other.nodes() if row[0] is not None}
        if table is self.target:
            table.add_all(taken)
            return
        volumes = scene_volumes()
        labels = labels_by_volume(volumes)
        # Those without any are the target's.
        table.add_all(taken | {volume.GetID() for volume in volumes} - set(labels))
        rows = [SourceRow(*row) for row in table.nodes()]
        guessed = [
            row._replace(labels=row.labels or labels.get(row.volume.GetID())) if row.volume is not None else row
            for row in rows
        ]
        table.show(guessed or [SourceRow(None)])
        self._store_rows()
        alone = [node.GetName() for node in label_nodes() if node not in labels.values()]
        if not labels:
            none = _("No segmentation or labelmap belongs to a volume in the scene: load labels, or add rows by hand.")
            self._say(none, error=True)
        elif alone:
            some = _("Add by hand the volumes of {names}: they are unknown, or already have other labels.")
            self._say(some.format(names=", ".join(alone)), error=True)

    def _own_task(self) -> None:
        if self._own_tasks.is_running:
            self._own_tasks.stop()
            return
        labels = next(row.labels for row in self._source_rows() if row.labels is not None)
        try:
            with held(self._window):
                # Not all that a training needs: pip would bring a torch along.
                ensure_packages(("pydantic",), BUNDLE_REQUIREMENTS, "SIFA Training")
        except InputError as error:
            self._say(str(error), error=True)
            return
        # The scene may have been closed meanwhile.
        if self._parameters is not None:
            self._own_task_problem = ""
            self._own_tasks.start(self._take_own_task(labels))
            self._allow_buttons()

    def _take_own_task(self, labels: Any) -> Work[None]:
        """Choose the structures of a segmentation or labelmap node."""
        try:
            task = yield from task_from_parts_in_pieces(labels, self._say_looking)
        except InputError as error:
            self._own_task_problem = str(error)
            return
        except Exception:  # Slicer's nodes raise what they like
            logging.exception("The structures could not be taken.")
            self._own_task_problem = _("The structures could not be taken: see the error log.")
            return
        if self._parameters is not None:
            self._parameters.ownTask = task.model_dump_json()
            self._parameters.task = TaskChoice.own

    def _own_task_ended(self) -> None:
        """Say why there are no structures, or how things stand, in place of what was said on the way."""
        self._check_can_start()
        self.training.show_state()
        if self._own_task_problem:
            self._say(self._own_task_problem, error=True)

    def _say_looking(self, segment: str) -> None:
        self._say(_("Counting the parts of {segment}...").format(segment=segment))

    # Before, and the start -----------------------------------------------------------------------------------------

    def check(self) -> list[Finding]:
        """Look at everything that can be known before the start; the findings, which are shown as well."""
        if self._ensure_for_checks():
            result_of(self._check_in_pieces())
        return self.findings.findings

    def _begin_checks(self) -> None:
        if self._checks.is_running:
            self._stop_checks()
        elif self._ensure_for_checks():
            self._checks.start(self._check_for_window())

    def _stop_checks(self) -> None:
        if self._checks.is_running:
            self._checks.stop()
            self.findings.forget(_("cancelled"))

    def _check_for_window(self) -> Work[None]:
        try:
            yield from self._check_in_pieces()
        except Exception:  # Slicer's nodes raise what they like
            logging.exception("The inputs could not be checked.")
            self.findings.forget(_("could not be checked, see the error log"))

    def _ensure_for_checks(self) -> bool:
        """Install what the checks need; whether there is anything to check then."""
        assert self.logic is not None
        try:
            with held(self._window):
                self._say(_("Looking for the Python packages..."))
                self.ui.statusLabel.repaint()
                self.logic.ensure_dependencies()
        except InputError as error:
            self.findings.show([Finding.of(_("packages"), error)])
            return False
        finally:
            # Structures, and which segment is which, may be known only now.
            self._refresh()
            self.training.show_state()
        # The scene may have been closed meanwhile, and another module be shown.
        if self._parameters is None:
            return False
        if self.task() is None:
            self.findings.show([Finding.of(_("structures"), _no_structures())])
            return False
        return True

    def _check_in_pieces(self) -> Work[None]:
        """The checks, some of a volume's a piece; at their end the process that looks for more is started."""
        p, task = self._parameters, self.task()
        assert p is not None
        assert task is not None
        inputs, findings = self._inputs(), list[Finding]()
        # One of before would measure a device that this one is measuring.
        self.findings.begin(inputs)
        slices = copied_bytes = 0
        if not (p.sourceFolder and p.targetFolder):
            source = None if p.sourceFolder else self._source_rows()
            target = None if p.targetFolder else self._target_rows()
            windows = (_window(p, "source"), _window(p, "target"))
            plane = task.plane if p.plane is Plane.task else p.plane.value
            findings += yield from check_rows_in_pieces(source, target, task, p.region, windows, plane)
            slices, copied_bytes = what_is_written(source, target, plane)
        probe = None
        try:
            options = self.options()
        except InputError as error:
            self.findings.show([*findings, Finding.of(_("settings"), error)], inputs)
            return
        try:
            probe = CheckProcess(
                options, Path(p.outputFolder), self.findings.add, source=p.sourceFolder, target=p.targetFolder,
                slices=slices, copied_bytes=copied_bytes,
            )  # fmt: skip
        except InputError as error:
            findings.append(Finding.of(_("device"), error))
        self.findings.show(findings, inputs, probe)

    def _inputs(self) -> tuple[Any, ...]:
        """What the checks are of, to tell when they are of something else."""
        p = self._parameters
        if p is None:
            return ()
        node = p.parameterNode
        values = {name: node.GetParameter(name) for name in sorted(node.GetParameterNames()) if name not in _UNCHECKED}
        rows = [row for table in ("source", "target") for row in self._rows(table).read()]
        ids = [[one.GetID() if one is not None else "" for one in row] for row in rows]
        mappings = [stored_mapping(row.labels) for row in self._source_rows() if row.labels is not None]
        return values, ids, mappings, p.region.GetID() if p.region is not None else ""

    def _start(self) -> None:
        """Write the volumes, and start; what is in the way is said in one line."""
        assert self._parameters is not None
        assert self.logic is not None
        p = self._parameters
        problem = start_fault()
        # Before anything that lets events in: a second click must find the button disabled.
        self._starting, self._cancelled = True, False
        self._check_can_start()
        try:
            self._say(_("Preparing..."))
            # It would measure a device that is being trained on.
            self._stop_checks()
            self.findings.abandon_probe()
            # What comes takes seconds where torch is imported for the first time.
            slicer.app.processEvents()
            self._end_if_cancelled()
            with held(self._window):
                self.logic.ensure_dependencies()
            self._end_if_cancelled()
            options = self.options()
            name = p.name.strip() or f"{options.loaded_task().name} {datetime.now():%Y-%m-%d %H.%M.%S}"
            job = self.logic.start(
                p.sourceFolder or self._source_rows(), p.targetFolder or self._target_rows(),
                Path(p.outputFolder) / name, options, progress=self._show_writing,
            )  # fmt: skip
            problem = ""
        except InputError as error:
            problem = str(error)
        finally:
            self._starting = False
            self._refresh()
            if problem:
                # After the check, which has the status line say what is still to be done.
                self._say(problem, error=True)
        if problem:
            return
        if self._parameters is not None:
            # The next one, of other volumes perhaps, would start from there unseen.
            self._parameters.initial = ""
        self.training.refresh_list()
        self.training.show(job)

    def _show_writing(self, name: str, done: int, total: int) -> None:
        self._say(_("writing volume {number} of {total}: {name}").format(number=done + 1, total=total, name=name))
        slicer.app.processEvents()
        self._end_if_cancelled()

    def _end_if_cancelled(self) -> None:
        if self._cancelled:
            raise InputError(_("Cancelled"), _("nothing was started"))

    def _cancel_start(self) -> None:
        self._cancelled = True

    # The model -----------------------------------------------------------------------------------------------------

    def _use_model(self) -> None:
        bundle = self.training.bundle
        if bundle is not None:
            slicer.util.selectModule("SIFASegmentation")
            slicer.modules.SIFASegmentationWidget.use_model(bundle)

    def _fine_tune(self) -> None:
        job, bundle = self.training.job, self.training.bundle
        if job is None or bundle is None:
            return
        try:
            with held(self._window):
                ensure_packages(("pydantic",), BUNDLE_REQUIREMENTS, "SIFA Training")
            if self._parameters is None:
                return
            self._take_up(job)
        except InputError as error:
            self._say(str(error), error=True)
            return
        self._parameters.initial = str(bundle)
        self.ui.advancedSection.collapsed = False
        self.training.show(None)
        self._refresh()

    def _take_up(self, job: Job) -> None:
        """Choose structures, grid and networks as those of a training, which a model that starts from it must have."""
        from SIFASegmentationLib.structures import load_task, preset_names  # noqa: PLC0415
        from SIFATrainingLib.dataset import DOMAINS  # noqa: PLC0415
        from SIFATrainingLib.specification import TrainingSpecification  # noqa: PLC0415

        assert self._parameters is not None
        specification = TrainingSpecification.of(job)
        width = next((name for name, value in WIDTHS.items() if value == specification.config.width), None)
        if width is not None:
            self._parameters.width = Width(width)
        preparation = specification.preparation
        if preparation is None:
            return
        task = preparation.loaded_task()
        try:
            self._parameters.size = preparation.size
            for domain in DOMAINS:
                self._take_up_window(domain, getattr(preparation, f"{domain}_window"))
        except ValueError as error:
            problem = _("The grid or a CT window of {folder} is outside the range of this module")
            raise InputError(problem.format(folder=job.folder), _("fine-tune its model with `sifa train`")) from error
        self._parameters.plane = Plane(preparation.plane or Plane.task.value)
        self._parameters.settings = further_preparation.joined(self._parameters.settings.split(), preparation)
        if task.name in preset_names() and task == load_task(task.name):
            self._parameters.task = TaskChoice(task.name)
        else:
            self._parameters.ownTask = task.model_dump_json()
            self._parameters.task = TaskChoice.own

    def _take_up_window(self, domain: str, window: tuple[float, float] | None) -> None:
        """Clip a domain to a window in HU, or to percentiles for None."""
        setattr(self._parameters, f"{domain}Window", window is not None)
        if window is not None:
            for end, value in zip(("Low", "High"), window, strict=True):
                setattr(self._parameters, f"{domain}Window{end}", round(value))

    def _say(self, text: str, *, error: bool = False) -> None:
        say(self.ui.statusLabel, text, error=error)


def _check_device(device: str) -> None:
    """Refuse a device that is not here, before volumes are written.

    Raises:
        InputError: It is not here, or unknown.
    """
    # These are everywhere; torch, which knows of the others, takes seconds to import, and the window would wait.
    if device not in ("auto", "cpu"):
        from SIFATrainingLib.devices import choose_device  # noqa: PLC0415

        choose_device(device)


def _being_prepared() -> str:
    return _("The training is being prepared.")


def _no_structures() -> InputError:
    """That the structures are one's own, and none are chosen."""
    return InputError(_("Choose your structures first"), _("add a source segmentation, then press My structures"))


def _rows_fault(source: Sequence[SourceRow] | None, target: Sequence[TargetRow] | None) -> InputError | None:
    """What is missing or wrong in rows of nodes, where they are not folders; None if nothing is."""
    if source is not None and not source:
        return InputError(_("Add labelled source volumes first"))
    if fault := unlabelled_fault(source or ()):
        return fault
    if target is not None and not target:
        return InputError(_("Add unlabelled target volumes first"))
    rows: list[SourceRow | TargetRow] = [*(source or ()), *(target or ())]
    volumes = [row.volume for row in rows]
    ids = [volume.GetID() for volume in volumes]
    twice = next((volume for volume in volumes if ids.count(volume.GetID()) > 1), None)
    if twice is not None:
        return InputError(_("{name} is in the tables twice").format(name=twice.GetName()), _("remove one of its rows"))
    # A patient is known by the name: none may be in both.
    of_source = {name.casefold(): row for name, row in zip(names_of(source or ()), source or (), strict=True)}
    for name, row in zip(names_of(target or ()), target or (), strict=True):
        if (other := of_source.get(name.casefold())) is not None:
            problem = _("{one} (source) and {other} (target) would count as one patient because of their names").format(
                one=other.volume.GetName(), other=row.volume.GetName()
            )
            return InputError(problem, _("rename one of the volumes, or remove one if they are of one patient"))
    return None


def _window(parameters: SIFATrainingParameterNode, domain: str) -> tuple[float, float] | None:
    """What a domain is clipped to, in HU; None for percentiles."""
    if not getattr(parameters, f"{domain}Window"):
        return None
    return getattr(parameters, f"{domain}WindowLow"), getattr(parameters, f"{domain}WindowHigh")


def _slot(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A callable without parameters: PythonQt would put a signal's arguments into a lambda's defaults."""
    return lambda: function(*arguments)


def _settings_help() -> str:
    from SIFATrainingLib.config import describe, make_config  # noqa: PLC0415

    names = "<br>".join(f"{name}={default}" for name, default, _about in describe(make_config()))
    prepared = "<br>".join(f"preparation.{name}" for name in further_preparation.NAMES)
    return (
        _("Any further settings, NAME=VALUE with spaces between. They are, by default:") + f"<br><br>{names}<br><br>"
        + _("And of how volumes are prepared (sifa prepare --help):") + f"<br><br>{prepared}"
    )  # fmt: skip


def _describe(task: Task | None, choice: TaskChoice) -> str:
    if task is not None:
        return ", ".join(task.names)
    if choice is TaskChoice.own:
        return _("Add a labelled source volume, then press My structures.")
    return _("Its structures are shown once the Python packages are installed (Check everything).")


def _rows_of(given: Sequence[Any] | str | Path, row: type[Row]) -> list[Row] | None:
    """Rows of nodes from volume nodes or tuples of nodes; None for the path of files."""
    if isinstance(given, str | Path):
        return None
    return [row(*one) if isinstance(one, tuple | list) else row(one) for one in given]


def _resolved(path: Any) -> Path:
    return Path(path).resolve()


def _install_torch() -> None:
    """PyTorch by the extension of that name, which picks the build for the computer's GPU.

    Raises:
        InputError: The extension is not installed, or it could not install.
    """
    try:
        from PyTorchUtils import PyTorchUtilsLogic  # noqa: PLC0415  the extension PyTorch
    except ImportError as error:
        raise InputError(
            _("Training needs PyTorch"),
            _("install the extension PyTorch (Extensions Manager), restart Slicer, try again"),
        ) from error
    failed, advice = _("PyTorch was not installed"), _("try again, or use the module PyTorch Util")
    if asks_nobody():
        raise InputError(failed, _("nothing is installed while Slicer is tested"))
    try:
        installed = PyTorchUtilsLogic().installTorch(askConfirmation=True)
    except Exception as error:  # it runs pip, and imports what that installed
        raise InputError(f"{failed} ({error})", advice) from error
    if installed is None:
        raise InputError(failed, advice)


class SIFATrainingTest(ScriptedLoadableModuleTest):
    """Slicer's self test."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:  # noqa: N802  unittest's name
        """Run all checks."""
        self.setUp()
        run_unless_skipped(self.test_the_segments_of_a_sample_match_the_task)

    def test_the_segments_of_a_sample_match_the_task(self) -> None:
        """Sample data, and the checks before a start."""
        skip_without(("pydantic",), BUNDLE_REQUIREMENTS)
        from SIFASegmentationLib.structures import load_task  # noqa: PLC0415

        mr, labels = load_patient("SIFAAbdomenMR")
        ct, _labels = load_patient("SIFAAbdomenCT")
        findings = check_rows([SourceRow(mr, labels)], [TargetRow(ct)], load_task("abdomen"))
        assert [f for f in findings if f.level == "error"] == []
        self.delayDisplay(_("All checks passed"))
