"""Differences in brightness between structures, which are nearly the same in all volumes of a modality."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .structures import Task
from .usual import FEWEST, usual_range

ContrastRanges = dict[str, dict[str, tuple[float, float]]]
"""For a structure and a later one of the task, by name: least and greatest amount by which the first is brighter."""


def brightness(images: NDArray[Any], labels: NDArray[np.uint8], task: Task) -> dict[str, float]:
    """Median intensity of each structure that is present, by name, in the unit of the images.

    Args:
        images: Slices (n, rows, columns).
        labels: Labels (n, rows, columns) with the task's values.
        task: The structures.
    """
    boxes = dict(enumerate(ndimage.find_objects(labels), 1))
    return {
        structure.name: float(np.median(images[box][labels[box] == structure.value]))
        for structure in task.structures
        if (box := boxes.get(structure.value)) is not None
    }


def contrast_ranges(volumes: Sequence[Mapping[str, float]], task: Task) -> ContrastRanges:
    """Usual range of the difference in brightness of each pair of structures, unless fewer than `FEWEST` have both.

    Args:
        volumes: `brightness` of each volume, all in one unit.
        task: The structures, whose order decides which one of a pair comes first.
    """
    ranges: ContrastRanges = {}
    for one, other in itertools.combinations(task.names, 2):
        differences = [volume[one] - volume[other] for volume in volumes if one in volume and other in volume]
        if len(differences) >= FEWEST:
            ranges.setdefault(one, {})[other] = usual_range(differences)
    return ranges
