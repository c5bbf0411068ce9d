"""Findings of the checks before and during a training, and checks that are shared."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from SIFASegmentationLib.boxes import values_in
from SIFASegmentationLib.errors import InputError

if TYPE_CHECKING:  # These need packages that the Slicer module may have to install first.
    from SIFASegmentationLib.cases import Case
    from SIFASegmentationLib.labelmaps import Labels
    from SIFASegmentationLib.structures import Task
    from SIFASegmentationLib.volumes import Volume

_LOGGER = logging.getLogger(__name__)

Level = Literal["ok", "warning", "error"]

FEW_SLICES = 100  # Least number of slices of a domain for a usable model.

_SHOWN = 12  # Number of names shown of a list that can have a hundred.
_MANY = 0.1  # Share of volumes up to which they count as exceptions.


@dataclass(frozen=True)
class Finding:
    """One finding of a check.

    Attributes:
        level: How bad it is.
        subject: What it is about, such as a file or a set of volumes.
        message: What was found.
        fix: What to do about it; empty if nothing.
    """

    level: Level
    subject: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: " + "; ".join(filter(None, (self.message, self.fix)))

    @classmethod
    def of(cls, subject: str, error: InputError) -> Finding:
        """Make a finding of an error in the input."""
        return cls("error", subject, error.problem, error.advice)


Warn = Callable[[Finding], None]
"""Called with findings that don't end the work but should be looked at."""


def log_warning(finding: Finding) -> None:
    """Log a warning, which Python shows on stderr unless the caller has configured logging otherwise."""
    _LOGGER.warning("%s", finding)


def print_warning(finding: Finding) -> None:
    """Print a warning to stderr."""
    print(f"warning: {finding}", file=sys.stderr)


def unused_volumes(subject: str, path: Path) -> list[Finding]:
    """Warn of volumes in subfolders of a set's folder, which are not used."""
    from SIFASegmentationLib.volume_folders import folder_names, unused_folders  # noqa: PLC0415  needs packages, see above

    folders = unused_folders(path)
    if not folders:
        return []
    fix = f"to use them, put them where the others lie in {path}, or list all volumes in a CSV file"
    return [Finding("warning", subject, f"volumes in subfolders are not used ({folder_names(folders)})", fix)]


def left_out(subject: str, cases: Sequence[Case], total: int) -> list[Finding]:
    """Warn of volumes of a set that are left out (`prepare.is_left_out`), of `total` volumes."""
    if not cases:
        return []
    shown = _listed([case.shown(case.image) for case in cases])
    message = f"volumes left out, since their masks show none of the structures: {len(cases)} of {total} ({shown})"
    return [Finding("warning", subject, message, "if a structure is visible there, correct its mask")]


def nothing_labelled(subject: str, labelmap: Volume) -> list[Finding]:
    """Warn of labels that are used though none of the structures is labelled."""
    if labelmap.array.any():
        return []
    message = "none of the structures is labelled, so all of the volume is background to the training"
    return [Finding("warning", subject, message, "if a structure is visible there, correct its mask")]


def looks_like_labelmap(subject: str, image: Volume) -> list[Finding]:
    """Warn if an image has so few values in its middle slice that it may be a labelmap, whatever its name."""
    from SIFASegmentationLib.labelmaps import look_like_labels  # noqa: PLC0415  needs packages, see above

    middle = image.array[len(image.array) // 2]
    if not look_like_labels(middle) or (values := np.unique(middle).size) < 2:
        return []
    message = f"has only {values} different values in its middle slice, as a labelmap does"
    return [Finding("warning", subject, message, "if it is a labelmap, take it out of the images")]


def lost_labels(subject: str, labels: Labels, task: Task) -> list[Finding]:
    """Warn of a file's segments or named labels that a training does not see: overlapping or unmatched ones."""
    findings = []
    if labels.overlapping:
        message = f"segments or masks overlap in {labels.overlapping:,} voxels, which go to the later one"
        fix = "take them from one of the two (segments: in the Segment Editor)"
        findings.append(Finding("warning", subject, message, fix))
    if labels.unmatched:
        there = values_in(labels.labelmap.array)
        missing = [structure.name for structure in task.structures if structure.value not in there]
        message = f"the labels {_listed(labels.unmatched)} match no structure of the task, and become background"
        findings.append(
            Finding("warning", subject, message, f"to use them, rename them to {', '.join(missing or task.names)}")
        )
    return findings


def _listed(names: Sequence[str]) -> str:
    """Join the first of some names with commas, and say how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def never_labelled(subject: str, labelled: Collection[str], task: Task, level: Level) -> list[Finding]:
    """Report structures that no labelmap of a set contains, at the given level."""
    never = [name for name in task.names if name not in labelled]
    fix = "label it in some volume, or choose a task without it"
    return [Finding(level, subject, f"never labelled: {', '.join(never)}", fix)] if never else []


def beyond_grid(subject: str, extents_mm: Sequence[tuple[float, float]], size: int, spacing: float) -> list[Finding]:
    """Warn if more than a few fields of view reach beyond the networks' grid.

    Args:
        subject: What the finding is about.
        extents_mm: Height and width of each field of view in mm.
        size: Number of rows, and of columns, of the grid.
        spacing: Spacing of the grid in mm.
    """
    from SIFASegmentationLib.plausibility import LARGE_SHARE  # noqa: PLC0415  needs packages, see above

    width = size * spacing
    beyond = sum(max(extent) > LARGE_SHARE * width for extent in extents_mm)
    if beyond <= _MANY * len(extents_mm):
        return []
    widest = max(max(extent) for extent in extents_mm)
    message = (
        f"{beyond} of {len(extents_mm)} fields of view are larger than the grid of {width:.0f} mm, up to "
        f"{widest:.0f} mm: what lies beyond is not seen"
    )
    return [Finding("warning", subject, message, "choose a larger spacing or size, or a region of interest")]
