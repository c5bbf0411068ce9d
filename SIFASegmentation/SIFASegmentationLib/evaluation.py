"""Score labelmap files against reference files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, nan
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .boxes import covered_voxels, is_too_wide, labelled_box, values_in
from .errors import InputError
from .grids import grid_difference, resample_labelmap
from .image_files import from_image, read_image
from .labelmaps import Labels, UnknownCodesError, coding_named, read_labels, whole_numbers
from .mask_folders import holds_masks
from .metrics import score_labelmaps_in_pieces
from .nnunet_labels import NNUNET_FILE, nnunet_labels
from .scores import DEFAULT_TOLERANCE_MM, Row, Scores, ScoreTable
from .slicer_segmentations import segment_names
from .structures import Task, load_task
from .volume_folders import MASKS_FOLDER, folders_of_masks, volumes_in
from .volume_names import CHANNEL_SUFFIX, MAP_INFIX, OWN_ENDING, by_name, image_subject, labelmap_subject
from .volumes import Volume, volume_files, volume_name
from .work import Work, at_once

Report = Callable[[str, int, int], None]
"""Called with the subject, the number of pairs done, and the number of all pairs."""

_BOTH_EMPTY = "both empty"
_MOST_VALUES = 256  # A labelmap has no more distinct values; a task has fewer structures.


class SomePairsRefusedError(InputError):
    """Some pairs could not be scored; `table` has the scores of the others."""

    def __init__(self, refused: Sequence[InputError], pairs: int, table: ScoreTable) -> None:
        self.table = table
        reasons = "\n".join(map(str, refused))
        super().__init__(f"{len(refused)} of {pairs} pairs could not be scored:\n{reasons}")


def evaluate(
    prediction: str | Path,
    reference: str | Path,
    task: Task | str | Path | None = None,
    coding: str | None = None,
    legacy: bool = False,
    tolerance: float = DEFAULT_TOLERANCE_MM,
    *,
    report: Report | None = None,
) -> ScoreTable:
    """Score a labelmap against its reference, or a folder of labelmaps against a folder of references.

    Files in folders are matched by name, without endings such as `_segmentation`, `_label` and `_seg`
    (`volume_names.labelmap_subject`). A reference on another grid is resampled to the prediction's grid by nearest
    neighbour; that grid is extended if it does not contain all that the reference labels. The notes of the table say
    so. A pair that can't be used does not keep the others from being scored.

    Args:
        prediction: A labelmap or a folder with the masks of one patient; or a folder of labelmaps, or of patients with
            a folder of masks each (`cohorts`). A folder has the masks of one patient if a file in it is named like a
            structure of the task, or if it is called `segmentations` and no file in it is named like a labelmap.
        reference: Likewise; of one patient if the prediction is, else of several.
        task: The structures, or the name of a preset or a file that defines them. Without it, every label value in the
            files is scored, as `label 1`, ...
        coding: Name of the task's coding that the references use. Its names also apply to predicted masks.
        legacy: Follow the paper's convention (`metrics.score_labelmaps`).
        tolerance: Tolerance of surface Dice, in mm, for structures whose tolerance the task does not set; in the legacy
            mode in voxels, for all structures.
        report: Called after each pair.

    Raises:
        SomePairsRefusedError: Some of several pairs can't be used; raised after the others are scored.
        InputError: A folder, the only pair, the task, the coding or the tolerance can't be used, two files belong to
            one subject, or no names match.
    """
    if coding is not None and task is None:
        raise InputError(f"The coding '{coding}' is one of a task's", "say which, by --task")
    if not 0 <= tolerance < inf:
        raise InputError(f"The tolerance {tolerance:g} is not usable", "give a number of mm, 0 or more")
    if isinstance(task, str | Path):
        task = load_task(task)
    if coding is not None and task is not None:
        # Checked once up front: an unknown coding would have every pair refused.
        coding_named(coding, task)
    pairs, unmatched = _pairs(Path(prediction), Path(reference), task, coding)
    rows: list[Row] = []
    scored: list[str] = []
    labels: set[int] = set()
    refused: list[InputError] = []
    for done, (subject, predicted_path, reference_path) in enumerate(pairs, 1):
        try:
            pair = _read_pair(predicted_path, reference_path, task, coding)
            rows += score_pair(
                subject, pair.prediction, pair.reference, pair.names, legacy=legacy, tolerance=tolerance,
                tolerances={} if task is None or legacy else task.tolerances_mm, notes=pair.notes,
            )  # fmt: skip
        except InputError as error:
            if len(pairs) == 1:
                raise
            refused.append(error)
        else:
            scored.append(subject)
            labels |= set(pair.names)
        if report is not None:
            report(subject, done, len(pairs))
    if task is None:
        # With a task, every subject already has a row for each structure, even an empty one.
        rows = _with_empty_rows(rows, scored, [f"label {value}" for value in sorted(labels)])
    table = ScoreTable(tuple(rows), legacy, tolerance, unmatched)
    if refused:
        raise SomePairsRefusedError(refused, len(pairs), table)
    return table


@dataclass(frozen=True)
class _Pair:
    """Two labelmaps with the same label values, the names of the structures by value, and notes for the table."""

    prediction: Volume
    reference: Volume
    names: dict[int, str]
    notes: tuple[str, ...] = ()


def _read_pair(prediction: Path, reference: Path, task: Task | None, coding: str | None) -> _Pair:
    """Read both labelmaps: with the task's values, or without a task with whatever values they have."""
    if task is None:
        predicted, referred = _read_plain(prediction), _read_plain(reference)
        values = sorted({*values_in(predicted.array), *values_in(referred.array)} - {0})
        return _Pair(predicted, referred, {value: f"label {value}" for value in values})
    predicted, in_prediction, _ = _read_prediction(prediction, task, coding)
    referred, in_reference, _ = read_labels(reference, task, coding, allow_empty=True)
    notes = tuple(
        f"segments or masks of the {what} overlap in {count} voxels, which go to the later one"
        for what, count in (("prediction", in_prediction), ("reference", in_reference))
        if count
    )
    return _Pair(predicted, referred, task.names_by_value, notes)


