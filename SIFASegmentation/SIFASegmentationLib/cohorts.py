"""Which files belong together: images, their labelmaps, their patients.

| what is given | images                      | labelmaps                  | patient    |
|---------------|-----------------------------|----------------------------|------------|
| a folder      | `NAME_image.*`              | `NAME_label.*`             | NAME       |
| nnU-Net       | `imagesTr/NAME_0000.*`      | `labelsTr/NAME.*`          | NAME       |
| a folder      | any volumes, DICOM folders  | none (unlabelled only)     | file name  |
| `images...`   | `NAME_0000.*`               | none (unlabelled only)     | NAME       |
| a CSV file    | column `image`              | column `label`             | `patient`  |

The CSV alone can give a patient several images, and an image a region of interest of its own: column `region`,
`"X0,X1,Y0,Y1,Z0,Z1"` in mm, LPS, in quotes, empty where there is none.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from .dicom_files import SUFFIXES, check_links, dicom_series, is_dicom
from .errors import InputError
from .field_of_view import BoxMM, parse_box
from .files import check_name
from .volumes import VOLUME_SUFFIXES, volume_name

IMAGE_SUFFIX, LABEL_SUFFIX, CHANNEL_SUFFIX = "_image", "_label", "_0000"
LABELMAP_ENDINGS = ("_segmentation", LABEL_SUFFIX, "_labels", "_seg")
"""How labelmaps are called after their images; the first is what SIFA writes itself."""

MAP_INFIX = "_probability_"
"""In the names of the maps that SIFA writes beside its labelmaps."""

_DICOM_SUFFIXES = ("", *SUFFIXES)
_LOOKED_AT = 3  # Files of a folder, to tell whether it holds DICOM.
_SEGMENTATION_SUFFIX = ".seg.nrrd"
_IMAGE_ENDINGS = [suffix for suffix in VOLUME_SUFFIXES if suffix != _SEGMENTATION_SUFFIX]


@dataclass(frozen=True)
class Case:
    """One image: patient, file (or DICOM folder), labelmap if it is to be read, region of interest if it has one."""

    patient: str
    image: Path
    label: Path | None
    region: BoxMM | None = None


def find_cases(path: str | Path, *, labelled: bool, patients: Collection[str] | None = None) -> list[Case]:
    """The cases in a folder or a CSV file, sorted by patient and image.

    Args:
        path: As in the table above; paths in a CSV are relative to it.
        labelled: Whether each image needs a labelmap. If not, labelmaps are left alone: `Case.label` is None.
        patients: Whose cases are wanted, all unless given; what the others have or lack does not matter.

    Raises:
        InputError: Nothing there, an image without labelmap, a labelmap without image, two files for one, something of
            a patient that would be left out (a broken link, a volume beside `*_image` files that is none and was not
            made from one, DICOM files elsewhere than in a folder of each series), or a line of the CSV that is
            incomplete or names a missing file.
    """
    path = Path(path)
    if path.is_file():
        cases = _from_csv(path, labelled, patients)
    elif path.is_dir():
        cases = _from_folder(path, labelled, patients)
    else:
        raise InputError(f"{path} does not exist", "give a folder of volumes or a CSV file")
    files = [file for case in cases for file in (case.image, case.label) if file is not None]
    check_links(files)
    for file in files:
        check_name(file)
    return sorted(cases, key=lambda case: (case.patient, str(case.image)))


def volumes_in(folder: Path) -> list[Path]:
    """Volume files, broken links to such, and DICOM series folders directly in a folder, sorted by name.

    Raises:
        InputError: A series has a broken link.
    """
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if is_volume_file(entry) or (entry.is_dir() and dicom_series(entry)):
            found.append(entry)
    return found


def is_volume_file(path: Path) -> bool:
    """Whether something in a folder is a file whose name ends as a volume's, or a link to one, even a broken link."""
    return not path.is_dir() and path.name.lower().endswith(VOLUME_SUFFIXES)


def holds_channels(folder: Path) -> bool:
    """Whether a folder is one of nnU-Net's images, whose files are called after patient and channel."""
    return folder.name.startswith("images")


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
            "leave the patient out of one of them, or rename the files if these are two people",
        )


