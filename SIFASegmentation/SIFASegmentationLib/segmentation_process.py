"""Runs a segmentation job (`segmentation_job`), in a process of its own."""

from __future__ import annotations

import time
from dataclasses import astuple, replace
from typing import Any

import numpy as np

from .bundle import read_bundle
from .errors import InputError
from .examination import Models, examine, in_memory
from .image_files import read_volume, write_volume
from .jobs import Job, State
from .quality import Estimate
from .segmentation import CancelledError, Progress, Segmentation
from .segmentation_job import SegmentationSpecification, VolumeRequest


def run_segmentation(job: Job) -> State:
    """Segment the job's volumes one after the other; a volume that can't be used does not stop those after it.

    Returns:
        `FINISHED`, or `STOPPED` if that was asked for; the results of volumes done before are kept.

    Raises:
        InputError: The model can't be used, none of the volumes can be used, or another process works on the job.
    """
    specification = SegmentationSpecification.of(job)
    with job.at_work():
        job.emit_state(State.PREPARING)
        bundle = read_bundle(specification.bundle)
        models = Models.load(bundle, specification.device, baseline=specification.baseline)
        job.emit_state(State.RUNNING)
        job.emit("device", name=models.adapted.device)
        refused: list[InputError] = []
        started = time.monotonic()
        try:
            for index, request in enumerate(specification.volumes):
                try:
                    with in_memory(request.name):
                        _segment(job, specification, models, index, request, started)
                except InputError as error:
                    # Stored without its traceback, which would keep the volume in memory.
                    refused.append(InputError(error.problem, error.advice))
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
    models: Models,
    index: int,
    request: VolumeRequest,
    started: float,
) -> None:
    made = examine(
        models,
        replace(read_volume(job.folder / request.image), name=request.name),
        specification.options,
        region=request.region,
        warn=lambda sentence: job.emit("warning", volume=index, message=sentence),
        progress=_progress(job, index, len(specification.volumes), started),
        cancelled=lambda: job.stop_requested,
    )
    written = _write(job, index, made.segmentation)
    if made.baseline is not None:
        written |= _write_baseline(job, index, made.baseline)
    job.emit("result", volume=index, doubts=made.doubts, **written)


def _progress(job: Job, index: int, volumes: int, started: float) -> Progress:
    """Callback that emits the progress of a volume, with the time left as if all volumes took equally long."""

    def emit(done: int, total: int) -> None:
        share = (index + done / total) / volumes
        seconds = (time.monotonic() - started) * (1 - share) / share
        job.emit("progress", volume=index, volumes=volumes, done=done, total=total, eta_seconds=seconds)

    return emit


def _write(job: Job, index: int, segmentation: Segmentation) -> dict[str, Any]:
    """Write a volume's results, and return the data of its `result` event."""
    labelmap = f"result/{index}_segmentation.mha"
    write_volume(segmentation.labelmap, job.folder / labelmap)
    maps = {}
    for number, (name, map_) in enumerate(segmentation.probabilities.items(), 1):
        maps[name] = f"result/{index}_probability_{number}.mha"
        write_volume(map_, job.folder / maps[name])
    return {
        "labelmap": labelmap,
        "probabilities": maps,
        "confidence": [None if np.isnan(value) else round(float(value), 4) for value in segmentation.confidence],
        "slice_axis": segmentation.slice_axis,
        "estimates": _plain(segmentation.estimates),
    }


def _write_baseline(job: Job, index: int, baseline: Segmentation) -> dict[str, Any]:
    """Write the results of the model without adaptation, and return their part of the `result` event."""
    labelmap = f"result/{index}_baseline.mha"
    write_volume(baseline.labelmap, job.folder / labelmap)
    return {"baseline": labelmap, "baseline_estimates": _plain(baseline.estimates)}


def _plain(estimates: dict[str, Estimate]) -> dict[str, list[float]]:
    return {name: [round(value, 4) for value in astuple(estimate)] for name, estimate in estimates.items()}
