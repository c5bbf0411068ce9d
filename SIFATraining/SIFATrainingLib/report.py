"""An HTML report of the demo: one file, its pictures inside."""

from __future__ import annotations

import base64
import html
import io
import platform
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import onnxruntime
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from SIFASegmentationLib import __version__
from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.field_of_view import body_box
from SIFASegmentationLib.files import write_atomically
from SIFASegmentationLib.jobs import Job
from SIFASegmentationLib.labelmaps import read_labelmap
from SIFASegmentationLib.orientation import nearest_orientation
from SIFASegmentationLib.scores import ScoreTable
from SIFASegmentationLib.structures import Task
from SIFASegmentationLib.volumes import Volume, read_volume

mpl.use("Agg")

_TITLES = {"without_adaptation": "without adaptation", "sifa": "SIFA"}
_FOLDERS = {"without_adaptation": "segmentations_without_adaptation", "sifa": "segmentations"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; text-align: right }
th { border-bottom: 2px solid #888 } td:first-child, th:first-child { text-align: left }
tr.best td { font-weight: 600 } img { max-width: 100%; } figcaption { color: #555 } figure { margin: 1.5rem 0 }
code { background: #f3f3f3; padding: .1rem .3rem }
"""


def write_report(out: Path, task: Task, tables: dict[str, ScoreTable], seconds: float) -> None:
    """Write `report.html` into the folder of a finished demo."""
    parts = [
        f"<h1>SIFA: {html.escape(task.title)}</h1>",
        "<p>Labelled MR and unlabelled CT of synthetic patients; a network that segments CT. Scores are of CT volumes "
        "that no training saw, on their own grids. Synthetic patients show that the program works, not how well it "
        "does on real ones.</p>",
        _score_table(tables),
        "<h2>Segmentations</h2>",
        *_figures_of_patients(out, task),
        "<h2>Translated slices</h2>",
        _preview(out),
        "<h2>Losses</h2>",
        _picture(draw_losses(out / "jobs" / "sifa"), "SIFA's losses; what each is stands in <code>losses.py</code>."),
        "<h2>Files</h2>",
        "<ul><li><code>slicer/*.seg.nrrd</code> and <code>target/test/*_image.nii.gz</code>: drag them into 3D Slicer"
        "</li><li><code>bundle/</code>: the model, for <code>sifa segment</code> and for SIFASegmentation</li>"
        "<li><code>summary.json</code>: the numbers</li></ul>",
        f"<p>{seconds / 60:.1f} minutes on {html.escape(platform.processor() or platform.machine())}, "
        f"{torch.get_num_threads()} threads; SIFA {__version__}, torch {torch.__version__}, ONNX Runtime "
        f"{onnxruntime.__version__}, Python {platform.python_version()}.</p>",
    ]
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>SIFA report</title><style>{_STYLE}</style>"
    with write_atomically(out / "report.html") as partial:
        partial.write_text(page + "\n".join(parts) + "</html>\n", encoding="utf-8")


def draw_overlays(
    image: Volume, labelmaps: Sequence[tuple[str, Volume]], reference: Volume, task: Task, slices: int = 3
) -> Figure:
    """Slices of a volume, cropped to the body, a row for each labelmap: its contours over the filled reference."""
    orientation = nearest_orientation(image.geometry, task.plane)
    box = body_box(orientation.apply(image.array)).slices
    pixels = orientation.apply(image.array)[box]
    truth = orientation.apply(reference.array)[box]
    labelled = np.flatnonzero((truth > 0).any(axis=(1, 2)))
    chosen = [int(labelled[round(share * (len(labelled) - 1))]) for share in np.linspace(0.25, 0.75, slices)]
    _, row_mm, column_mm = orientation.reorder(image.geometry.spacing)
    # From fat to the brightest organs; air and bone may be out of range.
    low, high = np.percentile(pixels[truth > 0], (0.1, 99.9)) + np.array((-250, 150))
    shape = row_mm * pixels.shape[1] / (column_mm * pixels.shape[2])
    figure = Figure(figsize=(4.2 * slices, (4.2 * shape + 0.35) * len(labelmaps)), layout="constrained")
    axes = figure.subplots(len(labelmaps), slices, squeeze=False)
    for row, (title, labelmap) in zip(axes, labelmaps, strict=True):
        labels = orientation.apply(labelmap.array)[box]
        for axis, index in zip(row, chosen, strict=True):
            axis.imshow(pixels[index], cmap="gray", vmin=low, vmax=high, aspect=row_mm / column_mm)
            _outline(axis, truth[index], labels[index], task)
            axis.set_axis_off()
        row[0].set_title(f"{title} (lines) over the reference (filled)", loc="left", fontsize=11)
    return figure


def draw_losses(job_folder: Path) -> Figure:
    """A training's losses over its iterations, from its events."""
    events = [event.data for event in Job(job_folder).events()[0] if event.kind == "losses"]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in events[-1]["losses"] if events else ():
        axis = right if "discriminator" in name or "adversarial" in name or "auxiliary" in name else left
        axis.plot([e["iteration"] for e in events], [e["losses"][name] for e in events], label=name.replace("_", " "))
    for axis, title in ((left, "segmentation, cycle, alignment"), (right, "adversarial")):
        axis.set(title=title, xlabel="iteration", ylim=(0, None))
        axis.legend(fontsize=7, ncols=2)
    return figure


def _outline(axis: Axes, truth: NDArray[np.uint8], labels: NDArray[np.uint8], task: Task) -> None:
    for structure in task.structures:
        color = tuple(channel / 255 for channel in structure.color)
        if (reference := truth == structure.value).any():
            axis.contourf(reference, levels=[0.5, 1], colors=[color], alpha=0.45)
        if (predicted := labels == structure.value).any():
            axis.contour(predicted, levels=[0.5], colors=[tuple(0.4 + 0.6 * c for c in color)], linewidths=1.8)


def _figures_of_patients(out: Path, task: Task) -> list[str]:
    pictures = []
    for case in find_cases(out / "target" / "test", labelled=True):
        file = f"{case.patient}_segmentation.nii.gz"
        labelmaps = [
            (_TITLES[method], read_labelmap(out / folder / file, task, allow_empty=True))
            for method, folder in _FOLDERS.items()
        ]
        if case.label is not None:
            figure = draw_overlays(read_volume(case.image), labelmaps, read_labelmap(case.label, task), task)
            pictures.append(_picture(figure, html.escape(case.patient)))
    return pictures


def _preview(out: Path) -> str:
    strip = sorted((out / "jobs" / "sifa" / "previews").glob("*.png"))[-1]
    encoded = base64.b64encode(strip.read_bytes()).decode()
    return (
        f"<figure><img style='width:100%; image-rendering:pixelated' src='data:image/png;base64,{encoded}'>"
        "<figcaption>Above: a source slice, drawn in the target's look, reconstructed, and its labels. Below: a target "
        "slice, drawn in the source's look, reconstructed, and the prediction.</figcaption></figure>"
    )


def _picture(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"<figure><img src='data:image/png;base64,{encoded}'><figcaption>{caption}</figcaption></figure>"


def _score_table(tables: dict[str, ScoreTable]) -> str:
    structures = next(iter(tables.values())).structures
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (*structures, "mean Dice", "mean ASD, mm"))
    rows = []
    for method, table in tables.items():
        dice = {s.structure: s.scores.dice for s in table.summaries() if s.statistic == "mean"}
        cells = "".join(f"<td>{dice[name]:.3f}</td>" for name in (*structures, "mean"))
        kind = " class='best'" if method == "sifa" else ""
        rows.append(f"<tr{kind}><td>{_TITLES[method]}</td>{cells}<td>{table.mean('asd'):.2f}</td></tr>")
    return f"<table><tr><th>mean Dice of</th>{head}</tr>{''.join(rows)}</table>"
