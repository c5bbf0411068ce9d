"""The section of checks: findings about the inputs, for as long as the inputs stay the same."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from slicer.i18n import tr as _

from SIFASegmentationWidgets.colors import color_of
from SIFATrainingLib.findings import Finding

from .check_process import CheckProcess

_SIGNS = {"ok": "&#10003;", "warning": "!", "error": "&#10007;"}


class FindingsPanel:
    """Shows findings, more of which may still come from a check process."""

    def __init__(self, ui: Any) -> None:
        """`ui` must have the widgets `checkSection` and `findingsLabel`."""
        self._ui = ui
        self.findings: list[Finding] = []
        self._inputs: object = None
        self._probe: CheckProcess | None = None
        self._is_checking = False

    def show(self, findings: Sequence[Finding], inputs: object = None, probe: CheckProcess | None = None) -> None:
        """Show findings in place of the previous ones.

        Args:
            findings: The findings.
            inputs: The inputs that they are about, to be compared with later ones (`are_of`); None if that does not
                matter.
            probe: Process that looks for more findings, which are to be passed to `add`.
        """
        self.abandon_probe()
        self.findings, self._inputs, self._probe = list(findings), inputs, probe
        self._is_checking = probe is not None
        self._refresh()

    def begin(self, inputs: object) -> None:
        """Drop the previous findings, and show that these inputs are being checked."""
        self.show([], inputs)
        self._is_checking = True
        self._refresh()

    def add(self, findings: Sequence[Finding]) -> None:
        """Add the findings of the check process, which has ended."""
        self._probe, self._is_checking = None, False
        self.findings += findings
        self._refresh()

    def are_of(self, inputs: object) -> bool:
        """Whether the findings are about these inputs, or about none in particular."""
        return self._inputs is None or self._inputs == inputs

    def forget(self, why: str) -> None:
        """Show no findings, and say why."""
        self.show([])
        self._ui.checkSection.text = _("4 Before you start: {why}").format(why=why)

    def abandon_probe(self) -> None:
        """End the check process; the findings so far stay."""
        if self._probe is not None:
            self._probe.abandon()
            self._probe, self._is_checking = None, False
            self._refresh()

    def _refresh(self) -> None:
        errors, warnings = (sum(f.level == level for f in self.findings) for level in ("error", "warning"))
        title = _("4 Before you start: {checks} checks, {errors} errors, {warnings} warnings")
        if self._is_checking:
            title = _("4 Before you start: still checking...")
        self._ui.checkSection.text = title.format(checks=len(self.findings), errors=errors, warnings=warnings)
        self._ui.findingsLabel.text = findings_html(self.findings)


def findings_html(findings: Sequence[Finding]) -> str:
    """Return findings as lines of HTML for a label, errors first, then warnings, then what is fine."""
    order = ["error", "warning", "ok"]
    lines = []
    for finding in sorted(findings, key=lambda f: order.index(f.level)):
        color, sign = color_of(finding.level), _SIGNS[finding.level]
        fix = f" <i>{html.escape(finding.fix)}</i>" if finding.fix else ""
        lines.append(
            f'<span style="color:{color}"><b>{sign}</b></span> {html.escape(finding.subject)}: '
            f"{html.escape(finding.message)}{'.' if fix else ''}{fix}"
        )
    return "<br>".join(lines)
