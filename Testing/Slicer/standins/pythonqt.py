"""PythonQt's way of presenting Qt to Python, on top of PySide.

A wrapped class offers exactly what the listing of a running Slicer says: properties are attributes, everything else is
called. To Python, classes are not related to one another. Values are converted as in PythonQt's own conversions.
Underneath, every wrapper holds a PySide object, called `native` here.
"""

from __future__ import annotations

import enum
import inspect
import math
import re
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import shiboken6
from PySide6 import QtCore
from shibokensupport.signature import get_signature

from . import emulated, faults
from .listing import ClassListing

_RELAYS = "_sifa_relays"
_OWNER = "_sifa_wrapper"


class ClassInfo(NamedTuple):
    """What is behind a wrapped class."""

    name: str
    native: type
    listing: ClassListing


# Enums ---------------------------------------------------------------------------------------------------------------


class EnumValue(int):
    """An enum's value: an int in Python that still knows its enum. `|` gives a plain int."""

    native: enum.Enum

    def __repr__(self) -> str:
        return f"{self.native.name} ({int(self)})"


def enum_value(native: enum.Enum) -> EnumValue:
    """Return the int that stands for an enum's value."""
    value = EnumValue(native.value)
    value.native = native
    return value


class EnumType:
    """An enum as an attribute of a class: `Qt.AlignmentFlag.AlignLeft`, `Qt.AlignmentFlag(1)`."""

    def __init__(self, native: type[enum.Enum]) -> None:
        self._native = native

    def __getattr__(self, name: str) -> EnumValue:
        if name.startswith("_") or name not in self._native.__members__:
            raise AttributeError(f"{self._native.__name__} has no value {name}")
        return enum_value(self._native[name])

    def __call__(self, value: int) -> EnumValue:
        return enum_value(self._native(int(value)))


# Members of a class --------------------------------------------------------------------------------------------------


class Property:
    """An attribute that is a property in C++."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind

    def __get__(self, wrapper: InstanceWrapper | None, owner: type) -> Any:
        if wrapper is None:
            return self
        native = alive(wrapper, f"read property '{self.name}' from")
        return wrap(emulated.read_property(native, "objectName" if self.name == "name" else self.name))

    def write(self, wrapper: InstanceWrapper, value: Any) -> None:
        """Set it, with PythonQt's conversions."""
        native = alive(wrapper, f"set property '{self.name}' on", AttributeError)
        try:
            converted = _to_kind(value, self.kind)
            accepted = emulated.write_property(native, "objectName" if self.name == "name" else self.name, converted)
        except (TypeError, ValueError):
            accepted = False
        if not accepted:
            name = type(wrapper)._sifa_info.name
            raise AttributeError(
                f"Property '{self.name}' of {name} does not accept an object of type {type(value).__name__} ({value!r})"
            )


class Method:
    """An attribute that is called."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, wrapper: InstanceWrapper | None, owner: type) -> Any:
        return ClassMethod(owner, self.name) if wrapper is None else BoundMethod(wrapper, self.name)


class BoundMethod:
    """A method of an object."""

    def __init__(self, wrapper: InstanceWrapper, name: str) -> None:
        self.wrapper, self.name = wrapper, name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundMethod) and other.name == self.name and other.wrapper is self.wrapper

    def __hash__(self) -> int:
        return hash((id(self.wrapper), self.name))

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        info = type(self.wrapper)._sifa_info
        if keywords:
            raise TypeError(f"{info.name}.{self.name} takes no keyword arguments")
        native = alive(self.wrapper, f"call '{self.name}' on")
        special = _OBJECT_METHODS.get(self.name)
        if special is not None:
            return special(self.wrapper, *args)
        if _is_overridden(type(self.wrapper), self.name):
            # Reached through super() or the class: the C++ implementation is wanted, not the Python one again.
            function = getattr(info.native, self.name)
            return invoke(lambda *plain: function(native, *plain), function, args, f"{info.name}.{self.name}")
        function = emulated.find_method(native, self.name)
        # PySide knows the signature of an inherited method only on its class.
        described = getattr(type(native), self.name, function)
        return invoke(function, described, args, f"{info.name}.{self.name}")


class ClassMethod:
    """A method taken from its class: static, or called with an object first."""

    def __init__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        info = self.owner._sifa_info
        if keywords:
            raise TypeError(f"{info.name}.{self.name} takes no keyword arguments")
        if args and isinstance(args[0], InstanceWrapper) and isinstance(native_of(args[0]), info.native):
            return BoundMethod(args[0], self.name)(*args[1:])
        emulated.refuse_modal(info.name, self.name)
        function = emulated.find_static(info.native, self.name)
        # Exceptions in what Qt calls later must not be lost.
        args = tuple(Relay(arg, f"{info.name}.{self.name}") if inspect.isroutine(arg) else arg for arg in args)
        return invoke(function, function, args, f"{info.name}.{self.name}")


class Signal:
    """An attribute that is a signal."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, wrapper: InstanceWrapper | None, owner: type) -> Any:
        return self if wrapper is None else BoundSignal(wrapper, self.name)


