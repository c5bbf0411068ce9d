"""Live view of a training: the losses, previews and log of its job folder."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan
from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.jobs import ENDED, LOG_FILE, Event, Job
from SIFASegmentationWidgets.score_tables import make_line_plot
from SIFATrainingLib.captions import PREVIEW_CAPTION

_PLOT_HEIGHT = 260  # Pixels.
_LOG_BYTES = 64 * 1024  # Bytes read at most, from the end of the log, which is what matters.
_WARNINGS = 5  # Number of warnings shown at most; the log has all of them.
_TAB_MARGINS = 28  # Horizontal margins around the preview in its tab, in pixels.
_SHOWN = (
    "segmentation", "lower_segmentation", "cycle_source", "cycle_target", "adversarial_target", "adversarial_source",
    "auxiliary", "prediction", "structure", "random_contrast", "self_training",
)  # fmt: skip
_BASELINE_CAPTION = (
    "Above: a source slice, and its labels. Below: a target slice, and what is predicted without adaptation."
)


class LossCurves:
    """Losses by iteration, as growing columns.

    >>> curves = LossCurves(("segmentation", "cycle_source"))
    >>> curves.add([{"iteration": 1, "losses": {"segmentation": 0.5}}])
    >>> curves.columns()
    {'iteration': array([1.]), 'segmentation': array([0.5])}
    """

    def __init__(self, names: Sequence[str]) -> None:
        """`names` are those of the losses to keep, in this order."""
        self._names = tuple(names)
        self._seen: set[str] = set()
        self._iterations = np.empty(0)
        self._values = np.empty((0, len(self._names)))

    def add(self, events: Sequence[dict[str, Any]]) -> None:
        """Add the data of at least one event of losses, the oldest first."""
        rows = [[event["losses"].get(name, nan) for name in self._names] for event in events]
        self._seen.update(*(event["losses"] for event in events))
        iterations = np.append(self._iterations, [float(event["iteration"]) for event in events])
        # A training that was interrupted repeats the iterations after its last checkpoint, so each row replaces all
        # earlier rows of its own iteration or a later one.
        lowest_to_come = np.append(np.minimum.accumulate(iterations[::-1])[-2::-1], inf)
        kept = iterations < lowest_to_come
        self._iterations = iterations[kept]
        self._values = np.concatenate([self._values, np.array(rows, dtype=float)])[kept]

    def columns(self) -> dict[str, np.ndarray]:
        """Return columns of equal length: the iterations, and each loss seen so far, with NaN where it has no value."""
        columns = {"iteration": self._iterations}
        for name, values in zip(self._names, self._values.T, strict=True):
            if name in self._seen:
                columns[name.replace("_", " ")] = values
        return columns


class TrainingMonitor:
    """Shows the events of one job, which are to be passed to `add` as they arrive."""

    def __init__(self, ui: Any) -> None:
        """`ui` must have `progressTabs`, `lossLayout`, `previewLabel`, `previewSlider`, `previewCaption`, `logEdit`."""
        self._ui = ui
        self._job: Job | None = None
        self._curves = LossCurves(_SHOWN)
        self._previews: list[dict[str, Any]] = []
        self._log_shown = 0
        self.latest: dict[str, Any] = {}
        self.warnings: list[str] = []
        # A separate scene: in the user's, the layout would make a view for every view node, and charts would be saved.
        self.scene = slicer.vtkMRMLScene()
        self._view = self.scene.AddNewNodeByClass("vtkMRMLPlotViewNode", "losses view")
        # Made here, since Slicer has no designer plugin for it, so that a .ui file would give a plain widget.
        self._plot = slicer.qMRMLPlotView()
        self._plot.setMinimumSize(0, _PLOT_HEIGHT)
        self._plot.setMRMLScene(self.scene)
        self._plot.setMRMLPlotViewNode(self._view)
        ui.lossLayout.addWidget(self._plot)
        ui.previewCaption.visible = False
        ui.previewSlider.connect("valueChanged(int)", self._show_preview)

    def close(self) -> None:
        """Detach the plot from this object's scene, which the widget must not outlive."""
        self._plot.setMRMLPlotViewNode(None)
        self._plot.setMRMLScene(None)

    def show(self, job: Job | None) -> None:
        """Start showing a job, or none."""
        self._job = job
        self._curves, self._previews, self.latest, self.warnings = LossCurves(_SHOWN), [], {}, []
        self._log_shown = 0
        self._ui.logEdit.setPlainText("")
        self._ui.previewLabel.setText(_("The first preview comes after the first iterations."))
        self._ui.previewSlider.setRange(0, 0)
        self._ui.previewCaption.visible = False
        self._draw_losses()

    def add(self, events: list[Event]) -> None:
        """Show new events of the job."""
        losses = [event.data for event in events if event.kind == "losses"]
        if losses:
            self._curves.add(losses)
            self._draw_losses()
        previews = [event.data for event in events if event.kind == "preview"]
        if previews:
            self._add_previews(previews)
        told = [event.data["message"] for event in events if event.kind == "warning"]
        # Each warning only once: a full disk causes the same one at every checkpoint.
        self.warnings = list(dict.fromkeys([*self.warnings, *told]))[-_WARNINGS:]
        for event in events:
            # The progress of the export is kept separately, so that it does not replace the training's.
            self.latest["export" if event.data.get("stage") == "exporting" else event.kind] = event.data
        self._show_log()

    def _draw_losses(self) -> None:
        columns = self._curves.columns()
        if len(columns["iteration"]) == 0:
            self._view.SetPlotChartNodeID(None)
            return
        chart = make_line_plot("iteration", columns, "losses", _("Losses"), self.scene)
        self._view.SetPlotChartNodeID(chart.GetID())
        # Skipped while the mouse is over the plot, since the user may have zoomed in.
        if not self._plot.underMouse():
            self._plot.fitToContent()

    def _add_previews(self, previews: list[dict[str, Any]]) -> None:
        at_end = self._ui.previewSlider.value >= len(self._previews) - 1
        there = {preview["file"] for preview in self._previews}
        self._previews += [preview for preview in previews if preview["file"] not in there]
        self._ui.previewSlider.setRange(0, len(self._previews) - 1)
        if at_end:
            self._ui.previewSlider.setValue(len(self._previews) - 1)
            self._show_preview(len(self._previews) - 1)

    def _show_preview(self, index: int) -> None:
        if self._job is None or not 0 <= index < len(self._previews):
            return
        preview = self._previews[index]
        picture = qt.QPixmap(str(self._job.folder / preview["file"]))
        if picture.isNull():
            return
        # Taken from the tabs, since the label has no width yet while another tab is shown.
        width = max(240, self._ui.progressTabs.width - _TAB_MARGINS)
        self._ui.previewLabel.setPixmap(picture.scaledToWidth(width, qt.Qt.SmoothTransformation))
        baseline = preview.get("stage") == "baseline"
        moment = _("after iteration {number} without adaptation") if baseline else _("after iteration {number}")
        self._ui.previewLabel.setToolTip(moment.format(number=f"{preview['iteration']:,}"))
        self._ui.previewCaption.setText(_(_BASELINE_CAPTION) if baseline else _(PREVIEW_CAPTION))
        self._ui.previewCaption.visible = True

    def _show_log(self) -> None:
        log = self._job.folder / LOG_FILE if self._job is not None else None
        if log is None or not log.exists():
            return
        with log.open("rb") as file:
            size = log.stat().st_size
            if size < self._log_shown:
                # The log was replaced by that of another run.
                self._log_shown = 0
                self._ui.logEdit.setPlainText("")
            start = max(self._log_shown, size - _LOG_BYTES)
            file.seek(start)
            content = file.read()
        # An incomplete last line is shown once it is complete, or when the job has ended.
        ended = self.latest.get("state", {}).get("state") in ENDED
        lines = content if ended else content[: content.rfind(b"\n") + 1]
        self._log_shown = start + len(lines)
        if lines:
            # The view keeps its scroll position, or stays at the end if it was there.
            self._ui.logEdit.appendPlainText(lines.decode("utf-8", errors="replace").rstrip("\n"))


