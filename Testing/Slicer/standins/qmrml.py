"""The qMRML widgets that SIFA's windows may use, over the real scene."""

from __future__ import annotations

from typing import Any, ClassVar

from PySide6 import QtCore, QtWidgets

from .ctk_module import ctkCheckableComboBox, ctkComboBox, ctkDoubleSpinBox, ctkSliderWidget
from .native_property import computed, stored
from .observing import SceneFollower
from .plot_view import qMRMLPlotView, qMRMLPlotWidget
from .table_view import qMRMLSegmentsTableView, qMRMLTableView

_ID = QtCore.Qt.ItemDataRole.UserRole + 1
_ACTION = QtCore.Qt.ItemDataRole.UserRole + 4


class qMRMLWidget(QtWidgets.QWidget):  # noqa: N801
    """A widget that knows a scene."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._scene: Any = None

    def mrmlScene(self) -> Any:  # noqa: N802
        """The scene."""
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        """Take up a scene, and pass it to whatever is connected."""
        if scene is self._scene:
            return
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class qSlicerWidget(qMRMLWidget):  # noqa: N801
    """A widget of the application that knows a scene."""


class qMRMLNodeComboBox(QtWidgets.QWidget):  # noqa: N801
    """Chooses a node of the scene.

    Without `noneEnabled`, the first node that is added is chosen; when the chosen node is removed, its neighbour is.
    """

    currentNodeChanged = QtCore.Signal(object)
    currentNodeValid = QtCore.Signal(bool)
    currentNodeIDChanged = QtCore.Signal(str)
    currentNodeRenamed = QtCore.Signal(str)
    nodeActivated = QtCore.Signal(object)
    nodeAdded = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)
    nodeAddedByUserAction = QtCore.Signal(object)
    nodeAboutToBeRemoved = QtCore.Signal(object)
    nodeAboutToBeEdited = QtCore.Signal(object)
    SIGNALS: ClassVar = {"currentNodeChanged(bool)": "currentNodeValid"}

    def __init__(self, *args: Any) -> None:
        super().__init__(*[arg for arg in args if isinstance(arg, QtWidgets.QWidget)])
        self._scene: Any = None
        self._follower: SceneFollower | None = None
        self._types: list[str] = []
        self._attributes: dict[str, list[tuple[str, str | None]]] = {}
        self._labels: dict[str, str] = {}
        self._requested: Any = None
        self._none_enabled, self._none_display = False, "None"
        self._switching = False
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.combo = self._make_combo()
        self.combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        layout.addWidget(self.combo)
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.Preferred, policy.Fixed)
        self.combo.setSizePolicy(policy.Expanding, policy.Fixed)
        self.combo.currentIndexChanged.connect(self._index_changed)
        self.combo.activated.connect(self._activated)
        self.setEnabled(False)

    def _make_combo(self) -> QtWidgets.QComboBox:
        return ctkComboBox(self)

    # Scene and nodes

    def mrmlScene(self) -> Any:  # noqa: N802
        """The scene."""
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        """Show the nodes of a scene; without one the widget is disabled."""
        if scene is self._scene:
            return
        if self._follower is not None:
            self._follower.stop()
        old, was_valid = self.currentNodeID(), self.nodeCount() > 0
        self._scene = scene
        self._switching = True
        self.refill()
        self._switching = False
        self._follower = SceneFollower(scene, self) if scene is not None else None
        requested = self._requested.GetID() if hasattr(self._requested, "GetID") else self._requested
        self._requested = None
        self.setCurrentNodeID(old if was_valid else requested or self.currentNodeID())
        self.setEnabled(scene is not None)

    def currentNode(self) -> Any:  # noqa: N802
        """The chosen node, or None."""
        return self._node(self.combo.currentIndex())

    def currentNodeID(self) -> str:  # noqa: N802
        """ID of the chosen node, or an empty text."""
        node = self.currentNode()
        return node.GetID() if node is not None else ""

    def setCurrentNode(self, node: Any) -> None:  # noqa: N802
        """Choose a node (or its ID, which is deprecated); a node that is not offered chooses none."""
        if self._scene is None:
            self._requested = node
        self._choose(node if isinstance(node, str) else node.GetID() if node is not None else "")

    def setCurrentNodeID(self, node_id: str) -> None:  # noqa: N802
        """Choose a node by its ID."""
        if self._scene is None:
            self._requested = node_id
        self._choose(node_id)

    def setCurrentNodeIndex(self, index: int) -> None:  # noqa: N802
        """Choose a node by its number."""
        index = index if index < self.nodeCount() else -1
        self.combo.setCurrentIndex(index + self._none_enabled)

    def nodeCount(self) -> int:  # noqa: N802
        """How many nodes are offered."""
        return sum(bool(self.combo.itemData(index, _ID)) for index in range(self.combo.count()))

    def nodeFromIndex(self, index: int) -> Any:  # noqa: N802
        """A node by its number."""
        return self._node(index + self._none_enabled)

    def addNode(self, node_type: str = "") -> Any:  # noqa: N802
        """Make a node, as the user's `Create new` does."""
        if not self._types:
            return None
        chosen = node_type or self._types[0]
        # The filter looks at the attributes when the node is in the scene already.
        new = self._scene.CreateNodeByClass(chosen)
        new.UnRegister(None)
        for name, value in self._attributes.get(chosen, []):
            new.SetAttribute(name, value if value is not None else "")
        base = self.baseName or new.GetNodeTagName()
        new.SetName(self._scene.GetUniqueNameByString(base))
        self._scene.AddNode(new)
        if self.selectNodeUponCreation:
            self.setCurrentNode(new)
        self.nodeAddedByUser.emit(new)
        return new

    def removeCurrentNode(self) -> None:  # noqa: N802
        """Remove the chosen node from the scene."""
        self._scene.RemoveNode(self.currentNode())

    def editCurrentNode(self) -> None:  # noqa: N802
        """Ask for the chosen node's module."""
        self.nodeAboutToBeEdited.emit(self.currentNode())

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:  # noqa: N802
        """Offer only nodes of a type that have an attribute, with this value if one is given."""
        self._attributes[node_type] = [(name, None if value is None else str(value))]
        self.refill()

    def removeAttribute(self, node_type: str, name: str) -> None:  # noqa: N802
        """Stop filtering by an attribute."""
        kept = [entry for entry in self._attributes.get(node_type, []) if entry[0] != name]
        self._attributes[node_type] = kept
        self.refill()

    def setNodeTypeLabel(self, label: str, node_type: str) -> None:  # noqa: N802
        """Set the name of a type in the list's last items."""
        self._labels[node_type] = label
        self.refill()

    def nodeTypeLabel(self, node_type: str) -> str:  # noqa: N802
        """Name of a type in the list's last items."""
        if node_type in self._labels:
            return self._labels[node_type]
        label = self._scene.GetTypeDisplayNameByClassName(node_type) if self._scene is not None else ""
        return label or "node"

    # Filling the list

    def accepts(self, node: Any) -> bool:
        """Whether a node is offered."""
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if not self._types:
            return True
        for node_type in self._types:
            if not node.IsA(node_type) or (not self.showChildNodeTypes and node.GetClassName() != node_type):
                continue
            if self.showChildNodeTypes and any(node.IsA(hidden) for hidden in self.hideChildNodeTypes):
                return False
            return all(
                node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name))
                for name, value in self._attributes.get(node_type, [])
            )
        return False

    def refill(self) -> None:
        """Rebuild all items, keeping the choice if it is still offered."""
        chosen = self.combo.itemData(self.combo.currentIndex(), _ID)
        had_choice = self.combo.currentIndex() >= 0
        blocked = self.combo.blockSignals(True)
        self.combo.clear()
        if self._none_enabled:
            self.combo.addItem(self._none_display)
        nodes = []
        if self._scene is not None:
            collection = self._scene.GetNodes()
            nodes = [collection.GetItemAsObject(index) for index in range(collection.GetNumberOfItems())]
        for node in nodes:
            if node is not None and self.accepts(node):
                self._insert(node, self.combo.count())
        self._add_actions()
        self.combo.setCurrentIndex(self.combo.findData(chosen, _ID) if chosen else (0 if self._none_enabled else -1))
        if not self._none_enabled and not chosen and self.nodeCount():
            # Slicer fills the list row by row, and chooses the first row that is added.
            self.combo.setCurrentIndex(0)
        self.combo.blockSignals(blocked)
        self._default_text()
        now = self.combo.itemData(self.combo.currentIndex(), _ID)
        if now != chosen or (had_choice and self.combo.currentIndex() < 0):
            self._index_changed(self.combo.currentIndex())

    def scene_imported(self) -> None:
        """Rebuild all items and choose none, as `qMRMLSceneModel` removes every row at the end of an import."""
        self.combo.setCurrentIndex(0 if self._none_enabled else -1)
        self.refill()

    def _insert(self, node: Any, row: int) -> None:
        self.combo.insertItem(row, node.GetName() or "")
        self.combo.setItemData(row, node.GetID(), _ID)

    def node_added(self, node: Any) -> None:
        """Offer a new node."""
        if self.combo.findData(node.GetID(), _ID) >= 0 or not self.accepts(node):
            return
        row = self.nodeCount() + self._none_enabled
        self._insert(node, row)
        if self.combo.currentIndex() > row or (self.combo.currentIndex() < 0 and not self._none_enabled):
            self.combo.setCurrentIndex(row)
        self.nodeAdded.emit(node)

    def node_removing(self, node: Any) -> None:
        """Stop offering a node."""
        row = self.combo.findData(node.GetID(), _ID)
        if row < 0:
            return
        self.nodeAboutToBeRemoved.emit(node)
        self.combo.removeItem(row)

    def node_modified(self, node: Any) -> None:
        """Show a new name, and filter again."""
        row = self.combo.findData(node.GetID(), _ID)
        if (row >= 0) != self.accepts(node):
            self.refill()
        elif row >= 0 and self.combo.itemText(row) != node.GetName():
            self.combo.setItemText(row, node.GetName() or "")

    def _add_actions(self) -> None:
        if self._scene is None:
            return
        label = self.nodeTypeLabel(self._types[0] if len(self._types) == 1 else "")
        actions = [(f"Rename current {label}", "RENAME")] if self.renameEnabled else []
        actions += [(f"Edit current {label}", "EDIT")] if self.editEnabled else []
        if self.addEnabled:
            actions += [(f"Create new {self.nodeTypeLabel(kind)}", f"CREATE/{kind}") for kind in self._types]
        actions += [(f"Delete current {label}", "DELETE")] if self.removeEnabled else []
        if actions:
            self.combo.insertSeparator(self.combo.count())
        for text, action in actions:
            self.combo.addItem(text)
            self.combo.setItemData(self.combo.count() - 1, action, _ACTION)

    def _default_text(self) -> None:
        label = self.nodeTypeLabel(self._types[0] if self._types else "")
        self.combo.setPlaceholderText(f"Select a {label}")

    def _node(self, row: int) -> Any:
        node_id = self.combo.itemData(row, _ID) if row >= 0 else None
        return self._scene.GetNodeByID(node_id) if node_id and self._scene is not None else None

    def _choose(self, node_id: str) -> None:
        row, before = self.combo.findData(node_id, _ID) if node_id else -1, self.combo.currentIndex()
        self.combo.setCurrentIndex(row if row >= 0 else (0 if self._none_enabled else -1))
        if row >= 0 and row != before:
            # Slicer chooses by sending a key press to its own list, as if it came from a user.
            self.nodeActivated.emit(self._node(row))

    def _index_changed(self, row: int) -> None:
        if self._switching:
            return
        node = self._node(row)
        nothing = 0 if self._none_enabled else -1
        if node is None and row != nothing:
            # The row is one of the actions at the end of the list; the last node is chosen instead, or none.
            last = self.nodeFromIndex(self.nodeCount() - 1) if self.nodeCount() else None
            if last is not None:
                self.setCurrentNode(last)
                return
            blocked = self.combo.blockSignals(True)
            self.combo.setCurrentIndex(nothing)
            self.combo.blockSignals(blocked)
        self.currentNodeChanged.emit(node)
        self.currentNodeValid.emit(node is not None)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def _activated(self, row: int) -> None:
        action = self.combo.itemData(row, _ACTION)
        if action is None:
            self.nodeActivated.emit(self._node(row))
        elif action.startswith("CREATE/"):
            self.nodeAddedByUserAction.emit(self.addNode(action.partition("/")[2]))
        elif action == "DELETE":
            self.removeCurrentNode()
        elif action == "EDIT":
            self.editCurrentNode()
        else:
            raise RuntimeError(f"qMRMLNodeComboBox {action} waits for a user.")

    # Properties

    def _set_types(self, types: list[str]) -> None:
        wanted = [name for name in types if name]
        if wanted != self._types:
            self._types = wanted
            self.refill()

    def _set_none_enabled(self, enabled: bool) -> None:
        if enabled != self._none_enabled:
            self._none_enabled = enabled
            self.refill()

    def _set_none_display(self, text: str) -> None:
        self._none_display = text
        if self._none_enabled:
            self.combo.setItemText(0, text)

    def _set_policy(self, policy: int) -> None:
        self.combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy(policy))

    # Named differently from its method, since `currentNodeID()` must remain a call in Python.
    currentNodeId = computed(str, lambda self: self.currentNodeID(), setCurrentNodeID)
    nodeTypes = computed("QStringList", lambda self: list(self._types), _set_types)
    noneEnabled = computed(bool, lambda self: self._none_enabled, _set_none_enabled)
    noneDisplay = computed(str, lambda self: self._none_display, _set_none_display)
    sizeAdjustPolicy = computed(int, lambda self: self.combo.sizeAdjustPolicy().value, _set_policy)
    addEnabled = stored(bool, True, "refill")
    removeEnabled = stored(bool, True, "refill")
    editEnabled = stored(bool, False, "refill")
    renameEnabled = stored(bool, False, "refill")
    showHidden = stored(bool, False, "refill")
    showChildNodeTypes = stored(bool, True, "refill")
    hideChildNodeTypes = stored("QStringList", [], "refill")
    selectNodeUponCreation = stored(bool, True)
    baseName = stored(str, "")
    interactionNodeSingletonTag = stored(str, "")


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):  # noqa: N801
    """Checks nodes of the scene."""

    checkedNodesChanged = QtCore.Signal()

    def _make_combo(self) -> QtWidgets.QComboBox:
        combo = ctkCheckableComboBox(self)
        combo.checkedIndexesChanged.connect(self.checkedNodesChanged)
        return combo

    def _rows(self, *, checked: bool) -> list[int]:
        rows = [row for row in range(self.combo.count()) if self.combo.itemData(row, _ID)]
        return [row for row in rows if (self._item(row).checkState() == QtCore.Qt.CheckState.Checked) == checked]

    def _item(self, row: int) -> Any:
        return self.combo.model().item(row)

    def checkedNodes(self) -> list[Any]:  # noqa: N802
        """The checked nodes."""
        return [self._node(row) for row in self._rows(checked=True)]

    def uncheckedNodes(self) -> list[Any]:  # noqa: N802
        """The others."""
        return [self._node(row) for row in self._rows(checked=False)]

    def checkState(self, node: Any) -> QtCore.Qt.CheckState:  # noqa: N802
        """Check state of a node."""
        return self._item(self.combo.findData(node.GetID(), _ID)).checkState()

    def setCheckState(self, node: Any, state: QtCore.Qt.CheckState) -> None:  # noqa: N802
        """Set the check state of a node."""
        self._item(self.combo.findData(node.GetID(), _ID)).setCheckState(state)

    def check(self, node: Any) -> None:
        """Check a node."""
        self.setCheckState(node, QtCore.Qt.CheckState.Checked)

    def uncheck(self, node: Any) -> None:
        """Uncheck a node."""
        self.setCheckState(node, QtCore.Qt.CheckState.Unchecked)

    def allChecked(self) -> bool:  # noqa: N802
        """Whether every node is checked."""
        return not self._rows(checked=False)

    def noneChecked(self) -> bool:  # noqa: N802
        """Whether no node is checked."""
        return not self._rows(checked=True)


class qMRMLSliderWidget(ctkSliderWidget):  # noqa: N801
    """A slider that could follow the scene's units."""

    quantity = stored(str, "")
    unitAwareProperties = stored(int, 0)

    def setMRMLScene(self, _scene: Any) -> None:  # noqa: N802
        """Units are not followed here."""


class qMRMLSpinBox(ctkDoubleSpinBox):  # noqa: N801
    """A spin box that could follow the scene's units."""

    quantity = stored(str, "")
    unitAwareProperties = stored(int, 0)

    def setMRMLScene(self, _scene: Any) -> None:  # noqa: N802
        """Units are not followed here."""


NATIVES: dict[str, type] = {
    found.__name__: found
    for found in (
        qMRMLWidget, qSlicerWidget, qMRMLNodeComboBox, qMRMLCheckableNodeComboBox, qMRMLSliderWidget, qMRMLSpinBox,
        qMRMLTableView, qMRMLSegmentsTableView, qMRMLPlotView, qMRMLPlotWidget,
    )
}  # fmt: skip