class BoundSignal:
    """A signal of an object; calling it emits it. Of several signatures, the one that C++ declares first is used."""

    def __init__(self, wrapper: InstanceWrapper, name: str) -> None:
        self._wrapper, self._name = wrapper, name

    @property
    def _signature(self) -> str:
        signals = type(self._wrapper)._sifa_info.listing.signals
        return first_declared([text for text in signals if text.partition("(")[0] == self._name])

    def connect(self, callable_: Any) -> bool:
        """Call a callable whenever the signal is emitted."""
        return connect(self._wrapper, self._signature, callable_)

    def disconnect(self, callable_: Any = None) -> bool:
        """Stop calling a callable, or all of them."""
        return disconnect(self._wrapper, self._signature, callable_)

    def emit(self, *args: Any) -> None:
        """Emit it."""
        native = alive(self._wrapper, f"emit '{self._name}' of")
        emulated.native_signal(native, self._signature).emit(*[unwrap(arg) for arg in args])

    __call__ = emit


def first_declared(signatures: list[str]) -> str:
    """Return the signature that moc numbers first: Qt 5 declares the plainer overloads and those with strings last."""
    if "finished(int)" in signatures:
        return "finished(int)"

    def rank(signature: str) -> tuple[bool, bool, int]:
        arguments = signature.partition("(")[2]
        return "QString" in arguments, "*" not in arguments, -arguments.count(",") - bool(arguments.strip(")"))

    return min(signatures, key=rank)


# Connections ---------------------------------------------------------------------------------------------------------


class Relay:
    """Calls a Python callable for a signal: cuts the arguments to what it takes, prints and swallows its exceptions."""

    def __init__(self, target: Any, where: str, count: int | None = None) -> None:
        self.target, self.where, self.count = target, where, count

    def function(self) -> Callable[..., None]:
        """A function with as many arguments as the signal, by which PySide chooses among overloads."""
        functions: dict[int | None, Callable[..., None]] = {
            None: lambda *args: self(*args),  # noqa: PLW0108
            0: lambda: self(),  # noqa: PLW0108
            1: lambda a: self(a),  # noqa: PLW0108
            2: lambda a, b: self(a, b),  # noqa: PLW0108
            3: lambda a, b, c: self(a, b, c),  # noqa: PLW0108
            4: lambda a, b, c, d: self(a, b, c, d),  # noqa: PLW0108
        }
        return functions.get(self.count, functions[None])

    def __call__(self, *args: Any) -> None:
        try:
            passed = [wrap(arg) for arg in args[: self.count]]
            self.target(*passed[: argument_count(self.target)])
        except Exception:  # whatever a slot raises, Qt goes on
            faults.record_exception(f"exception in a slot of {self.where}")


def argument_count(target: Any) -> int | None:
    """Return how many positional arguments PythonQt passes to a callable; None for all of them.

    Arguments with a default count, so a signal overwrites them.
    """
    function = target.__func__ if inspect.ismethod(target) else target
    if not inspect.isfunction(function) or function.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return function.__code__.co_argcount - inspect.ismethod(target)


def connect(wrapper: InstanceWrapper, signature: str, target: Any, slot: str | None = None) -> bool:
    """`wrapper.connect(signature, target)`; a wrong signature prints and returns False, nothing more."""
    native = alive(wrapper, "connect to")
    name = type(wrapper)._sifa_info.name
    found = _listed_signature(wrapper, signature)
    if found is None:
        faults.record(f"{name} has no signal {signature}")
        return False
    if slot is not None:
        target = getattr(target, slot.partition("(")[0])
    if not callable(target):
        faults.record(f"{name}.{signature} can't be connected to {target!r}: it can't be called")
        return False
    arguments = found.partition("(")[2].strip(")")
    relay = Relay(target, f"{name}.{found}", len(arguments.split(",")) if arguments else 0)
    if "(" not in found:
        relay.count = None
    function = relay.function()
    emulated.native_signal(native, found).connect(function)
    native.__dict__.setdefault(_RELAYS, []).append((found, target, function))
    return True


