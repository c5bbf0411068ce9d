"""Which files belong together: images, their labelmaps, their patients.

| what is given | images                      | labelmaps                  | patient    |
|---------------|-----------------------------|----------------------------|------------|
| a folder      | `NAME_image.*`              | `NAME_label.*`             | NAME       |
| nnU-Net       | `imagesTr/NAME_0000.*`      | `labelsTr/NAME.*`          | NAME       |
| a folder      | any volumes, DICOM folders  | none (unlabelled only)     | file name  |
| a CSV file    | column `image`              | column `label`             | `patient`  |
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .volumes import VOLUME_SUFFIXES, dicom_series, volume_name

IMAGE_SUFFIX, LABEL_SUFFIX, CHANNEL_SUFFIX = "_image", "_label", "_0000"


@dataclass(frozen=True)
class Case:
    """One image: whose it is, its file (or DICOM folder), and its labelmap if it is to be read."""

    patient: str
    image: Path
    label: Path | None


def find_cases(path: str | Path, *, labelled: bool) -> list[Case]:
    """The cases in a folder or a CSV file, sorted by patient and image.

    Args:
        path: As in the table above; paths in a CSV are relative to it.
        labelled: Whether each image needs a labelmap. If not, labelmaps are left alone: `Case.label` is None.

    Raises:
        InputError: Nothing there, or an image without labelmap, or a labelmap without image.
    """
    path = Path(path)
    if path.is_file():
        cases = _from_csv(path, labelled)
    elif path.is_dir():
        cases = _from_folder(path, labelled)
    else:
        raise InputError(f"{path} does not exist: give a folder of volumes or a CSV file.")
    return sorted(cases, key=lambda case: (case.patient, str(case.image)))


def volumes_in(folder: Path) -> list[Path]:
    """Volume files and DICOM series folders directly in a folder, sorted by name."""
    found = []
    for entry in sorted(folder.iterdir()):
        is_series = entry.is_dir() and bool(dicom_series(entry))
        if not entry.name.startswith(".") and (is_series or is_volume_file(entry)):
            found.append(entry)
    return found


def is_volume_file(path: Path) -> bool:
    """Whether a file's name ends as a volume's."""
    return path.is_file() and path.name.lower().endswith(VOLUME_SUFFIXES)


def check_disjoint(first: Iterable[Case], second: Iterable[Case], first_name: str, second_name: str) -> None:
    """Refuse two sets of cases that share a patient or a file.

    Raises:
        InputError: Names the patient, or the file, and both sets.
    """
    first, second = list(first), list(second)
    if shared := sorted({case.image.resolve() for case in first} & {case.image.resolve() for case in second}):
        raise InputError(f"{shared[0]} is both in {first_name} and in {second_name}: leave it out of one of them.")
    if patients := sorted({case.patient for case in first} & {case.patient for case in second}):
        raise InputError(
            f"The patient '{patients[0]}' is both in {first_name} and in {second_name}: leave the patient out of one "
            "of them, or rename the files if these are two people."
        )


def _from_folder(folder: Path, labelled: bool) -> list[Case]:
    if (folder / "imagesTr").is_dir():
        images = _by_name(volumes_in(folder / "imagesTr"), CHANNEL_SUFFIX)
        labels = _by_name(volumes_in(folder / "labelsTr"), "") if labelled and (folder / "labelsTr").is_dir() else {}
        return _paired(images, labels, folder, labelled)
    volumes = volumes_in(folder)
    images = _by_name([path for path in volumes if volume_name(path).endswith(IMAGE_SUFFIX)], IMAGE_SUFFIX)
    if images:
        labels = _by_name([path for path in volumes if volume_name(path).endswith(LABEL_SUFFIX)], LABEL_SUFFIX)
        return _paired(images, labels if labelled else {}, folder, labelled)
    if labelled or not volumes:
        raise InputError(
            f"{folder} holds no {'labelled ' if labelled else ''}volumes: it needs NAME_image.nii.gz"
            f"{' with NAME_label.nii.gz' if labelled else ''} (or .nrrd, .mha), or imagesTr"
            f"{' with labelsTr' if labelled else ''}."
        )
    return [Case(volume_name(path), path, None) for path in volumes]


def _by_name(paths: list[Path], suffix: str) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in paths:
        name = volume_name(path)
        if suffix == CHANNEL_SUFFIX and not name.endswith(suffix):
            raise InputError(
                f"{path} does not end in {CHANNEL_SUFFIX}: SIFA takes volumes of one channel in the nnU-Net layout."
            )
        name = name.removesuffix(suffix)
        if name in named:
            raise InputError(f"{named[name]} and {path} are both called {name}: remove or rename one.")
        named[name] = path
    return named


def _paired(images: dict[str, Path], labels: dict[str, Path], folder: Path, labelled: bool) -> list[Case]:
    if not images:
        raise InputError(f"{folder} holds no volumes: put NAME{CHANNEL_SUFFIX}.nii.gz into its imagesTr.")
    if labelled:
        if missing := [path for name, path in images.items() if name not in labels]:
            raise InputError(f"{missing[0]} has no labelmap beside it: add {LABEL_SUFFIX} or take the image away.")
        if orphans := [path for name, path in labels.items() if name not in images]:
            raise InputError(f"{orphans[0]} has no image beside it: add the image or take the labelmap away.")
    return [Case(name, path, labels.get(name)) for name, path in images.items()]


def _from_csv(path: Path, labelled: bool) -> list[Case]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV text file: give a folder, or a CSV with patient, image, label.") from error
    wanted = ["patient", "image", *(["label"] if labelled else [])]
    if not rows or any(column not in rows[0] for column in wanted):
        raise InputError(f"{path} needs the columns {', '.join(wanted)} and a row for each image.")
    cases = []
    for number, row in enumerate(rows, 2):
        if empty := [column for column in wanted if not (row[column] or "").strip()]:
            raise InputError(f"{path}, line {number}: the {empty[0]} is empty, fill it in.")
        files = {column: path.parent / row[column].strip() for column in wanted[1:]}
        if absent := [file for file in files.values() if not file.exists()]:
            raise InputError(f"{path}, line {number}: {absent[0]} does not exist.")
        cases.append(Case(row["patient"].strip(), files["image"], files.get("label")))
    images = [case.image.resolve() for case in cases]
    if repeated := [image for image in images if images.count(image) > 1]:
        raise InputError(f"{path} lists {repeated[0]} twice: remove one line.")
    return cases
