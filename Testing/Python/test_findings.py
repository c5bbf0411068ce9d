"""Errors of the input as findings: what was found, and what to do where that is sure."""

from __future__ import annotations

import pytest

from SIFASegmentationLib.errors import InputError
from SIFATrainingLib.findings import Finding


@pytest.mark.parametrize(
    ("sentence", "message", "fix"),
    [
        ("a.nii.gz can't be read (b: c): check that the file is complete.",
         "a.nii.gz can't be read (b: c)", "check that the file is complete"),
        ("a has the label codes 6, which are not in the task x: they fit 'BTCV', choose that coding.",
         "a has the label codes 6, which are not in the task x", "they fit 'BTCV', choose that coding"),
        ("a holds 2 DICOM series, give each its own folder: 1.2.3 (40 files); 1.2.4 (1 files).",
         "a holds 2 DICOM series, give each its own folder: 1.2.3 (40 files); 1.2.4 (1 files)", ""),
        ("The coding 'x' for a is not in the task abdomen: it has BTCV, CHAOS MR.",
         "The coding 'x' for a is not in the task abdomen: it has BTCV, CHAOS MR", ""),
        ("a.csv, line 3: the patient is empty, fill it in.", "a.csv, line 3: the patient is empty, fill it in", ""),
        ("There is no advice.", "There is no advice", ""),
    ],
)  # fmt: skip
def test_an_error_says_what_to_do_apart_where_that_is_sure(sentence: str, message: str, fix: str) -> None:
    assert Finding.of("a", InputError(sentence)) == Finding("error", "a", message, fix)
