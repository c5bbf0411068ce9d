"""The Slicer module that makes a model, from labelled volumes of one modality and unlabelled ones of the other.

A training consists of a job folder and a separate process. The window follows the folder, so that a training continues
when the module is reloaded, the scene is closed or Slicer quits, and can be found again. Packages from pip are imported
only when needed.
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
from SIFASegmentationWidgets.application_end import ends_with_last_window
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
_UNCHECKED = ("name", "initial")  # Parameters that no check depends on.
_UNSAFE = re.compile(r'[\\/:*?"<>|]|^\.')  # What some operating system does not allow in the name of a folder.
# Where the scene's volumes are written, relative to the job's folder.
SOURCE_COHORT = Path("data", "source", "cohort.csv")
TARGET_COHORT = Path("data", "target", "cohort.csv")
MONITOR_COHORT = Path("data", "target", "monitoring", "cohort.csv")


class SIFATraining(ScriptedLoadableModule):
    """Description of the module that Slicer shows."""

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
    """What to segment; the combo box shows the names."""

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
    """Preset of the settings."""

    recommended = "recommended"
    paper = "paper"


class Width(Enum):
    """Width of the networks, relative to the paper's (`WIDTHS`)."""

    full = "full"
    half = "half"
    quarter = "quarter"
    eighth = "eighth"


class Device(Enum):
    """Device to train on."""

    auto = "auto"
    cuda = "cuda"
    mps = "mps"
    cpu = "cpu"


@parameterNodeWrapper
class SIFATrainingParameterNode:
    """Parameters saved with the scene, in addition to the rows of source and target (`NodeRows`)."""

    task: TaskChoice = TaskChoice.abdomen
    ownTask: str = ""  # noqa: N815  named like the widgets' dynamic properties, in Slicer's style
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

    if TYPE_CHECKING:  # Members that the decorator adds.
        parameterNode: Any  # noqa: N815

        def __init__(self, node: Any) -> None: ...


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training; those not listed here are as in the parameter node.

    Attributes:
        task: Name of a preset, or a task (`SIFASegmentationLib.structures.Task`).
        source_coding: Name of the task's label coding that the labelmaps of a source folder use; by default, they use
            the task's own values, or the segments' names.
        source_window: Window in HU that the source is clipped to; None for its own percentiles.
        target_window: Window in HU that the target is clipped to; None for its own percentiles.
        plane: Plane of the slices; the task's by default.
        size: Rows and columns of the grid, a multiple of 8.
        region: Markups ROI node for every volume that has none of its own.
        baseline_iterations: Iterations of a training without adaptation that comes first; 0 for none.
        initial: Folder of a model to start from.
        name: Name of the training and its model.
        settings: Further settings of the training (`sifa settings`), nested ones as dictionaries; they override the
            other options.
        preparation: Further settings of `SIFATrainingLib.prepare.Preparation`, which also override the other options.
            The paper's preprocessing of hearts is `{"stretch": True, "percentiles": (0, 98), "min_max": True}`.
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
        """Return the task, loaded if it is given as the name of a preset.

        Raises:
            InputError: There is no such preset.
        """
        from SIFASegmentationLib.structures import load_task  # noqa: PLC0415  needs pydantic, which comes from pip

        return load_task(self.task) if isinstance(self.task, str) else self.task


