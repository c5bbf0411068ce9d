"""Input errors, as one sentence and as a finding that has the advice in a field of its own."""

from __future__ import annotations

import pytest

from SIFASegmentationLib.errors import InputError
from SIFATrainingLib.findings import Finding


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("a.nii.gz can't be read (b: c)", "check that the file is complete"),
         "a.nii.gz can't be read (b: c): check that the file is complete."),
        (InputError("No process prepares a", "is the disk shared by all machines?"),
         "No process prepares a: is the disk shared by all machines?"),
        (InputError("Cancelled"), "Cancelled."),
        (InputError("2 of 3 volumes could not be segmented:\na is constant: check it."),
         "2 of 3 volumes could not be segmented:\na is constant: check it."),
    ],
)  # fmt: skip
def test_an_error_is_a_sentence_of_a_problem_and_an_advice(error: InputError, sentence: str) -> None:
    assert str(error) == sentence
    assert Finding.of("a", error) == Finding("error", "a", error.problem, error.advice)
