"""Results of segmented volumes that refer to nodes by ID, so that nodes deleted by the user are not kept alive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import slicer

from . import nodes
from .segmentation_run import SegmentationResult, SegmentationRun

if TYPE_CHECKING:
    from SIFASegmentationLib.quality import Estimate


@dataclass(frozen=True)
class ShownResult:
    """Result of one volume; properties give its nodes, or None for those that have left the scene.

    The remaining attributes are those of `SegmentationResult`.

    Attributes:
        volume_id: ID of the volume that was segmented.
        segmentation_id: ID of the segmentation of the structures; empty if there is none.
        baseline_id: ID of the segmentation of the model without adaptation; empty if there is none.
        reference_id: ID of the segmentation or labelmap to score against; empty if there is none.
    """

    volume_id: str
    segmentation_id: str = ""
    baseline_id: str = ""
    reference_id: str = ""
    confidence: tuple[float | None, ...] = ()
    slice_axis: int = 0
    estimates: dict[str, Estimate] = field(default_factory=dict)
    baseline_estimates: dict[str, Estimate] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    made: dict[str, nodes.SegmentsState] = field(default_factory=dict)

    @classmethod
    def of(cls, result: SegmentationResult, reference: Any | None = None) -> ShownResult:
        """Make it from a result of a run, and a node to score it against."""
        return cls(
            _id(result.volume),
            _id(result.segmentation),
            _id(result.baseline),
            _id(reference),
            tuple(result.confidence),
            result.slice_axis,
            result.estimates,
            result.baseline_estimates,
            result.doubts,
            result.made,
        )

    @property
    def volume(self) -> Any | None:
        return _node(self.volume_id)

    @property
    def segmentation(self) -> Any | None:
        return _node(self.segmentation_id)

    @property
    def baseline(self) -> Any | None:
        return _node(self.baseline_id)

    @property
    def reference(self) -> Any | None:
        return _node(self.reference_id)


def results_of(run: SegmentationRun) -> tuple[ShownResult, ...]:
    """Return the results of a run's volumes, with the references of its rows."""
    references = {_id(row.volume): row.reference for row in run.rows}
    return tuple(ShownResult.of(result, references.get(_id(result.volume))) for result in run.results)


def _id(node: Any | None) -> str:
    there = nodes.if_in_scene(node)
    return there.GetID() if there is not None else ""


def _node(node_id: str) -> Any | None:
    return slicer.mrmlScene.GetNodeByID(node_id) if node_id else None
