"""`slicer.parameterNodeWrapper`: typed attributes that are kept in a parameter node and joined to widgets.

Values are stored and validated as in Slicer, so that a scene saved here opens there. As in Slicer, joining a spin box
to a number without bounds removes the limits that the widget had.
"""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import ctk
import qt
import slicer
import vtk

PROPERTY = "SlicerParameterName"


# Annotations ---------------------------------------------------------------------------------------------------------


class Default:
    """The default of a parameter, or a function that makes it."""

    def __init__(self, value: Any = None, *, generator: Callable[[], Any] | None = None) -> None:
        self._value, self._generator = value, generator

    @property
    def value(self) -> Any:
        """The value."""
        return self._generator() if self._generator else self._value


@dataclass
class Decimals:
    """Digits behind the point of the joined widget."""

    value: int


@dataclass
class SingleStep:
    """Step of the joined widget."""

    value: float


class Validator:
    """Refuses values by an exception."""

    def validate(self, value: Any) -> None:
        """Raise if the value is not valid."""


@dataclass
class WithinRange(Validator):
    """Both ends are included."""

    minimum: float
    maximum: float

    def validate(self, value: Any) -> None:
        """Raise if the value is outside."""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


@dataclass
class Minimum(Validator):
    """The lowest value."""

    minimum: float

    def validate(self, value: Any) -> None:
        """Raise if the value is lower."""
        if value < self.minimum:
            raise ValueError(f"Value must not be less than {self.minimum}, is {value}")


@dataclass
class Maximum(Validator):
    """The highest value."""

    maximum: float

    def validate(self, value: Any) -> None:
        """Raise if the value is higher."""
        if value > self.maximum:
            raise ValueError(f"Value must not be greater than {self.maximum}, is {value}")


@dataclass
class Choice(Validator):
    """The values that are allowed."""

    choices: list[Any]

    def validate(self, value: Any) -> None:
        """Raise if the value is another one."""
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be in one of the following: {self.choices}")


@dataclass
class _IsInstance(Validator):
    kinds: Any
    none_allowed: bool

    def validate(self, value: Any) -> None:
        if value is None and not self.none_allowed:
            raise ValueError("Value must not be None")
        if value is not None and not isinstance(value, self.kinds):
            raise TypeError(f"Value must be of type '{self.kinds}', is type '{type(value)}' value '{value}'")


# Keeping values in a node --------------------------------------------------------------------------------------------


class _Text:
    """A value, stored as the text of a parameter."""

    def __init__(
        self,
        to_text: Callable[[Any], str],
        from_text: Callable[[str], Any],
        default: Callable[[], Any],
        check: Validator,
    ) -> None:
        self.to_text, self.from_text, self.default, self.check = to_text, from_text, default, check

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check.validate(value)
        node.SetParameter(name, self.to_text(value))

    def read(self, node: Any, name: str) -> Any:
        return self.from_text(node.GetParameter(name))

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)


class _Node:
    """A node, stored as a node reference; an empty parameter of the same name marks it as set."""

    def __init__(self, kinds: tuple[type, ...]) -> None:
        self.check = _IsInstance(kinds, none_allowed=True)

    def default(self) -> None:
        return None

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check.validate(value)
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


class _Union:
    """A value of one of several kinds, each under a name of its own."""

    def __init__(self, kinds: list[Any]) -> None:
        self.kinds = kinds

    def default(self) -> Any:
        return None if len(self.kinds) == 2 and isinstance(self.kinds[1], _Nothing) else self.kinds[0].default()

    def is_in(self, node: Any, name: str) -> bool:
        return any(kind.is_in(node, f"{name}.{index}") for index, kind in enumerate(self.kinds))

    def write(self, node: Any, name: str, value: Any) -> None:
        for index, kind in enumerate(self.kinds):
            if (value is None) != isinstance(kind, _Nothing):
                continue
            try:
                kind.check.validate(value)
            except (TypeError, ValueError):
                continue
            with slicer.util.NodeModify(node):
                self.remove(node, name)
                kind.write(node, f"{name}.{index}", value)
            return
        raise TypeError(f"Unable to write value '{value}' of type '{type(value)}'")

    def read(self, node: Any, name: str) -> Any:
        for index, kind in enumerate(self.kinds):
            if kind.is_in(node, f"{name}.{index}"):
                return kind.read(node, f"{name}.{index}")
        raise KeyError(f"Unable to find value for name: {name}")

    def remove(self, node: Any, name: str) -> None:
        for index, kind in enumerate(self.kinds):
            kind.remove(node, f"{name}.{index}")


