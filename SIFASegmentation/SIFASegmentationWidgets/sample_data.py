"""Synthetic patients in Slicer's Sample Data, drawn on this machine: nothing is downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError

from .nodes import RAS_TO_LPS, segmentation_from_labels

SAMPLES = {
    "SIFAAbdomenCT": ("abdomen", "ct"),
    "SIFAAbdomenMR": ("abdomen", "mr"),
    "SIFAHeartCT": ("cardiac", "ct"),
    "SIFAHeartMR": ("cardiac", "mr"),
}
SEED = 100  # Beyond those of the demo and of the sample model's training.


def register_samples() -> None:
    """Offer the patients in the module Sample Data, category SIFA."""
    import SampleData  # noqa: PLC0415  a module of Slicer, there once the application has started

    icon = Path(__file__).parents[1] / "Resources" / "Icons" / "SIFASegmentation.png"
    for name in SAMPLES:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="SIFA",
            sampleName=name,
            # Never fetched, since there is a function that draws the patient, but Slicer counts them.
            uris=f"sifa:{name}",
            fileNames=f"{name}.nrrd",
            nodeNames=name,
            customDownloader=lambda source: load_patient(source.sampleName),
            thumbnailFileName=str(icon),
        )


def load_patient(name: str, seed: int = SEED) -> list[Any]:
    """A synthetic patient as nodes: the volume, and its reference segmentation.

    Args:
        name: Of `SAMPLES`.
        seed: Another seed, another patient.

    Raises:
        InputError: The phantoms (of SIFATraining) or what they need is not installed.
    """
    if importlib.util.find_spec("pydantic") is None or importlib.util.find_spec("SIFATrainingLib") is None:
        raise InputError(_("Drawing sample patients needs the module SIFA Training and the Python package pydantic."))
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415
    from SIFATrainingLib.phantoms import make_patient  # noqa: PLC0415

    task, modality = SAMPLES[name]
    image, labelmap = make_patient(task, modality, seed)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name))
    slicer.util.updateVolumeFromArray(node, image.array)
    ijk_to_lps = _matrix(image.geometry)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(RAS_TO_LPS @ ijk_to_lps))
    node.CreateDefaultDisplayNodes()
    reference = segmentation_from_labels(labelmap.array, node, load_task(task), f"{node.GetName()} reference")
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    return [node, reference]


def _matrix(geometry: Any) -> Any:
    """4x4 from voxels (i, j, k) to mm, LPS."""
    matrix = np.eye(4)
    matrix[:3, :3] = geometry.direction_matrix * np.asarray(geometry.spacing)
    matrix[:3, 3] = geometry.origin
    return matrix
