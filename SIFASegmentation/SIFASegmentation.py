"""The Slicer module that uses a model: segment loaded CT and MR volumes, score them, compare segmentations.

It contains the module, parameter node, widget, logic and self test, which Slicer expects in one file. Packages from pip
are imported only when needed; see `SIFASegmentationWidgets.dependencies`.
"""

from __future__ import annotations

import html
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import qt
import slicer
from slicer import vtkMRMLSegmentationNode
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

from SIFASegmentationLib.errors import InputError, unwritable
from SIFASegmentationLib.jobs import ENDED, LOG_FILE, Event, State
from SIFASegmentationLib.metaimage import write_in_portions
from SIFASegmentationLib.scores import DEFAULT_TOLERANCE_MM, ScoreTable
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.work import Work, result_of
from SIFASegmentationWidgets import models, nodes, scores_of_nodes
from SIFASegmentationWidgets.application_end import ends_with_last_window
from SIFASegmentationWidgets.colors import color_of
from SIFASegmentationWidgets.comparison import compare_in_pieces
from SIFASegmentationWidgets.dependencies import (
    ensure_packages,
    held,
    missing_packages,
    run_unless_skipped,
    skip_without,
)
from SIFASegmentationWidgets.follower import last_words
from SIFASegmentationWidgets.messages import allow, say, warn
from SIFASegmentationWidgets.node_rows import NodeRows
from SIFASegmentationWidgets.nodes_table import (
    REFERENCES,
    REGIONS,
    VOLUMES,
    NodesTable,
    let_go_of_removed,
    scene_volumes,
)
from SIFASegmentationWidgets.parameter_link import ParameterLink, forget_unknown_names
from SIFASegmentationWidgets.pieces import Pieces
from SIFASegmentationWidgets.processes import start_fault
from SIFASegmentationWidgets.results_panel import ResultsPanel
from SIFASegmentationWidgets.sample_data import register_samples
from SIFASegmentationWidgets.segmentation_run import (
    InputRow,
    RunOptions,
    SegmentationResult,
    SegmentationRun,
)
from SIFASegmentationWidgets.shown_results import ShownResult, results_of

if TYPE_CHECKING:
    from SIFASegmentationLib.structures import Task

PACKAGES = ("onnx", "onnxruntime", "pydantic")
REQUIREMENTS = Path(__file__).parent / "Resources" / "requirements.txt"
_DOUBLE_CLICK_SECONDS = 1.0  # A second click within this time is part of a double click, not a new request.


class SIFASegmentation(ScriptedLoadableModule):
    """Description of the module that Slicer shows."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("SIFA Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "SubjectHierarchy", "Markups", "Tables", "Plots"]
        self.parent.contributors = [_("SIFA contributors")]
        self.parent.helpText = _(
            "Segments CT and MR volumes with a model that was adapted to their modality without labels from it, and "
            "scores segmentations against references. 1. Choose a model. 2. Choose volumes. 3. Segment."
        )
        self.parent.acknowledgementText = _(
            "An implementation of SIFA: C. Chen, Q. Dou, H. Chen, J. Qin, P. A. Heng, IEEE Transactions on Medical "
            "Imaging 39 (2020), 2494-2505. Research use; check every segmentation."
        )
        slicer.app.connect("startupCompleted()", register_samples)


class Device(Enum):
    """Device that the model runs on; the combo box shows the names."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@parameterNodeWrapper
class SIFASegmentationParameterNode:
    """Parameters saved with the scene, in addition to the rows of volumes (`NodeRows`)."""

    model: str = ""
    device: Device = Device.auto
    largestComponent: bool = True  # noqa: N815  the name of its widget's dynamic property, in Slicer's style
    fillHoles: bool = False  # noqa: N815
    appearance: bool = True
    refine: bool = False
    probabilities: bool = False
    baseline: bool = True  # Adaptation can do harm, so users should see what it is worth.
    surfaces: bool = True
    tolerance: Annotated[float, WithinRange(0, 20)] = DEFAULT_TOLERANCE_MM
    output: vtkMRMLSegmentationNode

    if TYPE_CHECKING:  # Members that the decorator adds.
        parameterNode: Any  # noqa: N815

        def __init__(self, node: Any) -> None: ...


