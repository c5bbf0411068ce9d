"""Which files belong together: images, their labelmaps, their patients.

| what is given | images                      | labelmaps                  | patient    |
|---------------|-----------------------------|----------------------------|------------|
| a folder      | `NAME_image.*`              | `NAME_label.*`             | NAME       |
| nnU-Net       | `imagesTr/NAME_0000.*`      | `labelsTr/NAME.*`          | NAME       |
| Decathlon     | `imagesTr/NAME.*`           | `labelsTr/NAME.*`          | NAME       |
| a folder      | any volumes, DICOM folders  | none (unlabelled only)     | file name  |
| `images...`   | `NAME_0000.*` or `NAME.*`   | none (unlabelled only)     | NAME       |
| a CSV file    | column `image`              | column `label`             | `patient`  |

In `_image` and `_label`, case does not matter, and a hyphen, a dot or a space separates as well. Labelmaps beside
unlabelled volumes, `NAME_seg.*` or `NAME-label.*` beside `NAME.*`, are left alone. Where a name leaves open whether a
file is a labelmap, its voxels decide: a labelmap is refused, an image is one. A folder of slices is always an image.

The CSV alone can give a patient several images, and an image a region of interest of its own: column `region`,
`"X0,X1,Y0,Y1,Z0,Z1"` in mm, LPS, in quotes, empty where there is none.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from .dicom_files import SUFFIXES, check_links, dicom_series, is_dicom
from .errors import InputError
from .field_of_view import BoxMM, parse_box
from .files import check_name
from .labelmaps import looks_like_labelmap
from .volumes import VOLUME_SUFFIXES, volume_name

CHANNEL_SUFFIX = "_0000"
"""Of nnU-Net's images: the first channel."""

OWN_ENDING = "_segmentation"
"""Of the labelmaps that SIFA writes."""

MAP_INFIX = "_probability_"
"""In the names of the maps that SIFA writes beside its labelmaps."""

_SEPARATOR = r"[-_. ]+"
_LABELMAP_WORDS = "(?:segmentations?|segs?|labels?|labelmaps?|masks?|gt|roi|annotations?)"
_IMAGE = re.compile(rf"(.+?){_SEPARATOR}image", re.IGNORECASE)
_LABEL = re.compile(rf"(.+?){_SEPARATOR}label", re.IGNORECASE)
_LABELMAP = re.compile(rf"(.+?){_SEPARATOR}{_LABELMAP_WORDS}", re.IGNORECASE)
# As a word of its own: `P1mask`, `label0001`, `P1_seg_2`, but not `segovia_1`.
_LABELMAP_WORD = re.compile(rf"(?<![^\W\d_]){_LABELMAP_WORDS}(?![^\W\d_])", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_\d{4}")
_MOST_CHANNELS = 4  # Of a patient's volumes; what has more numbers counts patients.

_DICOM_SUFFIXES = ("", *SUFFIXES)
_LOOKED_AT = 3  # Files of a folder, to tell whether it holds DICOM.
_SEGMENTATION_SUFFIX = ".seg.nrrd"
_SHOWN = 12  # Folders of a list that can have a hundred.
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
            made from one, DICOM files elsewhere than in a folder of each series), a volume that by its name and voxels
            may be a labelmap, or by its name a channel of another, or a line of the CSV that is incomplete, names a
            missing file or one that another line names.
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


def unused_folders(path: Path) -> list[Path]:
    """Folders that hold images, at any depth, which `find_cases` leaves out because it looks for volumes, and series in
    folders of their own, directly in the folder `path` alone; none where that is a file."""
    folder = path / "imagesTr" if (path / "imagesTr").is_dir() else path
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".") and _holds_images(entry)]


def folder_names(folders: Sequence[Path]) -> str:
    """What a list of folders is called in a message."""
    return ", ".join(folder.name for folder in folders[:_SHOWN]) + (", ..." if len(folders) > _SHOWN else "")


