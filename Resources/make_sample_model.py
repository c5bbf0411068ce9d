"""Makes the small model that comes with SIFASegmentation, from synthetic patients alone (15 minutes on a CPU).

    .venv/bin/python Resources/make_sample_model.py

It segments synthetic CT (Sample Data, SIFAAbdomenCT) after labels of synthetic MR alone, and carries its unadapted
baseline. It is for trying the module; on real patients it is worth nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from SIFASegmentationLib.bundle import WEIGHTS_FILE, manifest_json, read_bundle
from SIFATrainingLib.config import make_config
from SIFATrainingLib.console import ProgressLine
from SIFATrainingLib.demo import CT_WINDOWS
from SIFATrainingLib.phantoms import write_cohort
from SIFATrainingLib.prepare import make_preparation
from SIFATrainingLib.training import create_training_job, train

OUT = Path(__file__).resolve().parents[1] / "SIFASegmentation" / "Resources" / "SampleModel"
PATIENTS = 12
SETTINGS = {"width": 0.125, "batch": 4, "iterations": 2500, "checkpoint_every": 1000, "preview_every": 1000}


def main() -> None:
    """Draw, train, export, and drop what segmenting does not need."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_cohort(work / "mr", "abdomen", "mr", range(PATIENTS))
        write_cohort(work / "ct", "abdomen", "ct", range(PATIENTS), labelled=False)
        preparation = make_preparation(
            source=work / "mr", target=work / "ct", task="abdomen", size=96, target_window=CT_WINDOWS["abdomen"]
        )
        job = create_training_job(
            work / "job", preparation, make_config(**SETTINGS), "auto", baseline_iterations=800,
            bundle_name="Synthetic abdomen, MR to CT (sample)",
        )  # fmt: skip
        train(job, report=ProgressLine().event)
        bundle = work / "job" / "result" / "bundle"
        manifest = read_bundle(bundle).manifest
        kept = {name: digest for name, digest in manifest.files.items() if name != WEIGHTS_FILE}
        (bundle / WEIGHTS_FILE).unlink()
        (bundle / "manifest.json").write_text(manifest_json(manifest.model_copy(update={"files": kept})))
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(bundle, OUT)
    print(OUT)


if __name__ == "__main__":
    main()