class SIFATrainingLogic(ScriptedLoadableModuleLogic):
    """Everything that the window can do, for use from Python.

    >>> logic = SIFATrainingLogic()
    >>> job = logic.start([(mr, mrSegmentation)], [ct1, ct2], "trainings/abdomen", TrainingOptions(iterations=2000))
    >>> job.state()
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}

    def getParameterNode(self) -> SIFATrainingParameterNode:  # noqa: N802  Slicer's name
        """Return the module's parameters in the scene."""
        node = super().getParameterNode()
        forget_unknown_names(node, SIFATrainingParameterNode)
        return SIFATrainingParameterNode(node)

    def ensure_dependencies(self) -> None:
        """Install missing packages, after asking the user; torch through the PyTorch extension.

        Raises:
            InputError: The user declined, or the installation failed.
        """
        # torch comes first, since pip would install a build of its own choice along with lightning-fabric.
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
        """Create a training from nodes or files in a new folder, and start it in a separate process.

        Args:
            source: Rows of volume, segmentation and (optional) region nodes; or a folder or CSV of files.
            target: Volume nodes, or rows of volume, region and reference; or a folder or CSV of files.
            folder: Folder to create for the job.
            options: Options of the training; the defaults if None.
            progress: Called before each volume is written, and repeatedly while it is.

        Raises:
            InputError: An argument can't be used, or a package can't be installed; no folder is left behind.
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
        """Start the process of a job that is queued, was stopped, or was interrupted."""
        process = start_process(job, "SIFATrainingLib", ["run", str(job.folder.resolve())])
        remember_job(job)
        self._processes[job.folder] = process

    def stop(self, job: Job) -> None:
        """Ask a training to finish the current iteration or volume, save, and end."""
        job.request_stop()

    def kill(self, job: Job) -> None:
        """Kill a training that runs on this machine.

        Raises:
            InputError: It runs on another machine, or its process is another user's.
        """
        # An old process ID may belong to another program by now, so it is used only if the job is alive.
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
        """Return the process that was started here last for a job; None if another window or machine runs the job."""
        process = self._processes.get(job.folder)
        if process is not None and process.poll() is not None and job.is_alive():
            # This process has ended, and the job was resumed elsewhere.
            return None
        return process


class SIFATrainingWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's window."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SIFATrainingLogic | None = None
        self._parameters: SIFATrainingParameterNode | None = None
        self._filling = False
        self._starting = self._cancelled = self._settings_are_listed = False
        self._own_task_problem = ""
        self._ends: tuple[str, ...] = ()  # Signals of the application's end.

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
        # Without this, volumes would still be written and the training started after the window is closed. While
        # they are written, `aboutToQuit` comes too late, only once they are done.
        self._ends = ("lastWindowClosed()", "aboutToQuit()") if ends_with_last_window() else ("aboutToQuit()",)
        for signal in self._ends:
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
        # Connected by hand: Slicer only connects path widgets to `pathlib.Path`, whose empty path is the current one.
        for parameter, edit in self._path_edits().items():
            edit.connect("currentPathChanged(QString)", _slot(self._store_path, parameter))
            # The signal above is not emitted when a field is emptied, since that is no valid input.
            edit.connect("validInputChanged(bool)", _slot(self._store_path, parameter))

    def _path_edits(self) -> dict[str, Any]:
        """Return the path widgets by the names of their parameters."""
        return {
            "sourceFolder": self.ui.sourceFolderEdit, "targetFolder": self.ui.targetFolderEdit,
            "initial": self.ui.initialEdit, "outputFolder": self.ui.outputFolderEdit,
        }  # fmt: skip

    def _store_path(self, parameter: str) -> None:
        if self._parameters is not None and not self._filling:
            setattr(self._parameters, parameter, self._path_edits()[parameter].currentPath)

    def cleanup(self) -> None:
        """Called when the application closes and before the module is reloaded; trainings continue."""
        for signal in self._ends:
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
        """Called each time another module is opened; trainings continue."""

    def initializeParameterNode(self) -> None:  # noqa: N802  Slicer's name
        """Connect to the scene's parameter node, and give it sensible initial values."""
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
            # These read nodes that are about to be removed.
            self._own_tasks.stop()
            self._stop_checks()
        self._parameters = parameters
        self._link.connect(parameters)

    def _on_scene_start_close(self, _caller: Any, _event: Any) -> None:
        self._connect_parameters(None)

    def _on_scene_end_close(self, _caller: Any, _event: Any) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()

    # Task and options ----------------------------------------------------------------------------------------------

    def task(self) -> Task | None:
        """Return the chosen task; None if it is not known yet, or pydantic is not installed."""
        if self._parameters is None or missing_packages(("pydantic",)):
            return None
        from SIFASegmentationLib.structures import Task, load_task  # noqa: PLC0415

        if self._parameters.task is not TaskChoice.own:
            return load_task(self._parameters.task.value)
        try:
            return Task.model_validate_json(self._parameters.ownTask)
        except ValueError:
            # No structures are chosen yet, or the scene was saved by a version of SIFA with another format.
            return None

    def options(self) -> TrainingOptions:
        """Return the options chosen in the window.

        Raises:
            InputError: No structures are chosen, a further setting is not NAME=VALUE, or one of the preparation is
                unknown or out of bounds.
        """
        from SIFATrainingLib.config import with_settings  # noqa: PLC0415

        p, task = self._parameters, self.task()
        assert p is not None
        if task is None:
            raise _no_structures()
        # A coding that was chosen for another task is ignored.
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
        """Update the window to the parameters, and to which actions are possible."""
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
        """Show the task's label codings, one of which the labelmaps of a source folder may use."""
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
        """Enable the possible actions, and if no training is shown and no work runs, say what is still missing."""
        self._allow_buttons()
        # The scene may be closed while events are processed.
        busy = self._starting or self._own_tasks.is_running
        if self._parameters is not None and self.training.job is None and not busy:
            initial = self._parameters.initial
            start_from = _("It will start from the model in {folder}.").format(folder=initial) if initial else ""
            self._say(self._why_not_start() or start_from)

    def _allow_buttons(self) -> None:
        """Enable the possible actions; a tool tip says why another is not. A click on running work cancels it."""
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
        """Return why a training can't be started; empty if it can."""
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
        # Volumes without labels belong to the target.
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
                # Only what is needed here, since the packages for training would bring torch along.
                ensure_packages(("pydantic",), BUNDLE_REQUIREMENTS, "SIFA Training")
        except InputError as error:
            self._say(str(error), error=True)
            return
        # The scene may have been closed in the meantime.
        if self._parameters is not None:
            self._own_task_problem = ""
            self._own_tasks.start(self._take_own_task(labels))
            self._allow_buttons()

    def _take_own_task(self, labels: Any) -> Work[None]:
        """Use the parts of a segmentation or labelmap node as the task's structures."""
        try:
            task = yield from task_from_parts_in_pieces(labels, self._say_looking)
        except InputError as error:
            self._own_task_problem = str(error)
            return
        except Exception:  # Slicer's nodes may raise anything
            logging.exception("The structures could not be taken.")
            self._own_task_problem = _("The structures could not be taken: see the error log.")
            return
        if self._parameters is not None:
            self._parameters.ownTask = task.model_dump_json()
            self._parameters.task = TaskChoice.own

    def _own_task_ended(self) -> None:
        """Replace the progress on the status line with the error, if any, or the current state."""
        self._check_can_start()
        self.training.show_state()
        if self._own_task_problem:
            self._say(self._own_task_problem, error=True)

    def _say_looking(self, segment: str) -> None:
        self._say(_("Counting the parts of {segment}...").format(segment=segment))

    # Checks and start ----------------------------------------------------------------------------------------------

    def check(self) -> list[Finding]:
        """Check everything that can be known before the start; show the findings and return them."""
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
        except Exception:  # Slicer's nodes may raise anything
            logging.exception("The inputs could not be checked.")
            self.findings.forget(_("could not be checked, see the error log"))

    def _ensure_for_checks(self) -> bool:
        """Install the packages that the checks need; return whether the checks can run."""
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
            # Structures and the mapping of segments may be known only now, with the packages installed.
            self._refresh()
            self.training.show_state()
        # The scene may have been closed in the meantime, while another module is shown.
        if self._parameters is None:
            return False
        if self.task() is None:
            self.findings.show([Finding.of(_("structures"), _no_structures())])
            return False
        return True

    def _check_in_pieces(self) -> Work[None]:
        """Run the checks of the nodes, yielding several times per volume, then start the process for the others."""
        p, task = self._parameters, self.task()
        assert p is not None
        assert task is not None
        inputs, findings = self._inputs(), list[Finding]()
        # This ends an earlier check process, so that two of them do not measure the device at the same time.
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
        """Return everything that the checks depend on, to tell whether findings still apply."""
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
        """Write the volumes and start a training, or say in one line why that is not possible."""
        assert self._parameters is not None
        assert self.logic is not None
        p = self._parameters
        problem = start_fault()
        # Set before any events are processed, so that a second click finds the button disabled.
        self._starting, self._cancelled = True, False
        self._check_can_start()
        try:
            self._say(_("Preparing..."))
            # Otherwise the check process would measure a device that is being trained on.
            self._stop_checks()
            self.findings.abandon_probe()
            # The next steps take seconds if torch is imported for the first time.
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
                # After the checks above, which put what is still missing on the status line.
                self._say(problem, error=True)
        if problem:
            return
        if self._parameters is not None:
            # Otherwise the next training, perhaps of other volumes, would start from this model unnoticed.
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
        """Choose the structures, grid and networks of a training, as required to start from its model."""
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
        """Choose the window in HU that a domain is clipped to; None for percentiles."""
        setattr(self._parameters, f"{domain}Window", window is not None)
        if window is not None:
            for end, value in zip(("Low", "High"), window, strict=True):
                setattr(self._parameters, f"{domain}Window{end}", round(value))

    def _say(self, text: str, *, error: bool = False) -> None:
        say(self.ui.statusLabel, text, error=error)


