"""Positions of structures relative to one another, which are similar in all patients, wherever the origin lies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .structures import Task
from .volumes import Triple, Volume

PositionRange = tuple[Triple, Triple]
"""Least and greatest position (`positions_mm`) along each axis, mm, LPS."""


def positions_mm(labelmap: Volume, task: Task) -> dict[str, Triple]:
    """Return each structure's centre relative to the mean of the others' centres, by name, in mm, LPS.

    Empty if a structure of the task is absent, which would shift the positions of all others, or is the only one.
    """
    values = [structure.value for structure in task.structures]
    boxes = dict(enumerate(ndimage.find_objects(labelmap.array), 1))
    if len(values) < 2 or any(boxes.get(value) is None for value in values):
        return {}
    centres = np.array([_centre(labelmap.array[boxes[value]] == value, boxes[value]) for value in values])
    centres_mm = centres[:, ::-1] @ labelmap.geometry.axes_mm.T
    others = (centres_mm.sum(0) - centres_mm) / (len(centres) - 1)
    ways = (centres_mm - others).tolist()
    return {structure.name: (x, y, z) for structure, (x, y, z) in zip(task.structures, ways, strict=True)}


def _centre(mask: NDArray[np.bool_], box: tuple[slice, ...]) -> list[float]:
    """Return the mean index along each axis, in the whole array, of the true voxels of a mask cropped to `box`."""
    along = [mask.sum(tuple(other for other in range(mask.ndim) if other != axis)) for axis in range(mask.ndim)]
    return [
        float(np.average(np.arange(part.start, part.stop), weights=counts))
        for counts, part in zip(along, box, strict=True)
    ]
