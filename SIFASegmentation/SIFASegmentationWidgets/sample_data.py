"""Synthetic patients in Slicer's Sample Data, drawn on this machine: nothing is downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.volumes import Geometry, Volume

from .background import in_background
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
_loading: list[str] = []  # What is being drawn.
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
        InputError: What they are drawn with is not installed; or patients are being drawn already, or drawing was
            cancelled.
    """
    task, modality = SAMPLES[name]
    return _load(name, [_Patient(task, modality, seed, name, labelled=True)])


def load_cohort(name: str, patients: int = COHORT_PATIENTS) -> list[Any]:
    """All that a training needs, as nodes: labelled MR and unlabelled CT of synthetic patients, MR first.

    Args:
        name: Of `COHORTS`.
        patients: Of each modality.

    Raises:
        InputError: As `load_patient`; or the scene was closed meanwhile.
    """
    stem = name.removesuffix("Training")
    wanted = [
        _Patient(COHORTS[name], modality, seed, f"{stem}{modality.upper()} {seed + 1}", labelled=modality == "mr")
        for modality in ("mr", "ct")
        for seed in range(patients)
    ]
    return _load(name, wanted)


class _Patient(NamedTuple):
    """Who is to be drawn, and the name of the node; with its segmentation if `labelled`."""

    task: str
    modality: str
    seed: int
    name: str
    labelled: bool


class _CancelledError(InputError):
    """The user wants no more patients."""


class _Progress:
    """A dialog that shows how many patients are drawn, and keeps clicks from everything but its button to cancel."""

    def __init__(self, patients: int) -> None:
        self._dialog = slicer.util.createProgressDialog(
            maximum=patients, windowTitle=_("SIFA sample data"), windowModality=qt.Qt.WindowModal, autoClose=False,
            autoReset=False,
        )  # fmt: skip
        self._dialog.show()

    def tell(self, name: str, done: int) -> None:
        """Who is drawn next, and how many are."""
        self._dialog.labelText = _("Drawing {name}...").format(name=name)
        self._dialog.value = done

    def let_events_in(self) -> None:
        """Let the window live for a moment.

        Raises:
            InputError: The user has cancelled.
        """
        slicer.app.processEvents()
        if self._dialog.wasCanceled:
            raise _CancelledError(_("Drawing was cancelled"), _("patients that are drawn stay in the scene"))

    def close(self) -> None:
        self._dialog.close()
        self._dialog.deleteLater()


def _load(name: str, patients: Sequence[_Patient]) -> list[Any]:
    """The nodes of patients, the first of whom is shown."""
    if importlib.util.find_spec("pydantic") is None:
        raise InputError(_("Sample patients can't be drawn"), _("install the Python package pydantic"))
    if _loading:
        raise InputError(_("{name} is still being drawn").format(name=_loading[0]), _("wait for it"))
    _loading.append(name)
    progress = _Progress(len(patients))
    try:
        nodes = _draw(name, patients, progress)
    finally:
        progress.close()
        _loading.clear()
    slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    return nodes


def _draw(name: str, patients: Sequence[_Patient], progress: _Progress) -> list[Any]:
    from SIFASegmentationLib.phantoms import make_patient  # noqa: PLC0415

    nodes: list[Any] = []
    for done, patient in enumerate(patients):
        progress.tell(patient.name, done)
        draw = partial(make_patient, patient.task, patient.modality, patient.seed)
        image, labelmap = in_background(draw, progress.let_events_in)
        # A window that lives meanwhile can close the scene.
        if nodes and if_in_scene(nodes[0]) is None:
            raise InputError(_("The scene was closed while {name} was drawn").format(name=name), _("try again"))
        nodes += _into_scene(patient, image, labelmap)
    return nodes


def _download(source: Any) -> list[Any]:
    """What Sample Data calls: the nodes of the source that a user has clicked; none, and a message, where it can't.

    Sample Data takes whatever is raised here for a fault, and tells the Python console alone.
    """
    name = source.sampleName
    try:
        ensure_packages(("pydantic",), REQUIREMENTS, "SIFA Segmentation")
        return load_cohort(name) if name in COHORTS else load_patient(name)
    except _CancelledError:
        return []
    except InputError as error:
        slicer.util.errorDisplay(str(error))
        return []


def _into_scene(patient: _Patient, image: Volume, labelmap: Volume) -> list[Any]:
    """A volume node and, if wanted, its segmentation."""
    from SIFASegmentationLib.structures import load_task  # noqa: PLC0415

    unique = slicer.mrmlScene.GenerateUniqueName(patient.name)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", unique)
    slicer.util.updateVolumeFromArray(node, image.array)
    ijk_to_lps = _matrix(image.geometry)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(RAS_TO_LPS @ ijk_to_lps))
    node.CreateDefaultDisplayNodes()
    if not patient.labelled:
        return [node]
    task = load_task(patient.task)
    return [node, segmentation_from_labels(labelmap.array, node, task, f"{node.GetName()} reference")]


def _matrix(geometry: Geometry) -> np.ndarray:
    """4x4 from voxels (i, j, k) to mm, LPS."""
    matrix = np.eye(4)
    matrix[:3, :3] = geometry.axes_mm
    matrix[:3, 3] = geometry.origin
    return matrix
