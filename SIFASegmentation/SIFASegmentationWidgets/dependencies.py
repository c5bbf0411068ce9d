"""Python packages from pip, installed at the moment of need and with consent; never at start."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those of the importable packages that are not there."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def ensure_packages(names: Sequence[str], requirements: Path, requester: str) -> None:
    """Install what is missing, after asking; returns when all of it can be imported.

    Args:
        names: What will be imported.
        requirements: File of what pip installs for them.
        requester: The module that asks, shown in the question.

    Raises:
        InputError: Declined, offline, or failed; says how to install by hand.
    """
    if not missing_packages(names):
        return
    try:
        _install(requirements, requester)
    except Exception as error:  # pip fails in many ways, all of which mean this
        raise InputError(_by_hand(requirements, names, str(error))) from error
    importlib.invalidate_caches()
    if still := missing_packages(names):
        raise InputError(_by_hand(requirements, still, _("they are still missing")))


def _install(requirements: Path, requester: str) -> None:
    # Slicer 5.12 has a dialog with progress of its own; before, pip_install shows a busy cursor.
    if importlib.util.find_spec("slicer.packaging") is not None:
        packaging = importlib.import_module("slicer.packaging")
        packaging.pip_ensure(packaging.load_requirements(requirements), requester=requester)
        return
    question = _("{requester} needs Python packages: {packages}. Install them into Slicer now?").format(
        requester=requester, packages=", ".join(requirements.read_text(encoding="utf-8").split())
    )
    if not slicer.util.confirmOkCancelDisplay(question, requester):
        raise RuntimeError(_("declined"))
    slicer.util.pip_install(["-r", str(requirements)])


def _by_hand(requirements: Path, names: Sequence[str], reason: str) -> str:
    first = reason.strip().splitlines()[0] if reason.strip() else "unknown reason"
    packages = " ".join(requirements.read_text(encoding="utf-8").split())
    return _(
        "{names} can't be installed ({reason}): connect to the internet and try again, or on an offline machine run "
        "PythonSlicer -m pip install {packages} with wheels brought along."
    ).format(names=", ".join(names), reason=first, packages=packages)
