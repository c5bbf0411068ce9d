"""A running segmentation: a job in its own process, whose results are loaded into the scene piece by piece."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.files import remove_folder_in_use
from SIFASegmentationLib.jobs import Event, Job, State
from SIFASegmentationLib.segmentation_options import DEFAULTS, SegmentationOptions
from SIFASegmentationLib.work import Work

from . import nodes
from .application_end import ends_with_last_window
from .follower import JobFollower
from .pieces import Pieces
from .processes import kill_process, start_process

if TYPE_CHECKING:
    from SIFASegmentationLib.quality import Estimate
    from SIFASegmentationLib.structures import Task


class InputRow(NamedTuple):
    """Nodes of one row.

    Attributes:
        volume: Scalar volume node to segment.
        region: Markups ROI node, or None.
        reference: Segmentation or labelmap node to score against, or None.
    """

    volume: Any
    region: Any | None = None
    reference: Any | None = None


@dataclass
class SegmentationResult:
    """Result of one volume.

    Attributes:
        volume: The volume node, which may have left the scene since.
        segmentation: Segmentation node of the structures; None if it could not be put into the scene.
        baseline: Segmentation node of the model without adaptation, if requested.
        probabilities: Volume nodes with the probability of each structure, by name, if requested.
        confidence: Confidence of each slice of the volume, 0 to 1; None for slices that the model did not see.
        slice_axis: Array axis of the slices: 0 for k, 1 for j, 2 for i.
        estimates: Estimated Dice of `segmentation` by structure.
        baseline_estimates: Estimated Dice of `baseline` by structure.
        doubts: Reasons to doubt a structure, by name, for those that have some.
        files: Folder with the files of results that could not be put into the scene.
        why_files: Why they could not be put there.
        error: Why the volume could not be segmented; empty if it was.
        warnings: Reasons to doubt the result as a whole.
        made: States of the segmentations when they came into the scene, by ID (`nodes.state_of`).
    """

    volume: Any
    segmentation: Any | None = None
    baseline: Any | None = None
    probabilities: dict[str, Any] = field(default_factory=dict)
    confidence: list[float | None] = field(default_factory=list)
    slice_axis: int = 0
    estimates: dict[str, Estimate] = field(default_factory=dict)
    baseline_estimates: dict[str, Estimate] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    files: Path | None = None
    why_files: str = ""
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    made: dict[str, nodes.SegmentsState] = field(default_factory=dict)


@dataclass(frozen=True)
class RunOptions:
    """Options of a run.

    Attributes:
        segmentation: Options for the segmentation of each volume.
        device: Device that the model runs on: auto, cpu or cuda.
        baseline: Also segment with the model without adaptation, if the bundle has one.
        surfaces: Make the structures' closed surfaces, which 3D views show.
    """

    segmentation: SegmentationOptions = DEFAULTS
    device: str = "auto"
    baseline: bool = False
    surfaces: bool = True


class SegmentationRun:
    """A running segmentation: its job, its process, and its results so far."""

    def __init__(
        self,
        job: Job,
        rows: Sequence[InputRow],
        task: Task,
        options: RunOptions,
        on_events: Callable[[list[Event]], None],
        on_end: Callable[[SegmentationRun, State], None],
        output: Any | None = None,
    ) -> None:
        """
        Args:
            job: The job, whose inputs are already in its folder.
            rows: Nodes of the volumes, in the order of the job.
            task: The model's structures.
            options: Options of the run.
            on_events: Called with the job's events as they arrive; results come into the scene later, piece by piece.
            on_end: Called once, with the run and its final state, when all results are in the scene.
            output: Segmentation node whose content the first volume's result replaces; None for a new node.

        Raises:
            InputError: The job's process can't be started.
        """
        self.job, self.task, self.options = job, task, options
        # The nodes rather than their IDs, which may denote other nodes in another scene.
        self.rows, self.output = list(rows), output
        self.warnings: dict[int, list[str]] = {}
        self.device, self.killed = "", False
        self.started = time.monotonic()
        self.results: list[SegmentationResult] = []
        self.pieces = Pieces()
        self._on_events, self._on_end = on_events, on_end
        arguments = [str(job.folder), "--parent", str(os.getpid())]
        self.process = start_process(job, "SIFASegmentationLib", arguments)
        self.follower = JobFollower(job, self._events, self._end, self.process)
        self.follower.start()

    def cancel(self) -> None:
        """Ask the process to stop after the current batch of slices; finished volumes are kept."""
        self.job.request_stop()

    def kill(self) -> None:
        """Kill the process; finished volumes are kept, and `on_end` is called as usual."""
        self.killed = True
        if self.process.poll() is None:
            kill_process(self.process.pid)

    def wait(self) -> None:
        """Wait until the job has ended and its results are in the scene; the window stays responsive meanwhile."""
        ends = ends_with_last_window()
        if ends:
            slicer.app.connect("lastWindowClosed()", self.kill)
        try:
            self.follower.wait()
            self.pieces.finish()
        finally:
            if ends:
                slicer.app.disconnect("lastWindowClosed()", self.kill)

    def abandon(self) -> None:
        """Kill the process and delete the job's folder, without calling `on_end`."""
        self.follower.stop()
        self.pieces.stop()
        if self.process.poll() is None:
            kill_process(self.process.pid)
            self.process.wait()
        remove_folder_in_use(self.job.folder)

    def _events(self, events: list[Event]) -> None:
        for event in events:
            if event.kind == "warning":
                # A warning about the events file itself belongs to no volume.
                self.warnings.setdefault(event.data.get("volume", -1), []).append(event.data["message"])
            elif event.kind == "device":
                self.device = event.data["name"]
            elif event.kind == "result":
                self.pieces.add(self._import(event.data))
            elif event.kind == "refused":
                volume = self.rows[event.data["volume"]].volume
                self.results.append(SegmentationResult(volume, error=event.data["message"]))
        self._on_events(events)

    def _import(self, data: dict[str, Any]) -> Work[None]:
        result = SegmentationResult(
            self.rows[data["volume"]].volume, confidence=data["confidence"], slice_axis=data["slice_axis"],
            estimates=_estimates(data["estimates"]), baseline_estimates=_estimates(data.get("baseline_estimates", {})),
            doubts=data["doubts"], warnings=self.warnings.get(data["volume"], []),
        )  # fmt: skip
        try:
            yield from self._into_scene(result, data)
        except Exception:  # whatever it is (memory, a disk that went away), the result must not be lost with it
            logging.exception("A result could not be put into the scene.")
            result.files = self.job.folder / "result"
            result.why_files = _("it could not be put there, see the error log")
        self.results.append(result)

    def _into_scene(self, result: SegmentationResult, data: dict[str, Any]) -> Work[None]:
        output = self.output if data["volume"] == 0 else None
        result.segmentation = yield from self._labels(result, data["labelmap"], _("{volume} segmentation"), output)
        yield
        if result.segmentation is not None and self.options.surfaces:
            yield from nodes.surfaces_in_pieces(result.segmentation)
        if "baseline" in data:
            result.baseline = yield from self._labels(result, data["baseline"], _("{volume} without adaptation"))
            if result.baseline is not None:
                result.baseline.GetDisplayNode().SetVisibility(False)
            yield
        for structure, path in data["probabilities"].items():
            share = _voxels_of_file(self.job.folder / path)
            yield
            volume = self._volume_of(result, share.shape)
            if volume is not None:
                name = f"{volume.GetName()} {structure}"
                share = share.astype("float32")
                yield
                share /= 255
                result.probabilities[structure] = nodes.volume_from_array(share, volume, name)
                nodes.mark_as_result(result.probabilities[structure])
            yield

    def _labels(self, result: SegmentationResult, path: str, name: str, output: Any | None = None) -> Work[Any | None]:
        """Make the segmentation node of a labelmap file; None if its volume is gone or has changed.

        Args:
            result: Result that the node belongs to.
            path: Path of the labelmap in the job's folder.
            name: Name of a new node, in which {volume} stands for the volume's name.
            output: Segmentation node whose content is replaced if it is still in the scene.
        """
        labels = _voxels_of_file(self.job.folder / path)
        yield
        volume = self._volume_of(result, labels.shape)
        if volume is None:
            return None
        name = name.format(volume=volume.GetName())
        made = nodes.segmentation_from_labels(labels, volume, self.task, name, nodes.if_in_scene(output))
        nodes.mark_as_result(made)
        result.made[made.GetID()] = nodes.state_of(made)
        return made

    def _volume_of(self, result: SegmentationResult, shape: tuple[int, ...]) -> Any | None:
        """Return the volume node of a result; None if it was deleted or its shape changed in the meantime.

        In that case the result must be neither lost nor put onto another image, so its files are kept.
        """
        volume = nodes.if_in_scene(result.volume)
        if volume is not None and slicer.util.arrayFromVolume(volume).shape == shape:
            return volume
        result.files = self.job.folder / "result"
        result.why_files = _("its volume is gone or was changed")
        return None

    def _end(self, state: State) -> None:
        # Queued after the results that are still being loaded into the scene.
        self.pieces.add(self._tell_end(state))

    def _tell_end(self, state: State) -> Work[None]:
        order = [row.volume for row in self.rows]
        self.results.sort(key=lambda result: order.index(result.volume))
        # Patient volumes are always deleted. Results that could not be put into the scene are kept, and so is the log
        # of a job that failed.
        if any(result.files for result in self.results):
            gone = ["input"]
        elif state in (State.FINISHED, State.STOPPED) or self.killed:
            gone = [""]
        else:
            gone = ["input", "result"]
        for part in gone:
            shutil.rmtree(self.job.folder / part, ignore_errors=True)
        self._on_end(self, state)
        yield


def _voxels_of_file(path: Path) -> np.ndarray:
    """Read the voxels (k, j, i) of an image file."""
    from SIFASegmentationLib.image_files import read_volume  # noqa: PLC0415

    return read_volume(path).array


def _estimates(values: dict[str, list[float]]) -> dict[str, Estimate]:
    """Return the estimated Dice by structure from the data of an event."""
    from SIFASegmentationLib.quality import Estimate  # noqa: PLC0415

    return {name: Estimate(*numbers) for name, numbers in values.items()}