def duration_text(seconds: float) -> str:
    """Format a duration, such as `21 min`, `3 h 10 min` or `less than a minute`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return _("less than a minute")
    hours, minutes = divmod(minutes, 60)
    return _("{h} h {m} min").format(h=hours, m=minutes) if hours else _("{m} min").format(m=minutes)


def status_text(latest: dict[str, Any], state: str) -> str:
    """Return one line about a training: what it is doing, its progress, and the time left.

    Args:
        latest: Data of the last event of each kind.
        state: State of the job.
    """
    progress, exported = latest.get("progress", {}), latest.get("export", {})
    if state == "preparing" and "message" in progress:
        return _("preparing: {message}").format(message=progress["message"])
    if state == "exporting" and "message" in exported:
        return _("making the model: {message}").format(message=exported["message"])
    if state != "running" or "iteration" not in progress:
        return state
    text = _("iteration {done} of {total}, {left} left").format(
        done=f"{progress['iteration']:,}",
        total=f"{progress['iterations']:,}",
        left=duration_text(progress["eta_seconds"]),
    )
    if progress["stage"] == "baseline":
        return _("baseline without adaptation: {text}").format(text=text)
    watched = latest.get("monitor", {})
    # The last monitoring may still be that of the baseline.
    dice = watched.get("dice", {}).get("mean") if watched.get("stage") == progress["stage"] else None
    return text if dice is None else _("{text}; Dice of the monitored volumes {dice:.2f}").format(text=text, dice=dice)
