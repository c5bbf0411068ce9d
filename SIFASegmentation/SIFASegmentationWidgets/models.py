"""The user's recent models, kept in the application's settings, and the model card that describes one.

A model is a bundle: a folder, or a zip file of one.
"""

from __future__ import annotations

import html
import json
from functools import lru_cache
from pathlib import Path

from slicer.i18n import tr as _

from SIFASegmentationLib.bundle_files import ARCHIVE_SUFFIX, MANIFEST_FILE, is_bundle, read_bundle_file
from SIFASegmentationLib.errors import InputError

from .recent_paths import RecentPaths

_RECENT = RecentPaths("SIFA/recentModels", kept=10)

SAMPLE_MODEL = Path(__file__).parents[1] / "Resources" / "SampleModel"


def known_models() -> list[Path]:
    """Return the recent models that still exist, the last used first, then the sample model that comes with SIFA."""
    return [path for path in dict.fromkeys([*_RECENT.read(), SAMPLE_MODEL]) if is_bundle(path)]


def remember_model(path: Path) -> None:
    """Put a model first in the list of recent ones."""
    _RECENT.put_first(path)


def model_name(path: Path) -> str:
    """Return the name to list a model by: that in its manifest, or the file's if the manifest can't be read."""
    try:
        return str(json.loads(read_bundle_file(path, MANIFEST_FILE))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return path.name


def model_card(path: Path) -> str:
    """Return a model card as HTML: structures, training data, iterations, grid, and whether it has a baseline.

    Raises:
        InputError: It is not a bundle, or is damaged.
    """
    file = path if path.is_file() else path / MANIFEST_FILE
    return _model_card(path, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=16)
def _model_card(path: Path, _changed: int) -> str:
    """Make the card; cached until the file changes, since windows ask at every change of a parameter."""
    # pydantic comes from pip, and may not be installed yet.
    from SIFASegmentationLib.bundle import read_bundle  # noqa: PLC0415

    manifest = read_bundle(path).manifest
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
    if manifest.members > 1:
        lines.append(_("ensemble of {count} trainings").format(count=manifest.members))
    lines.append(
        _("includes an unadapted baseline") if manifest.baseline is not None
        else _("includes no unadapted baseline to compare with")
    )  # fmt: skip
    return "<br>".join(lines)


def model_path(path: Path) -> Path:
    """Return the path of the model that a user chose as a folder, as its manifest, or as a zip file.

    Raises:
        InputError: It is none of these, or the zip file is damaged.
    """
    model = path.parent if path.name == MANIFEST_FILE else path
    try:
        read_bundle_file(model, MANIFEST_FILE)
    except OSError as error:
        raise InputError(
            _("{path} is not a model").format(path=path),
            _("choose a folder, or a file that ends with {suffix}, that SIFATraining or `sifa export` made").format(
                suffix=ARCHIVE_SUFFIX
            ),
        ) from error
    return model
