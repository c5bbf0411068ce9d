"""How a volume is segmented: what a caller, a job and the window say alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Domain = Literal["source", "target"]


@dataclass(frozen=True)
class SegmentationOptions:
    """The same for all volumes of a call.

    Attributes:
        domain: Whose preprocessing to use; that of the bundle's own `domain`, the target, unless given.
        appearance: Where the model is in doubt, let the volume's own intensities decide (`appearance`).
        largest_component: Of each structure keep the largest connected part alone, or as many as its `parts`.
        fill_holes: Give to each structure the background that it encloses on all sides.
        refine: Ask the model twice, for finer borders (`Segmentor.predict_refined`).
        probabilities: Keep the probability of each structure.
    """

    domain: Domain | None = None
    appearance: bool = True
    largest_component: bool = True
    fill_holes: bool = False
    refine: bool = False
    probabilities: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether a bundle's calibration applies: it was fitted with both steps, and is too optimistic without
        one of them."""
        return self.appearance and self.largest_component


DEFAULTS = SegmentationOptions()
