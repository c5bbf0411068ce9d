"""The connection of a window to its parameter node, which comes and goes with the scene."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, get_type_hints

import slicer
import vtk

_MODIFIED = vtk.vtkCommand.ModifiedEvent


def forget_unknown_names(node: Any, wrapper: type) -> None:
    """Reset choices that this version does not know, from a scene saved by another one, to their defaults.

    Slicer's wrapper reads all parameters of the node when it is made, and fails if one choice is unknown.

    Args:
        node: Parameter node of the scene.
        wrapper: Parameter node wrapper, whose parameters of an `Enum` type are checked.
    """
    for name, kind in get_type_hints(wrapper).items():
        unknown = isinstance(kind, type) and issubclass(kind, Enum) and node.GetParameter(name) not in kind.__members__
        if unknown and node.HasParameter(name):
            node.UnsetParameter(name)


class ParameterLink:
    """Connects widgets to the parameters named by their dynamic properties, and reports every change."""

    def __init__(self, widget: Any, ui: Any, on_change: Callable[..., None]) -> None:
        """
        Args:
            widget: The module's widget, whose `VTKObservationMixin` observes the nodes.
            ui: The widgets of its `.ui` file by name.
            on_change: Called with caller and event when any parameter has changed.
        """
        self._widget, self._ui, self._on_change = widget, ui, on_change
        self._connected: tuple[Any, Any] | None = None

    def let_go_while_importing(self, take_up: Callable[[Any], None], renew: Callable[[], None]) -> None:
        """Disconnect before a scene is imported into the current one, and reconnect afterwards.

        Slicer's node selectors lose their nodes at the end of an import, and would write that into the parameters.

        Args:
            take_up: The window's function that connects it to parameters; called with None to disconnect.
            renew: The window's function that connects it to the scene's parameters and shows them.
        """

        def end(_caller: Any, _event: Any) -> None:
            if self._widget.parent.isEntered:
                renew()

        scene = slicer.mrmlScene
        self._widget.addObserver(scene, scene.StartImportEvent, lambda _caller, _event: take_up(None))
        # Must come after the selectors, which refill themselves at this event with priority 0.
        self._widget.addObserver(scene, scene.EndImportEvent, end, priority=-1.0)

    def is_tied_to(self, node: Any) -> bool:
        """Whether it is connected to the parameters in this node.

        Callers avoid connecting again, since in Slicer 5.10 each connection leaves observers behind.
        """
        return self._connected is not None and self._connected[0].parameterNode is node

    def connect(self, parameters: Any | None) -> None:
        """Connect to these parameters in place of the previous ones; None only disconnects."""
        if self._connected is not None:
            before, connection = self._connected
            before.disconnectGui(connection)
            self._widget.removeObserver(before.parameterNode, _MODIFIED, self._on_change)
            self._connected = None
        if parameters is not None:
            self._connected = parameters, parameters.connectGui(self._ui)
            self._widget.addObserver(parameters.parameterNode, _MODIFIED, self._on_change)
