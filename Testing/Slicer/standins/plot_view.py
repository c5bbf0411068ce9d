"""A view of a plot chart node, drawn with plain lines and bars."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from .native_property import computed, stored
from .observing import NodeFollower

_MARGIN_LEFT, _MARGIN_BOTTOM, _MARGIN_TOP, _MARGIN_RIGHT = 56, 40, 28, 12
_TICKS = 5


class Series(NamedTuple):
    """A series as it will be drawn."""

    name: str
    kind: int
    x: list[float]
    y: list[float]
    labels: list[str]
    color: QtGui.QColor


def read_series(node: Any) -> Series | None:
    """Read the content of a series node; None if its table or column does not exist."""
    table_node = node.GetTableNode()
    table = table_node.GetTable() if table_node is not None else None
    values = table.GetColumnByName(node.GetYColumnName()) if table is not None and node.GetYColumnName() else None
    if values is None:
        return None
    y = [values.GetVariantValue(index).ToDouble() for index in range(values.GetNumberOfValues())]
    scattered = node.GetPlotType() in (
        slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter, slicer.vtkMRMLPlotSeriesNode.PlotTypeScatterBar
    )  # fmt: skip
    places = table.GetColumnByName(node.GetXColumnName()) if scattered and node.GetXColumnName() else None
    x = (
        [places.GetVariantValue(index).ToDouble() for index in range(places.GetNumberOfValues())]
        if places is not None
        else [float(index) for index in range(len(y))]
    )
    names = table.GetColumnByName(node.GetLabelColumnName()) if node.GetLabelColumnName() else None
    labels = (
        [names.GetVariantValue(index).ToString() for index in range(names.GetNumberOfValues())]
        if names is not None
        else []
    )
    return Series(node.GetName(), node.GetPlotType(), x, y, labels, QtGui.QColor.fromRgbF(*node.GetColor()))


class qMRMLPlotView(QtWidgets.QWidget):  # noqa: N801
    """Draws the chart that its view node names."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._scene: Any = None
        self._view = NodeFollower(self)
        self._chart = NodeFollower(self)
        self.setMinimumSize(120, 100)
        policy = QtWidgets.QSizePolicy.Policy.Expanding
        self.setSizePolicy(policy, policy)

    title = stored(str, "")

    def sizeHint(self) -> QtCore.QSize:  # noqa: N802
        """Size of a chart."""
        return QtCore.QSize(320, 220)

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        """Take up a scene."""
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def setMRMLPlotViewNode(self, node: Any) -> None:  # noqa: N802
        """Show what a view node names."""
        self._view.follow(node)
        self.refill()

    def mrmlPlotViewNode(self) -> Any:  # noqa: N802
        """The view node, or None; in Slicer, a method of the widget around this one."""
        return self._view.node

    def fitToContent(self) -> None:  # noqa: N802
        """Show all of the chart."""
        self.update()

    def refill(self) -> None:
        """Follow the chart that the view node names now, and draw it."""
        chart = self._view.node.GetPlotChartNode() if self._view.node is not None else None
        parts = []
        for series in self._series_nodes(chart):
            parts += [series, series.GetTableNode()]
        self._chart.follow(chart, *parts)
        self.update()

    @staticmethod
    def _series_nodes(chart: Any) -> list[Any]:
        count = chart.GetNumberOfPlotSeriesNodes() if chart is not None else 0
        return [node for node in (chart.GetNthPlotSeriesNode(index) for index in range(count)) if node is not None]

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:  # noqa: N802
        """Draw axes, lines or bars, and a legend."""
        painter = QtGui.QPainter(self)
        painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), QtCore.Qt.GlobalColor.white)
        chart = self._chart.node
        content = [series for series in map(read_series, self._series_nodes(chart)) if series is not None]
        frame = self.rect().adjusted(_MARGIN_LEFT, _MARGIN_TOP, -_MARGIN_RIGHT, -_MARGIN_BOTTOM)
        if chart is None or frame.width() < 1 or frame.height() < 1:
            return
        _Drawing(painter, chart, content, frame, self.rect()).draw()


