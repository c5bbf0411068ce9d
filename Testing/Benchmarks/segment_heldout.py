"""Labelmaps of volumes whose labels are kept from us, named by subject: `OUT/SUBJECT.nii.gz`.

    python Testing/Benchmarks/segment_heldout.py BUNDLE ... --images IMAGES --out FOLDER

Of several bundles, which may see grids of different sizes, the probabilities on the volumes' own grids are averaged.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from SIFASegmentationLib.bundle import read_bundle
from SIFASegmentationLib.cohorts import Case, find_cases
from SIFASegmentationLib.components import keep_largest_components
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.segment_files import labelmap_path, output_name, segment_files
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
            places = [Path(folder) / str(number) for number in range(len(arguments.bundles))]
            for bundle, place in zip(arguments.bundles, places, strict=True):
                (made,) = segment_files(bundle, [case.image], place, options)
                print(case.patient, *(f"{name} {value}" for name, value in made.estimates.items()), sep=", ")
            path = arguments.out / f"{case.patient}.nii.gz"
            if len(places) > 1:
                write_volume(mean_labelmap(case, places, task), path)
            else:
                path.write_bytes(labelmap_path(places[0], output_name(case.image)).read_bytes())


def mean_labelmap(case: Case, places: list[Path], task: Task) -> Volume:
    """What is most probable in the mean of the probabilities that lie in several folders, the largest parts of it."""
    sums: list[np.ndarray] = []
    for structure in task.structures:
        name = f"{output_name(case.image)}_probability_{structure.name.replace(' ', '_')}.nii.gz"
        sums.append(np.sum([read_volume(place / name).array for place in places], axis=0, dtype=np.float32))
    background = len(places) - np.sum(sums, axis=0)
    labels = np.zeros(background.shape, np.uint8)
    best = background
    for structure, probable in zip(task.structures, sums, strict=True):
        labels[probable > best] = structure.value
        best = np.maximum(best, probable)
    keep_largest_components(labels, task.parts)
    return Volume(labels, read_volume(places[0] / name).geometry, case.patient)


if __name__ == "__main__":
    main()
