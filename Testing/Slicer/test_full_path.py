"""The whole workflow by clicks alone: sample data, a tiny training, its model, a segmentation, a table of scores.

If the environment variable SIFA_SCREENSHOTS is set to a folder, pictures of the windows are written there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import slicer

from pictures import picture

pytest.importorskip("torch", reason="training needs PyTorch")


def test_from_sample_data_to_scores_by_clicks(
    load_module: Any, load_sample: Any, tmp_path: Path, process_events_until: Any
) -> None:
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415

    segmentation, training = load_module("SIFASegmentation"), load_module("SIFATraining")
    picture(training, "training_empty")
    mr, mr_labels = load_sample("SIFAAbdomenMR")
    ct, ct_labels = load_sample("SIFAAbdomenCT")
    ui = training.ui
    ui.sourceTable.cellWidget(0, 0).setCurrentNode(mr)
    ui.sourceTable.cellWidget(0, 1).setCurrentNode(mr_labels)
    ui.targetTable.cellWidget(0, 0).setCurrentNode(ct)
    ui.outputFolderEdit.currentPath = str(tmp_path / "trainings")
    ui.sizeSpinBox.value = 32
    ui.iterationsSpinBox.value = 8
    ui.batchSpinBox.value = 2
    ui.widthComboBox.setCurrentIndex(3)
    ui.targetWindowCheckBox.checked = True
    assert ui.startButton.enabled, ui.startButton.toolTip
    ui.checkButton.click()
    process_events_until(lambda: any(finding.subject == "disk" for finding in training.widget.findings.findings), 180)
    # How much room the disk has depends on the machine.
    assert {finding.subject for finding in training.widget.findings.findings if finding.level == "error"} <= {"disk"}
    ui.startButton.click()
    job = training.widget.training.job
    assert job is not None, ui.statusLabel.text
    process_events_until(lambda: job.state() in (State.FINISHED, State.FAILED), 240)
    process_events_until(lambda: ui.useButton.enabled, 60)
    assert job.state() is State.FINISHED, ui.statusLabel.text
    assert "liver" in ui.cardLabel.text

    # Choose the model in the other module, as the button does in Slicer's main window, which the tests run without.
    segmentation.widget.use_model(job.folder / "result" / "bundle")
    ui = segmentation.ui
    for column, node in enumerate((ct, None, ct_labels)):
        ui.volumesTable.cellWidget(0, column).setCurrentNode(node)
    assert ui.applyButton.enabled, ui.applyButton.toolTip
    ui.applyButton.click()
    process_events_until(lambda: segmentation.widget.run is None, 300)
    assert ui.statusLabel.text.startswith("Segmented"), ui.statusLabel.text
    table = slicer.util.getNode("SIFA scores")
    rows = [[table.GetCellText(row, column) for column in (1, 3, 5, 2)] for row in range(8)]
    assert [row[0] for row in rows] == ["liver", "right kidney", "left kidney", "spleen"] * 2
    assert all(0 <= float(row[1]) <= 1 for row in rows)
    assert all(row[3] == "without adaptation" for row in rows[4:])


def test_the_example_of_the_readme_runs(
    load_module: Any, small_samples: Any, tmp_path: Path, process_events_until: Any
) -> None:
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415

    load_module("SIFASegmentation")
    load_module("SIFATraining")
    root = Path(__file__).parents[2]
    block = re.search(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    code = block[1]
    for said, meant in {
        "path/to/SIFASegmentation": str(root / "SIFASegmentation"),
        "path/to/new/folder": str(tmp_path / "job"),
        # Less data and training.
        'load_cohort("SIFAAbdomenTraining")': 'load_cohort("SIFAAbdomenTraining", 2)',
        "cohort[0:16:2], cohort[1:16:2])), cohort[16:]": "cohort[0:4:2], cohort[1:4:2])), cohort[4:]",
        "size=96, width=0.25, batch=4, iterations=2000": "size=32, width=0.0625, batch=2, iterations=4",
    }.items():
        assert said in code
        code = code.replace(said, meant)
    small_samples(32)
    names: dict[str, Any] = {}
    exec(code, names)
    job = names["job"]
    process_events_until(lambda: job.state() in (State.FINISHED, State.FAILED), 300)
    assert job.state() is State.FINISHED
    assert [len(names[name]) for name in ("source", "target")] == [2, 2]
