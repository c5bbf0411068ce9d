"""Synthetic patients in Slicer's Sample Data, drawn on this machine: nothing is downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError

from .dependencies import ensure_packages
from .nodes import RAS_TO_LPS, if_in_scene, segmentation_from_labels

REQUIREMENTS = Path(__file__).parents[1] / "Resources" / "requirements.txt"
SAMPLES = {
    "SIFAAbdomenCT": ("abdomen", "ct"),
    "SIFAAbdomenMR": ("abdomen", "mr"),
    "SIFAHeartCT": ("cardiac", "ct"),
    "SIFAHeartMR": ("cardiac", "mr"),
}
COHORTS = {"SIFAAbdomenTraining": "abdomen", "SIFAHeartTraining": "cardiac"}
COHORT_PATIENTS = 8  # Of each modality.
_loading: list[str] = []  # Cohorts that are being drawn.
SEED = 100  # Beyond those of the cohorts, the demo and the sample model's training.


def register_samples() -> None:
    """Offer the patients in the module Sample Data, category SIFA: one at a time, or all that a training needs."""
    try:
        import SampleData  # noqa: PLC0415  a module of Slicer, there once the application has started
    except ImportError:
        # Not in every application that is made of Slicer.
        return
    icon = Path(__file__).parents[1] / "Resources" / "Icons" / "SIFASegmentation.png"
    for name in (*SAMPLES, *COHORTS):
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="SIFA",
            sampleName=name,
            uris=f"sifa:{name}",
            fileNames=f"{name}.nrrd",
            nodeNames=name,
            customDownloader=_download,
            thumbnailFileName=str(icon),
        )


def load_patient(name: str, seed: int = SEED) -> list[Any]:
    """A synthetic patient as nodes: the volume, and its reference segmentation.

    Args:
        name: Of `SAMPLES`.
        seed: Another seed, another patient.

    Raises:
        InputError: What they are drawn with is not installed.
    """
    task, modality = SAMPLES[name]
    nodes = _draw(task, modality, seed, name, labelled=True)
    slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    return nodes


def load_cohort(name: str, patients: int = COHORT_PATIENTS) -> list[Any]:
    """All that a training needs, as nodes: labelled MR and unlabelled CT of synthetic patients, MR first.

    Args:
        name: Of `COHORTS`.
        patients: Of each modality.

    Raises:
        InputError: As `load_patient`; or the scene was closed meanwhile, or patients are being drawn already.
    """
    if _loading:
        raise InputError(_("{name} is still being drawn").format(name=_loading[0]), _("wait for it"))
    _loading.append(name)
    try:
        nodes = _draw_cohort(name, patients)
    finally:
        _loading.clear()
    slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    return nodes


def _draw_cohort(name: str, patients: int) -> list[Any]:
    task, nodes = COHORTS[name], []
    for modality in ("mr", "ct"):
        for seed in range(patients):
            node_name = f"{name.removesuffix('Training')}{modality.upper()} {seed + 1}"
            slicer.util.showStatusMessage(_("Drawing {name}...").format(name=node_name), 5000)
            nodes += _draw(task, modality, seed, node_name, labelled=modality == "mr")
            # A window that lives meanwhile can close the scene.
            slicer.app.processEvents()
            if if_in_scene(nodes[0]) is None:
                raise InputError(_("The scene was closed while {name} was drawn").format(name=name), _("try again"))
    return nodes


def _download(source: Any) -> list[Any]:
    """What Sample Data calls: the nodes of the source that a user has clicked; none, and a message, where it can't.

    Sample Data takes whatever is raised here for a fault, and tells the Python console alone.
    """
    name = source.sampleName
    try:
        ensure_packages(("pydantic",), REQUIREMENTS, "SIFA Segmentation")
        return load_cohort(name) if name in COHORTS else load_patient(name)
    except InputError as error:
        slicer.util.errorDisplay(str(error))
        return []


def _draw(task: str, modality: str, seed: int, name: str, *, labelled: bool) -> list[Any]:
    """A volume node and, if `labelled`, its segmentation."""
    if importlib.util.find_spec("pydantic") is None:
        raise InputError(_("Sample patients can't be drawn"), _("install the Python package pydantic"))
    from SIFASegmentationLib.phantoms import make_patient  # noqa: PLC0415
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415

    image, labelmap = make_patient(task, modality, seed)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name))
    slicer.util.updateVolumeFromArray(node, image.array)
    ijk_to_lps = _matrix(image.geometry)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(RAS_TO_LPS @ ijk_to_lps))
    node.CreateDefaultDisplayNodes()
    if not labelled:
        return [node]
    return [node, segmentation_from_labels(labelmap.array, node, load_task(task), f"{node.GetName()} reference")]


def _matrix(geometry: Any) -> Any:
    """4x4 from voxels (i, j, k) to mm, LPS."""
    matrix = np.eye(4)
    matrix[:3, :3] = geometry.direction_matrix * np.asarray(geometry.spacing)
    matrix[:3, 3] = geometry.origin
    return matrix
