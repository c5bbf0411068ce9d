"""Table and plot nodes in the scene: tables of scores, bar plots of them, and line plots."""

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
"""Colours of plot series, distinguishable for the colour-blind (Okabe and Ito, then brown and grey).

Slicer's own colours are random, and include black twice.
"""


def fill_table_node(node: Any, table: ScoreTable) -> None:
    """Fill a table node with the rows of subjects and structures, then the statistics.

    An undefined score is shown as `-`; there is a column of methods only if the table compares methods.
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
    """Return the titles of the columns; `tolerance` is that of surface Dice, in mm."""
    surface_dice = _("surface Dice ({tolerance:g} mm)").format(tolerance=tolerance)
    return (
        _("subject"), _("structure"), _("method"), _("Dice"), _("estimated Dice"), _("ASD mm"), _("HD95 mm"),
        surface_dice, _("predicted ml"), _("reference ml"), _("volume difference"), _("note"),
    )  # fmt: skip


def _cells(subject: str, structure: str, method: str, scores: Scores, estimate: str, note: str) -> tuple[str, ...]:
    """Return the cells of a row, in the order of the titles."""
    dice, *others = formatted(scores)
    return (subject, structure, method, dice, estimate, *others, note)


def make_bar_plot(table: ScoreTable, name: str) -> Any:
    """Make a chart node with mean Dice as bars, updating an earlier chart of the same name.

    Each structure is a series, since Slicer labels series, in the legend, but not bars; each method is a group of bars.
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
    # Slicer's automatic range would cut off the first bars.
    fix_axes(chart, (-0.5, len(table.methods) - 0.5), (0, 1))
    return chart


def fix_axes(chart: Any, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Set fixed ranges of a chart's axes; with automatic ranges, a chart on display keeps those of its old values."""
    chart.SetXAxisRangeAuto(False)
    chart.SetXAxisRange(*x)
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(*y)


def make_line_plot(
    x: str, columns: Mapping[str, Sequence[float] | np.ndarray], name: str, title: str, scene: Any | None = None
) -> Any:
    """Make a chart node with a line for each column but `x`, updating an earlier chart of the same name.

    Args:
        x: Name of the column along the horizontal axis.
        columns: Values by column name, all of the same length.
        name: Name of the chart; its table is named after it, its series after their columns.
        title: Title shown above the chart.
        scene: Scene that the nodes are added to; the user's if None.
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
    """Return the chart node of this name, with one series for each column of `shown`; existing series are reused.

    Args:
        name: Name of the chart.
        title: Title shown above the chart.
        columns: Values by column name.
        shown: Names of the columns to plot.
        kind: Plot type of `vtkMRMLPlotSeriesNode`.
        x: Name of the column along the horizontal axis; none if empty.
        scene: Scene that the nodes are added to; the user's if None.
    """
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
    series.SetName(column)  # Shown in the legend.
    series.SetAndObserveTableNodeID(values.GetID())
    series.SetXColumnName(x)
    series.SetYColumnName(column)
    series.SetPlotType(kind)
    series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
    return series


def series_of(chart: Any) -> list[Any]:
    """Return the series nodes of a chart that still exist."""
    nodes = (chart.GetNthPlotSeriesNode(index) for index in range(chart.GetNumberOfPlotSeriesNodes()))
    return [node for node in nodes if node is not None]


def show_plot(chart: Any) -> None:
    """Show a chart in the layout, switching to one with a plot view if necessary; do nothing without a window."""
    layout = slicer.app.layoutManager()
    if layout is None:
        return
    plots = slicer.modules.plots.logic()
    layout.setLayout(plots.GetLayoutWithPlot(layout.layout))
    plots.ShowChartInLayout(chart)


def show_table(node: Any) -> None:
    """Show a table node in the layout; do nothing without a window."""
    layout = slicer.app.layoutManager()
    if layout is None:
        return
    layout.setLayout(slicer.modules.tables.logic().GetLayoutWithTable(layout.layout))
    slicer.app.applicationLogic().GetSelectionNode().SetActiveTableID(node.GetID())
    slicer.app.applicationLogic().PropagateTableSelection()


def _fill(node: Any, columns: Mapping[str, Sequence[str] | Sequence[float] | np.ndarray]) -> None:
    """Replace the content of a table node with columns of strings or numbers."""
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
    """Return the node of this class and name in a scene (the user's if None), adding one if there is none."""
    scene = scene if scene is not None else slicer.mrmlScene
    found = scene.GetFirstNodeByName(name)
    if found is not None and found.IsA(class_name):
        return found
    return scene.AddNewNodeByClass(class_name, name)
