"""Labelmap files against reference files, to a table of scores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import numpy as np

from .boxes import covered_voxels, is_too_wide, labelled_box, values_in
from .cohorts import LABELMAP_ENDINGS, MAP_INFIX, volumes_in
from .errors import InputError
from .grids import grid_difference, resample_labelmap
from .image_files import from_image, read_image
from .labelmaps import Labels, UnknownCodesError, read_labels, whole_numbers
from .metrics import score_labelmaps_in_pieces
from .nnunet_labels import NNUNET_FILE, nnunet_labels
from .scores import DEFAULT_TOLERANCE_MM, Row, Scores, ScoreTable
from .slicer_segmentations import segment_names
from .structures import Task
from .volumes import Volume, volume_name
from .work import Work, at_once

_BOTH_EMPTY = "both empty"


def evaluate(
    prediction: str | Path,
    reference: str | Path,
    task: Task | None = None,
    coding: str | None = None,
    legacy: bool = False,
    tolerance: float = DEFAULT_TOLERANCE_MM,
) -> ScoreTable:
    """Score a labelmap against its reference, or a folder of labelmaps against one of references, matched by name.

    Names match without `_segmentation`, `_label`, `_seg`. A reference on another grid is resampled to the
    prediction's grid by nearest neighbour; that grid is extended if it does not contain the whole reference. The table
    says so.

    Args:
        prediction: A file or a folder.
        reference: The same kind.
        task: The structures; unless given, all values in the files, as `label 1`, ...
        coding: Name of the task's coding that the references use.
        legacy: The paper's convention (`metrics.score_labelmaps`).
        tolerance: Of surface Dice, in mm, for structures of which the task says none.

    Raises:
        InputError: A file, a folder, the coding or the tolerance can't be used, or no two names match.
    """
    if coding is not None and task is None:
        raise InputError(f"The coding '{coding}' is one of a task's", "say which, by --task")
    if not 0 <= tolerance < inf:
        raise InputError(f"The tolerance {tolerance:g} is not usable", "give a number of mm, 0 or more")
    pairs, unmatched = _pairs(Path(prediction), Path(reference))
    rows: list[Row] = []
    labels: set[int] = set()
    for subject, predicted_path, reference_path in pairs:
        notes: list[str] = []
        tolerances: dict[int, float] = {}
        if task is not None:
            predicted, in_prediction, _ = _read_prediction(predicted_path, task)
            referred, in_reference, _ = read_labels(reference_path, task, coding, allow_empty=True)
            notes = [
                f"segments of the {what} overlap in {count} voxels, which go to the later one"
                for what, count in (("prediction", in_prediction), ("reference", in_reference))
                if count
            ]
            names = task.names_by_value
            tolerances = task.tolerances_mm if not legacy else {}
        else:
            predicted, referred = _read_plain(predicted_path), _read_plain(reference_path)
            values = {*values_in(predicted.array), *values_in(referred.array)} - {0}
            names = {value: f"label {value}" for value in sorted(values)}
            labels |= values
        rows += score_pair(
            subject, predicted, referred, names, legacy=legacy, tolerance=tolerance, tolerances=tolerances, notes=notes
        )
    if task is None:
        # Of a task every subject has a row of each structure, be it empty.
        rows = _with_empty_rows(rows, [pair[0] for pair in pairs], [f"label {value}" for value in sorted(labels)])
    return ScoreTable(tuple(rows), legacy, tolerance, unmatched)


def _with_empty_rows(rows: Sequence[Row], subjects: Sequence[str], structures: Sequence[str]) -> list[Row]:
    """A row of each subject and structure, of which neither labelmap may have anything."""
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
    """Rows of one subject, for structures by value; a reference on another grid is resampled, and the notes say so.

    A prediction that was cropped is scored against all that the reference labels. A portion of a structure a piece.

    `notes` are what the caller knows of the labelmaps, and go into every row. A structure with a tolerance of its own,
    in `tolerances` by value, says so in its row.
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
"""The same, all at once."""