def disconnect(wrapper: InstanceWrapper, signature: str, target: Any = None) -> bool:
    """`wrapper.disconnect(signature, target)`; False if there was no such connection."""
    native = alive(wrapper, "disconnect from")
    found = _listed_signature(wrapper, signature)
    if found is None:
        faults.record(f"{type(wrapper)._sifa_info.name} has no signal {signature}")
        return False
    relays = native.__dict__.get(_RELAYS, [])
    gone = [entry for entry in relays if entry[0] == found and (target is None or entry[1] == target)]
    gone = gone if target is None else gone[:1]
    for entry in gone:
        relays.remove(entry)
        emulated.native_signal(native, found).disconnect(entry[2])
    return bool(gone)


def _listed_signature(wrapper: InstanceWrapper, signature: str) -> str | None:
    normal = re.sub(r"\s*const\s+(\w+)\s*&", r"\1", signature).replace(" ", "")
    signals = type(wrapper)._sifa_info.listing.signals
    if normal in signals:
        return normal
    # The listing has only the names of the application's signals.
    name = normal.partition("(")[0]
    return name if "(" in normal and name in signals else None


# Wrapped classes and objects -----------------------------------------------------------------------------------------


class PythonQtClassWrapper(type):
    """Type of all wrapped classes; Slicer's own code tells them by this name."""

    _sifa_info: ClassInfo

    def __call__(cls, *args: Any, **keywords: Any) -> Any:
        if keywords and "__init__" not in _python_names(cls):
            raise TypeError(f"{cls._sifa_info.name} takes no keyword arguments")
        return super().__call__(*args, **keywords)


class InstanceWrapper(metaclass=PythonQtClassWrapper):
    """Base of all wrapped classes, which have nothing in common but how they behave."""

    __slots__ = ("__weakref__", "_native")

    def __init__(self, *args: Any) -> None:
        info = type(self)._sifa_info
        native_class = _shell_of(type(self)) if _python_names(type(self)) else info.native
        self._adopt(_make(native_class, info, args))
        if _python_names(type(self)):
            # The Python half lives as long as the C++ object, even if nothing in Python refers to it.
            native_of(self).__dict__[_OWNER] = self

    def _adopt(self, native: Any) -> None:
        object.__setattr__(self, "_native", native)
        if isinstance(native, QtCore.QObject):
            _wrappers[shiboken6.getCppPointer(native)[0]] = self

    def __getattr__(self, name: str) -> Any:
        # Names that Python reserves are accessible with a trailing underscore.
        if name.endswith("_") and not name.endswith("__"):
            info = type(self)._sifa_info
            if name[:-1] in info.listing.methods:
                return BoundMethod(self, name[:-1])
        raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        member = type(self)._sifa_info.listing
        label = type(self).__name__
        if name == "name" and "objectName" in member.properties:
            name = "objectName"
        if name in member.properties:
            Property(name, member.properties[name]).write(self, value)
        elif name in member.methods:
            raise AttributeError(f"Slot '{name}' can not be overwritten on {label} object")
        elif any(signal.partition("(")[0] == name for signal in member.signals):
            raise AttributeError(f"Signal '{name}' can not be overwritten on {label} object")
        elif name in member.enums or name in member.enum_values:
            raise AttributeError(f"Enum '{name}' can not be overwritten on {label} object")
        elif _python_names(type(self)):
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(
                f"'{name}' does not exist on {label} and creating new attributes on C++ objects is not allowed"
            )

    def __bool__(self) -> bool:
        return is_alive(self)

    def __eq__(self, other: object) -> bool:
        if other is None:
            return not is_alive(self)
        if not isinstance(other, InstanceWrapper):
            return NotImplemented
        if not is_alive(self) or not is_alive(other):
            return self is other
        return bool(native_of(self) == native_of(other))

    def __hash__(self) -> int:
        return id(native_of(self))

    def __repr__(self) -> str:
        state = "" if is_alive(self) else " (destroyed)"
        return f"{type(self)._sifa_info.name} ({type(self)._sifa_info.name} at {hex(id(self))}){state}"


_wrappers: weakref.WeakValueDictionary[int, InstanceWrapper] = weakref.WeakValueDictionary()
_classes: dict[str, PythonQtClassWrapper] = {}


