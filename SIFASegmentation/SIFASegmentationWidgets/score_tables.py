"""A table of scores as nodes of the scene: a table to read, and a bar plot of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from math import isnan, nan
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from SIFASegmentationLib.scores import MEAN_OF_STRUCTURES, Scores, ScoreTable, formatted, formatted_estimate

_METHOD_COLUMN = 2
_COLORS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0),
    (140, 86, 75), (127, 127, 127),
)  # fmt: skip
"""Of series, told apart by the colour-blind too (Okabe and Ito); Slicer's own are random, and black twice."""


def fill_table_node(node: Any, table: ScoreTable) -> None:
    """Put the rows of subjects and structures, then the statistics, into a table node.

    A score that is none is `-`; there is a column of methods only where the table sets some side by side.
    """
    cells = [
        _cells(row.subject, row.structure, row.method, row.scores, formatted_estimate(row.estimate), row.note)
        for row in table.rows
    ]
    counts = {(count.method, count.structure): count for count in table.counts()}
    for summary in table.summaries():
        count = counts.get((summary.method, summary.structure))
        note = _("{n} scored").format(n=count.scored) if count else ""
        if count and (count.both_empty or count.one_empty):
            note += _("; empty in both {both}, in one {one}").format(both=count.both_empty, one=count.one_empty)
        cells.append(_cells(summary.statistic, summary.structure, summary.method, summary.scores, "", note))
    titles = _titles(table.tolerance)
    columns = dict(zip(titles, zip(*cells, strict=True) if cells else ((),) * len(titles), strict=True))
    if not any(table.methods):
        del columns[titles[_METHOD_COLUMN]]
    modified = node.StartModify()
    _fill(node, columns)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    node.EndModify(modified)


def _titles(tolerance: float) -> tuple[str, ...]:
    """Of the columns; `tolerance` of the surface Dice in mm."""
    surface_dice = _("surface Dice ({tolerance:g} mm)").format(tolerance=tolerance)
    return (
        _("subject"), _("structure"), _("method"), _("Dice"), _("estimated Dice"), _("ASD mm"), _("HD95 mm"),
        surface_dice, _("predicted ml"), _("reference ml"), _("volume difference"), _("note"),
    )  # fmt: skip


def _cells(subject: str, structure: str, method: str, scores: Scores, estimate: str, note: str) -> tuple[str, ...]:
    """A row, in the order of the titles."""
    dice, *others = formatted(scores)
    return (subject, structure, method, dice, estimate, *others, note)


def make_bar_plot(table: ScoreTable, name: str) -> Any:
    """A chart node with mean Dice as bars, replacing an earlier one of the same name.

    A series for each structure, since Slicer names series in a legend and does not name bars; a group of bars for each
    method.
    """
    dice = table.means("dice")
    columns = {
        structure: [dice.get((method, structure), nan) for method in table.methods]
        for structure in (*table.structures, MEAN_OF_STRUCTURES)
    }
    scored = {structure: values for structure, values in columns.items() if not all(map(isnan, values))}
    title = _("Mean Dice by structure")
    if len(table.methods) > 1:
        groups = ", ".join(f"{index} {method}" for index, method in enumerate(table.methods))
        title = _("{title} (groups: {groups})").format(title=title, groups=groups)
    chart = _make_plot(name, title, scored, list(scored), slicer.vtkMRMLPlotSeriesNode.PlotTypeBar)
    chart.SetYAxisTitle("Dice")
    # Slicer's own range of the groups would leave the first bars out.
    fix_axes(chart, (-0.5, len(table.methods) - 0.5), (0, 1))
    return chart