class _Nothing(_Text):
    """None, as a kind of a union."""

    def __init__(self) -> None:
        super().__init__(lambda _value: "None", lambda _text: None, lambda: None, Validator())


class _List:
    """A list, stored with a parameter for each element."""

    def __init__(self, element: Any) -> None:
        self.element = element

    def default(self) -> list[Any]:
        return []

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(f"{name}.len"))

    def write(self, node: Any, name: str, values: Any) -> None:
        length = len(self._read(node, name))
        with slicer.util.NodeModify(node):
            for index, value in enumerate(values):
                self.element.write(node, f"{name}.{index}", value)
            node.SetParameter(f"{name}.len", str(len(values)))
            for index in range(len(values), length):
                self.element.remove(node, f"{name}.{index}")

    def _read(self, node: Any, name: str) -> list[Any]:
        length = int(node.GetParameter(f"{name}.len")) if self.is_in(node, name) else 0
        return [self.element.read(node, f"{name}.{index}") for index in range(length)]

    def read(self, node: Any, name: str) -> _ObservedList:
        return _ObservedList(self._read(node, name), lambda values: self.write(node, name, values))

    def remove(self, node: Any, name: str) -> None:
        self.write(node, name, [])
        node.UnsetParameter(f"{name}.len")


class _ObservedList(list[Any]):
    """A list that writes itself back when it is changed."""

    def __init__(self, values: list[Any], write: Callable[[list[Any]], None]) -> None:
        super().__init__(values)
        self._write = write


def _writing(name: str) -> Callable[..., Any]:
    original = getattr(list, name)

    def method(self: _ObservedList, *args: Any, **keywords: Any) -> Any:
        result = original(self, *args, **keywords)
        self._write(list(self))
        return result

    return method


for _name in ("append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse", "__setitem__", "__delitem__"):
    setattr(_ObservedList, _name, _writing(_name))


def _store_for(kind: Any, validators: list[Validator]) -> Any:
    """Return the store for values of a type."""
    store = _plain_store(kind)
    if validators:
        own = store.check

        class _All(Validator):
            def validate(self, value: Any) -> None:
                for validator in (own, *validators):
                    validator.validate(value)

        store.check = _All()
    return store


