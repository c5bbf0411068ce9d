"""How bright structures are beside one another: in volumes of one modality nearly alike, whatever the scanner did."""

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
"""Of a structure and one after it in the task, by name: least and greatest of how much brighter the first one is."""


def brightness(images: NDArray[Any], labels: NDArray[np.uint8], task: Task) -> dict[str, float]:
    """Median intensity of each structure that is there, by name, in the unit of the images.

    Args:
        images: Slices (n, rows, columns).
        labels: The task's values, on the same pixels.
        task: Names them.
    """
    boxes = dict(enumerate(ndimage.find_objects(labels), 1))
    return {
        structure.name: float(np.median(images[box][labels[box] == structure.value]))
        for structure in task.structures
        if (box := boxes.get(structure.value)) is not None
    }


def contrast_ranges(volumes: Sequence[Mapping[str, float]], task: Task) -> ContrastRanges:
    """Range that most volumes have of the difference of each two structures, unless fewer than `FEWEST` have both.

    Args:
        volumes: `brightness` of each, in one unit.
        task: Gives the structures their order.
    """
    ranges: ContrastRanges = {}
    for one, other in itertools.combinations(task.names, 2):
        differences = [volume[one] - volume[other] for volume in volumes if one in volume and other in volume]
        if len(differences) >= FEWEST:
            ranges.setdefault(one, {})[other] = usual_range(differences)
    return ranges
