"""Loads `.ui` files with CTK and qMRML widgets in them, and reports what such a widget does not have."""

from __future__ import annotations

import io
from typing import Any
from xml.etree import ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import ctk_module, emulated, faults, pythonqt, qmrml

_WITHOUT_PLUGIN = {"qMRMLPlotView", "ctkMessageBox"}
"""Widgets that Slicer can't make from a `.ui` file: there is no designer plugin for them."""

_NATIVES = {
    name: native for name, native in {**ctk_module.NATIVES, **qmrml.NATIVES}.items() if name not in _WITHOUT_PLUGIN
}


class UiLoader(QtUiTools.QUiLoader):
    """`qt.QUiLoader`."""

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> QtWidgets.QWidget:  # noqa: N802
        """Make a widget by the name of its class."""
        if class_name in _NATIVES:
            widget = _NATIVES[class_name](parent) if parent is not None else _NATIVES[class_name]()
            widget.setObjectName(name)
            return widget
        return super().createWidget(class_name, parent, name)

    def load(self, file: QtCore.QFile, parent: Any = None) -> QtWidgets.QWidget | None:
        """Make the widget of a file, with its connections."""
        root = ElementTree.parse(io.BytesIO(bytes(file.readAll().data()))).getroot()
        _check(root)
        _plain_values(root)
        connections = root.find("connections")
        if connections is not None:
            root.remove(connections)
        # The declarations are kept, since Qt would look for plugins without them.
        custom = root.find("customwidgets")
        if custom is not None:
            for entry in custom.findall("customwidget"):
                entry.find("extends").text = (
                    "QWidget" if entry.findtext("class") in _NATIVES else entry.findtext("extends")
                )
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root, encoding="utf-8"))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = super().load(buffer, parent)
        if widget is not None:
            for connection in connections if connections is not None else ():
                _connect(widget, connection)
        return widget


def _check(root: ElementTree.Element) -> None:
    """Record properties that the widget in Slicer does not have, and widgets that it does not know."""
    for value in (*root.iter("enum"), *root.iter("set")):
        if any(flag.count("::") > 1 for flag in (value.text or "").split("|")):
            faults.record(f"{value.text}: Qt 5, which Slicer has, knows no scoped enums")
    for element in root.iter("widget"):
        class_name = element.get("class", "")
        wrapped = pythonqt.find_class(class_name)
        if class_name in _WITHOUT_PLUGIN:
            faults.record(f"{class_name} {element.get('name')}: Slicer has no designer plugin for it")
            continue
        if wrapped is None:
            faults.record(f"{class_name} {element.get('name')}: there is no stand-in of this class")
            continue
        for entry in element.findall("property"):
            property_name = entry.get("name", "")
            known = wrapped._sifa_info.listing.properties
            if entry.get("stdset") != "0" and property_name not in known:
                faults.record(f"{class_name} {element.get('name')}: has no property {property_name}")


def _plain_values(root: ElementTree.Element) -> None:
    """Enums of the custom widgets as numbers, since Qt can't look them up in a class made by Python."""
    for element in root.iter("widget"):
        if element.get("class", "") not in _NATIVES:
            continue
        for value in element.findall("property/*"):
            if value.tag in ("enum", "set") and value.text:
                value.text = str(sum(_enum_number(part) for part in value.text.split("|")))
                value.tag = "number"


def _enum_number(text: str) -> int:
    owner, _colons, name = text.rpartition("::")
    sources = (_NATIVES.get(owner), getattr(QtWidgets, owner, None), getattr(QtCore, owner, None))
    found = next((getattr(source, name) for source in sources if hasattr(source, name)), None)
    if found is None:
        faults.record(f"{text}: there is no such enum value")
        return 0
    return int(found.value)


def _connect(root: QtWidgets.QWidget, connection: ElementTree.Element) -> None:
    sender, signal, receiver, slot = (
        connection.findtext(tag) or "" for tag in ("sender", "signal", "receiver", "slot")
    )
    source, target = (_named(root, name) for name in (sender, receiver))
    if source is None or target is None:
        faults.record(f"connection of {sender} to {receiver}: there is no such widget")
        return
    source_class, target_class = pythonqt.class_of(source), pythonqt.class_of(target)
    listing = target_class._sifa_info.listing
    slot_name = slot.partition("(")[0]
    if signal not in source_class._sifa_info.listing.signals or slot_name not in listing.methods:
        faults.record(f"connection of {sender} to {receiver}: there is no {signal} or no {slot}")
        return
    method = getattr(target, slot_name)
    emulated.native_signal(source, signal).connect(method)


def _named(root: QtWidgets.QWidget, name: str) -> QtCore.QObject | None:
    return root if root.objectName() == name else root.findChild(QtCore.QObject, name)