def make_class(name: str, native: type, listing: ClassListing, module: str) -> PythonQtClassWrapper:
    """Make the wrapped class of a native one."""
    namespace: dict[str, Any] = {"__slots__": (), "__module__": module, "__doc__": None}
    for value in listing.enum_values:
        found = getattr(native, value, None)
        if isinstance(found, enum.Enum):
            namespace[value] = enum_value(found)
    for name_of_enum in listing.enums:
        found = getattr(native, name_of_enum, None)
        if isinstance(found, type) and issubclass(found, enum.Enum):
            namespace[name_of_enum] = EnumType(found)
    namespace |= {signal.partition("(")[0]: Signal(signal.partition("(")[0]) for signal in listing.signals}
    namespace |= {method: Method(method) for method in listing.methods}
    namespace |= {property_: Property(property_, kind) for property_, kind in listing.properties.items()}
    if "objectName" in listing.properties:
        namespace["name"] = Property("objectName", "str")
    wrapped = PythonQtClassWrapper(name, (InstanceWrapper,), namespace)
    wrapped._sifa_info = ClassInfo(name, native, listing)
    _classes[name] = wrapped
    return wrapped


def introspect(native: type) -> ClassListing:
    """Make the listing of a class that Slicer's only names, from Qt's own meta-object by PythonQt's rules."""
    properties, signals = {}, set()
    if issubclass(native, QtCore.QObject):
        meta = native.staticMetaObject
        for index in range(meta.propertyCount()):
            property_ = meta.property(index)
            properties[property_.name()] = _KINDS_OF_TYPES.get(property_.typeName(), property_.typeName())
        methods = [meta.method(index) for index in range(meta.methodCount())]
        signals = {
            bytes(method.methodSignature().data()).decode()
            for method in methods
            if method.methodType() == QtCore.QMetaMethod.MethodType.Signal
        }
    names = [name for name in dir(native) if not name.startswith("_")]
    enums = {name for name in names if isinstance(getattr(native, name), enum.EnumMeta)}
    values = {value for name in enums for value in getattr(native, name).__members__}
    signal_names = {signal.partition("(")[0] for signal in signals}
    methods_found = {name for name in names if callable(getattr(native, name))} - set(properties) - signal_names - enums
    if issubclass(native, QtCore.QObject):
        methods_found |= {"className", "delete", "help"}
    return ClassListing(properties, frozenset(methods_found), frozenset(signals), frozenset(enums), frozenset(values))


_KINDS_OF_TYPES = {
    "QString": "str", "int": "int", "uint": "int", "bool": "bool", "double": "float", "qreal": "float",
    "QStringList": "tuple",
}  # fmt: skip


def known_class(name: str) -> PythonQtClassWrapper | None:
    """Return a class that was made already, or None."""
    return _classes.get(name)


# Makes the class of a native object if nobody has asked for it by name; set by `install`.
find_class: Callable[[str], PythonQtClassWrapper | None] = known_class


def class_of(native: Any) -> PythonQtClassWrapper:
    """Return the wrapped class of a native object: its own, or that of the nearest base that Slicer names."""
    for base in type(native).__mro__:
        found = find_class(base.__name__)
        if found is not None:
            return found
    raise NotImplementedError(f"There is no stand-in for {type(native).__name__}.")


def wrap(value: Any) -> Any:
    """Convert a native value to what Python code in Slicer gets."""
    if isinstance(value, enum.Enum):
        return enum_value(value)
    if isinstance(value, (list, tuple)):
        return tuple(wrap(item) for item in value)
    if isinstance(value, dict):
        return {key: wrap(item) for key, item in value.items()}
    if type(value).__name__ in emulated.NOTHING_IN_QT_5:
        return None
    return _wrapper_of(value) if isinstance(value, shiboken6.Object) else value


def _wrapper_of(native: Any) -> InstanceWrapper:
    """Return the wrapper that an object has already, or a new one."""
    is_valid = shiboken6.isValid(native)
    if isinstance(native, QtCore.QObject):
        owner = native.__dict__.get(_OWNER)
        if owner is None and is_valid:
            owner = _wrappers.get(shiboken6.getCppPointer(native)[0])
        if owner is not None and native_of(owner) is native:
            return owner
    wrapped = class_of(native)
    wrapper = wrapped.__new__(wrapped)
    if is_valid:
        wrapper._adopt(native)
    else:
        object.__setattr__(wrapper, "_native", native)
    return wrapper


