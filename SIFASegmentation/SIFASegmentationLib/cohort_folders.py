"""The cases of a folder: images and labelmaps paired by their names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .cases import Case
from .errors import InputError
from .patient_folders import cases_of_patients
from .volume_folders import (
    MASKS_FOLDER,
    check_nothing_is_missed,
    folder_names,
    folders_of_masks,
    unused_folders,
    volumes_in,
)
from .volume_names import (
    CHANNEL_SUFFIX,
    SEGMENTATION_SUFFIX,
    by_name,
    check_names,
    check_no_channels,
    has_channels,
    holds_channels,
    image_subject,
    images_among,
    images_named,
    labels_named,
    plainly_named,
)
from .volumes import VOLUME_SUFFIXES, volume_name

_IMAGE_ENDINGS = [suffix for suffix in VOLUME_SUFFIXES if suffix != SEGMENTATION_SUFFIX]


def cases_in_folder(folder: Path, labelled: bool, patients: Collection[str] | None) -> list[Case]:
    """Find the cases in a folder; see `cohorts.find_cases`."""
    if (folder / "imagesTr").is_dir():
        volumes = volumes_in(folder / "imagesTr")
        images = _named_in(folder / "imagesTr", volumes)
        labels_folder = folder / "labelsTr"
        labels = plainly_named(volumes_in(labels_folder)) if labelled and labels_folder.is_dir() else {}
        images, labels = _of(patients, images), _of(patients, labels)
        ending = "" if volumes and not has_channels(volumes) else CHANNEL_SUFFIX
        cases = _paired(images, labels, folder, f"imagesTr/{{}}{ending}", "labelsTr/{}", labelled)
        check_nothing_is_missed(folder / "imagesTr", volumes)
        return cases
    if folders_of_masks(folder):
        return cases_of_patients(folder, labelled, patients)
    volumes = volumes_in(folder)
    images = images_named(images_among(volumes))
    if labelled or images:
        labels = labels_named(volumes) if labelled else {}
        images, labels = _of(patients, images), _of(patients, labels)
        cases = _paired(images, labels, folder, "{}_image", "{}_label", labelled)
        check_nothing_is_missed(folder, volumes)
        _check_all_are_images(volumes)
        return cases
    check_nothing_is_missed(folder, volumes)
    plain = _of(patients, _named_in(folder, volumes))
    if not plain:
        advice = f"put volume files ({', '.join(_IMAGE_ENDINGS)}) or folders of DICOM series into it"
        raise _nothing_in(folder, "volumes", advice)
    return [Case(name, path, None) for name, path in plain.items()]


def _nothing_in(folder: Path, what: str, advice: str) -> InputError:
    """Return the error for a folder without volumes; it names subfolders that hold some."""
    if (folder / MASKS_FOLDER).is_dir():
        advice += ", or, if it is one patient's, give the folder in which it lies"
    if below := unused_folders(folder):
        advice += f", or list the volumes that lie in its subfolders ({folder_names(below)}) in a CSV file"
    return InputError(f"{folder} holds no {what}", advice)


def _of(patients: Collection[str] | None, named: dict[str, Path]) -> dict[str, Path]:
    return {name: path for name, path in named.items() if patients is None or name in patients}


def _named_in(folder: Path, volumes: list[Path]) -> dict[str, Path]:
    """Return the images in a folder by name, without the `_0000` that images in nnU-Net's folders end in.

    Raises:
        InputError: An image is one of several channels, two have the same name, or a name leaves open what a file is.
    """
    images = images_among(volumes)
    if not (holds_channels(folder) and has_channels(images)):
        named = plainly_named(images)
        check_names(named)
        check_no_channels(named)
        return named
    if other := next((path for path in images if not volume_name(path).endswith(CHANNEL_SUFFIX)), None):
        raise InputError(
            f"{other} does not end in {CHANNEL_SUFFIX}", "give volumes of one channel, in the nnU-Net layout"
        )
    return by_name((volume_name(path).removesuffix(CHANNEL_SUFFIX), path) for path in images)


def _check_all_are_images(volumes: list[Path]) -> None:
    """Refuse volume files beside `*_image` files that are neither images themselves nor made from one.

    Raises:
        InputError: There is such a file; the message names the first.
    """
    for path in images_among(volumes):
        # An image may have been converted from a DICOM series beside it.
        if not path.is_dir() and image_subject(volume_name(path)) is None:
            raise InputError(
                f"{path} lies beside files called NAME_image and is neither one nor a labelmap of one",
                "rename it, or take it away",
            )


def _paired(
    images: dict[str, Path], labels: dict[str, Path], folder: Path, image: str, label: str, labelled: bool
) -> list[Case]:
    """Pair images with labelmaps; `image` and `label` are patterns of file names, with {} for the name."""
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
