"""The rows of a table of nodes, which say what belongs together (volume, region, reference); saved with the scene."""

from __future__ import annotations

from typing import Any

Row = tuple[Any, ...]
"""One node for each column, or None where none is chosen."""


class NodeRows:
    """Rows of nodes, stored in a parameter node as node references, which survive saving, loading and renaming.

    A reference to a deleted node reads as None.
    """

    def __init__(self, node: Any, table: str, roles: tuple[str, ...]) -> None:
        """
        Args:
            node: The `vtkMRMLScriptedModuleNode` behind the parameter node.
            table: Prefix that distinguishes the tables of one parameter node.
            roles: Roles of the nodes of a row, in the order of the columns.
        """
        self._node, self._table, self._roles = node, table, roles

    def read(self) -> list[Row]:
        """Return all rows, including incomplete ones."""
        return [
            tuple(self._node.GetNodeReference(self._role(index, role)) for role in self._roles)
            for index in range(self._count())
        ]

    def write(self, rows: list[Row]) -> None:
        """Replace all rows."""
        modified = self._node.StartModify()
        blank: Row = (None,) * len(self._roles)
        for index in range(max(self._count(), len(rows))):
            row = rows[index] if index < len(rows) else blank
            for role, node in zip(self._roles, row, strict=True):
                self._node.SetNodeReferenceID(self._role(index, role), node.GetID() if node is not None else None)
        self._node.SetParameter(f"{self._table}.rows", str(len(rows)))
        self._node.EndModify(modified)

    def _count(self) -> int:
        return int(self._node.GetParameter(f"{self._table}.rows") or 0)

    def _role(self, index: int, role: str) -> str:
        return f"{self._table}{index}.{role}"