def unwrap(value: Any) -> Any:
    """Convert a value to what PySide accepts."""
    if isinstance(value, InstanceWrapper):
        return native_of(value)
    if isinstance(value, EnumValue):
        return value.native
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return [unwrap(item) for item in value]
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return value


def native_of(wrapper: InstanceWrapper) -> Any:
    """Return the PySide object of a wrapper."""
    return object.__getattribute__(wrapper, "_native")


def is_alive(wrapper: InstanceWrapper) -> bool:
    """Whether the C++ object still exists."""
    native = native_of(wrapper)
    return not isinstance(native, shiboken6.Object) or shiboken6.isValid(native)


def alive(wrapper: InstanceWrapper, deed: str, error: type[Exception] = ValueError) -> Any:
    """Return the native object.

    Raises:
        ValueError: It was destroyed; or another error, if `error` says so.
    """
    if not is_alive(wrapper):
        raise error(f"Trying to {deed} a destroyed {type(wrapper)._sifa_info.name} object")
    return native_of(wrapper)


# Calls ---------------------------------------------------------------------------------------------------------------


def invoke(function: Callable[..., Any], described: Any, args: Iterable[Any], label: str) -> Any:
    """Call a native function with PythonQt's conversions: first with plain types, then with what they convert to."""
    plain = [unwrap(arg) for arg in args]
    try:
        result = function(*plain)
    except TypeError as error:
        for converted in _conversions(described, plain):
            try:
                result = function(*converted)
            except TypeError:
                continue
            break
        else:
            shown = ", ".join(type(arg).__name__ for arg in plain)
            raise ValueError(f"Could not find matching overload for given arguments: {label}({shown})") from error
    for arg in plain:
        _hand_over(arg)
    return wrap(result)


def _make(native_class: type, info: ClassInfo, args: Iterable[Any]) -> Any:
    """Make a native object; the caller tells the wrapper about it."""
    plain = [unwrap(arg) for arg in args]
    try:
        return native_class(*plain)
    except TypeError as error:
        for converted in _conversions(info.native, plain):
            try:
                return native_class(*converted)
            except TypeError:
                continue
        shown = ", ".join(type(arg).__name__ for arg in plain)
        raise ValueError(f"Could not find matching overload for given arguments: {info.name}({shown})") from error


def _hand_over(native: Any) -> None:
    """Let Qt own a widget that a call has put into another one without PySide noticing."""
    if (
        isinstance(native, QtCore.QObject)
        and native.isWidgetType()
        and shiboken6.ownedByPython(native)
        and native.parentWidget() is not None
    ):
        native.setParent(native.parentWidget())


def _conversions(function: Any, args: list[Any]) -> Iterable[list[Any]]:
    """Yield the arguments converted for each overload, where they can be."""
    signatures = _signatures(function)
    for signature in signatures:
        parameters = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY and parameter.name != "self"
        ]
        if len(parameters) < len(args):
            continue
        try:
            # If there are fewer arguments than parameters, the rest have defaults.
            yield [_to_type(arg, parameter.annotation) for arg, parameter in zip(args, parameters, strict=False)]
        except (TypeError, ValueError):
            continue


def _signatures(function: Any) -> list[inspect.Signature]:
    try:
        found = get_signature(function)
    except (TypeError, AttributeError, ValueError):
        found = None
    if found is None and inspect.isroutine(function):
        try:
            found = inspect.signature(function, eval_str=True)
        except (TypeError, ValueError, NameError):
            return []
    return found if isinstance(found, list) else [found] if found else []


def _to_type(value: Any, annotation: Any) -> Any:
    """Convert a value for an overload's parameter, by PythonQt's lenient conversions."""
    options = [option for option in getattr(annotation, "__args__", (annotation,)) if option is not type(None)]
    if getattr(annotation, "__origin__", None) is not None and not isinstance(annotation, types.UnionType):
        return value
    wanted = options[0] if len(options) == 1 else None
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return wanted(value.value if isinstance(value, enum.Enum) else _to_int(value))
    kinds = {int: "int", float: "float", str: "str", bool: "bool"}
    if wanted in kinds:
        return _to_kind(value, kinds[wanted])
    if wanted is QtCore.QByteArray and isinstance(value, str):
        return value.encode()
    if any(option is bytes for option in options) and isinstance(value, str):
        return value.encode()
    return value


