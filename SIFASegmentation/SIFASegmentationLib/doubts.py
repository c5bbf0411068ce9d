"""Warnings about a segmentation that has no reference: sentences for whoever has to check it."""

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
"""Of the mean Dice: a model that is estimated to be worse by less may be so by chance."""

_IN_PIECES = 0.7  # Of what was found: where a smaller share was kept, it is hardly one organ.
_UNUSUAL = 1.5  # Times the upper end of the usual range, or a part of the lower.
_MISPLACED = 0.35  # Of the way from the other structures: so far beyond the usual range.
_FAR_MM = 10.0  # Less is never far: a structure amid the others is seen from its own place.
_DISPLACING = 0.5  # Of the furthest: who lies nearer may seem misplaced because of that one.
_UNLIKE = 0.25  # In the networks' unit, whose range is 2 wide: so far beyond the usual contrast.
_OUTSHINING = 0.6  # Of the most unlike: of two that are as they should be, each has half of what lies between them.


@dataclass(frozen=True)
class Found:
    """What a model found of a structure.

    Attributes:
        ml: Volume in the labelmap.
        kept: Share, in [0, 1], of what was found that is in the labelmap: that of the largest connected part, or of
            as many as the structure has (`Structure.parts`).
        position_mm: Way from the other structures, mm, LPS (`positions`), where all were found.
        brightness: Median intensity in the networks' range, [-1, 1], where it was found and the usual is known.
    """

    ml: float
    kept: float = 1.0
    position_mm: Triple | None = None
    brightness: float | None = None


@dataclass(frozen=True)
class Usual:
    """Ranges that most volumes have (`usual`), of which none need be known.

    Attributes:
        ml: Of each structure, in the labelled volumes.
        positions_mm: The same of the way from the other structures.
        contrasts: How bright structures are beside one another, in the unlabelled volumes that the model is for.
    """

    ml: Mapping[str, MillilitreRange] = field(default_factory=dict)
    positions_mm: Mapping[str, PositionRange] = field(default_factory=dict)
    contrasts: ContrastRanges = field(default_factory=dict)


def doubts_about_structures(found: Mapping[str, Found], usual: Usual) -> dict[str, str]:
    """What speaks against it, by structure, where one is unlike what it usually is: missing, in pieces, of an unusual
    size, in an unusual place, or brighter or darker than it should be."""
    misplaced, unlike = _misplaced(found, usual.positions_mm), _unlike(found, usual.contrasts)
    doubts = {
        structure: _doubt(one, usual.ml.get(structure)) or misplaced.get(structure) or unlike.get(structure)
        for structure, one in found.items()
    }
    return {structure: doubt for structure, doubt in doubts.items() if doubt is not None}


def as_sentences(name: str, doubts: Mapping[str, str]) -> list[str]:
    """Doubts about the structures of a volume of that name, each a sentence of its own."""
    return [f"{name}, {structure}: {doubt}: check its segmentation." for structure, doubt in doubts.items()]


def _doubt(found: Found, usual_ml: MillilitreRange | None) -> str | None:
    if found.kept < _IN_PIECES:
        return f"{1 - found.kept:.0%} of its voxels lay in smaller, separate parts, which were removed"
    if usual_ml is None or usual_ml[0] / _UNUSUAL <= found.ml <= usual_ml[1] * _UNUSUAL:
        return None
    usual = f"most labelled volumes had {_rounded(usual_ml[0])} to {_rounded(usual_ml[1])} ml"
    return f"nothing was found, but {usual}" if found.ml == 0 else f"{_rounded(found.ml)} ml were found, but {usual}"


def _misplaced(found: Mapping[str, Found], usual: Mapping[str, PositionRange]) -> dict[str, str]:
    """A doubt about each structure that lies far from where labelled volumes have it, seen from the others."""
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
    """A doubt about each structure that is brighter or darker beside another one than it usually is.

    Of two, either may be the wrong one: it is the one that is unlike the third as well, else both.
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
    """Distance of a position from a range, in mm; 0 within it."""
    low, high = usual
    return float(np.linalg.norm(np.asarray(position) - np.clip(position, low, high)))


def _rounded(ml: float) -> str:
    return f"{ml:,.0f}" if ml >= 9.5 else f"{ml:.1g}"


def doubts_about_adaptation(name: str, adapted: Mapping[str, Estimate], unadapted: Mapping[str, Estimate]) -> list[str]:
    """A sentence where the model without adaptation seems to be the better one for a volume; none where not."""
    if not adapted or not unadapted:
        return []
    means = [float(np.mean([estimate.dice for estimate in some.values()])) for some in (adapted, unadapted)]
    if means[1] - means[0] < WORSE:
        return []
    return [
        f"{name}: adaptation seems to have made the result worse (estimated Dice {means[0]:.2f} with it, "
        f"{means[1]:.2f} without): compare the two segmentations."
    ]
