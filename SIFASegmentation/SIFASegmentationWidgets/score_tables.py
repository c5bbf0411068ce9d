"""A table of scores as nodes of the scene: a table to read, and a bar plot of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from SIFASegmentationLib.scores import ScoreTable, formatted, formatted_estimate

COLUMNS = ("subject", "structure", "Dice", "estimated Dice", "ASD mm", "HD95 mm", "surface Dice", "predicted ml",
           "reference ml", "volume difference", "note")  # fmt: skip


def fill_table_node(node: Any, table: ScoreTable) -> None:
    """Put the rows of subjects and structures, then the statistics, into a table node; a score that is none is `-`."""
    rows = [
        (row.subject, row.structure, row.scores, formatted_estimate(row.estimate), row.note) for row in table.rows
    ]
    counts = {count.structure: count for count in table.counts()}
    for summary in table.summaries():
        count = counts.get(summary.structure)
        note = _("{n} scored").format(n=count.scored) if count else ""
        if count and (count.both_empty or count.one_empty):
            note += _("; empty in both {both}, in one {one}").format(both=count.both_empty, one=count.one_empty)
        rows.append((summary.statistic, summary.structure, summary.scores, "", note))
    cells = []
    for subject, structure, scores, estimate, note in rows:
        dice, *others = formatted(scores)
        cells.append((subject, structure, dice, estimate, *others, note))
    columns = dict(zip(COLUMNS, zip(*cells, strict=True) if cells else ((),) * len(COLUMNS), strict=True))
    modified = node.StartModify()
    _fill(node, columns)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    node.EndModify(modified)


def make_bar_plot(table: ScoreTable, name: str) -> Any:
    """A chart node with mean Dice of each structure as bars, replacing an earlier one of the same name."""
    means = [s for s in table.summaries() if s.statistic == "mean" and not isnan(s.scores.dice)]
    values = named_node("vtkMRMLTableNode", f"{name} values")
    _fill(values, {"structure": [m.structure for m in means], "Dice": [m.scores.dice for m in means]})
    series = named_node("vtkMRMLPlotSeriesNode", f"{name} Dice")
    series.SetAndObserveTableNodeID(values.GetID())
    series.SetYColumnName("Dice")
    series.SetLabelColumnName("structure")
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeBar)
    series.SetUniqueColor()
    chart = named_node("vtkMRMLPlotChartNode", name)
    chart.RemoveAllPlotSeriesNodeIDs()
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetTitle(_("Mean Dice by structure"))
    chart.SetYAxisTitle("Dice")
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(0, 1)
    return chart


def make_line_plot(x: str, columns: Mapping[str, Sequence[float] | np.ndarray], name: str, title: str) -> Any:
    """A chart node with a line for each column but `x`, replacing an earlier one of the same name.

    Args:
        x: Name of the column along the horizontal axis.
        columns: Values by column, all as long.
        name: Of the chart; table and series are named after it.
        title: Shown above it.
    """
    values = named_node("vtkMRMLTableNode", f"{name} values")
    _fill(values, columns)
    chart = named_node("vtkMRMLPlotChartNode", name)
    wanted = [column for column in columns if column != x]
    if chart.GetNumberOfPlotSeriesNodes() != len(wanted):
        chart.RemoveAllPlotSeriesNodeIDs()
        for column in wanted:
            series = named_node("vtkMRMLPlotSeriesNode", f"{name} {column}")
            series.SetName(f"{name} {column}")
            series.SetAndObserveTableNodeID(values.GetID())
            series.SetXColumnName(x)
            series.SetYColumnName(column)
            series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
            series.SetUniqueColor()
            chart.AddAndObservePlotSeriesNodeID(series.GetID())
        chart.SetTitle(title)
        chart.SetXAxisTitle(x)
    return chart


def hide_plot(chart: Any) -> None:
    """Keep a chart with its series and their tables out of saved scenes and out of what lists nodes."""
    series = [chart.GetNthPlotSeriesNode(index) for index in range(chart.GetNumberOfPlotSeriesNodes())]
    for node in (chart, *series, *(one.GetTableNode() for one in series)):
        node.SetSaveWithScene(False)
        node.SetHideFromEditors(True)


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


def named_node(class_name: str, name: str) -> Any:
    """The node of this class and name, made if there is none."""
    found = slicer.mrmlScene.GetFirstNodeByName(name)
    if found is not None and found.IsA(class_name):
        return found
    return slicer.mrmlScene.AddNewNodeByClass(class_name, name)