class _Drawing:
    """One drawing of a chart."""

    def __init__(
        self, painter: QtGui.QPainter, chart: Any, content: list[Series], frame: QtCore.QRect, whole: QtCore.QRect
    ) -> None:
        self.painter, self.chart, self.content, self.frame, self.whole = painter, chart, content, frame, whole
        bar_types = (slicer.vtkMRMLPlotSeriesNode.PlotTypeBar, slicer.vtkMRMLPlotSeriesNode.PlotTypeScatterBar)
        self.bars = [series for series in content if series.kind in bar_types]
        self.lines = [series for series in content if series.kind not in bar_types]
        x = [value for series in content for value in series.x if math.isfinite(value)]
        y = [value for series in content for value in series.y if math.isfinite(value)]
        self.x_range = _range(x, None if chart.GetXAxisRangeAuto() else chart.GetXAxisRange(), bars=bool(self.bars))
        self.y_range = _range([*y, *([0.0] if self.bars else [])], None if chart.GetYAxisRangeAuto()
                              else chart.GetYAxisRange())  # fmt: skip

    def point(self, x: float, y: float) -> QtCore.QPointF:
        """Return the position of values in the picture."""
        across = (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return QtCore.QPointF(
            self.frame.left() + across * self.frame.width(), self.frame.bottom() - up * self.frame.height()
        )

    def draw(self) -> None:
        """Draw everything."""
        self._axes()
        self.painter.save()
        self.painter.setClipRect(self.frame.adjusted(-1, -1, 1, 1))
        for number, series in enumerate(self.bars):
            self._bar_series(series, number)
        for series in self.lines:
            self._line(series)
        self.painter.restore()
        if self.chart.GetLegendVisibility() and len(self.content) > 1:
            self._legend()

    def _axes(self) -> None:
        painter, frame = self.painter, self.frame
        for step in range(_TICKS + 1):
            share = step / _TICKS
            value = self.y_range[0] + share * (self.y_range[1] - self.y_range[0])
            height = self.point(self.x_range[0], value).y()
            painter.setPen(QtGui.QColor(225, 225, 225))
            painter.drawLine(QtCore.QPointF(frame.left(), height), QtCore.QPointF(frame.right(), height))
            painter.setPen(QtGui.QColor(60, 60, 60))
            self._text(QtCore.QRectF(0, height - 8, _MARGIN_LEFT - 6, 16), f"{value:.3g}", "right")
        labels = next((series.labels for series in self.content if series.labels), None)
        ticks = (
            [(float(index), text) for index, text in enumerate(labels)]
            if labels
            else [
                (value, f"{value:.4g}")
                for step in range(_TICKS + 1)
                for value in [self.x_range[0] + step / _TICKS * (self.x_range[1] - self.x_range[0])]
            ]
        )
        for value, text in ticks:
            center = self.point(value, self.y_range[0]).x()
            width = frame.width() / max(1, len(ticks) - (0 if labels else 1))
            self._text(QtCore.QRectF(center - width / 2, frame.bottom() + 3, width, 16), text, "center")
        painter.drawRect(frame)
        self._text(QtCore.QRectF(0, 4, self.whole.width(), 20), self.chart.GetTitle() or "", "center", bold=True)
        below = QtCore.QRectF(frame.left(), self.whole.bottom() - 19, frame.width(), 18)
        self._text(below, self.chart.GetXAxisTitle() or "", "center")
        self._text(QtCore.QRectF(2, 4, _MARGIN_LEFT + 40, 20), self.chart.GetYAxisTitle() or "", "left")

    def _line(self, series: Series) -> None:
        self.painter.setPen(QtGui.QPen(series.color, 1.8))
        before: QtCore.QPointF | None = None
        for x, y in zip(series.x, series.y, strict=False):
            here = self.point(x, y) if math.isfinite(x) and math.isfinite(y) else None
            if here is not None and before is not None:
                self.painter.drawLine(before, here)
            before = here

    def _bar_series(self, series: Series, number: int) -> None:
        width = 0.8 / len(self.bars)
        for x, y in zip(series.x, series.y, strict=False):
            if math.isfinite(y):
                left = x - 0.4 + number * width
                self.painter.fillRect(
                    QtCore.QRectF(
                        self.point(left, y), self.point(left + width, max(0.0, self.y_range[0]))
                    ).normalized(),
                    series.color,
                )

    def _legend(self) -> None:
        metrics = self.painter.fontMetrics()
        width = max(metrics.horizontalAdvance(series.name) for series in self.content) + 26
        box = QtCore.QRectF(self.frame.right() - width - 4, self.frame.top() + 4, width, 15 * len(self.content) + 4)
        self.painter.fillRect(box, QtGui.QColor(255, 255, 255, 220))
        for index, series in enumerate(self.content):
            top = box.top() + 2 + 15 * index
            self.painter.fillRect(QtCore.QRectF(box.left() + 4, top + 6, 12, 3), series.color)
            self.painter.setPen(QtGui.QColor(60, 60, 60))
            self._text(QtCore.QRectF(box.left() + 20, top, width - 20, 15), series.name, "left")

    def _text(self, place: QtCore.QRectF, text: str, side: str, *, bold: bool = False) -> None:
        font = self.painter.font()
        font.setPointSizeF(8.5 if bold else 7.5)
        font.setBold(bold)
        self.painter.setFont(font)
        flag = {
            "left": QtCore.Qt.AlignmentFlag.AlignLeft, "right": QtCore.Qt.AlignmentFlag.AlignRight,
            "center": QtCore.Qt.AlignmentFlag.AlignHCenter,
        }[side]  # fmt: skip
        self.painter.drawText(place, flag | QtCore.Qt.AlignmentFlag.AlignVCenter, text)


def _range(values: list[float], fixed: Any, *, bars: bool = False) -> tuple[float, float]:
    """Limits of an axis, never empty.

    `bars`: the horizontal one of bars, whose groups of 0, 1, ... VTK takes to reach from their number to the next: of
    the first it leaves out what is left of its middle, but for some room.
    """
    if fixed is not None:
        low, high = fixed
    elif values:
        low, high = min(values), max(values)
        low, high = (low - 0.2, high + 1.2) if bars else (low, high)
    else:
        low, high = 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


class qMRMLPlotWidget(QtWidgets.QWidget):  # noqa: N801
    """A plot view with, in Slicer, its controller bar."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._scene: Any = None
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._plot_view = qMRMLPlotView(self)
        layout.addWidget(self._plot_view)

    viewLabel = stored(str, "1")
    viewColor = computed(QtGui.QColor, lambda _self: QtGui.QColor(59, 61, 72))

    def mrmlScene(self) -> Any:  # noqa: N802
        """The scene."""
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        """Take up a scene."""
        self._scene = scene
        self._plot_view.setMRMLScene(scene)
        self.mrmlSceneChanged.emit(scene)

    def plotView(self) -> qMRMLPlotView:  # noqa: N802
        """The view."""
        return self._plot_view

    def mrmlPlotViewNode(self) -> Any:  # noqa: N802
        """The view node, or None."""
        return self._plot_view.mrmlPlotViewNode()

    def setMRMLPlotViewNode(self, node: Any) -> None:  # noqa: N802
        """Show what a view node names."""
        self._plot_view.setMRMLPlotViewNode(node)
