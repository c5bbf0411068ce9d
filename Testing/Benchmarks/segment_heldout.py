"""Segment volumes whose labels are withheld from us; the labelmaps are named by subject: `OUT/SUBJECT.nii.gz`.

    python Testing/Benchmarks/segment_heldout.py BUNDLE ... --images IMAGES --out FOLDER

The probabilities of several bundles, whose grids may differ in size, are averaged on the volumes' own grids.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from SIFASegmentationLib.bundle import read_bundle
from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.components import keep_largest_components
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.segment_files import Outputs, segment_files
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.structures import Task
from SIFASegmentationLib.volumes import Volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, required=True, help="Folder of NAME_image.nii.gz.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--refine", action="store_true", help="As `sifa segment --refine`.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    task = read_bundle(arguments.bundles[0]).manifest.task
    options = SegmentationOptions(refine=arguments.refine, probabilities=len(arguments.bundles) > 1)
    for case in find_cases(arguments.images, labelled=False):
        with tempfile.TemporaryDirectory() as folder:
            made: list[Outputs] = []
            for number, bundle in enumerate(arguments.bundles):
                made += segment_files(bundle, [case.image], Path(folder) / str(number), options)
                print(case.patient, *(f"{name} {value}" for name, value in made[-1].estimates.items()), sep=", ")
            path = arguments.out / f"{case.patient}.nii.gz"
            if len(made) > 1:
                write_volume(mean_labelmap(made, task), path)
            else:
                path.write_bytes(made[0].labelmap.read_bytes())


def mean_labelmap(made: list[Outputs], task: Task) -> Volume:
    """Return the labelmap of the classes most probable on average over several models, keeping the largest parts."""
    sums = [
        np.sum([read_volume(path).array for path in of_structure], axis=0, dtype=np.float32)
        for of_structure in zip(*(outputs.probabilities for outputs in made), strict=True)
    ]
    best = len(made) - np.sum(sums, axis=0)
    labels = np.zeros(best.shape, np.uint8)
    for structure, probable in zip(task.structures, sums, strict=True):
        labels[probable > best] = structure.value
        best = np.maximum(best, probable)
    keep_largest_components(labels, task.parts)
    return replace(read_volume(made[0].labelmap), array=labels)


if __name__ == "__main__":
    main()
