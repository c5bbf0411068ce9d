"""Rebuild the sample model of SIFASegmentation from synthetic patients; takes a quarter of an hour on one core.

    python Testing/sample_model.py FOLDER

FOLDER receives the patients and the training, which continues if it was interrupted. The model is written to the
module's Resources without the weights of all networks, which serve for fine-tuning only and are ten times as large.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from SIFASegmentationLib.bundle import WEIGHTS_FILE, manifest_json, read_bundle
from SIFASegmentationLib.bundle_files import MANIFEST_FILE
from SIFASegmentationLib.files import write_atomically
from SIFASegmentationLib.jobs import Job
from SIFASegmentationLib.phantoms import write_cohort
from SIFATrainingLib.config import make_config
from SIFATrainingLib.console import ProgressLine
from SIFATrainingLib.demo import CT_WINDOWS
from SIFATrainingLib.export import export
from SIFATrainingLib.prepare import make_preparation
from SIFATrainingLib.specification import BASELINE_FOLDER
from SIFATrainingLib.training import create_training_job, train

SAMPLE_MODEL = Path(__file__).parents[1] / "SIFASegmentation" / "Resources" / "SampleModel"
NAME = "Synthetic abdomen, MR to CT (sample)"
TASK, PATIENTS = "abdomen", 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    job = training_job(folder)
    train(job, report=ProgressLine().event)
    bundle = export(job.folder, folder / "bundle", name=NAME, baseline=job.folder / BASELINE_FOLDER)
    keep_without_weights(bundle.path, SAMPLE_MODEL)
    print(SAMPLE_MODEL)


def training_job(folder: Path) -> Job:
    """Return the training in the folder, or create it: of small networks, on coarse slices."""
    if (folder / "job").exists():
        return Job(folder / "job")
    for modality in ("mr", "ct"):
        write_cohort(folder / modality, TASK, modality, range(PATIENTS), labelled=modality == "mr")
    preparation = make_preparation(
        source=folder / "mr", target=folder / "ct", task=TASK, size=96, target_window=CT_WINDOWS[TASK]
    )
    config = make_config(width=0.125, batch=4, iterations=2500)
    preparation = preparation.below(Path.cwd())
    return create_training_job(folder / "job", preparation, config, "cpu", baseline_iterations=800, export=False)


def keep_without_weights(bundle: Path, out: Path) -> None:
    """Copy a bundle without the weights to fine-tune from: the copy can segment, but not be trained further."""
    manifest = read_bundle(bundle).manifest
    files = {name: checksum for name, checksum in manifest.files.items() if name != WEIGHTS_FILE}
    with write_atomically(out) as partial:
        partial.mkdir()
        for name in files:
            shutil.copyfile(bundle / name, partial / name)
        text = manifest_json(manifest.model_copy(update={"files": files}))
        (partial / MANIFEST_FILE).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
