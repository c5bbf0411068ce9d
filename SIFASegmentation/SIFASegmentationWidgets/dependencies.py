"""Python packages from pip, installed at the moment of need and with consent; never at start."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import subprocess
import unittest
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError

SLICERS_OWN = ("scipy", "SimpleITK")
"""Packages that come with Slicer, and are never replaced; builds that leave them out get them from pip."""

_LOADED = ("numpy", *SLICERS_OWN)
"""What this process computes with by now, and can't replace under itself."""


class _DeclinedError(Exception):
    """The user does not want packages to be installed."""


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those of the importable packages that are not there."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def outdated_packages(requirements: Path) -> list[str]:
    """Those of the packages of a file of requirements that are there, of a version that is refused there."""
    from packaging.requirements import Requirement  # noqa: PLC0415  Slicer's own

    outdated = []
    for requirement in map(Requirement, requirements.read_text(encoding="utf-8").split()):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            outdated.append(f"{requirement.name} {version}")
    return outdated


def ensure_packages(names: Sequence[str], requirements: Path, requester: str) -> None:
    """Install what is missing, after asking; returns when all of it can be imported.

    Args:
        names: What will be imported.
        requirements: File of what pip installs for them.
        requester: The module that asks, shown in the question.

    Raises:
        InputError: Declined, offline, or failed; says how to install by hand.
    """
    needed = (*names, *SLICERS_OWN)
    if not missing_packages(needed) and not outdated_packages(requirements):
        return
    packages = packages_to_install(requirements)
    try:
        _install(packages, requester)
    except Exception as error:  # pip fails in many ways, all of which mean this
        # Slicer's own has no type of its own, but says so.
        if isinstance(error, _DeclinedError) or (isinstance(error, RuntimeError) and "declined" in str(error)):
            needs = _("{requester} needs the Python packages {packages}")
            raise InputError(
                needs.format(requester=requester, packages=", ".join(packages)),
                _("try again, and allow their installation"),
            ) from error
        raise _not_installed(packages, names, str(error)) from error
    importlib.invalidate_caches()
    if still := missing_packages(needed) or outdated_packages(requirements):
        raise _not_installed(packages, still, _("they are still missing"))


@contextmanager
def held(window: Any) -> Iterator[None]:
    """Disable a window while packages are installed: pip lets events in, and a second click would start another."""
    window.enabled = False
    try:
        yield
    finally:
        window.enabled = True


def asks_nobody() -> bool:
    """Whether Slicer was started for tests: there dialogs are not shown, and what they ask is taken as agreed."""
    return bool(slicer.app.testingEnabled())


def skip_without(names: Sequence[str], requirements: Path) -> None:
    """For self tests, which install nothing: nobody may be there to be asked.

    Raises:
        unittest.SkipTest: One of these packages is missing, or of a version that is refused.
    """
    missing = missing_packages((*names, *SLICERS_OWN)) + outdated_packages(requirements)
    if missing:
        raise unittest.SkipTest(f"not in this Slicer: {', '.join(missing)}")


def run_unless_skipped(test: Callable[[], None]) -> None:
    """Run a self test for Slicer, which calls them outside of unittest too, where nobody knows what a skip is."""
    try:
        test()
    except unittest.SkipTest as skipped:
        logging.warning(f"Self test skipped: {skipped}")


def packages_to_install(requirements: Path) -> list[str]:
    """What to give to pip: what the file says, and of Slicer's own packages those that this Slicer lacks."""
    return [*requirements.read_text(encoding="utf-8").split(), *missing_packages(SLICERS_OWN)]


def versions_to_keep(packages: Sequence[str], names: Sequence[str] | None = None) -> list[str]:
    """Constraints for pip, NAME==VERSION of all that is installed, but for what the packages ask for otherwise.

    Slicer runs on what is there, and has some of it loaded: nothing of that is to be replaced by the way.

    Args:
        packages: To be installed, with their versions.
        names: Keep these alone.
    """
    from packaging.requirements import Requirement  # noqa: PLC0415  Slicer's own
    from packaging.utils import canonicalize_name  # noqa: PLC0415
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    wanted = {canonicalize_name(one.name): one.specifier for one in map(Requirement, packages)}
    kept: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        try:
            name, version = canonicalize_name(distribution.metadata["Name"]), Version(distribution.version)
        except (TypeError, AttributeError, InvalidVersion):
            # The remains of a package, of which pip would make nothing either.
            continue
        # The first is the one that is imported.
        if name not in wanted or wanted[name].contains(version, prereleases=True):
            kept.setdefault(name, f"{name}=={version}")
    chosen = kept if names is None else {canonicalize_name(name) for name in names} & kept.keys()
    return sorted(kept[name] for name in chosen)


def _install(packages: list[str], requester: str) -> None:
    with TemporaryDirectory(prefix="SIFA-pip-", ignore_cleanup_errors=True) as folder:
        constraints = Path(folder) / "constraints.txt"
        _write_constraints(constraints, versions_to_keep(packages))
        _install_within(packages, constraints, requester)


def _write_constraints(path: Path, versions: Sequence[str]) -> None:
    path.write_text("\n".join(versions) + "\n", encoding="utf-8")


def _may_replace(packages: Sequence[str], constraints: Path, requester: str) -> bool:
    """Whether pip may try once more, with nothing kept but what is loaded; `constraints` says so then."""
    kept = versions_to_keep(packages, _LOADED)
    question = _(
        "pip could not install {packages} alongside the packages of this Slicer (details are in the Python console). "
        "If there is no internet connection, cancel. Otherwise, may it replace other packages? It won't touch {kept}."
    )
    names = ", ".join(version.partition("==")[0] for version in kept)
    if not slicer.util.confirmOkCancelDisplay(question.format(packages=", ".join(packages), kept=names), requester):
        return False
    _write_constraints(constraints, kept)
    return True


def _install_within(packages: list[str], constraints: Path, requester: str) -> None:
    """By pip, within the constraints; where it finds nothing that is, within less if the user agrees."""
    # Slicer 5.12 has a dialog with progress of its own; before, pip_install shows a busy cursor.
    if importlib.util.find_spec("slicer.packaging") is not None:
        packaging = importlib.import_module("slicer.packaging")
        try:
            packaging.pip_ensure(packages, constraints=constraints, requester=requester)
        except subprocess.CalledProcessError:
            if not _may_replace(packages, constraints, requester):
                raise
            packaging.pip_ensure(packages, constraints=constraints, prompt_install=False, requester=requester)
        return
    question = _("{requester} needs Python packages: {packages}. Install them into Slicer now?").format(
        requester=requester, packages=", ".join(packages)
    )
    if not slicer.util.confirmOkCancelDisplay(question, requester):
        raise _DeclinedError
    try:
        slicer.util.pip_install(["-c", str(constraints), *packages])
    except subprocess.CalledProcessError:
        if not _may_replace(packages, constraints, requester):
            raise
        slicer.util.pip_install(["-c", str(constraints), *packages])


def _not_installed(packages: Sequence[str], names: Sequence[str], reason: str) -> InputError:
    first = reason.strip().splitlines()[0] if reason.strip() else "unknown reason"
    by_hand = _(
        "connect to the internet and try again, or on an offline machine run PythonSlicer -m pip install {packages} "
        "with wheels downloaded elsewhere"
    )
    return InputError(
        _("{names} can't be installed ({reason})").format(names=", ".join(names), reason=first),
        by_hand.format(packages=" ".join(f'"{package}"' for package in packages)),
    )
