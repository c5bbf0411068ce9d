"""What an image is known by: its content, wherever it lies. An image that replaces another is another one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from .cohorts import is_volume_file

_LOOKED_AT_BYTES = 1 << 20  # At either end of a file: all of it would take minutes for a study on a network disk.
_HEADER_SUFFIXES = (".hdr", ".mhd", ".nhdr")  # Of headers whose voxels may be in files of their own.


def content_of(image: Path) -> str | None:
    """What tells an image from others: a digest of its files' sizes and both ends, and of a folder's their names.

    Args:
        image: A file, or the folder of a DICOM series.

    Returns:
        None where a file can't be read or the voxels are not found: whoever reads the image says what is the matter.
    """
    try:
        files = _files_of(image)
        return _digest(files, with_names=image.is_dir()) if files else None
    except OSError:
        return None


def _digest(files: Sequence[Path], *, with_names: bool) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            digest.update(b"%s %d " % (os.fsencode(file.name) if with_names else b"", size))
            digest.update(opened.read(_LOOKED_AT_BYTES))
            opened.seek(max(opened.tell(), size - _LOOKED_AT_BYTES))
            digest.update(opened.read())
    return digest.hexdigest()


def _files_of(image: Path) -> list[Path]:
    """The files that an image consists of; none where its voxels are not found."""
    if image.is_dir():
        # What SIFA writes may be in it as well.
        return [file for file in sorted(image.iterdir()) if file.is_file() and not _is_beside_a_series(file)]
    if not image.name.lower().endswith(_HEADER_SUFFIXES):
        return [image]
    voxels = _voxel_files(image)
    return [image, *voxels] if voxels else []


def _voxel_files(header: Path) -> list[Path]:
    """The files that a header names."""
    beside = [file for file in sorted(header.parent.iterdir()) if file.is_file() and not is_volume_file(file)]
    if header.suffix.lower() == ".hdr":  # Which names none.
        return [file for file in beside if file.name.startswith(f"{header.stem}.")]
    with header.open("rb") as opened:
        text = opened.read(_LOOKED_AT_BYTES)
    return [file for file in beside if os.fsencode(file.name) in text]


def _is_beside_a_series(file: Path) -> bool:
    return file.name.startswith(".") or is_volume_file(file) or file.suffix.lower() == ".csv"
