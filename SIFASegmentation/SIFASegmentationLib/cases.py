"""The images of a cohort, each with its patient, labelmap and region of interest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .regions import BoxMM
from .volumes import volume_name


@dataclass(frozen=True)
class Case:
    """One image of a cohort.

    Attributes:
        patient: Name of the patient.
        image: Image file, or folder of a DICOM series.
        label: Labelmap, or folder of masks; None if labels are not to be read.
        region: Region of interest, if the image has one of its own.
    """

    patient: str
    image: Path
    label: Path | None
    region: BoxMM | None = None

    def shown(self, file: Path) -> str:
        """Return the name of its image or labelmap for messages.

        A file in a folder named after the patient is shown with that folder, since such files often have the same name
        for all patients.
        """
        of_patient = volume_name(file.parent) == self.patient
        return f"{file.parent.name}/{file.name}" if of_patient else file.name


def check_disjoint(first: Iterable[Case], second: Iterable[Case], first_name: str, second_name: str) -> None:
    """Refuse two sets of cases that share a patient or a file.

    Raises:
        InputError: They share one; the message names it and both sets.
    """
    first, second = list(first), list(second)
    if shared := sorted({case.image.resolve() for case in first} & {case.image.resolve() for case in second}):
        raise InputError(f"{shared[0]} is both in {first_name} and in {second_name}", "leave it out of one of them")
    if patients := sorted({case.patient for case in first} & {case.patient for case in second}):
        raise InputError(
            f"The patient '{patients[0]}' is both in {first_name} and in {second_name}",
            "leave the patient out of one of them, or rename the files or folders if these are two people",
        )