def _check_device(device: str) -> None:
    """Check that a device is available, before volumes are written.

    Raises:
        InputError: The device is not available, or unknown.
    """
    # auto and cpu are always available. Only torch knows about others, and importing it blocks the window for seconds.
    if device not in ("auto", "cpu"):
        from SIFATrainingLib.devices import choose_device  # noqa: PLC0415

        choose_device(device)


def _being_prepared() -> str:
    return _("The training is being prepared.")


def _no_structures() -> InputError:
    """Return the error for a task of the user's own structures of which none are chosen."""
    return InputError(_("Choose your structures first"), _("add a source segmentation, then press My structures"))


def _rows_fault(source: Sequence[SourceRow] | None, target: Sequence[TargetRow] | None) -> InputError | None:
    """Return what is missing or wrong in the rows of nodes (None for a folder); None if they are fine."""
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
    # Patients are identified by name, and no patient may be in both domains.
    of_source = {name.casefold(): row for name, row in zip(names_of(source or ()), source or (), strict=True)}
    for name, row in zip(names_of(target or ()), target or (), strict=True):
        if (other := of_source.get(name.casefold())) is not None:
            problem = _("{one} (source) and {other} (target) would count as one patient because of their names").format(
                one=other.volume.GetName(), other=row.volume.GetName()
            )
            return InputError(problem, _("rename one of the volumes, or remove one if they are of one patient"))
    return None