def _to_kind(value: Any, kind: str) -> Any:
    """Convert a value for a property of a kind."""
    if kind == "str":
        return value if isinstance(value, str) else str(value)
    if kind == "int":
        return _to_int(value)
    if kind == "float":
        return float(_number(value))
    if kind == "bool":
        return bool(value)
    if kind == "tuple":
        return [item if isinstance(item, str) else str(item) for item in value]
    return unwrap(value)


def _to_int(value: Any) -> int:
    if type(value) is float:
        return math.floor(value)
    if isinstance(value, enum.Enum):
        return int(value.value)
    if hasattr(value, "__index__"):
        return int(value)
    raise TypeError(f"{value!r} is no int")


def _number(value: Any) -> Any:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{value!r} is no number")
    return value


# Python subclasses ---------------------------------------------------------------------------------------------------


def _python_names(cls: type) -> set[str]:
    """Return the names that Python subclasses of a wrapped class define; none for the wrapped class itself."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "_sifa_info" in vars(base) or base is InstanceWrapper:
            break
        names |= set(vars(base))
    return names


def _is_overridden(cls: type, name: str) -> bool:
    return name in _python_names(cls)


_shells: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()


def _shell_of(cls: PythonQtClassWrapper) -> type:
    """Return a native class whose virtual methods call those of the Python subclass."""
    if cls not in _shells:
        names = _python_names(cls) & cls._sifa_info.listing.methods
        namespace = {name: _forwarder(name, cls._sifa_info) for name in names}
        _shells[cls] = type(cls._sifa_info.native)(cls._sifa_info.name, (cls._sifa_info.native,), namespace)
    return _shells[cls]


def _forwarder(name: str, info: ClassInfo) -> Callable[..., Any]:
    def forward(native: Any, *args: Any) -> Any:
        owner = native.__dict__.get(_OWNER)
        if owner is None:
            # Called by the native constructor, before there is a Python half.
            return getattr(info.native, name)(native, *args)
        try:
            return unwrap(getattr(owner, name)(*[wrap(arg) for arg in args]))
        except Exception:  # Qt can't handle it
            faults.record_exception(f"exception in {info.name}.{name}")
            return getattr(info.native, name)(native, *args)

    return forward


# Methods that PythonQt adds to every QObject -------------------------------------------------------------------------


def _connect_method(wrapper: InstanceWrapper, signature: str, target: Any, slot: str | None = None) -> bool:
    return connect(wrapper, signature, target, slot)


def _disconnect_method(wrapper: InstanceWrapper, signature: str, target: Any = None) -> bool:
    return disconnect(wrapper, signature, target)


def _class_name(wrapper: InstanceWrapper) -> str:
    return type(wrapper)._sifa_info.name


def _inherits(wrapper: InstanceWrapper, name: str) -> bool:
    return any(base.__name__ == name for base in type(native_of(wrapper)).__mro__)


def _delete(wrapper: InstanceWrapper) -> None:
    native = native_of(wrapper)
    if isinstance(native, QtCore.QObject):
        native.__dict__.pop(_OWNER, None)
    shiboken6.delete(native)


def _find_children(wrapper: InstanceWrapper, wanted: Any, name: str = "") -> tuple[Any, ...]:
    class_name = wanted if isinstance(wanted, str) else wanted._sifa_info.name
    found = [
        child
        for child in native_of(wrapper).findChildren(QtCore.QObject)
        if any(base.__name__ == class_name for base in type(child).__mro__) and (not name or child.objectName() == name)
    ]
    return tuple(wrap(child) for child in found)


def _find_child(wrapper: InstanceWrapper, wanted: Any, name: str = "") -> Any:
    found = _find_children(wrapper, wanted, name)
    return found[0] if found else None


def _property(wrapper: InstanceWrapper, name: str) -> Any:
    return wrap(native_of(wrapper).property(name))


def _set_property(wrapper: InstanceWrapper, name: str, value: Any) -> bool:
    return native_of(wrapper).setProperty(name, unwrap(value))


def _modal(wrapper: InstanceWrapper, *_args: Any) -> Any:
    emulated.refuse_modal(type(wrapper)._sifa_info.name, "exec")
    raise NotImplementedError


_OBJECT_METHODS: dict[str, Callable[..., Any]] = {
    "connect": _connect_method, "disconnect": _disconnect_method, "className": _class_name, "inherits": _inherits,
    "delete": _delete, "findChildren": _find_children, "findChild": _find_child, "property": _property,
    "setProperty": _set_property, "exec": _modal,
}  # fmt: skip
