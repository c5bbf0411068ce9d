"""What a user does first in the window of SIFASegmentation, for the tests that begin there."""

from __future__ import annotations

from typing import Any


def use_sample(module: Any) -> None:
    """Choose the model that comes with the extension."""
    from SIFASegmentationWidgets.models import SAMPLE_MODEL  # noqa: PLC0415

    module.widget.use_model(SAMPLE_MODEL)
    # Tests that are about something else take half the time without it.
    module.ui.baselineCheckBox.checked = False


def choose(module: Any, *nodes: Any) -> None:
    """Put nodes into the first row by its selectors."""
    for column, node in enumerate(nodes):
        module.widget.ui.volumesTable.cellWidget(0, column).setCurrentNode(node)


def begin(module: Any, volume: Any) -> Any:
    """Segment a volume with the sample model; return the run in progress."""
    use_sample(module)
    choose(module, volume)
    module.widget.ui.applyButton.click()
    return module.widget.run