def _widened(prediction: Volume, reference: Volume) -> tuple[Volume, list[str]]:
    """The prediction, and a note where its grid does not hold all that the reference labels.

    It is then on a grid of the same voxels that does, and holds what either labels; unless the two lie so far apart
    that no volume is as large.
    """
    box = labelled_box(reference.array)
    if box is None:
        return prediction, []
    geometry = prediction.geometry
    # The outer faces of the labelled voxels, as indices of the prediction's grid.
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


def _read_prediction(path: Path, task: Task) -> Labels:
    """`read_labels` of a labelmap that no coding is given for: it has the task's own values, or nnU-Net's, which writes
    what they are beside its predictions.

    Raises:
        InputError: As `read_labelmap`.
    """
    beside = path.parent / NNUNET_FILE
    # What SIFA writes there has the task's own.
    nnunet = beside.is_file() and not volume_name(path).endswith(LABELMAP_ENDINGS)
    coding = nnunet_labels(beside, task).coding if nnunet else task.own_coding
    try:
        return read_labels(path, task, coding, allow_empty=True)
    except UnknownCodesError as error:
        if nnunet:
            raise InputError(error.problem, f"see {beside}, which says what its values are") from error
        advice = f"predictions have the values of {task.name}: recode it, or score without --task"
        raise InputError(error.problem, advice) from error


def _pairs(prediction: Path, reference: Path) -> tuple[list[tuple[str, Path, Path]], tuple[str, ...]]:
    for path in (prediction, reference):
        if not path.exists():
            raise InputError(f"{path} does not exist", "check the path")
    if prediction.is_dir() != reference.is_dir():
        raise InputError(f"{prediction} and {reference} are a file and a folder", "give two files or two folders")
    if prediction.is_file():
        return [(_subject(prediction), prediction, reference)], ()
    predicted, referred = _labelmaps_in(prediction), _labelmaps_in(reference)
    matched = sorted(predicted.keys() & referred.keys())
    if not matched:
        raise InputError(
            f"No file in {prediction} has a reference of its name in {reference}",
            f"let names match but for {', '.join(LABELMAP_ENDINGS)}",
        )
    alone = [path for some, others in ((predicted, referred), (referred, predicted))
             for name, path in some.items() if name not in others]  # fmt: skip
    return [(name, predicted[name], referred[name]) for name in matched], tuple(sorted(map(str, alone)))


def _labelmaps_in(folder: Path) -> dict[str, Path]:
    """Labelmaps by subject; images and probability maps beside them are left out."""
    volumes = [path for path in volumes_in(folder) if not path.is_dir() and MAP_INFIX not in volume_name(path)]
    labelled = [path for path in volumes if volume_name(path).endswith(LABELMAP_ENDINGS)]
    named: dict[str, Path] = {}
    for path in labelled:
        name = _subject(path)
        if name in named:
            raise InputError(f"{named[name]} and {path} are both of the subject {name}", "remove one")
        named[name] = path
    # What is not called a labelmap may be one nevertheless, or the image of one.
    plain = [path for path in volumes if path not in labelled]
    if labelled:
        plain = [p for p in plain if not volume_name(p).startswith(tuple(named)) and _is_labelmap(p)]
    return named | {volume_name(path): path for path in plain}


def _is_labelmap(path: Path) -> bool:
    try:
        _read_plain(path)
    except InputError:
        return False
    return True


def _subject(path: Path) -> str:
    name = volume_name(path)
    return next((name.removesuffix(ending) for ending in LABELMAP_ENDINGS if name.endswith(ending)), name)


def _read_plain(path: Path) -> Volume:
    """A labelmap with whatever values it has, 0 to 255."""
    image = read_image(path)
    if names := segment_names(image):
        # In each file they have the values in which they were drawn.
        raise InputError(f"{path} has named segments ({', '.join(names.values())})", "say by --task which they are")
    volume = from_image(image, volume_name(path), source=str(path))
    del image  # As large as what is made of it.
    values = whole_numbers(volume.array, str(path))
    if values.min() < 0 or values.max() > 255:
        raise InputError(f"{path} has label values below 0 or above 255", "give a task and its coding")
    return Volume(values.astype(np.uint8), volume.geometry, volume.name)