def _holds_images(folder: Path) -> bool:
    """Whether there are volumes not named like labelmaps or maps, or DICOM files further down, for a series directly in
    the folder is found."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        if Path(place) != folder and any(map(is_dicom, files[:_LOOKED_AT])):
            return True
        volumes = filter(is_volume_file, files)
        if any(labelmap_subject(path) is None and MAP_INFIX not in volume_name(path) for path in volumes):
            return True
    return False


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


def image_subject(name: str) -> str | None:
    """Whose image a volume is by its name, `P1` of `P1_image`; None where it is not named so."""
    match = _IMAGE.fullmatch(name)
    return match[1] if match else None


def labelmap_subject(path: Path) -> str | None:
    """Whose labelmap a file is by its name, `P1` of `P1_seg.nii.gz` or `P1.seg.nrrd`; None where it is not named so."""
    name = volume_name(path)
    if match := _LABELMAP.fullmatch(name):
        return match[1]
    return name if path.name.lower().endswith(_SEGMENTATION_SUFFIX) else None


def by_name(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by what they are called.

    Raises:
        InputError: Two are called alike.
    """
    files: dict[str, Path] = {}
    for name, path in named:
        if name in files:
            raise InputError(f"{files[name]} and {path} are both called {name}", "remove or rename one")
        files[name] = path
    return files


def _from_folder(folder: Path, labelled: bool, patients: Collection[str] | None) -> list[Case]:
    if (folder / "imagesTr").is_dir():
        volumes = volumes_in(folder / "imagesTr")
        images = _named_in(folder / "imagesTr", volumes)
        labels_folder = folder / "labelsTr"
        labels = _plainly_named(volumes_in(labels_folder)) if labelled and labels_folder.is_dir() else {}
        images, labels = _of(patients, images), _of(patients, labels)
        ending = "" if volumes and not _has_channels(volumes) else CHANNEL_SUFFIX
        cases = _paired(images, labels, folder, f"imagesTr/{{}}{ending}", "labelsTr/{}", labelled)
        _check_nothing_is_missed(folder / "imagesTr", volumes)
        return cases
    volumes = volumes_in(folder)
    images = _matching(_IMAGE, _images(volumes))
    if labelled or images:
        labels = _matching(_LABEL, volumes) if labelled else {}
        images, labels = _of(patients, images), _of(patients, labels)
        cases = _paired(images, labels, folder, "{}_image", "{}_label", labelled)
        _check_nothing_is_missed(folder, volumes)
        _check_all_are_images(volumes)
        return cases
    _check_nothing_is_missed(folder, volumes)
    plain = _of(patients, _named_in(folder, volumes))
    if not plain:
        advice = f"put volume files ({', '.join(_IMAGE_ENDINGS)}) or folders of DICOM series into it"
        raise _nothing_in(folder, "volumes", advice)
    return [Case(name, path, None) for name, path in plain.items()]


def _nothing_in(folder: Path, what: str, advice: str) -> InputError:
    """What to raise where a folder has no volumes; if there are some further down, it says where."""
    if below := unused_folders(folder):
        advice += f", or list the volumes that lie in its subfolders ({folder_names(below)}) in a CSV file"
    return InputError(f"{folder} holds no {what}", advice)


def _of(patients: Collection[str] | None, named: dict[str, Path]) -> dict[str, Path]:
    return {name: path for name, path in named.items() if patients is None or name in patients}


def _matching(pattern: re.Pattern[str], volumes: Iterable[Path]) -> dict[str, Path]:
    """The volumes that are named so, by the pattern's first group."""
    matches = ((pattern.fullmatch(volume_name(path)), path) for path in volumes)
    return by_name((match[1], path) for match, path in matches if match)


def _plainly_named(volumes: Iterable[Path]) -> dict[str, Path]:
    return by_name((volume_name(path), path) for path in volumes)


