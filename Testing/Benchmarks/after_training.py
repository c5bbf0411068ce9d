"""What choices that need no new training are worth: weights, batch norm, intensities, flips, shifts, clean-up.

    python Testing/Benchmarks/after_training.py COMPARISON ROW ... > Testing/Benchmarks/after_training.md

COMPARISON is a folder made by `sifa compare`, with the checkpoints of the rows; all seeds of a row are used. Each
choice is varied alone, compared with the default export and segmentation; the last row makes none of the default
choices. Decisions by such a table must be based on subjects reserved for them (`--subject`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import numpy as np

from SIFASegmentationLib.bundle import Bundle
from SIFASegmentationLib.cases import Case
from SIFASegmentationLib.evaluation import score_pair
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.jobs import Job
from SIFASegmentationLib.scores import Row, ScoreTable
from SIFASegmentationLib.segmentation import Float32Array, Segmentor
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.structures import Task
from SIFATrainingLib.compare import reference_of, tested_cases
from SIFATrainingLib.export import export
from SIFATrainingLib.prepare import Preparation
from SIFATrainingLib.specification import TrainingSpecification
from SIFATrainingLib.training import create_job

EXPORTS = {
    "as exported": ("average", True),
    "raw weights, no moving average": ("raw", True),
    "batch norm as the training left it": ("average", False),
    "raw weights, batch norm as the training left it": ("raw", False),
}


class FlippedSegmentor(Segmentor):
    """Averages the predictions for a slice and for its mirror image, with right and left structures exchanged."""

    def predict(self, slices: Float32Array) -> Float32Array:
        mirrored = super().predict(np.ascontiguousarray(slices[..., ::-1]))[:, self._exchanged()]
        mean: Float32Array = (super().predict(slices) + mirrored[..., ::-1]) / 2
        return mean

    def _exchanged(self) -> list[int]:
        """Return, for each class, the class that it becomes in a mirror image."""
        values = {structure.name: structure.value for structure in self.manifest.task.structures}
        other = {"right": "left", "left": "right"}
        names = {value: " ".join(other.get(word, word) for word in name.split()) for name, value in values.items()}
        return [0, *(values.get(names[value], value) for value in sorted(names))]


SEGMENTORS: Mapping[str, tuple[type[Segmentor], SegmentationOptions]] = {
    "without what the volume's intensities say": (Segmentor, SegmentationOptions(appearance=False)),
    "without the largest parts alone": (Segmentor, SegmentationOptions(largest_component=False)),
    "with mirrored slices": (FlippedSegmentor, SegmentationOptions()),
    "with refined borders (slices shifted by half a cell)": (Segmentor, SegmentationOptions(refine=True)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--subject", action="append", default=[], help="Score this one alone. Can be repeated.")
    arguments = parser.parse_args()
    preparation = Preparation.model_validate_json((arguments.comparison / "prepared.json").read_text(encoding="utf-8"))
    preparation = preparation.below(Path.cwd())
    cases = tested_cases(preparation)
    if arguments.subject:
        cases = tuple(case for case in cases if case.patient in arguments.subject)
    print("# Choices after the training\n")
    chosen = "".join(f" --subject {subject}" for subject in arguments.subject)
    command = f"{arguments.comparison.name} {' '.join(arguments.rows)}{chosen}"
    print(f"Made by `python Testing/Benchmarks/after_training.py {command}`,")
    print(f"{date.today()}. Mean Dice in %, and mean ASD in mm.")
    for row in arguments.rows:
        for job in sorted((arguments.comparison / row).glob("seed_*/job")):
            print_choices(f"{row}, {job.parent.name}", job, cases, preparation)


def print_choices(title: str, job: Path, cases: tuple[Case, ...], preparation: Preparation) -> None:
    """Print the table of one training."""
    task = preparation.loaded_task()
    structures = [structure.name for structure in task.structures]
    print(f"\n## {title}\n\n| choice | {' | '.join(structures)} | mean Dice | mean ASD |")
    print(f"|---|{'---|' * (len(structures) + 2)}", flush=True)
    for choice, segmentor, options in segmentors(job):
        table = scores(segmentor, options, cases, task, preparation.target_coding)
        dice = [np.mean([row.scores.dice for row in table.rows if row.structure == name]) for name in structures]
        cells = " | ".join(f"{100 * value:.1f}" for value in (*dice, table.mean("dice")))
        print(f"| {choice} | {cells} | {table.mean('asd'):.1f} |", flush=True)


def segmentors(job: Path) -> Iterator[tuple[str, Segmentor, SegmentationOptions]]:
    """Yield each choice with its segmentor and the options for `Segmentor.segment`."""
    with tempfile.TemporaryDirectory() as folder:
        bundles = {name: exported(job, Path(folder) / str(number), *choice)
                   for number, (name, choice) in enumerate(EXPORTS.items())}  # fmt: skip
        for name, bundle in bundles.items():
            yield name, Segmentor(bundle), SegmentationOptions()
        for name, (kind, options) in SEGMENTORS.items():
            yield name, kind(bundles["as exported"]), options
        yield (
            "none of all that: raw weights, batch norm and parts as they are, no intensities",
            Segmentor(list(bundles.values())[-1]),
            SegmentationOptions(appearance=False, largest_component=False),
        )


def exported(job: Path, out: Path, weights: str, reestimate: bool) -> Bundle:
    """Export a training's last checkpoint.

    Args:
        job: Folder of the training's job.
        out: Folder for a copy of the job and for the bundle.
        weights: `average` or `raw`.
        reestimate: Whether to re-estimate batch norm, whatever the setting of the training.
    """
    specification = TrainingSpecification.of(Job(job))
    config = specification.config.model_copy(update={"reestimate_batch_norm": reestimate})
    copy = create_job(specification.prepared, out / "job", config)
    (copy.folder / "checkpoints").symlink_to((job / "checkpoints").resolve())
    return export(copy.folder, out / "bundle", weights=weights)


def scores(
    segmentor: Segmentor, options: SegmentationOptions, cases: tuple[Case, ...], task: Task, coding: str | None
) -> ScoreTable:
    """Segment all test volumes and score them."""
    names = {structure.value: structure.name for structure in task.structures}
    rows: list[Row] = []
    for case in cases:
        predicted = segmentor.segment(read_volume(case.image), options).labelmap
        rows += score_pair(case.patient, predicted, reference_of(case, task, coding), names)
    return ScoreTable(tuple(rows))


if __name__ == "__main__":
    main()