def _from_folder(folder: Path, labelled: bool, patients: Collection[str] | None) -> list[Case]:
    if (folder / "imagesTr").is_dir():
        volumes = volumes_in(folder / "imagesTr")
        images = _by_name(_images(volumes), CHANNEL_SUFFIX)
        labels_folder = folder / "labelsTr"
        labels = _by_name(volumes_in(labels_folder), "") if labelled and labels_folder.is_dir() else {}
        images, labels = _of(patients, images), _of(patients, labels)
        cases = _paired(images, labels, folder, "imagesTr/{}_0000", "labelsTr/{}", labelled)
        _check_nothing_is_missed(folder / "imagesTr", volumes)
        return cases
    volumes = volumes_in(folder)
    images = _by_name([path for path in _images(volumes) if volume_name(path).endswith(IMAGE_SUFFIX)], IMAGE_SUFFIX)
    if labelled or images:
        found = [path for path in volumes if volume_name(path).endswith(LABEL_SUFFIX)]
        labels = _by_name(found, LABEL_SUFFIX) if labelled else {}
        images, labels = _of(patients, images), _of(patients, labels)
        cases = _paired(images, labels, folder, "{}_image", "{}_label", labelled)
        _check_nothing_is_missed(folder, volumes)
        _check_all_are_images(volumes)
        return cases
    _check_nothing_is_missed(folder, volumes)
    plain = _of(patients, _by_name(_images(volumes), CHANNEL_SUFFIX if holds_channels(folder) else ""))
    if not plain:
        raise InputError(
            f"{folder} holds no volumes",
            f"put volume files ({', '.join(_IMAGE_ENDINGS)}) or folders of DICOM series into it",
        )
    return [Case(name, path, None) for name, path in plain.items()]


def _of(patients: Collection[str] | None, named: dict[str, Path]) -> dict[str, Path]:
    return {name: path for name, path in named.items() if patients is None or name in patients}


def _images(volumes: list[Path]) -> list[Path]:
    """Those that are not labelmaps or maps by their names, such as `P1_seg.nii.gz` beside `P1.nii.gz`."""
    names = {volume_name(path) for path in volumes}
    stems = {name.removesuffix(suffix) for name in names for suffix in ("", IMAGE_SUFFIX, CHANNEL_SUFFIX)}
    return [path for path in volumes if not _is_made_from(stems, path)]


def _is_made_from(stems: set[str], path: Path) -> bool:
    """Whether a file is a labelmap or a map of one of the volumes that are called so."""
    name = volume_name(path)
    if name.endswith(LABEL_SUFFIX) or path.name.lower().endswith(_SEGMENTATION_SUFFIX):
        return True
    made_from = {name.removesuffix(ending) for ending in LABELMAP_ENDINGS} | {name.partition(MAP_INFIX)[0]}
    return bool((made_from - {name}) & stems)


def _check_all_are_images(volumes: list[Path]) -> None:
    """Refuse volume files beside `*_image` files that are neither such nor made from one.

    Raises:
        InputError: Names the first of them.
    """
    for path in _images(volumes):
        # A DICOM series can be what an image was made of.
        if not path.is_dir() and not volume_name(path).endswith(IMAGE_SUFFIX):
            raise InputError(
                f"{path} lies beside files called NAME{IMAGE_SUFFIX} and is neither one nor a labelmap of one",
                "rename it, or take it away",
            )


def _check_nothing_is_missed(folder: Path, volumes: list[Path]) -> None:
    """Refuse a folder of whose patients some would be left out without a word.

    Raises:
        InputError: DICOM slices of a series that has no folder, a series that lies deeper, or a broken link that can
            have been to either.
    """
    known, has_files = set(volumes), any(not path.is_dir() for path in volumes)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "DICOMDIR" or entry in known:
            continue
        # Beside volumes that are files, series can be what these were made of.
        if not has_files:
            if entry.is_dir() and (deeper := _deeper_dicom(entry)) is not None:
                raise InputError(
                    f"{entry} holds DICOM files further down, in {deeper}",
                    f"put each series into a folder directly in {folder}, or take this one away",
                )
            check_links(link for link in (entry, *sorted(entry.rglob("*"))) if _is_broken_series(link))
        if volumes and entry.is_file() and is_dicom(entry):
            raise InputError(
                f"{entry} is a DICOM file beside volumes", "put each series into a folder of its own, or take it away"
            )


