"""What a running Slicer offers to Python, as read from one (see `trim_api.py`)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

PATH = Path(__file__).parents[1] / "slicer_api.json"


class ClassListing(NamedTuple):
    """A class as introspection saw it.

    Attributes:
        properties: Attribute -> name of the Python type of its value.
        methods: Names that are called.
        signals: C++ signatures; for `slicer.app`, only names.
        enums: Names of enum types.
        enum_values: Names of enum values.
    """

    properties: dict[str, str]
    methods: frozenset[str]
    signals: frozenset[str]
    enums: frozenset[str]
    enum_values: frozenset[str]


@cache
def _stored() -> dict[str, Any]:
    return json.loads(PATH.read_text(encoding="utf-8"))


@cache
def listed_classes() -> dict[str, ClassListing]:
    """All listed classes by full name, such as `qt.QLabel`."""
    return expand(_stored())


@cache
def named_only(module: str) -> frozenset[str]:
    """Classes of a module of which the listing has only the name."""
    return frozenset(_stored()["names"][module])


def functions(module: str) -> Any:
    """Signatures of a Python part of Slicer, such as `slicer.util`."""
    return _stored()["functions"][module]


def expand(stored: dict[str, Any]) -> dict[str, ClassListing]:
    """Return the classes of a trimmed listing, in which entries only say how they differ from another one."""
    found: dict[str, ClassListing] = {}
    for name, entry in stored["classes"].items():
        # A class comes after the one that it refers to.
        base = found[entry["like"]] if "like" in entry else ClassListing({}, *[frozenset()] * 4)
        lacks = entry.get("lacks", {})
        properties = {**base.properties, **entry.get("properties", {})}
        for gone in lacks.get("properties", []):
            del properties[gone]
        rest = [
            (getattr(base, kind) - frozenset(lacks.get(kind, []))) | frozenset(entry.get(kind, []))
            for kind in ClassListing._fields[1:]
        ]
        found[name] = ClassListing(properties, *rest)
    return found