def _named_in(folder: Path, volumes: list[Path]) -> dict[str, Path]:
    """The images in a folder whose names have no ending, or nnU-Net's where the folder is one of its.

    Raises:
        InputError: One of several channels, two of one name, or a name that leaves open what a file is.
    """
    images = _images(volumes)
    if not (holds_channels(folder) and _has_channels(images)):
        named = _plainly_named(images)
        _check_names(named)
        _check_no_channels(named)
        return named
    if other := next((path for path in images if not volume_name(path).endswith(CHANNEL_SUFFIX)), None):
        raise InputError(
            f"{other} does not end in {CHANNEL_SUFFIX}", "give volumes of one channel, in the nnU-Net layout"
        )
    return by_name((volume_name(path).removesuffix(CHANNEL_SUFFIX), path) for path in images)


def _has_channels(volumes: Iterable[Path]) -> bool:
    """Whether volumes in a folder of nnU-Net's have its names; those of the Medical Decathlon have no ending, and other
    names can number patients."""
    numbered = _numbered(map(volume_name, volumes))
    return bool(numbered) and not _are_patients(numbered)


def _images(volumes: list[Path]) -> list[Path]:
    """Those that are not labelmaps or maps by their names, such as `P1_seg.nii.gz` beside `P1.nii.gz`."""
    names = {volume_name(path) for path in volumes}
    stems = {stem for name in names for stem in (name, image_subject(name), name.removesuffix(CHANNEL_SUFFIX)) if stem}
    return [path for path in volumes if not _is_made_from(stems, path)]


def _is_made_from(stems: set[str], path: Path) -> bool:
    """Whether a file is a labelmap or a map of one of the volumes that are called so. A folder of slices is none."""
    if path.is_dir():
        return False
    name = volume_name(path)
    if _LABEL.fullmatch(name) or path.name.lower().endswith(_SEGMENTATION_SUFFIX):
        return True
    if labelmap_subject(path) in stems:
        # A region of interest is the mask of one, or that part of the image.
        return not name.lower().endswith("roi") or looks_like_labelmap(path)
    return name.partition(MAP_INFIX)[0] in stems - {name}


def _check_names(images: dict[str, Path]) -> None:
    """Refuse files that would be images, but are named like labelmaps, or after another image as its labelmap, a copy
    or a further scan of the same patient is, if they look like labelmaps. `P1_2` beside `P1` is a name of its own.

    Raises:
        InputError: Names the first of them.
    """
    owners = {name.removesuffix(CHANNEL_SUFFIX): path for name, path in images.items()} | images
    for name, path in images.items():
        if path.is_dir():
            continue
        called_labelmap = _LABELMAP_WORD.search(name) is not None
        owner = _named_after(name, path, owners)
        if (called_labelmap or owner != path) and looks_like_labelmap(path):
            if called_labelmap:
                raise InputError(
                    f"{path} is named like a labelmap, but not like that of an image beside it",
                    "take it away; if it is an image, rename it or list the images in a CSV file",
                )
            raise _doubtful(path, owner)
        # One may be the other's labelmap, as nnU-Net names them, or its copy.
        if (other := images.get(name.removesuffix(CHANNEL_SUFFIX), path)) != path:
            raise _doubtful(path, other)


def _named_after(name: str, path: Path, owners: dict[str, Path]) -> Path:
    """The volume whose name a volume's has before a word; itself if there is none."""
    for separator in re.finditer(_SEPARATOR, name):
        owner, rest = owners.get(name[: separator.start()], path), name[separator.start() :]
        if owner != path and re.search(r"[^\W\d_]", rest):
            return owner
    return path


def _doubtful(path: Path, owner: Path) -> InputError:
    """What to raise where a volume may be no image of its own."""
    return InputError(
        f"{path} may be a labelmap of {owner.name}, or another image of the same patient",
        "take it away, or list the images in a CSV file",
    )


def _check_no_channels(images: dict[str, Path]) -> None:
    """Refuse channels of one volume, `P1_0000` and `P1_0001`, unless such names number patients.

    Raises:
        InputError: Names two channels.
    """
    numbered = _numbered(images)
    if _are_patients(numbered):
        return
    for first, *others in numbered.values():
        if others:
            raise InputError(
                f"{images[others[0]]} and {images[first].name} are named like channels of one volume",
                "keep one channel of each volume; if they are patients, list the images in a CSV file",
            )


