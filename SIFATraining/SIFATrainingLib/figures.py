"""Figures of the reports: slices with contours, losses, scores by method."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from SIFASegmentationLib.field_of_view import body_box
from SIFASegmentationLib.jobs import Job
from SIFASegmentationLib.orientation import nearest_orientation
from SIFASegmentationLib.scores import ScoreTable
from SIFASegmentationLib.structures import Task
from SIFASegmentationLib.volumes import Volume

_SLICES = 3  # Number of slices of a volume in a figure.


def draw_overlays(image: Volume, labelmaps: Sequence[tuple[str, Volume]], reference: Volume, task: Task) -> Figure:
    """Draw slices of a volume, cropped to the body, with each labelmap's contours over the filled reference.

    Args:
        image: The volume.
        labelmaps: Pairs of title and labelmap, on the volume's grid; each gets a row.
        reference: Labelmap on the volume's grid. Where it is empty, the slices are spread over the body.
        task: Provides the plane, and values and colours of the structures.
    """
    orientation = nearest_orientation(image.geometry, task.plane)
    box = body_box(orientation.apply(image.array)).slices
    pixels = orientation.apply(image.array)[box]
    truth = orientation.apply(reference.array)[box]
    shown = truth > 0 if truth.any() else np.ones_like(truth, bool)
    labelled = np.flatnonzero(shown.any(axis=(1, 2)))
    chosen = [int(labelled[round(share * (len(labelled) - 1))]) for share in np.linspace(0.25, 0.75, _SLICES)]
    _, row_mm, column_mm = orientation.reorder(image.geometry.spacing)
    low, high = _display_window(pixels[shown])
    shape = row_mm * pixels.shape[1] / (column_mm * pixels.shape[2])
    figure = Figure(figsize=(4.2 * _SLICES, (4.2 * shape + 0.35) * len(labelmaps)), layout="constrained")
    axes = figure.subplots(len(labelmaps), _SLICES, squeeze=False)
    for row, (title, labelmap) in zip(axes, labelmaps, strict=True):
        labels = orientation.apply(labelmap.array)[box]
        for axis, index in zip(row, chosen, strict=True):
            axis.imshow(pixels[index], cmap="gray", vmin=low, vmax=high, aspect=row_mm / column_mm)
            _outline(axis, truth[index], labels[index], task)
            axis.set_axis_off()
        row[0].set_title(f"{title} (lines) over the reference (filled)", loc="left", fontsize=11)
    return figure


def _display_window(structures: NDArray[Any]) -> tuple[float, float]:
    """Return the intensities shown as black and white, from those of the structures.

    The range of the structures is extended by half on either side, whatever its unit, because fat around them may be
    darker, and bone, vessels and fluid may be brighter.
    """
    low, high = np.percentile(structures, (0.1, 99.9))
    margin = 0.5 * (high - low)
    return float(low - margin), float(high + margin)


def draw_losses(job_folder: Path) -> Figure:
    """Draw a training's losses over its iterations, from its events."""
    events = [event.data for event in Job(job_folder).events()[0] if event.kind == "losses"]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    # Self-training at the end has other losses than the iterations before.
    for name in dict.fromkeys(name for event in events for name in event["losses"]):
        points = [(event["iteration"], event["losses"][name]) for event in events if name in event["losses"]]
        axis = right if "discriminator" in name or "adversarial" in name or "auxiliary" in name else left
        axis.plot(*zip(*points, strict=True), label=name.replace("_", " "))
    for axis, title in ((left, "segmentation, cycle, alignment"), (right, "adversarial")):
        axis.set(title=title, xlabel="iteration", ylim=(0, None))
        axis.legend(fontsize=7, ncols=2)
    return figure


def draw_watched(curves: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> Figure:
    """Draw the mean Dice of the monitor volumes over the iterations.

    Args:
        curves: Title of each training, and its pairs of iteration and mean Dice.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    axis = figure.subplots()
    for title, points in curves:
        axis.plot(*zip(*points, strict=True), label=title)
    axis.set(xlabel="iteration", ylabel="mean Dice", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    return figure


def _outline(axis: Axes, truth: NDArray[np.uint8], labels: NDArray[np.uint8], task: Task) -> None:
    for structure in task.structures:
        color = tuple(channel / 255 for channel in structure.color)
        if (reference := truth == structure.value).any():
            axis.contourf(reference, levels=[0.5, 1], colors=[color], alpha=0.45)
        if (predicted := labels == structure.value).any():
            axis.contour(predicted, levels=[0.5], colors=[tuple(0.4 + 0.6 * c for c in color)], linewidths=1.8)


def draw_scores(tables: Sequence[tuple[str, ScoreTable]], score: str, label: str) -> Figure:
    """Draw box plots of one score over subjects: a panel for each structure, with a box for each titled table.

    Args:
        tables: Pairs of title and scores, with the same structures.
        score: Name of the score, an attribute of `Scores`.
        label: Label of the score's axis.
    """
    structures = tables[0][1].structures
    height = 0.6 + 0.32 * len(tables)
    figure = Figure(figsize=(11, height), layout="constrained")
    axes = figure.subplots(1, len(structures), sharey=True, squeeze=False)[0]
    titles = [title for title, _ in tables]
    for axis, structure in zip(axes, structures, strict=True):
        values = [
            [v for row in table.rows if row.structure == structure and not isnan(v := getattr(row.scores, score))]
            for _, table in tables
        ]
        axis.boxplot(values, orientation="horizontal", widths=0.6, tick_labels=titles)
        axis.set(title=structure, xlabel=label, ylim=(len(tables) + 0.6, 0.4))
        axis.grid(axis="x", alpha=0.3)
    return figure
