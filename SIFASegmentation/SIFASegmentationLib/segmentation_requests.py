"""Requests to segment volumes: files, DICOM series, and the images in folders and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cohorts import find_cases
from .dicom_files import dicom_series
from .errors import InputError
from .regions import BoxMM
from .volumes import volume_files


@dataclass(frozen=True)
class Request:
    """A volume to segment.

    Attributes:
        image: Its file, or the folder of its DICOM series.
        name: Name of its outputs, whatever the other volumes are; chosen by `output_names` unless given.
        region: Its field of view, in mm, LPS; that of all volumes unless given.
        patient: Name of its patient, if a table or the layout of a folder tells it.
    """

    image: Path
    name: str | None = None
    region: BoxMM | None = None
    patient: str | None = None


Given = str | Path | Request
"""A file, a DICOM series folder, a folder of these, a CSV file that lists some, or a request."""


def requests_of(volumes: Given | Sequence[Given]) -> list[Request]:
    """Return a request for each volume.

    Raises:
        InputError: A folder or a CSV can't be used (`cohorts.find_cases`), or an image is given twice.
    """
    given = [volumes] if isinstance(volumes, Given) else volumes
    requests = [one for some in given for one in ([some] if isinstance(some, Request) else _expand(Path(some)))]
    times = Counter(request.image for request in requests)
    if twice := next((image for image, count in times.items() if count > 1), None):
        raise InputError(f"{twice} is given twice", "name it once")
    return requests


def _expand(path: Path) -> list[Request]:
    """Return a request for a file or a DICOM series folder itself, or one for each image in another folder or a CSV."""
    is_folder = path.is_dir() and (bool(volume_files(path)) or not dicom_series(path))
    if not is_folder and path.suffix.lower() != ".csv":
        return [Request(path)]
    requests = []
    for case in find_cases(path, labelled=False):
        # The patient of an image directly in the folder is named after the image, which tells nothing new.
        patient = None if is_folder and case.image.parent == path else case.patient
        requests.append(Request(case.image, region=case.region, patient=patient))
    return requests