def _numbered(names: Iterable[str]) -> dict[str, list[str]]:
    """Names that end in numbers as channels do, sorted, by what is before these; only where the first is among them."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        if match := _CHANNEL.fullmatch(name):
            found[match[1]].append(name)
    return {stem: alike for stem, alike in found.items() if alike[0] == stem + CHANNEL_SUFFIX}


def _are_patients(numbered: dict[str, list[str]]) -> bool:
    """Whether such names number patients, not channels: there are more of a stem than channels, or one stem in all has
    several. If it has two and a number in it, `P1_0000` and `P1_0001`, it is more likely a patient's.
    """
    most = max(map(len, numbered.values()), default=0)
    if len(numbered) > 1:
        return most > _MOST_CHANNELS
    return most > 2 or (most == 2 and re.search(r"\d", next(iter(numbered))) is None)


def _check_all_are_images(volumes: list[Path]) -> None:
    """Refuse volume files beside `*_image` files that are neither such nor made from one.

    Raises:
        InputError: Names the first of them.
    """
    for path in _images(volumes):
        # A DICOM series can be what an image was made of.
        if not path.is_dir() and image_subject(volume_name(path)) is None:
            raise InputError(
                f"{path} lies beside files called NAME_image and is neither one nor a labelmap of one",
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


def _paired(
    images: dict[str, Path], labels: dict[str, Path], folder: Path, image: str, label: str, labelled: bool
) -> list[Case]:
    """Images with their labelmaps; `image` and `label` say how their files are called, with {} for the name."""
    if not images and not labels:
        pair = f"{image.format('NAME')}.nii.gz" + (f" with {label.format('NAME')}.nii.gz" if labelled else "")
        raise _nothing_in(folder, "labelled volumes" if labelled else "volumes", f"put {pair} into it")
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
    lines: dict[Path, int] = {}  # On which each file is named.
    for line, row in _csv_rows(path, wanted):
        patient = unicodedata.normalize("NFC", row["patient"])
        if patients is not None and patient not in patients:
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
        for file in files:
            first = lines.setdefault(file.resolve(), line)
            if first != line:
                raise InputError(f"{path}, line {line}, names {file}, as line {first} does", "remove one of the two")
        if len({file.resolve() for file in files}) < len(files):
            raise InputError(f"{path}, line {line}, gives {files[0]} as image and label", "correct one of them")
        text = row.get("region", "")
        region = parse_box(text, f"In {path}, line {line}, the region") if text else None
        cases.append(Case(patient, files[0], files[1] if labelled else None, region))
    if not cases:
        raise InputError(f"{path} has no row below its header", "add one for each image")
    return cases


def _csv_rows(path: Path, wanted: list[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and stripped values by column of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            text = file.read()
        delimiter = _delimiter(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(reader.line_num, [value.strip() for value in row]) for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV text file", "give a folder, or a CSV with patient, image, label") from error
    header = [column.lower() for column in rows[0][1]] if rows else []
    if repeated := [column for column in header if column and header.count(column) > 1]:
        raise InputError(f"{path} has the column {repeated[0]} twice", "remove or rename one of the two")
    if any(column not in header for column in wanted):
        raise InputError(
            f"{path} lacks the columns of a table of volumes",
            f"put {', '.join(wanted)}, with commas or semicolons between them, into its first line",
        )
    for line, row in rows[1:]:
        if len(row) > len(header):
            separator = "semicolon" if delimiter == ";" else "comma"
            raise InputError(
                f"{path}, line {line}, has more values than columns", f"put quotes around what has a {separator}"
            )
    return [(line, dict(zip_longest(header, row, fillvalue=""))) for line, row in rows[1:]]


def _delimiter(text: str) -> str:
    """A comma; or the semicolon that Excel writes where numbers have decimal commas, if only that is in the header."""
    header = next((line for line in text.splitlines() if line.strip(" ,;")), "")
    return ";" if ";" in header and "," not in header else ","