def _with_empty_rows(rows: Sequence[Row], subjects: Sequence[str], structures: Sequence[str]) -> list[Row]:
    """A row for each subject and structure; where there is none in `rows`, both masks are empty."""
    scored = {(row.subject, row.structure): row for row in rows}
    nothing = Scores(nan, nan, nan, nan, 0.0, 0.0, nan)
    return [
        scored.get((subject, structure), Row(subject, structure, nothing, _BOTH_EMPTY))
        for subject in subjects
        for structure in structures
    ]


def score_pair_in_pieces(
    subject: str,
    prediction: Volume,
    reference: Volume,
    names: dict[int, str],
    *,
    legacy: bool = False,
    tolerance: float = DEFAULT_TOLERANCE_MM,
    tolerances: Mapping[int, float] | None = None,
    notes: Sequence[str] = (),
) -> Work[list[Row]]:
    """Score one subject, yielding several times within each structure.

    A reference on another grid is resampled, and the notes say so. A cropped prediction is scored against all that the
    reference labels.

    Args:
        subject: Name of the subject.
        prediction: Labels.
        reference: Labels, possibly on another grid.
        names: Names of the structures by label value.
        legacy: Follow the paper's convention (`metrics.score_labelmaps`).
        tolerance: Tolerance of surface Dice, in mm (voxels in the legacy mode).
        tolerances: Tolerances by label value, for structures that have their own; their rows say so.
        notes: Remarks of the caller on the labelmaps, for every row.

    Returns:
        A row for each structure.
    """
    if not names:
        return []
    notes = list(notes)
    difference = grid_difference(prediction.geometry, reference.geometry)
    if difference is not None:
        prediction, note = _widened(prediction, reference)
        reference = resample_labelmap(reference, prediction.geometry)
        notes += [f"reference resampled: {difference}", *note]
        yield
    i, j, k = prediction.geometry.spacing
    scored = yield from score_labelmaps_in_pieces(
        prediction.array, reference.array, (k, j, i), names, tolerance=tolerance, tolerances=tolerances, legacy=legacy
    )
    rows = []
    for value, name in names.items():
        scores = scored[value]
        empty = [who for who, ml in (("prediction", scores.prediction_ml),
                                     ("reference", scores.reference_ml)) if ml == 0]  # fmt: skip
        emptiness = {0: [], 1: [f"{empty[0]} empty"] if empty else [], 2: [_BOTH_EMPTY]}[len(empty)]
        own = [f"surface Dice at {tolerances[value]:g} mm"] if tolerances and value in tolerances else []
        rows.append(Row(subject, name, scores, "; ".join(emptiness + own + notes)))
    return rows


