"""HTML report of the demo: a single file that includes its pictures."""

from __future__ import annotations

import html
import platform
from pathlib import Path

import onnxruntime
import torch

from SIFASegmentationLib import __version__
from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.jobs import PREVIEWS_FOLDER
from SIFASegmentationLib.labelmaps import read_labelmap
from SIFASegmentationLib.output_names import labelmap_path
from SIFASegmentationLib.scores import ScoreTable
from SIFASegmentationLib.structures import Task

from .captions import PREVIEW_CAPTION
from .figures import draw_losses, draw_overlays
from .html_report import picture, picture_of_file, table, write_page

_TITLES = {"without_adaptation": "without adaptation", "sifa": "SIFA"}
SEGMENTATIONS = {"without_adaptation": "segmentations_without_adaptation", "sifa": "segmentations"}
"""Folders of a demo's labelmaps, by method."""


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
        picture_of_file(sorted((out / "jobs" / "sifa" / PREVIEWS_FOLDER).glob("*.png"))[-1], PREVIEW_CAPTION),
        "<h2>Losses</h2>",
        picture(draw_losses(out / "jobs" / "sifa"), "SIFA's losses; what each is stands in <code>losses.py</code>."),
        "<h2>Files</h2>",
        "<ul><li><code>slicer/*.seg.nrrd</code> and <code>target/test/*_image.nii.gz</code>: drag them into 3D Slicer"
        "</li><li><code>bundle/</code>: the model, for <code>sifa segment</code> and for SIFASegmentation</li>"
        "<li><code>summary.json</code>: the numbers</li></ul>",
        f"<p>{seconds / 60:.1f} minutes on {html.escape(platform.processor() or platform.machine())}, "
        f"{torch.get_num_threads()} threads; SIFA {__version__}, torch {torch.__version__}, ONNX Runtime "
        f"{onnxruntime.__version__}, Python {platform.python_version()}.</p>",
    ]
    write_page(out / "report.html", "SIFA report", parts)


def _figures_of_patients(out: Path, task: Task) -> list[str]:
    pictures = []
    for case in find_cases(out / "target" / "test", labelled=True):
        labelmaps = [
            (_TITLES[method], read_labelmap(labelmap_path(out / folder, case.patient), task, allow_empty=True))
            for method, folder in SEGMENTATIONS.items()
        ]
        if case.label is not None:
            figure = draw_overlays(read_volume(case.image), labelmaps, read_labelmap(case.label, task), task)
            pictures.append(picture(figure, html.escape(case.patient)))
    return pictures


def _score_table(tables: dict[str, ScoreTable]) -> str:
    structures = next(iter(tables.values())).structures
    rows = []
    for method, scores in tables.items():
        dice = {name: mean for (_, name), mean in scores.means("dice").items()}
        values = [f"{dice[name]:.3f}" for name in (*structures, "mean")]
        rows.append([_TITLES[method], *values, f"{scores.mean('asd'):.2f}"])
    head = ["mean Dice of", *structures, "mean Dice", "mean ASD, mm"]
    empty = [
        f"<p>{_TITLES[method]}, {html.escape(sentence)}.</p>"
        for method, scores in tables.items()
        for sentence in scores.empty_masks()
    ]
    return table(head, rows, best=list(tables).index("sifa")) + "".join(empty)
