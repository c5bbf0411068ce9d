"""Segment volumes on disk, and write their labelmaps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

from .bundle import BundleManifest, manifest_json, read_bundle
from .errors import InputError
from .estimates_table import rows_of
from .examination import Examination, Models, examine, in_memory
from .files import check_can_write
from .image_files import read_volume
from .output_names import distinct_names, possible_names
from .regions import BoxMM
from .result_records import Origin
from .segmentation_options import DEFAULTS, SegmentationOptions
from .segmentation_outputs import OutputOptions, Outputs, OutputWriter
from .segmentation_requests import Given, Request, requests_of
from .segmented_folder import SegmentedFolder
from .structures import Task

__all__ = ["Callbacks", "OutputOptions", "Outputs", "Request", "SomeRefusedError", "segment_files"]


@dataclass(frozen=True)
class Callbacks:
    """Functions that are told about the progress of a call; by default they do nothing.

    Attributes:
        on_volume: Called before each volume with its number and the number of volumes, both including those left out.
        on_slices: Called after each batch of slices with the volume's name, the number of slices done and the total,
            over both models if there is a baseline.
        on_outputs: Called with the outputs of a volume as soon as they are written.
        on_refused: Called with a volume that can't be used and the error as soon as that is known, unless it is the
            only volume.
    """

    on_volume: Callable[[int, int], None] = lambda _number, _count: None
    on_slices: Callable[[str, int, int], None] = lambda _name, _done, _total: None
    on_outputs: Callable[[Outputs], None] = lambda _outputs: None
    on_refused: Callable[[Path, InputError], None] = lambda _image, _error: None


class SomeRefusedError(InputError):
    """Some volumes could not be segmented; `outputs` are those of the others."""

    def __init__(self, refused: dict[Path, InputError], outputs: list[Outputs]) -> None:
        self.outputs = outputs
        count = len(refused) + len(outputs)
        reasons = "\n".join(str(error) for error in refused.values())
        super().__init__(f"{len(refused)} of {count} volumes could not be segmented:\n{reasons}")


_USUAL_OUTPUTS, _NO_CALLBACKS = OutputOptions(), Callbacks()


def segment_files(
    bundle: str | Path,
    volumes: Given | Sequence[Given],
    out: str | Path,
    options: SegmentationOptions = DEFAULTS,
    *,
    outputs: OutputOptions = _USUAL_OUTPUTS,
    device: str = "auto",
    threads: int = 0,
    region: BoxMM | None = None,
    task: Task | None = None,
    skip_existing: bool = False,
    callbacks: Callbacks = _NO_CALLBACKS,
) -> list[Outputs]:
    """Segment volumes with a bundle, one after the other; each file is written whole or not at all.

    A volume that can't be used does not end the call. Several processes may write to one folder. Results replace those
    of the same image, but never those of another one, nor a labelmap that SIFA did not write (`segmented_folder`).

    Args:
        bundle: Bundle from `sifa export`.
        volumes: One or several of: files, DICOM series folders, folders of these, CSV files that list some with their
            regions (`cohorts.find_cases`), or requests.
        out: Folder for `NAME_segmentation.nii.gz` and `estimated_dice.csv` (volume, structure, estimate, band, whether
            a warning is about the structure, warnings about it and about the volume), and on request
            `NAME_probability_STRUCTURE.nii.gz` (float32, in steps of 1/255) and `NAME_confidence.csv` (slice,
            confidence).
        options: How to segment, and whether to write the probability of each structure.
        outputs: What else to write, and in which format.
        device: auto, cpu or cuda.
        threads: Number of CPU threads; 0 for all cores.
        region: Field of view, in mm, LPS, of volumes without one of their own; found automatically unless given.
        task: Task whose structures the bundle must have; not checked unless given.
        skip_existing: Leave out volumes whose results are all in the folder, made from the same image by the same model
            and options, as after a call that was interrupted.
        callbacks: Functions that are told about the progress.

    Returns:
        The outputs of each volume that was segmented.

    Raises:
        SomeRefusedError: Some of several volumes can't be used, or the folder has results of other images under all
            names that they could have; raised when the others are done.
        InputError: The bundle, the folder or the only volume can't be used, the bundle is for other structures, or the
            folder has a labelmap that SIFA did not write where one would be written.
    """
    out, opened = Path(out), read_bundle(bundle)
    _check_task(opened.manifest.task, task, bundle)
    compares = opened.manifest.baseline is not None if outputs.baseline is None else outputs.baseline
    requests = [replace(request, region=request.region or region) for request in requests_of(volumes)]
    # Checked before the first volume is segmented.
    check_can_write(out)
    folder = SegmentedFolder(out, outputs.suffix)
    how = opened.manifest, options, replace(outputs, baseline=compares)
    origins = [Origin(request.image, _made_by(*how, request.region)) for request in requests]
    planned = _planned(requests, origins, folder)
    pending = [volume for volume in planned if not (skip_existing and folder.has(volume.names[0], volume.origin))]
    if not pending:
        return []
    models = Models.load(opened, device, threads, baseline=compares)
    writer = OutputWriter(out, opened.manifest.task, outputs)
    made: list[Outputs] = []
    refused: dict[Path, InputError] = {}
    for volume in pending:
        callbacks.on_volume(volume.number, len(planned))
        with ExitStack() as claim:
            try:
                name = claim.enter_context(folder.claimed(volume.names, volume.origin))
                examination, warnings = _examined(volume, name, models, options, callbacks)
            except InputError as error:
                if len(planned) == 1:
                    raise
                # Stored without its traceback, which would keep the volume in memory.
                refused[volume.image] = InputError(error.problem, error.advice)
                callbacks.on_refused(volume.image, refused[volume.image])
                continue
            # An error here ends the call: if the folder can't be written to, no other volume can succeed.
            written = writer.write(examination, volume.image, name, warnings)
            folder.finish(name, volume.origin, written.files, rows_of(examination, warnings))
        made.append(written)
        callbacks.on_outputs(written)
    if refused:
        raise SomeRefusedError(refused, made)
    return made


@dataclass(frozen=True)
class _Planned:
    """A volume to segment, and what is known about it before the first one is segmented.

    Attributes:
        number: Its number among all volumes, from 1.
        image: Its file or folder.
        region: Its field of view, if one is given.
        origin: Origin of its results.
        names: Names that its outputs can have in the folder, the best first.
        shown: Its name in messages, by the name of its outputs.
    """

    number: int
    image: Path
    region: BoxMM | None
    origin: Origin
    names: list[str]
    shown: dict[str, str]


def _planned(requests: Sequence[Request], origins: Sequence[Origin], folder: SegmentedFolder) -> list[_Planned]:
    """Return the requested volumes with the names that their outputs can have.

    Raises:
        InputError: Two volumes would have the same name, or that of a labelmap that SIFA did not write.
    """
    shown = [possible_names(request) for request in requests]
    names = folder.names(distinct_names(shown), origins)
    return [
        _Planned(number, request.image, request.region, origin, own, called)
        for number, (request, origin, own, called) in enumerate(zip(requests, origins, names, shown, strict=True), 1)
    ]


def _examined(
    volume: _Planned, name: str, models: Models, options: SegmentationOptions, callbacks: Callbacks
) -> tuple[Examination, list[str]]:
    """Segment and examine a volume whose outputs have this name; return the result and the warnings about it.

    Raises:
        InputError: The volume can't be used.
    """
    shown, warnings = volume.shown[name], list[str]()
    with in_memory(shown):
        examination = examine(
            models,
            replace(read_volume(volume.image), name=shown),
            options,
            region=volume.region,
            warn=warnings.append,
            progress=partial(callbacks.on_slices, shown),
        )
    return examination, warnings


def _check_task(own: Task, wanted: Task | None, bundle: str | Path) -> None:
    """Refuse a bundle whose task has other structures than the wanted one.

    Raises:
        InputError: The structures differ; the message names both.
    """
    if wanted is not None and wanted.names != own.names:
        raise InputError(
            f"The bundle {bundle} segments {', '.join(own.names)}, not the structures of the task {wanted.name}",
            "choose another bundle",
        )


def _made_by(
    manifest: BundleManifest, options: SegmentationOptions, outputs: OutputOptions, region: BoxMM | None
) -> str:
    """Return a digest of the model and the options, the same for two volumes that are segmented in the same way."""
    said = repr((manifest_json(manifest), options, region, astuple(outputs)))
    return hashlib.sha256(said.encode()).hexdigest()
