"""Labelmaps of volumes whose labels are kept from us, named by subject: `OUT/SUBJECT.nii.gz`.

python Testing/Benchmarks/segment_heldout.py BUNDLE IMAGES --out Testing/Benchmarks/heldout/mr_to_ct/sifa
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.segment_files import labelmap_path, output_name, segment_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, help="Folder of NAME_image.nii.gz.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--refine", action="store_true", help="As `sifa segment --refine`.")
    arguments = parser.parse_args()
    cases = find_cases(arguments.images, labelled=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        written = segment_files(arguments.bundle, [case.image for case in cases], folder, refine=arguments.refine)
        for case, outputs in zip(cases, written, strict=True):
            path = labelmap_path(Path(folder), output_name(case.image))
            (arguments.out / f"{case.patient}.nii.gz").write_bytes(path.read_bytes())
            print(case.patient, *(f"{name} {estimate}" for name, estimate in outputs.estimates.items()), sep=", ")


if __name__ == "__main__":
    main()