def _plain_store(kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if isinstance(kind, types.UnionType) or origin is typing.Union:
        return _Union([_Nothing() if arg is type(None) else _plain_store(arg) for arg in typing.get_args(kind)])
    if origin is list:
        return _List(_plain_store(*typing.get_args(kind)))
    found = _text_store(kind) if isinstance(kind, type) else None
    if found is None:
        raise NotImplementedError(f"The stand-in of parameterNodeWrapper keeps no {kind}.")
    return found


def _text_store(kind: type) -> Any:
    if issubclass(kind, slicer.vtkMRMLNode):
        return _Node((kind,))
    if issubclass(kind, enum.Enum):
        check = _IsInstance(kind, none_allowed=True)
        return _Text(lambda value: value.name, lambda text: kind[text], lambda: next(iter(kind)), check)
    if kind is bool:
        return _Text(str, lambda text: text == "True", lambda: False, _IsInstance(bool, none_allowed=False))
    if kind in (int, float):
        allowed = (int, float) if kind is float else int
        return _Text(str, kind, lambda: 0, _IsInstance(allowed, none_allowed=False))
    if issubclass(kind, (str, pathlib.PurePath)):
        return _Text(str, kind, kind, _IsInstance(kind, none_allowed=False))
    return None


# Joining to widgets --------------------------------------------------------------------------------------------------


class _Connector:
    """A widget as the place of a value."""

    def __init__(self, widget: Any, signal: str | None, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self.widget, self.read, self.write = widget, read, write
        self._signal = getattr(widget, signal) if signal else None
        self._callback: Callable[[], None] | None = None

    def on_changed(self, callback: Callable[[], None] | None) -> None:
        if self._signal is not None and callback is None:
            self._signal.disconnect(self._changed)
        self._callback = callback
        if self._signal is not None and callback is not None:
            self._signal.connect(self._changed)

    def _changed(self) -> None:
        if self._callback is not None:
            self._callback()


def _attribute(widget: Any, name: str, signal: str | None, kind: Callable[[Any], Any] = lambda value: value,
               to_widget: Callable[[Any], Any] = lambda value: value) -> _Connector:  # fmt: skip
    return _Connector(
        widget, signal, lambda: kind(getattr(widget, name)), lambda value: setattr(widget, name, to_widget(value))
    )


def make_connector(widget: Any, annotated: Any) -> _Connector:
    """Make what connects a widget with a value of a type.

    Raises:
        RuntimeError: Slicer can't connect them either.
    """
    kind, annotations = _split(annotated)
    for maker in (_bool_connector, _number_connector, _choice_connector, _text_connector, _path_connector,
                  _node_connector):  # fmt: skip
        connector = maker(widget, kind, annotations)
        if connector is not None:
            return connector
    raise RuntimeError(f"Unable to create GUI connector from datatype '{annotated}' to widget type '{type(widget)}'.")


def _bool_connector(widget: Any, kind: Any, _annotations: list[Any]) -> _Connector | None:
    if kind is not bool or type(widget) not in (qt.QCheckBox, qt.QPushButton):
        return None
    widget.checkable = True
    return _attribute(widget, "checked", "toggled" if type(widget) == qt.QPushButton else "stateChanged")  # noqa: E721


def _number_connector(widget: Any, kind: Any, annotations: list[Any]) -> _Connector | None:
    shown = type(widget)
    if kind is int and shown in (qt.QSlider, qt.QSpinBox):
        _limit(widget, annotations, -(2**31), 2**31 - 1)
        return _attribute(widget, "value", "valueChanged")
    sliders = (ctk.ctkSliderWidget, slicer.qMRMLSliderWidget)
    boxes = (qt.QDoubleSpinBox, ctk.ctkDoubleSpinBox, slicer.qMRMLSpinBox)
    if kind not in (int, float) or shown not in (*sliders, *boxes):
        return None
    if shown in sliders and not _bounds(annotations)[2]:
        raise RuntimeError("Cannot have a connection to ctkSliderWidget where the float types is unbounded.")
    if kind is int:
        widget.setDecimals(0)
    _limit(widget, annotations, float("-inf"), float("inf"))
    return _attribute(widget, "value", "valueChanged", kind, kind)


def _choice_connector(widget: Any, kind: Any, annotations: list[Any]) -> _Connector | None:
    if type(widget) not in (qt.QComboBox, ctk.ctkComboBox):
        return None
    if kind in (int, float, str, bool):
        choice = next((a for a in annotations if isinstance(a, Choice)), None)
        if choice is None:
            raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
        return _list_connector(widget, choice.choices, str)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _list_connector(widget, list(kind), getattr(kind, "label", lambda member: member.name))
    return None


def _text_connector(widget: Any, kind: Any, _annotations: list[Any]) -> _Connector | None:
    if kind is not str:
        return None
    connectors = {
        qt.QLineEdit: lambda: _Connector(
            widget, "textChanged", lambda: widget.text, lambda value: _write_text(widget, value)
        ),
        qt.QLabel: lambda: _attribute(widget, "text", None),
        qt.QTextEdit: lambda: _Connector(widget, "textChanged", widget.toPlainText, widget.setPlainText),
    }
    make = connectors.get(type(widget))
    return make() if make is not None else None


def _path_connector(widget: Any, kind: Any, _annotations: list[Any]) -> _Connector | None:
    if not (isinstance(kind, type) and issubclass(kind, pathlib.PurePath)):
        return None
    names = {ctk.ctkPathLineEdit: "currentPath", ctk.ctkDirectoryButton: "directory"}
    name = names.get(type(widget))
    return _attribute(widget, name, f"{name}Changed", kind, str) if name is not None else None


def _node_connector(widget: Any, kind: Any, _annotations: list[Any]) -> _Connector | None:
    node_types = _node_types(kind)
    if type(widget) != slicer.qMRMLNodeComboBox or not node_types:  # noqa: E721  a subclass is another widget
        return None
    widget.nodeTypes = node_types
    return _Connector(widget, "currentNodeChanged", widget.currentNode, widget.setCurrentNode)


def _bounds(annotations: list[Any]) -> tuple[float | None, float | None, bool]:
    """Lower and upper limit, and whether both exist."""
    low = next((a.minimum for a in annotations if isinstance(a, (WithinRange, Minimum))), None)
    high = next((a.maximum for a in annotations if isinstance(a, (WithinRange, Maximum))), None)
    return low, high, low is not None and high is not None


def _limit(widget: Any, annotations: list[Any], lowest: float, highest: float) -> None:
    for annotation in annotations:
        if isinstance(annotation, Decimals):
            widget.decimals = annotation.value
        if isinstance(annotation, SingleStep):
            widget.singleStep = annotation.value
    low, high, _both = _bounds(annotations)
    widget.minimum = lowest if low is None else low
    widget.maximum = highest if high is None else high


def _list_connector(widget: Any, values: list[Any], label: Callable[[Any], str]) -> _Connector:
    widget.clear()
    for value in values:
        widget.addItem(label(value))
    return _Connector(
        widget, "currentIndexChanged", lambda: values[widget.currentIndex],
        lambda value: setattr(widget, "currentIndex", values.index(value)),
    )  # fmt: skip


def _write_text(widget: Any, value: str) -> None:
    # Writing moves the cursor, so an equal text is not written again.
    if widget.text != value:
        widget.text = value


def _node_types(kind: Any) -> list[str]:
    """Return the class names of a node class or a union of them; none for `X | None`, which Slicer refuses."""
    options = typing.get_args(kind) if typing.get_origin(kind) is typing.Union else (kind,)
    classes = [option for option in options if option is not type(None)]
    if not all(isinstance(option, type) and issubclass(option, slicer.vtkMRMLNode) for option in classes):
        return []
    return [option().GetClassName() for option in classes]


def _split(annotated: Any) -> tuple[Any, list[Any]]:
    kind, *annotations = typing.get_args(Annotated[annotated, None])
    return kind, annotations[:-1]


# The decorator -------------------------------------------------------------------------------------------------------


class _Parameter(typing.NamedTuple):
    name: str
    store: Any
    default: Default
    annotated: Any


def _implementation(parameters: dict[str, _Parameter]) -> dict[str, Any]:
    """What the decorator adds to a class."""

    def check(name: str) -> _Parameter:
        if name not in parameters:
            raise ValueError(f"Cannot find a param with the given name: {name}; there are {', '.join(parameters)}")
        return parameters[name]

    def init(self: Any, node: Any, prefix: str | None = None) -> None:
        self.parameterNode, self._prefix = node, prefix or ""
        self._guis, self._updating = {}, False
        for parameter in parameters.values():
            if not parameter.store.is_in(node, self._prefix + parameter.name):
                parameter.store.write(node, self._prefix + parameter.name, parameter.default.value)
            # Slicer reads and keeps the value here, so a text that is not a valid value is refused now.
            parameter.store.read(node, self._prefix + parameter.name)

    def get_value(self: Any, name: str) -> Any:
        parameter, stored_name = check(name), self._prefix + name
        if not parameter.store.is_in(self.parameterNode, stored_name):
            parameter.store.write(self.parameterNode, stored_name, parameter.default.value)
        return parameter.store.read(self.parameterNode, stored_name)

    def set_value(self: Any, name: str, value: Any) -> None:
        check(name).store.write(self.parameterNode, self._prefix + name, value)

    def update_gui(self: Any) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self.parameterNode):
                for connectors, _tag in list(self._guis.values()):
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._updating = False

    def connect_mapping(self: Any, mapping: dict[str, Any]) -> int:
        connectors = {name: make_connector(widget, check(name).annotated) for name, widget in mapping.items()}

        def took_over(name: str) -> Callable[[], None]:
            def callback() -> None:
                if not self._updating:
                    with slicer.util.NodeModify(self.parameterNode):
                        self.setValue(name, connectors[name].read())

            return callback

        number = max(self._guis, default=-1) + 1
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.on_changed(took_over(name))
        tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda _caller, _event: update_gui(self))
        self._guis[number] = (connectors, tag)
        return number

    def connect_gui(self: Any, gui: Any) -> int:
        is_widget = getattr(gui, "isWidgetType", lambda: False)()
        widgets = gui.findChildren(qt.QWidget) if is_widget else gui.__dict__.values()
        return self.connectParametersToGui({name: w for w in widgets if (name := w.property(PROPERTY))})

    def disconnect_gui(self: Any, number: int) -> None:
        if number in self._guis:
            connectors, tag = self._guis.pop(number)
            for connector in connectors.values():
                connector.on_changed(None)
            self.parameterNode.RemoveObserver(tag)

    return {
        "__init__": init, "getValue": get_value, "setValue": set_value, "connectGui": connect_gui,
        "connectParametersToGui": connect_mapping, "disconnectGui": disconnect_gui,
        "default": lambda _self, name: check(name).default,
        "dataType": staticmethod(lambda name: check(name).annotated),
        "StartModify": lambda self: self.parameterNode.StartModify(),
        "EndModify": lambda self, before: self.parameterNode.EndModify(before),
        "AddObserver": lambda self, event, callback, priority=0.0: self.parameterNode.AddObserver(
            event, callback, priority
        ),
        "RemoveObserver": lambda self, tag: self.parameterNode.RemoveObserver(tag),
        "Modified": lambda self: self.parameterNode.Modified(),
        "allParameters": parameters, "_is_parameter_node_wrapper": True,
    }  # fmt: skip


def parameterNodeWrapper(cls: Any = None) -> Any:  # noqa: N802  Slicer's name
    """Class decorator: each annotated attribute is kept in the node that the class is made with."""
    if cls is None:
        return parameterNodeWrapper
    parameters: dict[str, _Parameter] = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        kind, annotations = _split(annotated)
        store = _store_for(kind, [a for a in annotations if isinstance(a, Validator)])
        default = next((a for a in annotations if isinstance(a, Default)), None)
        if name in vars(cls):
            default = Default(vars(cls)[name])
        parameters[name] = _Parameter(name, store, default or Default(generator=store.default), annotated)
    for name, member in _implementation(parameters).items():
        if name != "__init__" and name in vars(cls):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        setattr(cls, name, member)
    for name in parameters:
        setattr(cls, name, property(_getter(name), _setter(name)))
    return cls


def _getter(name: str) -> Callable[[Any], Any]:
    return lambda self: self.getValue(name)


def _setter(name: str) -> Callable[[Any, Any], None]:
    return lambda self, value: self.setValue(name, value)


def isParameterNodeWrapper(class_or_object: Any) -> bool:  # noqa: N802  Slicer's name
    """Whether the decorator made it."""
    return getattr(class_or_object, "_is_parameter_node_wrapper", False)
