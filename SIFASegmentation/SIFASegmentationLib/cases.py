"""The images of a cohort, each with whose it is and what belongs to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .field_of_view import BoxMM
from .volumes import volume_name


@dataclass(frozen=True)
class Case:
    """One image: patient, file (or DICOM folder), labelmap (or folder of masks) if it is to be read, region of interest
    if it has one."""

    patient: str
    image: Path
    label: Path | None
    region: BoxMM | None = None

    def shown(self, file: Path) -> str:
        """What messages call its image or labelmap: by the file's name, with that of its folder where this is the
        patient's, whose files may be called as everybody's."""
        of_patient = volume_name(file.parent) == self.patient
        return f"{file.parent.name}/{file.name}" if of_patient else file.name


def check_disjoint(first: Iterable[Case], second: Iterable[Case], first_name: str, second_name: str) -> None:
    """Refuse two sets of cases that share a patient or a file.

    Raises:
        InputError: Names the patient, or the file, and both sets.
    """
    first, second = list(first), list(second)
    if shared := sorted({case.image.resolve() for case in first} & {case.image.resolve() for case in second}):
        raise InputError(f"{shared[0]} is both in {first_name} and in {second_name}", "leave it out of one of them")
    if patients := sorted({case.patient for case in first} & {case.patient for case in second}):
        raise InputError(
            f"The patient '{patients[0]}' is both in {first_name} and in {second_name}",
            "leave the patient out of one of them, or rename the files or folders if these are two people",
        )
