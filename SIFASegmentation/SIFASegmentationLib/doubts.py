"""Warnings about a segmentation that has no reference, as sentences for those who have to check it."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .contrasts import ContrastRanges
from .positions import PositionRange
from .quality import Estimate
from .usual import MillilitreRange
from .volumes import Triple

WORSE = 0.05
"""Smallest difference in estimated mean Dice that counts; a model may be worse by less than this by chance."""

_IN_PIECES = 0.7  # Share of the found voxels that must be kept; with less, they are hardly one organ.
_UNUSUAL = 1.5  # Factor beyond either end of the usual range from which a volume is doubted.
# Distance beyond the usual range from which a position is doubted, relative to the usual distance from the others.
_MISPLACED = 0.35
_FAR_MM = 10.0  # Smaller distances are never doubted: for a structure amid the others, the usual distance is near 0.
_DISPLACING = 0.5  # Share of the furthest structure's distance; nearer ones may only seem misplaced because of it.
_UNLIKE = 0.25  # Tolerated excess beyond the usual contrast, on the networks' scale, which is 2 wide.
# Share of the largest total excess from which a structure is doubted: beside a single wrong structure, each of two
# right ones has half of its total.
_OUTSHINING = 0.6


@dataclass(frozen=True)
class Found:
    """What a model found of a structure in a volume.

    Attributes:
        ml: Volume in the labelmap, in ml.
        kept: Share of the found voxels that the labelmap keeps, in [0, 1]: the largest connected part, or as many
            parts as the structure has (`Structure.parts`).
        position_mm: Position relative to the other structures, mm, LPS (`positions`); None unless all were found.
        brightness: Median intensity on the networks' scale, [-1, 1]; None if the structure was not found or the usual
            contrasts are not known.
    """

    ml: float
    kept: float = 1.0
    position_mm: Triple | None = None
    brightness: float | None = None


@dataclass(frozen=True)
class Usual:
    """Usual ranges (`usual`); each is empty if it is not known.

    Attributes:
        ml: Volume of each structure in the labelled volumes, in ml, by name.
        positions_mm: Position of each structure relative to the others in the labelled volumes, mm, LPS, by name.
        contrasts: Differences in brightness between structures in the unlabelled volumes that the model is for.
    """

    ml: Mapping[str, MillilitreRange] = field(default_factory=dict)
    positions_mm: Mapping[str, PositionRange] = field(default_factory=dict)
    contrasts: ContrastRanges = field(default_factory=dict)


def doubts_about_structures(found: Mapping[str, Found], usual: Usual) -> dict[str, str]:
    """Return what speaks against each structure that is unlike the usual, by name.

    A structure is doubted if it is missing, in pieces, of an unusual size, in an unusual place, or brighter or darker
    than it should be.
    """
    misplaced, unlike = _misplaced(found, usual.positions_mm), _unlike(found, usual.contrasts)
    doubts = {
        structure: _doubt(one, usual.ml.get(structure)) or misplaced.get(structure) or unlike.get(structure)
        for structure, one in found.items()
    }
    return {structure: doubt for structure, doubt in doubts.items() if doubt is not None}


def as_sentences(name: str, doubts: Mapping[str, str]) -> list[str]:
    """Return doubts about structures as sentences; `name` is that of the volume."""
    return [f"{name}, {structure}: {doubt}: check its segmentation." for structure, doubt in doubts.items()]


def _doubt(found: Found, usual_ml: MillilitreRange | None) -> str | None:
    if found.kept < _IN_PIECES:
        return f"{1 - found.kept:.0%} of its voxels lay in smaller, separate parts, which were removed"
    if usual_ml is None or usual_ml[0] / _UNUSUAL <= found.ml <= usual_ml[1] * _UNUSUAL:
        return None
    usual = f"the labelled volumes suggest {_rounded(usual_ml[0])} to {_rounded(usual_ml[1])} ml"
    return f"nothing was found, but {usual}" if found.ml == 0 else f"{_rounded(found.ml)} ml were found, but {usual}"


def _misplaced(found: Mapping[str, Found], usual: Mapping[str, PositionRange]) -> dict[str, str]:
    """Return a doubt about each structure that is far from its usual position relative to the others."""
    away = {
        structure: _beyond(one.position_mm, usual[structure])
        for structure, one in found.items()
        if one.position_mm is not None and structure in usual
    }
    furthest = max(away.values(), default=0.0)
    return {
        structure: f"its centre lies {mm:.0f} mm from where labelled volumes have it, relative to the other structures"
        for structure, mm in away.items()
        if mm > max(_FAR_MM, _MISPLACED * float(np.linalg.norm(np.mean(usual[structure], 0))))
        and mm >= _DISPLACING * furthest
    }


def _unlike(found: Mapping[str, Found], usual: ContrastRanges) -> dict[str, str]:
    """Return a doubt about each structure that is unusually bright or dark compared with another one.

    Either of the two may be the wrong one: it is the one that is also unlike a third structure; otherwise both are
    doubted.
    """
    excess: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for one, other in itertools.permutations(found, 2):
        here, there = found[one].brightness, found[other].brightness
        if here is not None and there is not None and other in usual.get(one, {}):
            low, high = usual[one][other]
            beyond = here - there - float(np.clip(here - there, low, high))
            excess[one][other], excess[other][one] = beyond, -beyond
    total = {structure: sum(map(abs, others.values())) for structure, others in excess.items()}
    most = max(total.values(), default=0.0)
    doubts = {}
    for structure, others in excess.items():
        other, beyond = max(others.items(), key=lambda one: abs(one[1]))
        if abs(beyond) > _UNLIKE and total[structure] >= _OUTSHINING * most:
            doubts[structure] = (
                f"compared with the {other}, it is {'brighter' if beyond > 0 else 'darker'} than in the volumes that "
                "the model was trained for"
            )
    return doubts


def _beyond(position: Triple, usual: PositionRange) -> float:
    """Return the distance of a position from a range, in mm; 0 within it."""
    low, high = usual
    return float(np.linalg.norm(np.asarray(position) - np.clip(position, low, high)))


def _rounded(ml: float) -> str:
    return f"{ml:,.0f}" if ml >= 9.5 else f"{ml:.1g}"


def doubts_about_adaptation(name: str, adapted: Mapping[str, Estimate], unadapted: Mapping[str, Estimate]) -> list[str]:
    """Return a sentence if the model without adaptation seems to be better for the volume `name`; none otherwise."""
    if not adapted or not unadapted:
        return []
    means = [float(np.mean([estimate.dice for estimate in some.values()])) for some in (adapted, unadapted)]
    if means[1] - means[0] < WORSE:
        return []
    return [
        f"{name}: adaptation seems to have made the result worse (estimated Dice {means[0]:.2f} with it, "
        f"{means[1]:.2f} without): compare the two segmentations."
    ]
