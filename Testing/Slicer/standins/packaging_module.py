"""`slicer.packaging`, which installs nothing, just like Slicer's own in testing mode."""

from __future__ import annotations

import importlib.metadata
import logging
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement


def load_requirements(path: str | Path) -> list[Requirement]:
    """Read the requirements in a file; a comment after one is an error."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def pip_check(req: str | Requirement | list[Any]) -> bool:
    """Whether requirements are satisfied; their extras are ignored."""
    wanted = req.split() if isinstance(req, str) else req if isinstance(req, list) else [req]
    return all(_is_satisfied(item if isinstance(item, Requirement) else Requirement(item)) for item in wanted)


def _is_satisfied(requirement: Requirement) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        return importlib.metadata.version(requirement.name) in requirement.specifier
    except importlib.metadata.PackageNotFoundError:
        return False


def pip_ensure(
    requirements: str | Requirement | list[Any],
    constraints: str | Path | None = None,
    skip_packages: list[str] | None = None,
    prompt_install: bool = True,
    prompt_restart: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    show_progress: bool = True,
) -> None:
    """Do nothing, as Slicer does if the requirements are satisfied, or in testing mode.

    Raises:
        NotImplementedError: A requirement is not satisfied and `skip_in_testing` is False.
    """
    if pip_check(requirements):
        return
    if not skip_in_testing:
        raise NotImplementedError("The stand-in of pip_ensure installs nothing.")
    logging.info("Testing mode is enabled: skipping pip_ensure of %s for %s", requirements, requester)


def pip_install(requirements: str | list[str], **_options: Any) -> None:
    """Refuse: a test must not change its environment."""
    raise NotImplementedError(f"The stand-in of pip_install does not install {requirements}.")
