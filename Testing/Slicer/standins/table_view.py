"""Views of table nodes and of a segmentation's segments."""

from __future__ import annotations

from typing import Any, ClassVar

from PySide6 import QtCore, QtGui, QtWidgets

from .native_property import computed, stored
from .observing import NodeFollower


class qMRMLTableView(QtWidgets.QTableView):  # noqa: N801
    """Shows a table node; a locked one can't be edited."""

    mrmlSceneChanged = QtCore.Signal(object)
    selectionChangedByUser = QtCore.Signal()
    SIGNALS: ClassVar = {"selectionChanged()": "selectionChangedByUser"}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._scene: Any = None
        self._table = QtGui.QStandardItemModel(self)
        self._filling = False
        self.setModel(self._table)
        self._follower = NodeFollower(self)
        self._table.itemChanged.connect(self._edited)
        self.selectionModel().selectionChanged.connect(self._selected)

    def mrmlScene(self) -> Any:  # noqa: N802
        """The scene."""
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        """Take up a scene."""
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def _selected(self, _selected: Any, _deselected: Any) -> None:
        self.selectionChangedByUser.emit()

    def mrmlTableNode(self) -> Any:  # noqa: N802
        """The node shown, or None."""
        return self._follower.node

    def setMRMLTableNode(self, node: Any) -> None:  # noqa: N802
        """Show a table node, or nothing."""
        self._follower.follow(node)
        self.refill()

    def tableModel(self) -> QtGui.QStandardItemModel:  # noqa: N802
        """The model of what is shown."""
        return self._table

    def refill(self) -> None:
        """Show what the node holds."""
        self._filling = True
        try:
            self._fill(self._follower.node)
        finally:
            self._filling = False

    def _fill(self, node: Any) -> None:
        self._table.clear()
        table = node.GetTable() if node is not None else None
        if table is None:
            return
        columns, rows = table.GetNumberOfColumns(), table.GetNumberOfRows()
        titled = node.GetUseColumnTitleAsColumnHeader()
        # Without titles, the headers are letters, and the first row has the columns' names.
        first = 0 if titled else 1
        self._table.setColumnCount(columns)
        self._table.setRowCount(rows + first)
        for column in range(columns):
            name = table.GetColumnName(column) or ""
            header = (node.GetColumnTitle(name) or name) if titled else chr(ord("A") + column % 26)
            self._table.setHorizontalHeaderItem(column, QtGui.QStandardItem(header))
            if not titled:
                self._table.setItem(0, column, self._item(name, node))
            for row in range(rows):
                self._table.setItem(row + first, column, self._item(node.GetCellText(row, column), node))

    @staticmethod
    def _item(text: str, node: Any) -> QtGui.QStandardItem:
        item = QtGui.QStandardItem(text)
        item.setEditable(not node.GetLocked())
        return item

    def _edited(self, item: QtGui.QStandardItem) -> None:
        node = self._follower.node
        if self._filling or node is None:
            return
        row = item.row() - (0 if node.GetUseColumnTitleAsColumnHeader() else 1)
        if row < 0:
            node.RenameColumn(item.column(), item.text())
        else:
            node.SetCellText(row, item.column(), item.text())

    def copySelection(self) -> None:  # noqa: N802
        """Copy the selection to the clipboard, as tab-separated text."""
        indexes = sorted(self.selectionModel().selectedIndexes(), key=lambda index: (index.row(), index.column()))
        rows: dict[int, list[str]] = {}
        for index in indexes:
            rows.setdefault(index.row(), []).append(str(index.data()))
        QtGui.QGuiApplication.clipboard().setText("\n".join("\t".join(cells) for cells in rows.values()))

    transposed = stored(bool, False)
    firstRowLocked = stored(bool, False)
    firstColumnLocked = stored(bool, False)


class qMRMLSegmentsTableView(QtWidgets.QWidget):  # noqa: N801
    """Lists the segments of a segmentation node: colour and name."""

    mrmlSceneChanged = QtCore.Signal(object)
    segmentAboutToBeModified = QtCore.Signal(str)
    selectionChanged = QtCore.Signal(QtCore.QItemSelection, QtCore.QItemSelection)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._scene: Any = None
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._view = QtWidgets.QTableWidget(0, 2, self)
        self._view.setHorizontalHeaderLabels(["", "Name"])
        self._view.horizontalHeader().setStretchLastSection(True)
        self._view.setColumnWidth(0, 28)
        self._view.verticalHeader().hide()
        self._view.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)
        self._view.selectionModel().selectionChanged.connect(self.selectionChanged)
        layout.addWidget(self._view)
        self._ids: list[str] = []
        self._follower = NodeFollower(self)

    def mrmlScene(self) -> Any:  # noqa: N802
        """The scene."""
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        """Take up a scene."""
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def segmentationNode(self) -> Any:  # noqa: N802
        """The node shown, or None."""
        return self._follower.node

    def setSegmentationNode(self, node: Any) -> None:  # noqa: N802
        """Show a node's segments."""
        self._follower.follow(node, node.GetSegmentation() if node is not None else None)
        self.refill()

    def tableWidget(self) -> QtWidgets.QTableWidget:  # noqa: N802
        """The table inside."""
        return self._view

    def refill(self) -> None:
        """Show the segments that exist now."""
        node = self._follower.node
        self._ids = list(node.GetSegmentation().GetSegmentIDs()) if node is not None else []
        self._view.setRowCount(len(self._ids))
        for row, segment_id in enumerate(self._ids):
            segment = node.GetSegmentation().GetSegment(segment_id)
            color = QtWidgets.QTableWidgetItem()
            color.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            self._view.setItem(row, 0, color)
            self._view.setItem(row, 1, QtWidgets.QTableWidgetItem(segment.GetName()))

    def displayedSegmentIDs(self) -> list[str]:  # noqa: N802
        """IDs of the rows."""
        return list(self._ids)

    def selectedSegmentIDs(self) -> list[str]:  # noqa: N802
        """IDs of the selected rows."""
        return [self._ids[index.row()] for index in self._view.selectionModel().selectedRows()]

    def setSelectedSegmentIDs(self, ids: list[str]) -> None:  # noqa: N802
        """Select rows."""
        self._view.clearSelection()
        mode = self._view.selectionMode()
        self._view.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode.MultiSelection)
        for segment_id in ids:
            self._view.selectRow(self._ids.index(segment_id))
        self._view.setSelectionMode(mode)

    def clearSelection(self) -> None:  # noqa: N802
        """Select nothing."""
        self._view.clearSelection()

    def rowForSegmentID(self, segment_id: str) -> int:  # noqa: N802
        """Row of a segment, or -1."""
        return self._ids.index(segment_id) if segment_id in self._ids else -1

    def segmentIDForRow(self, row: int) -> str:  # noqa: N802
        """Segment of a row."""
        return self._ids[row]

    def setReadOnly(self, read_only: bool) -> None:  # noqa: N802
        """Whether the user can't change anything."""
        self.setProperty("readOnly", read_only)

    def _set_mode(self, mode: int) -> None:
        self._view.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode(mode))

    segmentCount = computed(int, lambda self: len(self._ids))
    selectionMode = computed(int, lambda self: self._view.selectionMode().value, _set_mode)
    readOnly = stored(bool, False)
    headerVisible = stored(bool, True)
    visibilityColumnVisible = stored(bool, True)
    colorColumnVisible = stored(bool, True)
    opacityColumnVisible = stored(bool, True)
    statusColumnVisible = stored(bool, False)
    filterBarVisible = stored(bool, False)
