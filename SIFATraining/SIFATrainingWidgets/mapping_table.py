"""A table of which segment is which structure, for every source segmentation, in which the user can correct it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

from SIFASegmentationWidgets.nodes_table import fit_height
from SIFASegmentationWidgets.structures_of_nodes import Part, parts_of

from .cohorts_of_nodes import shown_mapping, store_mapping

if TYPE_CHECKING:
    from SIFASegmentationLib.structures import Task


class MappingTable:
    """Drives a `QTableWidget` with a row for each segment."""

    def __init__(self, table: Any, on_change: Callable[[], None]) -> None:
        """
        Args:
            table: The table widget.
            on_change: Called when the user has chosen the structure of a segment.
        """
        self._table, self._on_change = table, on_change
        self._shown: Any = None
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("Segmentation"), _("Segment"), _("Structure")])
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        table.verticalHeader().setVisible(False)

    def show(self, label_nodes: Sequence[Any], task: Task | None) -> None:
        """Show a row for each part of these nodes; do nothing if the table shows them already."""
        content: list[tuple[Any, Part, str]] = []
        names: list[str] = []
        if task is not None:
            names = list(task.names)
            for node in label_nodes:
                mapping = shown_mapping(node, task)
                content += [(node, part, mapping.get(part.key, "")) for part in parts_of(node)]
        signature = ([(node.GetID(), node.GetName(), part, said) for node, part, said in content], names)
        if signature == self._shown:
            return
        self._shown = signature
        self._table.setRowCount(0)
        self._table.setRowCount(len(content))
        for row, (node, part, said) in enumerate(content):
            assert task is not None
            for column, text in enumerate((node.GetName(), part.name or part.key)):
                item = qt.QTableWidgetItem(text)
                item.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled)
                self._table.setItem(row, column, item)
            self._table.setCellWidget(row, 2, self._selector(node, part.key, said, names, task))
        fit_height(self._table)

    def _selector(self, node: Any, key: str, said: str, names: Sequence[str], task: Task) -> Any:
        selector = qt.QComboBox()
        selector.addItem(_("(not used)"))
        for name in names:
            selector.addItem(name)
        selector.setCurrentIndex(names.index(said) + 1 if said in names else 0)
        # PythonQt passes the index; the closure keeps the rest, but not the node, whose voxels would then stay in
        # memory after its scene is closed.
        node_id = node.GetID()
        selector.connect(
            "activated(int)", lambda index: self._say(node_id, key, names[index - 1] if index else "", task)
        )
        return selector

    def _say(self, node_id: str, key: str, name: str, task: Task) -> None:
        node = slicer.mrmlScene.GetNodeByID(node_id)
        if node is not None:
            store_mapping(node, {**shown_mapping(node, task), key: name})
            self._on_change()
