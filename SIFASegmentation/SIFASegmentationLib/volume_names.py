"""Names of volumes: whose image or labelmap a file is, and whether it is one of several channels.

Where a name leaves open whether a file is a labelmap, its voxels decide.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from .errors import InputError
from .labelmaps import looks_like_labelmap
from .volumes import volume_name

CHANNEL_SUFFIX = "_0000"
"""Ending of nnU-Net's images: the first channel."""

OWN_ENDING = "_segmentation"
"""Ending of the labelmaps that SIFA writes."""

MAP_INFIX = "_probability_"
"""Part of the names of the maps that SIFA writes beside its labelmaps."""

_SEPARATOR = r"[-_. ]+"
_LABELMAP_WORDS = "(?:segmentations?|segs?|labels?|labelmaps?|masks?|gt|roi|annotations?)"
_IMAGE = re.compile(rf"(.+?){_SEPARATOR}image", re.IGNORECASE)
_LABEL = re.compile(rf"(.+?){_SEPARATOR}label", re.IGNORECASE)
_LABELMAP = re.compile(rf"(.+?){_SEPARATOR}{_LABELMAP_WORDS}", re.IGNORECASE)
# Matches separate words, between anything but letters: in `P1mask`, `label0001`, `P1_seg_2`, but not in `segovia_1`.
_LABELMAP_WORD = re.compile(rf"(?<![^\W\d_]){_LABELMAP_WORDS}(?![^\W\d_])", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_\d{4}")
_MOST_CHANNELS = 4  # Most channels that a patient can have; more numbers than that count patients.

SEGMENTATION_SUFFIX = ".seg.nrrd"
"""Suffix of the segmentations that Slicer saves."""


def image_subject(name: str) -> str | None:
    """Return whose image a volume is by its name, `P1` for `P1_image`; None for other names."""
    match = _IMAGE.fullmatch(name)
    return match[1] if match else None


def labelmap_subject(path: Path) -> str | None:
    """Return whose labelmap a file is by its name, `P1` for `P1_seg.nii.gz` or `P1.seg.nrrd`; None for other names."""
    name = volume_name(path)
    if match := _LABELMAP.fullmatch(name):
        return match[1]
    return name if path.name.lower().endswith(SEGMENTATION_SUFFIX) else None


def holds_channels(folder: Path) -> bool:
    """Whether a folder is one of nnU-Net's folders of images, whose files are named after patient and channel."""
    return folder.name.startswith("images")


def images_named(volumes: Iterable[Path]) -> dict[str, Path]:
    """Return the volumes that are called `NAME_image`, by NAME.

    Raises:
        InputError: Two have the same name.
    """
    return _matching(_IMAGE, volumes)


def labels_named(volumes: Iterable[Path]) -> dict[str, Path]:
    """Return the volumes that are called `NAME_label`, by NAME.

    Raises:
        InputError: Two have the same name.
    """
    return _matching(_LABEL, volumes)


def plainly_named(volumes: Iterable[Path]) -> dict[str, Path]:
    """Return the volumes by their names (`volume_name`).

    Raises:
        InputError: Two have the same name.
    """
    return by_name((volume_name(path), path) for path in volumes)


def by_name(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Return files by their names.

    Raises:
        InputError: Two have the same name.
    """
    files: dict[str, Path] = {}
    for name, path in named:
        if name in files:
            raise InputError(f"{files[name]} and {path} are both called {name}", "remove or rename one")
        files[name] = path
    return files


def has_channels(volumes: Iterable[Path]) -> bool:
    """Whether the volumes in one of nnU-Net's folders have names with channels.

    Those of the Medical Decathlon have no such ending, and in other names the numbers can be patients'.
    """
    numbered = _numbered(map(volume_name, volumes))
    return bool(numbered) and not _are_patients(numbered)


def images_among(volumes: list[Path]) -> list[Path]:
    """Return the volumes that by name are not labelmaps or maps, as `P1_seg.nii.gz` beside `P1.nii.gz` is."""
    names = {volume_name(path) for path in volumes}
    stems = {stem for name in names for stem in (name, image_subject(name), name.removesuffix(CHANNEL_SUFFIX)) if stem}
    return [path for path in volumes if not _is_made_from(stems, path)]


def check_names(images: dict[str, Path]) -> None:
    """Refuse files that look like labelmaps and are named like one, or after another image.

    A labelmap of an image, a copy of it or a further scan of the same patient is named after it; `P1_2` beside `P1` is
    not. `P1_0000` beside `P1` is refused whatever it looks like.

    Raises:
        InputError: There is such a file; the message names the first.
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
        # One may be the other's labelmap, by nnU-Net's naming, or its copy.
        if (other := images.get(name.removesuffix(CHANNEL_SUFFIX), path)) != path:
            raise _doubtful(path, other)


def check_no_channels(images: dict[str, Path]) -> None:
    """Refuse channels of one volume, `P1_0000` and `P1_0001`, unless such names number patients.

    Raises:
        InputError: There are such channels; the message names two.
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


def _matching(pattern: re.Pattern[str], volumes: Iterable[Path]) -> dict[str, Path]:
    """Return the volumes whose names match a pattern, by the pattern's first group."""
    matches = ((pattern.fullmatch(volume_name(path)), path) for path in volumes)
    return by_name((match[1], path) for match, path in matches if match)


def _is_made_from(stems: set[str], path: Path) -> bool:
    """Whether a file is a labelmap or a map of a volume with one of these names. A folder of slices never is."""
    if path.is_dir():
        return False
    name = volume_name(path)
    if _LABEL.fullmatch(name) or path.name.lower().endswith(SEGMENTATION_SUFFIX):
        return True
    if labelmap_subject(path) in stems:
        # A file called a region of interest may be its mask, or that part of the image.
        return not name.lower().endswith("roi") or looks_like_labelmap(path)
    return name.partition(MAP_INFIX)[0] in stems - {name}


def _named_after(name: str, path: Path, owners: dict[str, Path]) -> Path:
    """Return the volume whose name is continued by a word in the name of `path`; `path` if there is none."""
    for separator in re.finditer(_SEPARATOR, name):
        owner, rest = owners.get(name[: separator.start()], path), name[separator.start() :]
        if owner != path and re.search(r"[^\W\d_]", rest):
            return owner
    return path


def _doubtful(path: Path, owner: Path) -> InputError:
    """Return the error for a volume that may not be an image of its own."""
    return InputError(
        f"{path} may be a labelmap of {owner.name}, or another image of the same patient",
        "take it away, or list the images in a CSV file",
    )


def _numbered(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names that end in numbers like channels by what precedes these, each group sorted.

    Only groups with the first channel are returned.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        if match := _CHANNEL.fullmatch(name):
            found[match[1]].append(name)
    return {stem: alike for stem, alike in found.items() if alike[0] == stem + CHANNEL_SUFFIX}


def _are_patients(numbered: dict[str, list[str]]) -> bool:
    """Whether such names number patients rather than channels.

    They do if a stem has more numbers than there are channels, or if there is a single stem with several. A single stem
    with two numbers and a digit in it, as in `P1_0000` and `P1_0001`, is more likely a patient with two channels.
    """
    most = max(map(len, numbered.values()), default=0)
    if len(numbered) > 1:
        return most > _MOST_CHANNELS
    return most > 2 or (most == 2 and re.search(r"\d", next(iter(numbered))) is None)
