"""Segmenting in a process of its own: a job folder whose inputs and results are files.

```
job.json                      kind "segment", a `SegmentationSpecification`
result/N_segmentation.mha     labelmap of volume N, on its grid to the last bit
result/N_baseline.mha         the same by the model without adaptation, if asked for
result/N_probability_V.mha    probability of the structure with value V, uint8 from 0 to 255, if asked for
```

Run by `python -m SIFASegmentationLib JOB`. Events: progress (volume, volumes, done, total, eta_seconds) after each
batch of slices, warning (volume, message) where a volume or a structure in it is unlike those of the training or
adaptation seems to have made it worse, and result (volume, labelmap, baseline, probabilities, confidence, slice_axis,
estimates, baseline_estimates, doubts) after each volume.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from .bundle import Domain, read_bundle
from .doubts import as_sentences, doubts_about_adaptation, doubts_about_structures
from .errors import InputError, first_fault
from .field_of_view import BoxMM
from .image_files import read_volume, write_volume
from .jobs import Job, State
from .plausibility import unlike_training
from .quality import Estimate
from .segmentation import CancelledError, Segmentation, Segmentor

KIND = "segment"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VolumeRequest(_Frozen):
    """One volume to segment.

    Attributes:
        name: What messages call it.
        image: File or DICOM folder; relative paths are relative to the job folder.
        region: Field of view in mm, LPS; found automatically unless given.
    """

    name: str
    image: str
    region: BoxMM | None = None


class SegmentationSpecification(_Frozen):
    """job.json of a segmentation.

    Attributes:
        bundle: Folder of the model.
        volumes: What to segment, in this order.
        device: auto, cpu or cuda.
        domain: Whose preprocessing to use; the model's own unless given.
        appearance: Where the models are in doubt, let the volume's own intensities decide.
        largest_component: Of each structure keep the largest connected part alone, or as many as its `parts`.
        refine: Ask the models twice, for finer borders.
        probabilities: Write the probability of each structure.
        baseline: Segment with the bundle's model without adaptation as well.
    """

    bundle: str
    volumes: tuple[VolumeRequest, ...]
    device: str = "auto"
    domain: Domain | None = None
    appearance: bool = True
    largest_component: bool = True
    refine: bool = False
    probabilities: bool = False
    baseline: bool = False

    @classmethod
    def of(cls, job: Job) -> SegmentationSpecification:
        """That of a job.

        Raises:
            InputError: The job is of another kind, or its specification is damaged.
        """
        if job.kind != KIND:
            raise InputError(f"{job.folder} is no segmentation but '{job.kind}': give the folder of a segmentation.")
        try:
            return cls.model_validate(job.specification)
        except ValidationError as error:
            field, _ = first_fault(error)
            raise InputError(f"{job.folder / 'job.json'} is damaged (at '{field}'): start the job anew.") from None


def create_segmentation_job(folder: Path, specification: SegmentationSpecification) -> Job:
    """A new segmentation job, queued.

    Raises:
        InputError: The folder is not empty.
    """
    return Job.create(folder, KIND, specification.model_dump(mode="json"))


def run_segmentation(job: Job) -> State:
    """Segment the job's volumes one after the other; one that can't be used does not end those after it.

    Returns:
        `FINISHED`, or `STOPPED` if that was asked for; results of the volumes done until then are kept. An event
        `refused` tells of each volume that can't be used.

    Raises:
        InputError: The model or none of the volumes can be used, or another process works on the job.
    """
    specification = SegmentationSpecification.of(job)
    with job.at_work():
        job.emit_state(State.PREPARING)
        bundle = read_bundle(specification.bundle)
        segmentors = {"segmentation": Segmentor(bundle, specification.device)}
        if specification.baseline:
            segmentors["baseline"] = Segmentor(bundle, specification.device, baseline=True)
        job.emit_state(State.RUNNING)
        job.emit("device", name=segmentors["segmentation"].device)
        refused: list[InputError] = []
        started = time.monotonic()
        try:
            for index, request in enumerate(specification.volumes):
                try:
                    _segment(job, specification, segmentors, index, request, started)
                except InputError as error:
                    refused.append(error)
                    job.emit("refused", volume=index, message=str(error))
        except CancelledError:
            job.emit_state(State.STOPPED)
            return State.STOPPED
        if len(refused) == len(specification.volumes):
            raise refused[0]
        job.emit_state(State.FINISHED)
    return State.FINISHED


def _segment(
    job: Job,
    specification: SegmentationSpecification,
    segmentors: dict[str, Segmentor],
    index: int,
    request: VolumeRequest,
    started: float,
) -> None:
    volume = replace(read_volume(job.folder / request.image), name=request.name)
    manifest = segmentors["segmentation"].manifest
    preprocessing = manifest.preprocessing[specification.domain or manifest.domain]
    for sentence in unlike_training(volume, preprocessing, request.region):
        job.emit("warning", volume=index, message=sentence)
    written: dict[str, Any] = {}
    warnings: list[str] = []
    estimates: dict[str, dict[str, Estimate]] = {}
    for step, (kind, segmentor) in enumerate(segmentors.items()):
        segmentation = segmentor.segment(
            volume,
            region=request.region,
            domain=specification.domain,
            probabilities=specification.probabilities and kind == "segmentation",
            appearance=specification.appearance,
            largest_component=specification.largest_component,
            refine=specification.refine,
            progress=_progress(job, index, len(specification.volumes), step, len(segmentors), started),
            cancelled=lambda: job.stop_requested,
        )
        written |= _write(job, index, kind, segmentation, segmentor)
        estimates[kind] = segmentation.estimates
        if kind == "segmentation":
            doubts = doubts_about_structures(segmentation.found, manifest.structures_ml, manifest.positions_mm)
            written["doubts"] = doubts
            warnings += as_sentences(request.name, doubts)
    warnings += doubts_about_adaptation(request.name, estimates["segmentation"], estimates.get("baseline", {}))
    for sentence in warnings:
        job.emit("warning", volume=index, message=sentence)
    job.emit("result", volume=index, **written)


def _progress(job: Job, index: int, volumes: int, step: int, steps: int, started: float) -> Callable[[int, int], None]:
    """Emits progress over all models of a volume as one count of slices, and the time left for all volumes, as if they
    were alike."""

    def emit(done: int, total: int) -> None:
        overall, all_slices = step * total + done, steps * total
        share = (index + overall / all_slices) / volumes
        seconds = (time.monotonic() - started) * (1 - share) / share
        job.emit("progress", volume=index, volumes=volumes, done=overall, total=all_slices, eta_seconds=seconds)

    return emit


def _write(job: Job, index: int, kind: str, segmentation: Segmentation, segmentor: Segmentor) -> dict[str, Any]:
    """Write a volume's results; what the `result` event says of them."""
    labelmap = f"result/{index}_{kind}.mha"
    write_volume(segmentation.labelmap, job.folder / labelmap)
    if kind == "baseline":
        return {"baseline": labelmap, "baseline_estimates": _plain(segmentation.estimates)}
    maps = {}
    for structure in segmentor.manifest.task.structures:
        if structure.name in segmentation.probabilities:
            maps[structure.name] = f"result/{index}_probability_{structure.value}.mha"
            write_volume(segmentation.probabilities[structure.name], job.folder / maps[structure.name])
    return {
        "labelmap": labelmap,
        "probabilities": maps,
        "confidence": [None if np.isnan(value) else round(float(value), 4) for value in segmentation.confidence],
        "slice_axis": segmentation.slice_axis,
        "estimates": _plain(segmentation.estimates),
    }


def _plain(estimates: dict[str, Estimate]) -> dict[str, list[float]]:
    return {name: [round(value, 4) for value in astuple(estimate)] for name, estimate in estimates.items()}
