"""Names of the outputs of volumes.

| name    | after                                                                                     |
|---------|-------------------------------------------------------------------------------------------|
| `ct`    | the file: `s1/ct.nii.gz` or `s1/ct_image.nii.gz`                                          |
| `s1_ct` | its folder and the file, where another image of the call or of the folder is called `ct`  |
| `P1`    | the patient, where a table names one and the others are taken as well                     |

Where the folder is named after the patient, as in TotalSegmentator's data sets, the names are `s1`, `s1_ct`, then `ct`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from .errors import InputError
from .files import file_name
from .segmentation_requests import Request
from .volume_names import CHANNEL_SUFFIX, OWN_ENDING, holds_channels, image_subject
from .volumes import volume_name


def output_name(image: Path) -> str:
    """Return the name of an image's outputs unless another is given: `P1` for `P1_image.nii.gz`."""
    name = volume_name(image)
    name = image_subject(name) or name
    return name.removesuffix(CHANNEL_SUFFIX) if holds_channels(image.parent) else name


def labelmap_path(out: Path, name: str, suffix: str = ".nii.gz") -> Path:
    """Return the path of the labelmap of a volume whose outputs have this name."""
    return out / f"{name}{OWN_ENDING}{suffix}"


def possible_names(request: Request) -> dict[str, str]:
    """Return a volume's possible output names, least specific first, with the volume's name in messages for each."""
    if request.name is not None:
        return {request.name: request.name}
    own, file, folder = output_name(request.image), request.image.name, request.image.absolute().parent.name
    in_folder = {f"{folder}_{own}": f"{folder}/{file}"}
    # The folder's name may end like a volume's, or have its accents as separate characters.
    if request.patient is not None and request.patient == volume_name(request.image.absolute().parent):
        names = {request.patient: f"{folder}/{file}", **in_folder}
        # The last resort, and the name that results of earlier versions have.
        names.setdefault(own, file)
        return names
    names = {own: file, **in_folder}
    if request.patient is not None:
        names.setdefault(file_name(request.patient), request.patient)
    return names


def distinct_names(choices: Sequence[Iterable[str]]) -> list[list[str]]:
    """Choose the names of each volume's outputs: first the least specific one that is no other volume's first name.

    The other names follow in case the folder already has results of another image under the first, as when each volume
    is segmented by a separate call.

    Args:
        choices: `possible_names` of each volume.

    Raises:
        InputError: Two volumes would have the same name.
    """
    names = [list(some) for some in choices]
    for step in range(1, max(map(len, names), default=0)):
        alike = _alike(names)
        for some in names:
            # As in data sets with a folder for each patient and the same file names in each.
            if some[0] in alike and len(some) > step:
                some.append(some.pop(0))
    if alike := _alike(names):
        raise InputError(f"Two volumes are called {min(alike)}", "segment them into different folders")
    return names


def _alike(names: Sequence[Sequence[str]]) -> set[str]:
    """Return the first names that several volumes share, regardless of case, which many disks ignore."""
    times = Counter(first.casefold() for first, *_ in names)
    return {first for first, *_ in names if times[first.casefold()] > 1}