score_pair = at_once(score_pair_in_pieces)
"""`score_pair_in_pieces` as an ordinary function."""


def _widened(prediction: Volume, reference: Volume) -> tuple[Volume, list[str]]:
    """The prediction on a grid that contains all that the reference labels, with a note if its own grid does not.

    The extended grid continues that of the prediction and just contains what either of the two labels. If they lie
    further apart than any volume is large, the prediction keeps its grid, and the note says that.
    """
    box = labelled_box(reference.array)
    if box is None:
        return prediction, []
    geometry = prediction.geometry
    # The outer faces of the labelled voxels as indices of the reference's grid, then as those of the prediction's.
    faces = [(part.start - 0.5, part.stop - 0.5) for part in reversed(box)]
    corners = np.array(list(itertools.product(*faces))) @ reference.geometry.axes_mm.T + reference.geometry.origin
    first, last = covered_voxels(geometry.index_of(corners))
    if (first >= 0).all() and (last <= geometry.size).all():
        return prediction, []
    own = labelled_box(prediction.array) or (slice(0, 1),) * 3
    first = np.minimum(first, [part.start for part in reversed(own)])
    last = np.maximum(last, [part.stop for part in reversed(own)])
    i, j, k = (last - first).tolist()
    if is_too_wide((i, j, k), geometry.size):
        return prediction, ["the two lie far apart: check that they are of the same volume"]
    x, y, z = (geometry.axes_mm @ first + geometry.origin).tolist()
    array = np.zeros((k, j, i), prediction.array.dtype)
    there = tuple(slice(part.start - at, part.stop - at) for part, at in zip(own, first[::-1].tolist(), strict=True))
    array[there] = prediction.array[own]
    widened = Volume(array, replace(geometry, size=(i, j, k), origin=(x, y, z)), prediction.name)
    return widened, ["the prediction's grid does not cover all of the reference, and was extended"]


def _read_prediction(path: Path, task: Task, coding: str | None) -> Labels:
    """Read a predicted labelmap: with the task's own values, or those of the nnU-Net label file beside it.

    Masks in a folder are matched by the names in `coding`, if it has any; its values are those of references only.

    Raises:
        InputError: As for `read_labels`.
    """
    if holds_masks(path):
        return read_labels(path, task, coding, allow_empty=True)
    beside = path.parent / NNUNET_FILE
    # SIFA's own predictions have the task's values even in a folder of nnU-Net's.
    nnunet = beside.is_file() and not volume_name(path).endswith(OWN_ENDING)
    own = nnunet_labels(beside, task).coding if nnunet else task.own_coding
    try:
        return read_labels(path, task, own, allow_empty=True)
    except UnknownCodesError as error:
        if nnunet:
            raise InputError(error.problem, f"see {beside}, which says what its values are") from error
        advice = f"predictions have the values of {task.name}: recode it, or score without --task"
        raise InputError(error.problem, advice) from error


