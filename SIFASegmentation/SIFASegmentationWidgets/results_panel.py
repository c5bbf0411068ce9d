"""The results section of the window: a table of scores, and the slices that the model is least sure of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from SIFASegmentationLib.errors import InputError

from . import nodes, score_tables
from .messages import allow
from .shown_results import ShownResult

if TYPE_CHECKING:
    from SIFASegmentationLib.scores import ScoreTable

_UNSURE = 5  # Number of slices offered for a closer look.


class ResultsPanel(VTKObservationMixin):
    """Shows the results of a run or a comparison, and notices when a scored segmentation is changed."""

    def __init__(self, ui: Any, say: Callable[..., None]) -> None:
        """
        Args:
            ui: The widgets of the module's `.ui` file by name.
            say: Shows a text on the status line, as an error with `error=True`.
        """
        VTKObservationMixin.__init__(self)
        self._ui, self._say = ui, say
        self.scores: ScoreTable | None = None
        self.results: tuple[ShownResult, ...] = ()
        self._scored: dict[str, nodes.SegmentsState] = {}  # States of segmentations when they were scored, by ID.
        self._observed: list[str] = []  # IDs of the observed segmentations.
        self._name, self._node_id, self._least_sure = "", "", 0
        for button, method in (
            (ui.copyButton, self._copy), (ui.exportButton, self._export), (ui.plotButton, self._plot_scores),
            (ui.showTableButton, self._show_table), (ui.leastSureButton, self._next_unsure_slice),
            (ui.confidencePlotButton, self._plot_confidence),
        ):  # fmt: skip
            button.connect("clicked(bool)", method)
        self.refresh()

    def clear(self) -> None:
        """Show nothing, after the scene was closed."""
        self.take(())
        self._node_id = ""
        self.refresh()

    def take(self, results: tuple[ShownResult, ...]) -> None:
        """Replace the previous results with those of a run, which have no scores yet."""
        self.results, self.scores, self._least_sure = results, None, 0
        self._scored = self._made()
        self._observe()

    def _forget_removed(self, _caller: Any = None, _event: Any = None) -> None:
        if [node.GetID() for node in self._segmentations()] != self._observed:
            self._observe()

    def _observe(self) -> None:
        """Observe the segmentations in the scene, and only those, since an observed node stays in memory."""
        there = self._segmentations()
        self.removeObservers()
        self._observed = [node.GetID() for node in there]
        if there:
            self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.NodeRemovedEvent, self._forget_removed)
        for node in there:
            for event in (
                slicer.vtkSegmentation.SourceRepresentationModified,
                slicer.vtkSegmentation.SegmentAdded,
                slicer.vtkSegmentation.SegmentRemoved,
            ):
                self.addObserver(node.GetSegmentation(), event, self._show_whether_scored)

    def _made(self) -> dict[str, nodes.SegmentsState]:
        """Return the states of the segmentations when they came into the scene, by ID."""
        return {key: state for result in self.results for key, state in result.made.items()}

    def _segmentations(self) -> list[Any]:
        """Return the segmentations of all results, baselines included, that are still in the scene."""
        both = [node for result in self.results for node in (result.segmentation, result.baseline)]
        return [node for node in both if node is not None]

    def _show_whether_scored(self, _caller: Any = None, _event: Any = None) -> None:
        there = self._segmentations()
        changed = any(nodes.state_of(node) != self._scored.get(node.GetID()) for node in there)
        allow(self._ui.rescoreButton, "" if there else _("There is no result yet: segment a volume first."))
        self._ui.rescoreButton.text = _("Score again: corrected since") if changed else _("Score again")

    def as_corrected(self, references: Mapping[str, str]) -> tuple[ShownResult, ...]:
        """Return the results to score now, and remember the segmentations' states as scored.

        The model's estimates and doubts about a segmentation are dropped if it has been corrected since.

        Args:
            references: IDs of references by IDs of their volumes, in place of those of the run.
        """
        self._scored = {node.GetID(): nodes.state_of(node) for node in self._segmentations()}
        self._show_whether_scored()
        made = self._made()
        corrected = {key for key, state in self._scored.items() if state != made.get(key)}
        return tuple(
            replace(
                result,
                reference_id=references.get(result.volume_id, result.reference_id),
                estimates={} if result.segmentation_id in corrected else result.estimates,
                baseline_estimates={} if result.baseline_id in corrected else result.baseline_estimates,
                doubts={} if result.segmentation_id in corrected else result.doubts,
            )
            for result in self.results
        )

    def look(self) -> None:
        """Show the result of the displayed volume, or of the first one that has a result."""
        shown = _shown_first(self.results)
        if shown is not None:
            self._show_alone(shown)
        self.refresh()

    def show_scores(self, scores: ScoreTable | None, name: str) -> None:
        """Show scores in a new table node; earlier ones, and those of a loaded scene, stay as they are.

        Args:
            scores: The scores; None if there are none.
            name: Name of the node.
        """
        self.scores, self._name, self._node_id = scores, name, ""
        self.refresh()

    def refresh(self) -> None:
        """Update the section to the current results and scores, even if nodes have been removed."""
        has_scores = self.scores is not None and bool(self.scores.rows)
        if has_scores:
            self._ui.resultsTable.setMRMLTableNode(self._table_node())
            self._ui.resultsTable.resizeColumnsToContents()
            self._ui.resultsSection.collapsed = False
        else:
            # Otherwise the view would keep the table of a scene that was closed.
            self._ui.resultsTable.setMRMLTableNode(None)
        no_table = _("There is no table yet: segment a volume, or compare two segmentations.")
        for button in (self._ui.copyButton, self._ui.exportButton, self._ui.showTableButton):
            allow(button, "" if has_scores else no_table)
        has_dice = self.scores is not None and any(not isnan(row.scores.dice) for row in self.scores.rows)
        self._show_whether_scored()
        allow(self._ui.plotButton, "" if has_dice else _("There is no Dice without a reference."))
        self._show_unsure()

    def _table_node(self) -> Any:
        """Return the table node of the scores, made again if it was deleted, and refilled in case it was changed."""
        assert self.scores is not None
        node = slicer.mrmlScene.GetNodeByID(self._node_id) if self._node_id else None
        if node is None:
            taken = slicer.mrmlScene.GetFirstNodeByName(self._name) is not None
            name = slicer.mrmlScene.GenerateUniqueName(self._name) if taken else self._name
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
            self._node_id = node.GetID()
        score_tables.fill_table_node(node, self.scores)
        return node

    # The slices that the model is least sure of --------------------------------------------------------------------

    def unsure_slices(self) -> list[tuple[ShownResult, int, float]]:
        """Return the least confident slices of all volumes that are still in the scene, the least confident first.

        Returns:
            Result, index of the slice along its `slice_axis`, and confidence (0 to 1).
        """
        slices = [
            (result, index, value)
            for result in self.results
            if result.volume is not None
            for index, value in enumerate(result.confidence)
            if value is not None
        ]
        return sorted(slices, key=lambda item: item[2])[:_UNSURE]

    def _show_unsure(self) -> None:
        unsure = self.unsure_slices()
        for button in (self._ui.leastSureButton, self._ui.confidencePlotButton):
            allow(button, "" if unsure else _("There is no result yet: segment a volume first."))
        self._ui.leastSureButton.text = _("Least sure slice")
        if unsure:
            result, index, value = unsure[self._least_sure % len(unsure)]
            assert result.volume is not None
            which = f"{result.volume.GetName()}, " if len(self.results) > 1 else ""
            text = _("Least sure: {which}slice {index} ({value:.2f})")
            self._ui.leastSureButton.text = text.format(which=which, index=index, value=value)

    def _next_unsure_slice(self) -> None:
        unsure = self.unsure_slices()
        if not unsure:
            # The volume has left the scene.
            self._show_unsure()
            return
        result, index, _value = unsure[self._least_sure % len(unsure)]
        volume = result.volume
        assert volume is not None
        middle = [size / 2 for size in slicer.util.arrayFromVolume(volume).shape]
        middle[result.slice_axis] = index
        try:
            point = nodes.world_point(volume, (middle[0], middle[1], middle[2]))
        except InputError as error:
            # The volume has been put under a non-linear transform since.
            self._say(str(error), error=True)
            return
        self._show_alone(result, in_its_planes=slicer.app.layoutManager() is not None)
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *point, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
        self._least_sure += 1
        self._show_unsure()

    def _show_alone(self, result: ShownResult, *, in_its_planes: bool = False) -> None:
        """Show a volume and its segmentation, and hide those of the run's other volumes, which would cover it.

        Args:
            result: The result to show.
            in_its_planes: Rotate the slice views to the volume's planes, the only ones in which slices of an oblique
                acquisition can be seen; needs a layout with views.
        """
        slicer.util.setSliceViewerLayers(background=result.volume, rotateToVolumePlane=in_its_planes)
        for other in self.results:
            node = other.segmentation
            if node is not None and node.GetDisplayNode() is not None:
                node.GetDisplayNode().SetVisibility(other == result)

    def _plot_confidence(self) -> None:
        longest = max((len(result.confidence) for result in self.results), default=0)
        columns = {"slice": [float(index) for index in range(longest)]}
        there = [(result, result.volume) for result in self.results if result.confidence]
        lines = nodes.unique_names([volume for _result, volume in there if volume is not None])
        for result, volume in there:
            if volume is not None:
                values = [nan if value is None else value for value in result.confidence]
                columns[lines[volume.GetID()]] = [*values, *[nan] * (longest - len(values))]
        title = _("Confidence of each slice (1 is sure)")
        chart = score_tables.make_line_plot("slice", columns, _("SIFA confidence"), title)
        score_tables.fix_axes(chart, (0, max(longest - 1, 1)), (0, 1))
        score_tables.show_plot(chart)

    # Actions on the scores -----------------------------------------------------------------------------------------

    def _copy(self) -> None:
        if self.scores is not None:
            slicer.app.clipboard().setText(self.scores.csv("\t"))
            self._say(_("Copied."))

    def _export(self) -> None:
        if self.scores is None:
            return
        kinds = "CSV (*.csv);;JSON (*.json)"
        path = qt.QFileDialog.getSaveFileName(self._ui.exportButton, _("Save scores"), "scores.csv", kinds)
        if path:
            # Not every file dialog adds the suffix of its filter.
            self.save_scores(Path(path) if Path(path).suffix else Path(f"{path}.csv"))

    def save_scores(self, path: Path) -> None:
        """Write the scores as CSV or JSON; errors are shown on the status line."""
        assert self.scores is not None
        try:
            self.scores.write(path)
        except InputError as error:
            self._say(str(error), error=True)
        else:
            self._say(_("Saved {path}.").format(path=path))

    def _plot_scores(self) -> None:
        if self.scores is not None:
            score_tables.show_plot(score_tables.make_bar_plot(self.scores, _("SIFA Dice")))

    def _show_table(self) -> None:
        # The table's node may have been removed or changed.
        self.refresh()
        score_tables.show_table(self._ui.resultsTable.mrmlTableNode())


def _shown_first(results: Sequence[ShownResult]) -> ShownResult | None:
    """Return the result to show: that of the displayed volume, or the first; None if none has a segmentation."""
    there = [result for result in results if result.volume is not None and result.segmentation_id]
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    shown = {view.GetBackgroundVolumeID() for view in views}
    return next((result for result in there if result.volume_id in shown), there[0] if there else None)
