"""Synthetic patients for Slicer's Sample Data module, generated locally: nothing is downloaded."""

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
COHORT_PATIENTS = 8  # Patients of each modality.
_loading: list[str] = []  # Name of the sample that is being drawn, if any.
SEED = 100  # Beyond the seeds of the cohorts, the demo and the sample model's training.


def register_samples() -> None:
    """Offer single patients and whole training cohorts in the module Sample Data, category SIFA."""
    try:
        import SampleData  # noqa: PLC0415  a module of Slicer, available once the application has started
    except ImportError:
        # Custom applications based on Slicer may not include it.
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
    """Make the nodes of a synthetic patient: a volume, and its reference segmentation.

    Args:
        name: Key of `SAMPLES`.
        seed: Seed of the patient; each seed gives another one.

    Raises:
        InputError: A required package is not installed, patients are being drawn already, or drawing was cancelled.
    """
    task, modality = SAMPLES[name]
    return _load(name, [_Patient(task, modality, seed, name, labelled=True)])


def load_cohort(name: str, patients: int = COHORT_PATIENTS) -> list[Any]:
    """Make the nodes of a training cohort: labelled MR, then unlabelled CT, of synthetic patients.

    Args:
        name: Key of `COHORTS`.
        patients: Number of patients of each modality.

    Raises:
        InputError: As for `load_patient`, or the scene was closed meanwhile.
    """
    stem = name.removesuffix("Training")
    wanted = [
        _Patient(COHORTS[name], modality, seed, f"{stem}{modality.upper()} {seed + 1}", labelled=modality == "mr")
        for modality in ("mr", "ct")
        for seed in range(patients)
    ]
    return _load(name, wanted)


class _Patient(NamedTuple):
    """A patient to draw, the name of its volume node, and whether it gets a segmentation (`labelled`)."""

    task: str
    modality: str
    seed: int
    name: str
    labelled: bool


class _CancelledError(InputError):
    """The user has cancelled the drawing."""


class _Progress:
    """Window-modal dialog that shows how many patients have been drawn, with a button to cancel."""

    def __init__(self, patients: int) -> None:
        self._dialog = slicer.util.createProgressDialog(
            maximum=patients, windowTitle=_("SIFA sample data"), windowModality=qt.Qt.WindowModal, autoClose=False,
            autoReset=False,
        )  # fmt: skip
        # Without a main window, it may be the only window, with which Slicer would end.
        self._dialog.setAttribute(qt.Qt.WA_QuitOnClose, False)
        self._dialog.show()

    def tell(self, name: str, done: int) -> None:
        """Show which patient is drawn next, and how many have been drawn."""
        self._dialog.labelText = _("Drawing {name}...").format(name=name)
        self._dialog.value = done

    def let_events_in(self) -> None:
        """Process pending events, so that the window stays responsive.

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
    """Make the nodes of patients, and show the first of them."""
    if importlib.util.find_spec("pydantic") is None:
        raise InputError(_("Sample patients can't be drawn"), _("install the Python package pydantic"))
    if _loading:
        raise InputError(_("{name} is still being drawn").format(name=_loading[0]), _("wait for it"))
    _loading.append(name)
    progress = _Progress(len(patients))
    try:
        nodes = _draw(name, patients, progress)
    finally:
        _loading.clear()
        progress.close()
    slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    return nodes


def _draw(name: str, patients: Sequence[_Patient], progress: _Progress) -> list[Any]:
    from SIFASegmentationLib.phantoms import make_patient  # noqa: PLC0415

    nodes: list[Any] = []
    for done, patient in enumerate(patients):
        progress.tell(patient.name, done)
        draw = partial(make_patient, patient.task, patient.modality, patient.seed)
        image, labelmap = in_background(draw, progress.let_events_in)
        # The window stays responsive, so the user may have closed the scene.
        if nodes and if_in_scene(nodes[0]) is None:
            raise InputError(_("The scene was closed while {name} was drawn").format(name=name), _("try again"))
        nodes += _into_scene(patient, image, labelmap)
    return nodes


def _download(source: Any) -> list[Any]:
    """Return the nodes of the source that the user clicked in Sample Data; on an error, show it and return none.

    Exceptions must not leave this function: Sample Data would report them in the Python console only.
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
    """Add a patient's volume node to the scene and, if the patient is labelled, its segmentation node."""
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
    """Return the 4x4 matrix from voxels (i, j, k) to mm, LPS."""
    matrix = np.eye(4)
    matrix[:3, :3] = geometry.axes_mm
    matrix[:3, 3] = geometry.origin
    return matrix