def _pairs(
    prediction: Path, reference: Path, task: Task | None, coding: str | None
) -> tuple[list[tuple[str, Path, Path]], tuple[str, ...]]:
    """Return each subject with its prediction and reference, and the paths that have no counterpart.

    Raises:
        InputError: A path does not exist, only one of the two is a file or a folder of one patient's masks, two
            labelmaps belong to one subject, or no names match.
    """
    for path in (prediction, reference):
        if not path.exists():
            raise InputError(f"{path} does not exist", "check the path")
    if all(path.is_file() or _holds_masks_of_one(path, task, coding) for path in (prediction, reference)):
        return [(_subject_of(prediction), prediction, reference)], ()
    if prediction.is_file() or reference.is_file():
        raise InputError(
            f"{prediction} and {reference} are a file and a folder",
            "give two files, two folders, or, with --task, a file and the folder of one patient's masks",
        )
    predicted, referred = _labelmaps_in(prediction), _labelmaps_in(reference)
    matched = sorted(predicted.keys() & referred.keys())
    if not matched:
        raise InputError(
            f"No file in {prediction} has a reference of its name in {reference}",
            f"give both the same name; endings such as {OWN_ENDING}, _label and _seg may differ",
        )
    alone = [path for some, others in ((predicted, referred), (referred, predicted))
             for name, path in some.items() if name not in others]  # fmt: skip
    return [(name, predicted[name], referred[name]) for name in matched], tuple(sorted(map(str, alone)))


def _holds_masks_of_one(folder: Path, task: Task | None, coding: str | None) -> bool:
    """Whether a folder holds the masks of one patient rather than labelmaps of several; see `evaluate`."""
    files = volume_files(folder)
    names = None if task is None or coding is None else coding_named(coding, task)
    if task is not None and any(task.structure_named(volume_name(file), names) for file in files):
        return True
    return folder.absolute().name == MASKS_FOLDER and bool(files) and not any(map(labelmap_subject, files))


def _subject_of(labelmap: Path) -> str:
    """Whose labelmap it is, by its name, or where it is a patient's folder of masks by that of the patient's."""
    if labelmap.absolute().name == MASKS_FOLDER and labelmap.is_dir():
        return volume_name(labelmap.absolute().parent)
    return labelmap_subject(labelmap) or volume_name(labelmap)


def _labelmaps_in(folder: Path) -> dict[str, Path]:
    """Labelmaps of a folder by subject; images and probability maps beside them are left out.

    Raises:
        InputError: Two labelmaps belong to one subject.
    """
    if masks := folders_of_masks(folder):
        return by_name((_subject_of(path), path) for path in masks)
    volumes = [path for path in volumes_in(folder) if not path.is_dir() and MAP_INFIX not in volume_name(path)]
    subjects = {path: labelmap_subject(path) for path in volumes}
    labelled = {subject for subject in subjects.values() if subject}
    # A file that is not named like a labelmap may still be one, or the image of one.
    return by_name(
        (subject or volume_name(path), path)
        for path, subject in subjects.items()
        if subject or not labelled or not (_is_image_of(labelled, volume_name(path)) or _is_image(path))
    )


def _is_image_of(subjects: set[str], name: str) -> bool:
    """Whether a volume's name makes it the image of one of the subjects: `P1`, `P1_image`, `P1_0000`."""
    return bool({name, image_subject(name), name.removesuffix(CHANNEL_SUFFIX)} & subjects)


def _is_image(path: Path) -> bool:
    """Whether a file has voxel values that no labelmap has, in any coding; False if it can't be read."""
    try:
        image = read_image(path)
    except InputError:
        # Scoring its pair will report the error.
        return False
    if segment_names(image):
        return False
    try:
        voxels = whole_numbers(from_image(image, volume_name(path)).array, str(path))
    except InputError:
        return True
    return len(values_in(voxels)) > _MOST_VALUES


def _read_plain(path: Path) -> Volume:
    """Read a labelmap with whatever values it has, 0 to 255."""
    if holds_masks(path):
        raise InputError(f"{path} is a folder of masks", "say by --task which structures they are")
    return _without_task(read_image(path), path)


def _without_task(image: sitk.Image, path: Path) -> Volume:
    """The labelmap of `_read_plain`, from the image that was read from its file."""
    if names := segment_names(image):
        # Their values depend on the order in which they were drawn, so they can't be compared between files.
        raise InputError(f"{path} has named segments ({', '.join(names.values())})", "say by --task which they are")
    volume = from_image(image, volume_name(path), source=str(path))
    del image  # It takes as much memory as the volume made from it.
    values = whole_numbers(volume.array, str(path))
    if values.min() < 0 or values.max() > 255:
        raise InputError(f"{path} has label values below 0 or above 255", "give a task and its coding")
    return Volume(values.astype(np.uint8), volume.geometry, volume.name)