class SIFASegmentationLogic(ScriptedLoadableModuleLogic):
    """Everything that the window can do, for use from Python.

    >>> logic = SIFASegmentationLogic()
    >>> results = logic.process([volumeNode], "models/abdomen")
    >>> print(logic.evaluate([(results[0].segmentation, referenceNode, volumeNode)], "models/abdomen").text())
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)

    def getParameterNode(self) -> SIFASegmentationParameterNode:  # noqa: N802  Slicer's name
        """Return the module's parameters in the scene."""
        node = super().getParameterNode()
        forget_unknown_names(node, SIFASegmentationParameterNode)
        return SIFASegmentationParameterNode(node)

    def ensure_dependencies(self) -> None:
        """Install missing packages, after asking the user.

        Raises:
            InputError: The user declined, or the installation failed.
        """
        ensure_packages(PACKAGES, REQUIREMENTS, "SIFA Segmentation")

    def start(
        self,
        rows: Sequence[InputRow],
        model: str | Path,
        options: RunOptions | None = None,
        *,
        output: Any | None = None,
        on_writing: Callable[[str], None] = lambda _name: None,
        on_events: Callable[[list[Event]], None] = lambda _events: None,
        on_end: Callable[[SegmentationRun, State], None] = lambda _run, _state: None,
    ) -> SegmentationRun:
        """Start a segmentation in a separate process; `on_end` is called from the event loop.

        Args:
            rows: Volumes, each with an optional region of interest.
            model: Folder or zip file of a model.
            options: Options of the run; the defaults if None.
            output: Segmentation node whose content the first volume's result replaces; None for a new node.
            on_writing: Called repeatedly with the name of the volume that is being written, to keep a window
                responsive.
            on_events: Called with the job's events as they arrive.
            on_end: Called with the run and its final state.

        Raises:
            InputError: There is no volume, a volume or the model can't be used, the disk has no room for the volumes,
                or a package can't be installed. Nothing was started then.
        """
        self.ensure_dependencies()
        from SIFASegmentationLib.bundle import read_bundle  # noqa: PLC0415
        from SIFASegmentationLib.segmentation_job import (  # noqa: PLC0415
            SegmentationSpecification,
            VolumeRequest,
            create_segmentation_job,
        )

        if not rows:
            raise InputError(_("No volume is chosen"), _("add one to the table"))
        options = options or RunOptions()
        manifest = read_bundle(model).manifest
        if fault := _output_fault(output, rows):
            raise fault
        volumes = [nodes.volume_from_node(row.volume) for row in rows]
        requests = [
            VolumeRequest(
                name=volume.name,
                image=f"input/{index}.mha",
                region=nodes.region_from_node(row.region) if row.region is not None else None,
            )
            for index, (row, volume) in enumerate(zip(rows, volumes, strict=True))
        ]
        specification = SegmentationSpecification(
            bundle=str(Path(model).resolve()),
            volumes=tuple(requests),
            options=options.segmentation,
            device=options.device,
            baseline=options.baseline and manifest.baseline is not None,
        )
        folder = _make_temporary_folder()
        try:
            job = create_segmentation_job(folder, specification)
            for request, volume in zip(requests, volumes, strict=True):
                on_writing(volume.name)
                for _portion in write_in_portions(volume, folder / request.image):
                    on_writing(volume.name)
            run = SegmentationRun(job, rows, manifest.task, options, on_events, on_end, output)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return run

    def process(
        self,
        volumes: Any,
        model: str | Path,
        options: RunOptions | None = None,
        *,
        regions: Sequence[Any | None] | None = None,
        output: Any | None = None,
    ) -> list[SegmentationResult]:
        """Segment volume nodes and wait for the results; the window stays responsive meanwhile.

        Args:
            volumes: Scalar volume nodes, or a single one.
            model: Folder or zip file of a model.
            options: Options of the run; the defaults if None.
            regions: Markups ROI node, or None, for each volume.
            output: Segmentation node whose content the first volume's result replaces; None for a new node.

        Returns:
            One result for each volume; those of volumes that could not be segmented have an `error`.

        Raises:
            InputError: An argument can't be used, or no volume could be segmented; the message says what to do.
        """
        ended: list[State] = []
        volumes = [volumes] if isinstance(volumes, slicer.vtkMRMLNode) else volumes
        chosen = regions or [None] * len(volumes)
        rows = [InputRow(volume, region) for volume, region in zip(volumes, chosen, strict=True)]
        run = self.start(rows, model, options, output=output, on_end=lambda _run, state: ended.append(state))
        try:
            run.wait()
        except BaseException:
            run.abandon()
            raise
        if ended != [State.FINISHED]:
            raise InputError(last_words(run.job))
        return run.results

    def evaluate(
        self, pairs: Sequence[tuple[Any, Any, Any]], model: str | Path, *, tolerance: float = DEFAULT_TOLERANCE_MM
    ) -> ScoreTable:
        """Score segmentations against references, for the structures of a model.

        Args:
            pairs: For each pair, a segmentation or labelmap node, its reference (either kind), and the volume node
                whose grid is used.
            model: Folder or zip file of the model whose structures are scored.
            tolerance: Tolerance of surface Dice, in mm.

        Raises:
            InputError: A reference has none of the structures, or a package can't be installed.
        """
        self.ensure_dependencies()
        return result_of(self.evaluate_in_pieces(pairs, model, tolerance=tolerance))

    def evaluate_in_pieces(
        self, pairs: Sequence[tuple[Any, Any, Any]], model: str | Path, *, tolerance: float = DEFAULT_TOLERANCE_MM
    ) -> Work[ScoreTable]:
        """Score as `evaluate` does, yielding several times for each structure."""
        volumes = [volume.GetID() for _segmentation, _reference, volume in pairs]
        subjects = nodes.unique_names([volume for _segmentation, _reference, volume in pairs])
        # Several segmentations of the same volume are methods to compare, not several subjects.
        side_by_side = len(set(volumes)) < len(volumes)
        task, rows = _task_of(model), []
        for segmentation, reference, volume in pairs:
            scored = yield from scores_of_nodes.score_in_pieces(segmentation, reference, volume, task, tolerance)
            method = segmentation.GetName() if side_by_side else ""
            rows += [replace(row, subject=subjects[volume.GetID()], method=method) for row in scored]
        return ScoreTable(tuple(rows), tolerance=tolerance)

    def compare(self, first: Any, second: Any, *, tolerance: float = DEFAULT_TOLERANCE_MM) -> ScoreTable:
        """Score any two segmentation or labelmap nodes, with `second` as the reference.

        Parts are matched by terminology, then by name; `tolerance` is that of surface Dice, in mm.

        Raises:
            InputError: No two parts match, neither node defines a grid, or a package can't be installed.
        """
        self.ensure_dependencies()
        return result_of(compare_in_pieces(first, second, tolerance=tolerance))


class SIFASegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's window."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SIFASegmentationLogic | None = None
        self.run: SegmentationRun | None = None
        self._parameters: SIFASegmentationParameterNode | None = None
        # Cached, since checking the paths at every change could block the window if a network share is unavailable.
        self._known_models: list[Path] = []
        self._tolerance = DEFAULT_TOLERANCE_MM
        self._task: Task | None = None  # Task of the displayed results.
        self._reason = ""
        self._filling = False
        self._starting = self._comparing = False
        self._ends_with_last_window = False
        self._cancelled: float | None = None  # Time of the cancellation, by the monotonic clock.
        self._pieces = Pieces()

    def setup(self) -> None:
        """Called once, when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        self._window = slicer.util.loadUI(self.resourcePath("UI/SIFASegmentation.ui"))
        self.layout.addWidget(self._window)
        self.ui = slicer.util.childWidgetVariables(self._window)
        self._window.setMRMLScene(slicer.mrmlScene)
        self._link = ParameterLink(self, self.ui, self._refresh)
        self.logic = SIFASegmentationLogic()
        region_tip = _(
            "Optional box: only what lies inside it is segmented (for a rotated box, inside the axis-aligned box "
            "around it). If empty, the body is found automatically."
        )
        self.volumes = NodesTable(
            self.ui.volumesTable,
            [
                (_("Volume"), VOLUMES, _("CT or MR volume to segment.")),
                (_("Region"), REGIONS, region_tip),
                (_("Reference"), REFERENCES, _("Optional segmentation to score the result against.")),
            ],
            self._store_rows,
        )
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._on_scene_start_close)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self._on_scene_end_close)
        self._link.let_go_while_importing(self._connect_parameters, self.initializeParameterNode)
        for selector in (self.ui.outputSelector, self.ui.firstSelector, self.ui.secondSelector):
            let_go_of_removed(selector)
        self.ui.modelFolderButton.connect("clicked(bool)", self._choose_model_folder)
        self.ui.modelFileButton.connect("clicked(bool)", self._choose_model_file)
        self.ui.modelComboBox.connect("currentIndexChanged(int)", self._select_model)
        # PythonQt passes as many signal arguments as a callable takes, so `add` would get `checked` as a node.
        self.ui.addAllButton.connect("clicked(bool)", lambda: self.volumes.add_all())  # noqa: PLW0108
        self.ui.addRowButton.connect("clicked(bool)", lambda: self.volumes.add())  # noqa: PLW0108
        self.ui.removeRowButton.connect("clicked(bool)", lambda: self.volumes.remove())  # noqa: PLW0108
        self.ui.applyButton.connect("clicked(bool)", self._apply)
        self.ui.cancelButton.connect("clicked(bool)", self._cancel)
        self.ui.compareButton.connect("clicked(bool)", self._compare)
        self.ui.rescoreButton.connect("clicked(bool)", self._score_again)
        for selector in (self.ui.firstSelector, self.ui.secondSelector):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self._update_compare)
        slicer.app.connect("aboutToQuit()", self._abandon)
        # While volumes are being written, `aboutToQuit` comes too late: only once they are and the run has started.
        self._ends_with_last_window = ends_with_last_window()
        if self._ends_with_last_window:
            slicer.app.connect("lastWindowClosed()", self._cancel)
        self.results = ResultsPanel(self.ui, self._say)
        self.initializeParameterNode()
        self._show_warnings(None)
        self._update_compare()

    def cleanup(self) -> None:
        """Called when the application closes and before a reload; ends a run, whose results nobody would receive."""
        slicer.app.disconnect("aboutToQuit()", self._abandon)
        if self._ends_with_last_window:
            slicer.app.disconnect("lastWindowClosed()", self._cancel)
        # This also ends the writing of volumes.
        self._cancelled = time.monotonic()
        self._abandon()
        self._connect_parameters(None)
        self.results.removeObservers()
        self.removeObservers()

    def enter(self) -> None:
        """Called each time the module is opened."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called each time another module is opened; a running segmentation continues."""

    def initializeParameterNode(self) -> None:  # noqa: N802  Slicer's name
        """Connect to the scene's parameter node, and give it sensible initial values."""
        if self.logic is None:
            return
        if not self._link.is_tied_to(ScriptedLoadableModuleLogic.getParameterNode(self.logic)):
            self._connect_parameters(self.logic.getParameterNode())
        assert self._parameters is not None
        if all(node is None for row in self._rows.read() for node in row):
            self._rows.write([InputRow(_shown_volume())])
        self._known_models = models.known_models()
        if not self._parameters.model and self._known_models:
            self._parameters.model = str(self._known_models[0])
        self._refresh()

    @property
    def _rows(self) -> NodeRows:
        assert self._parameters is not None
        return NodeRows(self._parameters.parameterNode, "input", InputRow._fields)

    def _chosen(self) -> list[InputRow]:
        """Return the rows that have a volume."""
        return [InputRow(*row) for row in self._rows.read() if row[0] is not None]

    def _connect_parameters(self, parameters: SIFASegmentationParameterNode | None) -> None:
        self._parameters = parameters
        self._link.connect(parameters)

    def _on_scene_start_close(self, _caller: Any, _event: Any) -> None:
        self._connect_parameters(None)

    def _on_scene_end_close(self, _caller: Any, _event: Any) -> None:
        self._pieces.stop()
        self._comparing = False
        self._update_compare()
        self.results.clear()
        self._show_warnings(None)
        if self.parent.isEntered:
            self.initializeParameterNode()

    # Display -------------------------------------------------------------------------------------------------------

    def _refresh(self, _caller: Any = None, _event: Any = None) -> None:
        """Update the window to the parameters: the models, the rows, and which actions are possible."""
        if self._parameters is None or self._filling:
            return
        self._filling = True
        try:
            self._show_models(self._parameters.model)
            self.volumes.show(self._rows.read())
        finally:
            self._filling = False
        self._check_can_apply()

    def _show_models(self, chosen: str) -> None:
        folders = list(self._known_models)
        if chosen and Path(chosen) not in folders:
            folders.insert(0, Path(chosen))
        shown = [self.ui.modelComboBox.itemData(index) for index in range(self.ui.modelComboBox.count)]
        if shown != [str(folder) for folder in folders]:
            self.ui.modelComboBox.clear()
            for folder in folders:
                self.ui.modelComboBox.addItem(models.model_name(folder), str(folder))
        self.ui.modelComboBox.setCurrentIndex(self.ui.modelComboBox.findData(chosen) if chosen else -1)
        self.ui.modelComboBox.setToolTip(chosen or _("No model yet: open one."))
        self.ui.cardLabel.setText(self._card(chosen))

    def _card(self, chosen: str) -> str:
        if not chosen:
            return _("Open a model to begin, made by SIFA Training or received from a colleague.")
        if missing_packages(PACKAGES):
            return _("Press Segment: Slicer will first ask to install {packages}.").format(packages=", ".join(PACKAGES))
        try:
            return models.model_card(Path(chosen))
        except InputError as error:
            return f"<span style='color:{color_of('error')}'>{html.escape(str(error))}</span>"

    def _check_can_apply(self) -> None:
        """Enable the actions that are possible; a tool tip says why another is not."""
        # The scene may be closed during a run while another module is shown.
        if self._parameters is None:
            return
        volumes = [row.volume for row in self._chosen()]
        busy = self.run is not None or self._starting
        under_way = _("A segmentation is under way: wait for it, or cancel it.")
        reason = ""
        if not self._parameters.model:
            reason = _("Choose a model first.")
        elif not volumes:
            reason = _("Choose a volume first: load one, then add it to the table.")
        elif len({volume.GetID() for volume in volumes}) < len(volumes):
            reason = _("A volume is in the table twice: remove one of its rows.")
        elif fault := _output_fault(self._parameters.output, self._chosen()):
            reason = str(fault)
        elif busy:
            reason = under_way
        allow(self.ui.applyButton, reason)
        count = len(volumes)
        self.ui.applyButton.text = _("Segment {count} volumes").format(count=count) if count > 1 else _("Segment")
        # The reason is shown until it no longer holds; any other text on the status line is news, and stays.
        if not busy and (self.ui.statusLabel.text == self._reason or (reason and not self.results.results)):
            self._say(reason)
        self._reason = reason
        for widget in (
            self.ui.modelFolderButton, self.ui.modelFileButton, self.ui.optionsSection, self.ui.volumesTable,
            self.ui.addAllButton, self.ui.addRowButton, self.ui.removeRowButton,
        ):  # fmt: skip
            allow(widget, under_way if busy else "")
        # Not by `allow`, since its tool tip is always the path of the model.
        self.ui.modelComboBox.enabled = not busy
        self.ui.progressBar.visible = busy
        running = self.run is not None and self.run.follower.state not in ENDED
        self.ui.cancelButton.visible = running or self._starting
        self.ui.cancelButton.text = _("End now") if running and self._cancelled is not None else _("Cancel")

    def _say(self, text: str, *, error: bool = False) -> None:
        say(self.ui.statusLabel, text, error=error)

    # Actions of the user -------------------------------------------------------------------------------------------

    def _choose_model_folder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.parent, _("Folder of a model"))
        if folder:
            self.use_model(Path(folder))

    def _choose_model_file(self) -> None:
        kinds = _("Models") + " (*.zip manifest.json)"
        file = qt.QFileDialog.getOpenFileName(self.parent, _("File of a model"), "", kinds)
        if file:
            self.use_model(Path(file))

    def use_model(self, path: Path) -> None:
        """Select a model, given as a folder or a zip file; if it is not a model, say so on the status line."""
        assert self._parameters is not None
        try:
            path = models.model_path(path)
        except InputError as error:
            self._say(str(error), error=True)
            return
        self._remember(path)
        self._parameters.model = str(path)
        self._refresh()

    def _remember(self, model: Path) -> None:
        """Put a model first in the list of recent ones."""
        models.remember_model(model)
        self._known_models = models.known_models()

    def _select_model(self, index: int) -> None:
        if self._parameters is not None and not self._filling and index >= 0:
            self._parameters.model = self.ui.modelComboBox.itemData(index)

    def _store_rows(self) -> None:
        if self._parameters is not None and not self._filling:
            self._rows.write(self.volumes.nodes())
            self._refresh()

    def _apply(self) -> None:
        """Start a segmentation, or say in one line why that is not possible."""
        assert self._parameters is not None
        assert self.logic is not None
        parameters, rows = self._parameters, self._chosen()
        model, output = parameters.model, parameters.output
        options = RunOptions(
            SegmentationOptions(
                appearance=parameters.appearance,
                largest_component=parameters.largestComponent,
                fill_holes=parameters.fillHoles,
                refine=parameters.refine,
                probabilities=parameters.probabilities,
            ),
            device=parameters.device.value,
            baseline=parameters.baseline,
            surfaces=parameters.surfaces,
        )
        self._tolerance = parameters.tolerance
        problem = start_fault()
        # Set before any events are processed, so that a second click finds the button disabled.
        self._starting, self._cancelled = True, None
        try:
            self._refresh()
            self._say(_("Preparing..."))
            slicer.app.processEvents()
            with held(self._window):
                self.logic.ensure_dependencies()
            self.run = self.logic.start(
                rows, model, options, output=output, on_writing=self._show_writing, on_events=self._show_events,
                on_end=self._ended,
            )  # fmt: skip
            self._show_warnings(self.run)
            self._remember(Path(model))
            self.ui.progressBar.setRange(0, 0)
            problem = ""
        except InputError as error:
            problem = str(error)
        finally:
            self._starting = False
            self._refresh()
            if problem:
                self._say(problem, error=True)

    def _show_writing(self, name: str) -> None:
        self._say(_("Preparing {name}...").format(name=name))
        slicer.app.processEvents()
        if self._cancelled is not None:
            raise InputError(_("Cancelled"))

    def _show_events(self, events: list[Event]) -> None:
        if any(event.kind == "warning" for event in events) and self.run is not None:
            self._show_warnings(self.run)
        if any(event.kind == "state" for event in events):
            # Once the process has ended, there is nothing to cancel, even if results are still being loaded.
            self._refresh()
        progress = [event.data for event in events if event.kind == "progress"]
        if progress:
            self._show_progress(progress[-1])

    def _show_warnings(self, run: SegmentationRun | None) -> None:
        """Show the reasons to doubt the results, which stay until the next run."""
        sentences = [sentence for _index, told in sorted(run.warnings.items()) for sentence in told] if run else []
        warn(self.ui.warningsLabel, sentences)

    def _show_progress(self, data: dict[str, Any]) -> None:
        self.ui.progressBar.setRange(0, data["total"] * data["volumes"])
        self.ui.progressBar.setValue(data["total"] * data["volume"] + data["done"])
        if self._cancelled is not None:
            return
        which = f"{data['volume'] + 1}/{data['volumes']}: " if data["volumes"] > 1 else ""
        self._say(
            _("{which}predicting {done} of {total}, {seconds} s left").format(
                which=which, done=data["done"], total=data["total"], seconds=round(data["eta_seconds"])
            )
        )

    def _cancel(self) -> None:
        # While volumes are still being written, setting the time is enough to stop that.
        again = self._cancelled is not None
        if self._cancelled is None:
            self._cancelled = time.monotonic()
        if self.run is None:
            return
        if not again:
            self._say(_("Cancelling after the current slices..."))
            self.run.cancel()
        elif time.monotonic() - self._cancelled > _DOUBLE_CLICK_SECONDS:
            # The process hangs, or takes too long over the current slices.
            self._say(_("Ending..."))
            self.run.kill()
        self._check_can_apply()

    def _ended(self, run: SegmentationRun, state: State) -> None:
        shown: tuple[ShownResult, ...] = ()
        try:
            shown = results_of(run)
            self._task = run.task
            self.results.take(shown)
            self._tell_ended(run, state)
            self.results.look()
        finally:
            # Needed whatever happened, since `_score` ends the run, and until then no other can begin.
            run.pieces.add(self._score(run, shown))

    def _tell_ended(self, run: SegmentationRun, state: State) -> None:
        asked = len(run.rows)
        done = sum(not result.error for result in run.results)
        refused = [result.error for result in run.results if result.error]
        how_many = _("{done} of {asked} volumes are done.").format(done=done, asked=asked)
        if state is State.FINISHED and refused:
            self._say(" ".join([how_many, *refused]), error=True)
        elif state is State.FINISHED:
            text = _("Segmented {done} volumes").format(done=done) if done > 1 else _("Segmented")
            self._say(_("{text} in {seconds:.0f} s on {device}.").format(
                text=text, seconds=time.monotonic() - run.started, device=run.device
            ))  # fmt: skip
        elif state is State.STOPPED or run.killed:
            self._say(_("Cancelled; {how_many}").format(how_many=how_many))
        else:
            log = run.job.folder / LOG_FILE
            reason = _("{reason} (log: {log})").format(reason=last_words(run.job), log=log)
            self._say(f"{how_many} {reason}" if asked > 1 else reason, error=True)
        left = next((result for result in run.results if result.files is not None), None)
        if left is not None:
            kept = _("A result could not be added to the scene: {reason}. Its labelmap is kept in {folder}.")
            said = self.ui.statusLabel.text
            self._say(f"{said} {kept.format(reason=left.why_files, folder=left.files)}", error=True)
        self.ui.progressBar.setRange(0, 0)
        self._refresh()

    def _score(self, run: SegmentationRun, shown: Sequence[ShownResult]) -> Work[None]:
        """Fill the table with scores, or with the structures' volumes if there is no reference, and end the run."""
        scores = None  # Never those of the previous run.
        try:
            as_they_are = self.results.as_corrected({})
            scores = yield from scores_of_nodes.score_results_in_pieces(as_they_are, run.task, self._tolerance)
        except Exception:  # Slicer's exports may raise anything; the result itself is already in the scene
            logging.exception("The result could not be scored.")
            self._say(_("Segmented, but the result could not be scored: see the error log."), error=True)
        finally:
            self.run = None
            self._refresh()
        # Skipped if the scene was closed in the meantime.
        if self.results.results is shown:
            self.results.show_scores(scores, _("SIFA scores"))

    def _score_again(self) -> None:
        """Score the results again in their current state, against the references chosen now."""
        if self._comparing:
            return
        assert self._parameters is not None
        assert self._task is not None
        shown = self.results.results
        chosen = {row.volume.GetID(): row.reference.GetID() if row.reference else "" for row in self._chosen()}
        results = self.results.as_corrected(chosen)
        work = scores_of_nodes.score_results_in_pieces(results, self._task, self._parameters.tolerance)
        self._begin_scoring(work, _("SIFA scores"), _("Scored again"), lambda: self.results.results is shown)

    def _update_compare(self, _node: Any = None) -> None:
        first, second = self.ui.firstSelector.currentNode(), self.ui.secondSelector.currentNode()
        reason = ""
        if first is None or second is None or first.GetID() == second.GetID():
            reason = _("Choose two different segmentations.")
        elif self._comparing:
            reason = _("Scores are being computed: please wait.")
        allow(self.ui.compareButton, reason)

    def _compare(self) -> None:
        assert self.logic is not None
        try:
            with held(self._window):
                self.logic.ensure_dependencies()
        except InputError as error:
            self._say(str(error), error=True)
            return
        tolerance = self._parameters.tolerance if self._parameters is not None else DEFAULT_TOLERANCE_MM
        first, second = self.ui.firstSelector.currentNode(), self.ui.secondSelector.currentNode()
        work = compare_in_pieces(first, second, tolerance=tolerance)
        self._begin_scoring(work, _("SIFA comparison"), _("Compared"))

    def _begin_scoring(
        self, work: Work[ScoreTable], name: str, told: str, still_wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Start a scoring that runs piece by piece in the event loop.

        Args:
            work: Computation of the scores.
            name: Name of their table.
            told: Text to show on the status line when they are done.
            still_wanted: Called when they are done; they are shown only if it returns True.
        """
        self._comparing = True
        self._update_compare()
        self._say(_("Comparing..."))
        self._pieces.add(self._show_when_made(work, name, told, still_wanted))

    def _show_when_made(
        self, work: Work[ScoreTable], name: str, told: str, still_wanted: Callable[[], bool]
    ) -> Work[None]:
        try:
            scores = yield from work
            if still_wanted():
                alone = ", ".join(scores.unmatched)
                only = _("{told}; present in only one of the two: {alone}.").format(told=told, alone=alone)
                self._say(only if alone else f"{told}.")
                self.results.show_scores(scores, name)
        except InputError as error:
            self._say(str(error), error=True)
        except Exception:  # Slicer's exports may raise anything
            logging.exception("Segmentations could not be compared.")
            self._say(_("They could not be compared: see the error log."), error=True)
        finally:
            self._comparing = False
            self._update_compare()

    def _abandon(self) -> None:
        self._pieces.stop()
        if self.run is not None:
            self.run.abandon()
            self.run = None


def _make_temporary_folder() -> Path:
    """Make a new folder for a job in the application's temporary folder.

    Raises:
        InputError: The folder can't be made.
    """
    parent = Path(slicer.app.temporaryPath)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="SIFA-", dir=parent))
    except OSError as error:
        raise unwritable(parent, error) from error


def _task_of(model: str | Path) -> Task:
    """Read the task of a model."""
    from SIFASegmentationLib.bundle import read_bundle  # noqa: PLC0415

    return read_bundle(model).manifest.task


def _output_fault(output: Any | None, rows: Sequence[InputRow]) -> InputError | None:
    """Return why a segmentation node can't receive the result of the first row; None if it can."""
    if output is None or not rows:
        return None
    advice = _("choose another output, or a new one")
    if any(row.reference is not None and row.reference.GetID() == output.GetID() for row in rows):
        problem = _("The output {name} is also used as a reference, which would be overwritten")
        return InputError(problem.format(name=output.GetName()), advice)
    volume = nodes.drawn_on(output)
    if volume is not None and volume.GetID() != rows[0].volume.GetID():
        problem = _("The output {name} was drawn on {volume}")
        return InputError(problem.format(name=output.GetName(), volume=volume.GetName()), advice)
    return None


def _shown_volume() -> Any | None:
    """Return the volume shown in the slice views, or the scene's only one; None if there is no such volume."""
    # The views come first, since a volume shown from Python, such as sample data, is not the active one.
    ids = [views.GetBackgroundVolumeID() for views in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")]
    selection = slicer.app.applicationLogic().GetSelectionNode()
    if selection is not None:
        ids.append(selection.GetActiveVolumeID())
    for node in (slicer.mrmlScene.GetNodeByID(node_id) for node_id in ids if node_id):
        if node is not None and node.GetClassName() == VOLUMES[0]:
            return node
    volumes = scene_volumes()
    return volumes[0] if len(volumes) == 1 else None


class SIFASegmentationTest(ScriptedLoadableModuleTest):
    """Slicer's self test: a check of scoring on a synthetic patient; `Testing/Slicer` has all the others."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:  # noqa: N802  unittest's name
        """Run all checks."""
        self.setUp()
        run_unless_skipped(self.test_a_reference_scores_one_against_itself)

    def test_a_reference_scores_one_against_itself(self) -> None:
        """Sample data can be loaded, and a comparison matches parts by terminology."""
        from SIFASegmentationWidgets.sample_data import load_patient  # noqa: PLC0415

        skip_without(PACKAGES, REQUIREMENTS)
        logic = SIFASegmentationLogic()
        volume, reference = load_patient("SIFAAbdomenCT")
        copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "copy")
        copy.GetSegmentation().DeepCopy(reference.GetSegmentation())
        copy.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        table = logic.compare(copy, reference)
        assert [row.scores.dice for row in table.rows] == [1.0] * 4
        self.delayDisplay(_("All checks passed"))