def _is_broken_series(path: Path) -> bool:
    """Whether something in a folder is a broken link that by its name can be to a series or a slice: one with a suffix
    of DICOM's, none, or the end of a UID."""
    suffix = path.suffix.lower()
    return not path.exists() and (suffix in _DICOM_SUFFIXES or suffix[1:].isdecimal())


def _deeper_dicom(folder: Path) -> Path | None:
    """A folder below that holds DICOM files, if there is one; the first files of each are looked at."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        if any(is_dicom(Path(place, name)) for name in sorted(files)[:_LOOKED_AT]):
            return Path(place)
    return None


def _by_name(paths: list[Path], suffix: str) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in paths:
        name = volume_name(path)
        if suffix == CHANNEL_SUFFIX and not name.endswith(suffix):
            raise InputError(
                f"{path} does not end in {CHANNEL_SUFFIX}", "give volumes of one channel, in the nnU-Net layout"
            )
        name = name.removesuffix(suffix)
        if name in named:
            raise InputError(f"{named[name]} and {path} are both called {name}", "remove or rename one")
        named[name] = path
    return named


def _paired(
    images: dict[str, Path], labels: dict[str, Path], folder: Path, image: str, label: str, labelled: bool
) -> list[Case]:
    """Images with their labelmaps; `image` and `label` say how their files are called, with {} for the name."""
    if not images and not labels:
        pair = f"{image.format('NAME')}.nii.gz" + (f" with {label.format('NAME')}.nii.gz" if labelled else "")
        raise InputError(f"{folder} holds no {'labelled ' if labelled else ''}volumes", f"put {pair} into it")
    if labelled:
        for name in sorted(images.keys() ^ labels.keys()):
            file, kind, other = (images[name], "labelmap", label) if name in images else (labels[name], "image", image)
            raise InputError(
                f"{file} has no {kind}", f"add {folder / other.format(name)}.nii.gz, or take the file away"
            )
    return [Case(name, path, labels.get(name)) for name, path in images.items()]


def _from_csv(path: Path, labelled: bool, patients: Collection[str] | None) -> list[Case]:
    wanted = ["patient", "image", *(["label"] if labelled else [])]
    cases: list[Case] = []
    lines: dict[Path, int] = {}
    for line, row in _csv_rows(path, wanted):
        if patients is not None and row["patient"] not in patients:
            continue
        for column in wanted:
            if not row[column]:
                raise InputError(f"{path}, line {line}, has an empty {column}", "fill it in")
        files = [path.parent / row[column] for column in wanted[1:]]
        for file in files:
            if not file.exists():
                raise InputError(
                    f"{path}, line {line}, names {file}, which does not exist", "give paths relative to the CSV file"
                )
        first = lines.setdefault(files[0].resolve(), line)
        if first != line:
            raise InputError(f"{path}, line {line}, names {files[0]}, as line {first} does", "remove one of the two")
        text = row.get("region", "")
        region = parse_box(text, f"In {path}, line {line}, the region") if text else None
        cases.append(Case(row["patient"], files[0], files[1] if labelled else None, region))
    if not cases:
        raise InputError(f"{path} has no row below its header", "add one for each image")
    return cases


def _csv_rows(path: Path, wanted: list[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and stripped values by column of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [value.strip() for value in row]) for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV text file", "give a folder, or a CSV with patient, image, label") from error
    header = [column.lower() for column in rows[0][1]] if rows else []
    if repeated := [column for column in header if column and header.count(column) > 1]:
        raise InputError(f"{path} has the column {repeated[0]} twice", "remove or rename one of the two")
    if any(column not in header for column in wanted):
        raise InputError(
            f"{path} lacks the columns of a table of volumes",
            f"put {', '.join(wanted)}, with commas between them, into its first line",
        )
    for line, row in rows[1:]:
        if len(row) > len(header):
            raise InputError(f"{path}, line {line}, has more values than columns", "put quotes around what has a comma")
    return [(line, dict(zip_longest(header, row, fillvalue=""))) for line, row in rows[1:]]
