"""Trim the listing of a running Slicer's Python interface to what the stand-ins offer.

    python Testing/Slicer/trim_api.py FULL_LISTING

The full listing comes from introspection inside Slicer: JSON with `classes` (by class, `properties` with the Python
type of their value, `methods`, `signals` with C++ signatures, `enums`, `enum_values`), `functions` and `names`.
Written is `slicer_api.json`, where each class says only how it differs from the class that it is most like.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent / "slicer_api.json"

# Listed, but without a stand-in, since SIFA does not need them.
LEFT_OUT = {
    "ctk.ctkExpandableWidget", "ctk.ctkPopupWidget", "ctk.ctkTreeComboBox", "slicer.app.layoutManager()",
    "slicer.qMRMLColorTableComboBox", "slicer.qMRMLListWidget", "slicer.qMRMLSegmentSelectorWidget",
    "slicer.qMRMLSubjectHierarchyComboBox", "slicer.qMRMLSubjectHierarchyTreeView", "slicer.qMRMLTreeView",
}  # fmt: skip
# Classes that others return or that `slicer.util` needs; the listing has only their names.
NAMES = {
    "qt": [
        "QAbstractButton", "QAbstractItemModel", "QAbstractItemView", "QAbstractScrollArea", "QAbstractSlider",
        "QAbstractSpinBox", "QActionGroup", "QByteArray", "QCloseEvent", "QDate", "QDateTime", "QElapsedTimer",
        "QEvent", "QFile", "QFileInfo", "QFontDatabase", "QFontMetrics", "QHeaderView", "QHideEvent", "QInputDialog",
        "QItemSelection", "QKeyEvent", "QLayout", "QLayoutItem", "QLocale", "QMargins", "QMenuBar", "QMimeData",
        "QMouseEvent", "QObject", "QPaintEvent", "QPainter", "QPalette", "QPen", "QPointF", "QProgressDialog", "QRect",
        "QRectF", "QRegion", "QResizeEvent", "QScreen", "QScrollBar", "QShortcut", "QShowEvent", "QSignalBlocker",
        "QSizeF", "QSortFilterProxyModel", "QStatusBar", "QStyle", "QStyleFactory", "QTabBar", "QTextCharFormat",
        "QTextCursor", "QTextDocument", "QTimerEvent", "QToolBar", "QUiLoader", "QWheelEvent",
    ],
    "ctk": ["ctkCheckBox", "ctkCheckablePushButton", "ctkColorPickerButton", "ctkDoubleRangeSlider"],
    "slicer": [
        "qMRMLLayoutManager", "qMRMLRangeWidget", "qSlicerModuleManager", "qSlicerScriptedLoadableModule",
        "qSlicerScriptedLoadableModuleWidget", "qMRMLSliceWidget", "qSlicerModuleFactoryManager", "qSlicerMainWindow",
        "qSlicerModuleSelectorToolBar",
    ],
}  # fmt: skip
FUNCTIONS = ("slicer.ScriptedLoadableModule", "slicer.i18n", "slicer.packaging", "slicer.parameterNodeWrapper")
KINDS = ("methods", "signals", "enums", "enum_values")


def trim(full: dict[str, Any]) -> dict[str, Any]:
    """Return the listing without what has no stand-in, in its short form."""
    missing = [
        f"{module}.{name}" for module, names in NAMES.items() for name in set(names) - set(full["names"][module])
    ]
    if missing:
        raise SystemExit(f"The listing does not name {', '.join(sorted(missing))}: take them out of NAMES.")
    done: dict[str, dict[str, Any]] = {}
    classes: dict[str, Any] = {}
    # A plain widget comes first, since most classes are like it.
    for name in sorted(set(full["classes"]) - LEFT_OUT, key=lambda name: (name != "qt.QWidget", name)):
        entry = {"properties": full["classes"][name]["properties"] or {}}
        entry |= {kind: full["classes"][name][kind] or [] for kind in KINDS}
        entry["methods"] = [method for method in entry["methods"] if not method.startswith("_")]
        candidates = [difference(entry, other, done[other]) for other in done]
        whole = {kind: content for kind, content in entry.items() if content}
        classes[name] = min([whole, *candidates], key=lambda short: len(json.dumps(short)))
        done[name] = entry
    return {
        "about": full["about"],
        "slicer_version": full["slicer_version"],
        "classes": classes,
        "functions": {name: full["functions"][name] for name in FUNCTIONS},
        "names": {module: sorted(names) for module, names in NAMES.items()},
    }


def difference(entry: dict[str, Any], other_name: str, other: dict[str, Any]) -> dict[str, Any]:
    """Return an entry as what it has and lacks compared with another."""
    short: dict[str, Any] = {"like": other_name, "lacks": {}}
    own, base = entry["properties"], other["properties"]
    short["properties"] = {name: kind for name, kind in own.items() if base.get(name) != kind}
    short["lacks"]["properties"] = sorted(set(base) - set(own))
    for kind in KINDS:
        short[kind] = sorted(set(entry[kind]) - set(other[kind]))
        short["lacks"][kind] = sorted(set(other[kind]) - set(entry[kind]))
    short["lacks"] = {kind: gone for kind, gone in short["lacks"].items() if gone}
    return {kind: content for kind, content in short.items() if content}


def text_of(trimmed: dict[str, Any]) -> str:
    """Return JSON with a line for each list, which keeps changes readable."""
    lines = ["{"]
    for key, value in trimmed.items():
        comma = "" if key == "names" else ","
        if key not in ("classes", "functions"):
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}{comma}")
            continue
        lines.append(f" {json.dumps(key)}: {{")
        for number, (name, entry) in enumerate(value.items(), 1):
            end = "," if number < len(value) else ""
            if isinstance(entry, list):
                lines.append(f"  {json.dumps(name)}: {json.dumps(entry)}{end}")
                continue
            parts = ",\n".join(f"   {json.dumps(kind)}: {json.dumps(content)}" for kind, content in entry.items())
            lines.append(f"  {json.dumps(name)}: {{\n{parts}\n  }}{end}")
        lines.append(f" }}{comma}")
    return "\n".join([*lines, "}"]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    OUTPUT.write_text(text_of(trim(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))), encoding="utf-8")