def fix_axes(chart: Any, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Show these ranges, whatever the values: of a chart that is shown already, Slicer keeps those of the values
    before."""
    chart.SetXAxisRangeAuto(False)
    chart.SetXAxisRange(*x)
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(*y)


def make_line_plot(
    x: str, columns: Mapping[str, Sequence[float] | np.ndarray], name: str, title: str, scene: Any | None = None
) -> Any:
    """A chart node with a line for each column but `x`, replacing an earlier one of the same name.

    Args:
        x: Name of the column along the horizontal axis.
        columns: Values by column, all as long.
        name: Of the chart; its table is named after it, its series after their columns.
        title: Shown above it.
        scene: That gets its nodes; the user's unless given.
    """
    lines = [column for column in columns if column != x]
    chart = _make_plot(name, title, columns, lines, slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter, x, scene)
    chart.SetXAxisTitle(x)
    return chart


def _make_plot(
    name: str,
    title: str,
    columns: Mapping[str, Sequence[float] | np.ndarray],
    shown: Sequence[str],
    kind: int,
    x: str = "",
    scene: Any | None = None,
) -> Any:
    """The chart node of this name with one series for each column of `shown`; its own series are taken up again."""
    values = named_node("vtkMRMLTableNode", f"{name} values", scene)
    _fill(values, columns)
    chart = named_node("vtkMRMLPlotChartNode", name, scene)
    series = series_of(chart)
    if [one.GetYColumnName() for one in series] != list(shown):
        chart.RemoveAllPlotSeriesNodeIDs()
        for one in series:
            chart.GetScene().RemoveNode(one)
        for column, color in zip(shown, cycle(_COLORS)):
            series_node = _make_series(column, values, kind, x)
            series_node.SetColor(*(channel / 255 for channel in color))
            chart.AddAndObservePlotSeriesNodeID(series_node.GetID())
    if chart.GetTitle() != title:
        chart.SetTitle(title)
    return chart


def _make_series(column: str, values: Any, kind: int, x: str) -> Any:
    series = values.GetScene().AddNewNodeByClass("vtkMRMLPlotSeriesNode")
    series.SetName(column)  # What the legend says.
    series.SetAndObserveTableNodeID(values.GetID())
    series.SetXColumnName(x)
    series.SetYColumnName(column)
    series.SetPlotType(kind)
    series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
    return series


def series_of(chart: Any) -> list[Any]:
    """The series nodes of a chart that are still there."""
    nodes = (chart.GetNthPlotSeriesNode(index) for index in range(chart.GetNumberOfPlotSeriesNodes()))
    return [node for node in nodes if node is not None]


def show_plot(chart: Any) -> None:
    """Show a chart in the layout, bringing up a plot view if there is none."""
    layout = slicer.app.layoutManager()
    if layout is None:
        return
    plots = slicer.modules.plots.logic()
    layout.setLayout(plots.GetLayoutWithPlot(layout.layout))
    plots.ShowChartInLayout(chart)


def show_table(node: Any) -> None:
    """Show a table node in the layout."""
    layout = slicer.app.layoutManager()
    if layout is None:
        return
    layout.setLayout(slicer.modules.tables.logic().GetLayoutWithTable(layout.layout))
    slicer.app.applicationLogic().GetSelectionNode().SetActiveTableID(node.GetID())
    slicer.app.applicationLogic().PropagateTableSelection()


def _fill(node: Any, columns: Mapping[str, Sequence[str] | Sequence[float] | np.ndarray]) -> None:
    """Replace the content of a table node by columns of texts or numbers."""
    modified = node.StartModify()
    node.RemoveAllColumns()
    for name, values in columns.items():
        texts = len(values) > 0 and isinstance(values[0], str)
        array = _string_array(values) if texts else numpy_to_vtk(np.array(values, dtype=np.float64), deep=True)
        array.SetName(name)
        node.AddColumn(array)
    node.EndModify(modified)


def _string_array(texts: Iterable[Any]) -> Any:
    array = vtk.vtkStringArray()
    for text in texts:
        array.InsertNextValue(text)
    return array


def named_node(class_name: str, name: str, scene: Any | None = None) -> Any:
    """The node of this class and name in a scene, the user's unless given; made if there is none."""
    scene = scene if scene is not None else slicer.mrmlScene
    found = scene.GetFirstNodeByName(name)
    if found is not None and found.IsA(class_name):
        return found
    return scene.AddNewNodeByClass(class_name, name)
