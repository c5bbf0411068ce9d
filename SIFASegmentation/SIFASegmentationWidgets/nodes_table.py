"""A table whose cells are node selectors; its content is stored as `NodeRows`."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .node_rows import Row
from .nodes import is_result

VOLUMES = ("vtkMRMLScalarVolumeNode",)
REGIONS = ("vtkMRMLMarkupsROINode",)
REFERENCES = ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode")

_HEADER, _SHORTEST, _TALLEST = 34, 64, 220  # Heights in pixels.


class NodesTable:
    """Drives a `QTableWidget` with columns of node selectors."""

    def __init__(self, table: Any, columns: list[tuple[str, tuple[str, ...], str]], on_change: Callable[[], None]):
        """
        Args:
            table: The table widget.
            columns: Title, node classes and tool tip of each column; the first column holds the volumes.
            on_change: Called when a selector changes, or a row is added or removed.
        """
        self._table, self._columns, self._on_change = table, columns, on_change
        self._filling = False
        table.setColumnCount(len(columns))
        table.setHorizontalHeaderLabels([title for title, _classes, _tip in columns])
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        # Rows are selected by their numbers in this header, since every cell is covered by a widget.
        table.verticalHeader().setVisible(True)

    def nodes(self) -> list[Row]:
        """Return the nodes of each row, in the order of the columns."""
        return [
            tuple(self._selector(row, column).currentNode() for column in range(len(self._columns)))
            for row in range(self._table.rowCount)
        ]

    def show(self, rows: Sequence[Row]) -> None:
        """Show these nodes, adding and removing rows as needed, without calling `on_change`."""
        self._filling = True
        try:
            while self._table.rowCount > len(rows):
                self._table.removeRow(self._table.rowCount - 1)
            while self._table.rowCount < len(rows):
                self._append()
            for row, row_nodes in enumerate(rows):
                for column, node in enumerate(row_nodes):
                    self._selector(row, column).setCurrentNode(node)
        finally:
            self._filling = False
        fit_height(self._table)

    def add(self, *row_nodes: Any | None) -> None:
        """Add a row with these nodes; the remaining columns are empty."""
        blank = [None] * (len(self._columns) - len(row_nodes))
        self.show([*self.nodes(), (*row_nodes, *blank)])
        self._on_change()

    def add_all(self, taken: Set[str] = frozenset()) -> None:
        """Add a row for each volume of the scene that is in no row and not among the IDs `taken`; drop empty rows."""
        kept = [row for row in self.nodes() if row[0] is not None]
        known = {row[0].GetID() for row in kept} | taken
        blank = [None] * (len(self._columns) - 1)
        new = [(volume, *blank) for volume in scene_volumes() if volume.GetID() not in known]
        self.show([*kept, *new])
        self._on_change()

    def remove(self) -> None:
        """Remove the selected rows, or the last row if none is selected."""
        selected = {index.row() for index in self._table.selectionModel().selectedRows()}
        rows = self.nodes()
        dropped = selected or {len(rows) - 1}
        self.show([row for index, row in enumerate(rows) if index not in dropped])
        self._on_change()

    def _append(self) -> None:
        row = self._table.rowCount
        self._table.insertRow(row)
        for column, (_title, classes, tip) in enumerate(self._columns):
            selector = slicer.qMRMLNodeComboBox()
            selector.nodeTypes = list(classes)
            # In MRML a labelmap is a kind of scalar volume, but it is not an image to segment.
            selector.showChildNodeTypes = False
            selector.addEnabled = False
            selector.removeEnabled = False
            selector.noneEnabled = True
            selector.noneDisplay = _("choose a volume") if column == 0 else "-"
            selector.toolTip = tip
            selector.setMRMLScene(slicer.mrmlScene)
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self._changed)
            selector.connect("nodeActivated(vtkMRMLNode*)", self._selecting(selector))
            let_go_of_removed(selector)
            self._table.setCellWidget(row, column, selector)

    def _selector(self, row: int, column: int) -> Any:
        return self._table.cellWidget(row, column)

    def _changed(self, _node: Any) -> None:
        if not self._filling:
            self._on_change()

    def _selecting(self, selector: Any) -> Callable[[Any], None]:
        """Return a slot that selects a selector's row when the user chooses a node in it.

        The cell widgets take the clicks, so without this, Remove would remove another row. It is connected to
        `nodeActivated` rather than to every change of the selector, such as a node that leaves the scene, and does
        nothing while this class fills the table, since Slicer emits that signal for a program's choices as well.
        """
        return lambda _node: None if self._filling else self._table.selectRow(self._row_of(selector))

    def _row_of(self, selector: Any) -> int:
        rows, columns = range(self._table.rowCount), range(len(self._columns))
        return next((row for row in rows for column in columns if self._selector(row, column) == selector), -1)


def let_go_of_removed(selector: Any) -> None:
    """Make a `qMRMLNodeComboBox` select no node when its node is removed; Qt would select a neighbour."""

    def let_go(node: Any) -> None:
        chosen = selector.currentNode()
        if chosen is not None and chosen.GetID() == node.GetID():
            selector.setCurrentNode(None)

    selector.connect("nodeAboutToBeRemoved(vtkMRMLNode*)", let_go)


def fit_height(table: Any) -> None:
    """Make a table as tall as its rows, within bounds: a one-column window has no room for empty space."""
    rows = sum(table.rowHeight(row) for row in range(table.rowCount))
    table.setFixedHeight(min(_TALLEST, max(_SHORTEST, _HEADER + rows)))


def scene_volumes() -> list[Any]:
    """Return the scene's scalar volumes that are images: no hidden ones, and no probabilities made by a model."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    images = (node for node in volumes if node.GetClassName() == VOLUMES[0] and not is_result(node))
    return [node for node in images if not node.GetHideFromEditors()]
