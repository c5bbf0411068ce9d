"""Options of a segmentation, shared by callers from Python, jobs and the window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Domain = Literal["source", "target"]


@dataclass(frozen=True)
class SegmentationOptions:
    """How to segment volumes.

    Attributes:
        domain: Domain whose preprocessing to use; the bundle's own `domain`, the target, unless given.
        appearance: Where the model is in doubt, let the volume's own intensities decide (`appearance`).
        largest_component: Of each structure, keep only as many of the largest connected parts as its `parts` says.
        fill_holes: Add to each structure the background that it encloses on all sides.
        refine: Run the model twice, for finer borders (`Segmentor.predict_refined`).
        probabilities: Keep the probability map of each structure.
    """

    domain: Domain | None = None
    appearance: bool = True
    largest_component: bool = True
    fill_holes: bool = False
    refine: bool = False
    probabilities: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether a bundle's calibration applies: it was fitted with `appearance` and `largest_component`, and is too
        optimistic without either of them."""
        return self.appearance and self.largest_component


DEFAULTS = SegmentationOptions()