def _window(parameters: SIFATrainingParameterNode, domain: str) -> tuple[float, float] | None:
    """Return the window in HU that a domain is clipped to; None for percentiles."""
    if not getattr(parameters, f"{domain}Window"):
        return None
    return getattr(parameters, f"{domain}WindowLow"), getattr(parameters, f"{domain}WindowHigh")


def _slot(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Bind a function's arguments in a callable without parameters, for use as a slot.

    PythonQt would pass a signal's arguments as the default arguments of a lambda.
    """
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
    """Make rows of nodes from volume nodes or tuples of nodes; None for a path of files."""
    if isinstance(given, str | Path):
        return None
    return [row(*one) if isinstance(one, tuple | list) else row(one) for one in given]


def _resolved(path: Any) -> Path:
    return Path(path).resolve()


def _install_torch() -> None:
    """Install PyTorch with the extension of that name, which picks the build for the computer's GPU.

    Raises:
        InputError: The extension is missing, or the installation was declined or failed.
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
    """Slicer's self test, on two synthetic patients; `Testing/Slicer` has all other tests."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:  # noqa: N802  unittest's name
        """Run all checks."""
        self.setUp()
        run_unless_skipped(self.test_the_segments_of_a_sample_match_the_task)

    def test_the_segments_of_a_sample_match_the_task(self) -> None:
        """The checks before a start find no error in sample data."""
        skip_without(("pydantic",), BUNDLE_REQUIREMENTS)
        from SIFASegmentationLib.structures import load_task  # noqa: PLC0415

        mr, labels = load_patient("SIFAAbdomenMR")
        ct, _labels = load_patient("SIFAAbdomenCT")
        findings = check_rows([SourceRow(mr, labels)], [TargetRow(ct)], load_task("abdomen"))
        assert [f for f in findings if f.level == "error"] == []
        self.delayDisplay(_("All checks passed"))
