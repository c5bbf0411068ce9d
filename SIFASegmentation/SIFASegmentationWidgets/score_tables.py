"""A table of scores as nodes of the scene: a table to read, and a bar plot of it."""

from __future__ import annotations

from math import isnan
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from SIFASegmentationLib.scores import ScoreTable

COLUMNS = ("subject", "structure", "Dice", "ASD mm", "HD95 mm", "surface Dice", "predicted ml", "reference ml",
           "volume difference", "note")  # fmt: skip
_FORMATS = ("{:.3f}", "{:.2f}", "{:.2f}", "{:.3f}", "{:.1f}", "{:.1f}", "{:+.3f}")


def fill_table_node(node: Any, table: ScoreTable) -> None:
    """Put the rows of subjects and structures, then the statistics, into a table node; a score that is none is `-`."""
    rows = [(row.subject, row.structure, row.scores, row.note) for row in table.rows]
    counts = {count.structure: count for count in table.counts()}
    for summary in table.summaries():
        count = counts.get(summary.structure)
        note = _("{n} scored").format(n=count.scored) if count else ""
        if count and (count.both_empty or count.one_empty):
            note += _("; empty in both {both}, in one {one}").format(both=count.both_empty, one=count.one_empty)
        rows.append((summary.statistic, summary.structure, summary.scores, note))
    columns = [[] for _unused in COLUMNS]
    for subject, structure, scores, note in rows:
        values = (scores.dice, scores.asd, scores.hd95, scores.surface_dice, scores.prediction_ml,
                  scores.reference_ml, scores.volume_difference)  # fmt: skip
        cells = ["-" if isnan(v) else form.format(v) for v, form in zip(values, _FORMATS, strict=True)]
        for column, cell in zip(columns, (subject, structure, *cells, note), strict=True):
            column.append(cell)
    modified = node.StartModify()
    node.RemoveAllColumns()
    for name, cells in zip(COLUMNS, columns, strict=True):
        array = vtk.vtkStringArray()
        array.SetName(name)
        for cell in cells:
            array.InsertNextValue(cell)
        node.AddColumn(array)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    node.EndModify(modified)


def make_bar_plot(table: ScoreTable, name: str) -> Any:
    """A chart node with mean Dice of each structure as bars, replacing an earlier one of the same name."""
    means = [s for s in table.summaries() if s.statistic == "mean" and not isnan(s.scores.dice)]
    values = named_node("vtkMRMLTableNode", f"{name} values")
    values.RemoveAllColumns()
    labels, dice = vtk.vtkStringArray(), vtk.vtkDoubleArray()
    labels.SetName("structure")
    dice.SetName("Dice")
    for mean in means:
        labels.InsertNextValue(mean.structure)
        dice.InsertNextValue(mean.scores.dice)
    values.AddColumn(labels)
    values.AddColumn(dice)
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


def make_line_plot(x: str, columns: dict[str, list[float]], name: str, title: str) -> Any:
    """A chart node with a line for each column but `x`, replacing an earlier one of the same name.

    Args:
        x: Name of the column along the horizontal axis.
        columns: Values by column, all as long.
        name: Of the chart; table and series are named after it.
        title: Shown above it.
    """
    values = named_node("vtkMRMLTableNode", f"{name} values")
    modified = values.StartModify()
    values.RemoveAllColumns()
    for column, numbers in columns.items():
        array = vtk.vtkDoubleArray()
        array.SetName(column)
        for number in numbers:
            array.InsertNextValue(number)
        values.AddColumn(array)
    values.EndModify(modified)
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


def named_node(class_name: str, name: str) -> Any:
    """The node of this class and name, made if there is none."""
    found = slicer.mrmlScene.GetFirstNodeByName(name)
    if found is not None and found.IsA(class_name):
        return found
    return slicer.mrmlScene.AddNewNodeByClass(class_name, name)
