"""The models that a user has used: a list of folders in the application's settings, and what a card says of one."""

from __future__ import annotations

import html
import json
from pathlib import Path

import qt
from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError

_KEY = "SIFA/recentModels"
_KEPT = 10

SAMPLE_MODEL = Path(__file__).parents[1] / "Resources" / "SampleModel"


def known_models() -> list[Path]:
    """Folders of models used before that still are there, the last used first; then the sample that comes with SIFA."""
    folders = dict.fromkeys([*_used_models(), SAMPLE_MODEL])
    return [folder for folder in folders if (folder / "manifest.json").is_file()]


def remember_model(folder: Path) -> None:
    """Put a model first in the list."""
    others = [other for other in _used_models() if other != folder]
    kept = [str(path) for path in [folder, *others][:_KEPT]]
    qt.QSettings().setValue(_KEY, json.dumps(kept))


def _used_models() -> list[Path]:
    stored = qt.QSettings().value(_KEY, "[]")
    return [Path(folder) for folder in json.loads(stored)] if stored else []


def model_name(folder: Path) -> str:
    """What the list shows: the name in the manifest, or the folder's if that can't be read."""
    try:
        return str(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def model_card(folder: Path) -> str:
    """HTML about a model: structures, what it was trained on, how long.

    Raises:
        InputError: It is no bundle, or damaged.
    """
    # pydantic comes from pip, and may not be there yet.
    from SIFASegmentationLib.bundle import read_bundle  # noqa: PLC0415

    manifest = read_bundle(folder).manifest
    training = manifest.training
    grid = manifest.preprocessing[manifest.domain]
    structures = ", ".join(
        f'<span style="color:#{red:02x}{green:02x}{blue:02x}">&#9632;</span> {html.escape(structure.name)}'
        for structure in manifest.task.structures
        for red, green, blue in [structure.color]
    )
    trained = _("trained on {source} labelled and {target} unlabelled volumes, {iterations} iterations").format(
        source=len(training.source_volumes), target=len(training.target_volumes), iterations=f"{training.iterations:,}"
    )
    lines = [
        structures,
        f"{html.escape(training.method.replace('_', ' '))}: {trained}",
        _("{plane} slices of {size} x {size} pixels").format(plane=grid.plane, size=grid.size)
        + (f", {grid.spacing:g} mm" if grid.spacing else ""),
    ]
    if manifest.baseline is not None:
        lines.append(_("carries the unadapted baseline too"))
    return "<br>".join(lines)


def bundle_folder(path: Path) -> Path:
    """The folder of a model from a folder or its manifest.

    Raises:
        InputError: It is neither.
    """
    folder = path.parent if path.name == "manifest.json" else path
    if not (folder / "manifest.json").is_file():
        raise InputError(
            _("{path} is not a model: choose a folder that SIFATraining or `sifa export` made.").format(path=path)
        )
    return folder
