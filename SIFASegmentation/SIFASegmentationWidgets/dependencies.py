"""Python packages from pip, installed with the user's consent when they are first needed, never at startup."""

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
"""Packages that come with Slicer and are never replaced; builds of Slicer without them get them from pip."""

_LOADED = ("numpy", *SLICERS_OWN)
"""Packages that this process has already loaded, so that they can't be replaced while it runs."""


class _DeclinedError(Exception):
    """The user does not want packages to be installed."""


def missing_packages(names: Sequence[str]) -> list[str]:
    """Return the packages, of these import names, that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def outdated_packages(requirements: Path) -> list[str]:
    """Return the installed packages, as "NAME VERSION", whose versions a requirements file does not allow."""
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
    """Install missing or outdated packages, after asking the user; return once all of them can be imported.

    Args:
        names: Import names of the packages that are needed.
        requirements: Requirements file with the packages to install for them.
        requester: Name of the module that asks, as shown in the question.

    Raises:
        InputError: The user declined, or the installation failed; the advice says how to install by hand.
    """
    needed = (*names, *SLICERS_OWN)
    if not missing_packages(needed) and not outdated_packages(requirements):
        return
    packages = packages_to_install(requirements)
    try:
        _install(packages, requester)
    except Exception as error:  # pip fails in many ways, all of which mean this
        # Slicer's dialog raises a plain RuntimeError whose text says that the user declined.
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
    """Disable a window while packages are installed: events are processed, and a second click would start pip again."""
    window.enabled = False
    try:
        yield
    finally:
        window.enabled = True


def asks_nobody() -> bool:
    """Whether Slicer was started for testing, where dialogs are not shown and count as confirmed."""
    return bool(slicer.app.testingEnabled())


def skip_without(names: Sequence[str], requirements: Path) -> None:
    """Skip a self test if packages are missing: it installs nothing, since there may be nobody to ask.

    Raises:
        unittest.SkipTest: A package is missing, or its version is not allowed.
    """
    missing = missing_packages((*names, *SLICERS_OWN)) + outdated_packages(requirements)
    if missing:
        raise unittest.SkipTest(f"not in this Slicer: {', '.join(missing)}")


def run_unless_skipped(test: Callable[[], None]) -> None:
    """Run a self test and log a skip: Slicer also calls self tests outside unittest, where nothing handles a skip."""
    try:
        test()
    except unittest.SkipTest as skipped:
        logging.warning(f"Self test skipped: {skipped}")


def packages_to_install(requirements: Path) -> list[str]:
    """Return the requirements to pass to pip: those in the file, and those of Slicer's own that this build lacks."""
    return [*requirements.read_text(encoding="utf-8").split(), *missing_packages(SLICERS_OWN)]


def versions_to_keep(packages: Sequence[str], names: Sequence[str] | None = None) -> list[str]:
    """Return pip constraints (NAME==VERSION) that keep all installed packages, except where `packages` need another.

    Slicer depends on the installed packages and has some of them loaded, so none may be replaced as a side effect.

    Args:
        packages: Requirements to be installed, with their version specifiers.
        names: Keep only the packages of these names; all of them if None.
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
            # Leftovers of a package, which pip can't interpret either.
            continue
        # Where a package is installed twice, the first one found is the one that is imported.
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
    """Ask whether pip may try again with only the loaded packages kept; if so, write that to `constraints`."""
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
    """Install with pip within the constraints; if that fails, with fewer constraints if the user agrees."""
    # Slicer 5.12 has its own progress dialog; in earlier versions, pip_install shows a busy cursor.
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
