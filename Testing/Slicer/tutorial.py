"""The README's tutorial by clicks, with a training long enough to show something. Not one of the tests: ten minutes.

    SIFA_SCREENSHOTS=Resources/Screenshots pytest Testing/Slicer/tutorial.py

leaves the tutorial's pictures. Its last step checks what the tutorial says: adapted is better than not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer

from pictures import picture

TRAINING_SECONDS = 3600.0


def test_tutorial(load_module: Any, tmp_path: Path, process_events_until: Any) -> None:
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415
    from SIFASegmentationWidgets.sample_data import load_cohort, load_patient  # noqa: PLC0415

    segmentation, training = load_module("SIFASegmentation"), load_module("SIFATraining")

    # 1. Sample Data, SIFA, SIFAAbdomenTraining.
    load_cohort("SIFAAbdomenTraining")

    # 2. What to train on.
    ui = training.ui
    ui.sourceAddAllButton.click()
    ui.targetAddAllButton.click()
    ui.targetWindowCheckBox.checked = True
    ui.outputFolderEdit.currentPath = str(tmp_path / "SIFA")
    picture(training, "tutorial_1_volumes")

    # 3. Small, since these patients are simple and this computer may have no GPU; then check.
    ui.advancedSection.collapsed = False
    ui.sizeSpinBox.value = 96
    ui.widthComboBox.setCurrentIndex(ui.widthComboBox.findText("quarter"))
    ui.batchSpinBox.value = 4
    ui.iterationsSpinBox.value = 2000
    ui.checkButton.click()
    process_events_until(lambda: any(finding.subject == "disk" for finding in training.widget.findings.findings), 180)
    ui.sourceSection.collapsed = ui.targetSection.collapsed = True
    picture(training, "tutorial_2_checks")

    # 4. Train.
    ui.startButton.click()
    job = training.widget.training.job
    for section in (ui.taskSection, ui.advancedSection, ui.checkSection):
        section.collapsed = True

    def iteration() -> int:
        return int(training.widget.training._monitor.latest.get("progress", {}).get("iteration", 0))

    def training_adapted() -> bool:
        return (job.folder / "events.jsonl").exists() and job.state() is State.RUNNING and iteration() >= 1000

    process_events_until(lambda: training_adapted() or job.state() is State.FAILED, TRAINING_SECONDS)
    picture(training, "tutorial_3_losses")
    ui.progressTabs.setCurrentIndex(1)
    picture(training, "tutorial_4_previews")
    process_events_until(lambda: job.state() in (State.FINISHED, State.FAILED), TRAINING_SECONDS)
    assert job.state() is State.FINISHED, ui.statusLabel.text
    process_events_until(lambda: ui.useButton.enabled, 10)
    ui.progressSection.collapsed = True
    picture(training, "tutorial_5_model")

    # 5. Use the model on a patient that it has not seen, with its reference, and the baseline beside it.
    volume, reference = load_patient("SIFAAbdomenCT")
    segmentation.widget.use_model(job.folder / "result" / "bundle")
    ui = segmentation.ui
    for column, node in enumerate((volume, None, reference)):
        ui.volumesTable.cellWidget(0, column).setCurrentNode(node)
    ui.applyButton.click()
    process_events_until(lambda: segmentation.widget.run is None, 300)
    # High enough to show the rows without adaptation, too.
    ui.resultsTable.minimumHeight = 330
    picture(segmentation, "tutorial_6_scores")
    table = slicer.util.getNode("SIFA scores")
    dice = [float(table.GetCellText(row, 3)) for row in range(8)]
    assert sum(dice[:4]) > sum(dice[4:]), dice
