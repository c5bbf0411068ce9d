"""A window's tie to its parameter node, which comes and goes with the scene."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, get_type_hints

import slicer
import vtk

_MODIFIED = vtk.vtkCommand.ModifiedEvent


def forget_unknown_names(node: Any, wrapper: type) -> None:
    """Of a scene that another SIFA saved: choices that there are no more become those that are made at first.

    Slicer's wrapper reads all parameters of the node as it begins, and refuses the node for one such name.
    """
    for name, kind in get_type_hints(wrapper).items():
        unknown = isinstance(kind, type) and issubclass(kind, Enum) and node.GetParameter(name) not in kind.__members__
        if unknown and node.HasParameter(name):
            node.UnsetParameter(name)


class ParameterLink:
    """Connects widgets to the parameters that their dynamic properties name, and tells of every change."""

    def __init__(self, widget: Any, ui: Any, on_change: Callable[..., None]) -> None:
        """
        Args:
            widget: The module's widget, which observes (`VTKObservationMixin`).
            ui: Its widgets by name.
            on_change: Called with caller and event when any parameter has changed.
        """
        self._widget, self._ui, self._on_change = widget, ui, on_change
        self._connected: tuple[Any, Any] | None = None

    def let_go_while_importing(self, take_up: Callable[[Any], None], renew: Callable[[], None]) -> None:
        """Untie before a scene is imported into this one, and tie again after that.

        Slicer's node selectors lose their nodes at the end of an import, and would write that into the parameters.

        Args:
            take_up: Of the window: takes up parameters, or None.
            renew: The same: takes up the scene's parameters and shows them.
        """

        def end(_caller: Any, _event: Any) -> None:
            if self._widget.parent.isEntered:
                renew()

        scene = slicer.mrmlScene
        self._widget.addObserver(scene, scene.StartImportEvent, lambda _caller, _event: take_up(None))
        # After the selectors, which fill themselves anew at this event, at the priority 0.
        self._widget.addObserver(scene, scene.EndImportEvent, end, priority=-1.0)

    def is_tied_to(self, node: Any) -> bool:
        """Whether it is tied to the parameters in this node. In Slicer 5.10 each tie leaves observers behind."""
        return self._connected is not None and self._connected[0].parameterNode is node

    def connect(self, parameters: Any | None) -> None:
        """Tie to these parameters in place of those before; None unties."""
        if self._connected is not None:
            before, connection = self._connected
            before.disconnectGui(connection)
            self._widget.removeObserver(before.parameterNode, _MODIFIED, self._on_change)
            self._connected = None
        if parameters is not None:
            self._connected = parameters, parameters.connectGui(self._ui)
            self._widget.addObserver(parameters.parameterNode, _MODIFIED, self._on_change)
