"""Identity of images: their content, wherever it is stored. An image that replaces another is a different one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from .volumes import is_volume_file

_LOOKED_AT_BYTES = 1 << 20  # Read at either end of a file; all of it would take minutes for a study on a network drive.
_HEADER_SUFFIXES = (".hdr", ".mhd", ".nhdr")  # Headers whose voxels may be in separate files.


def content_of(image: Path) -> str | None:
    """Return a digest that identifies an image: of its files' sizes and both ends and, for a folder, their names.

    Args:
        image: A file, or the folder of a DICOM series.

    Returns:
        Hexadecimal digest; None if a file can't be read or the voxels are not found, a fault that is reported when the
        image is read.
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
    """Return the files that an image consists of; none if its voxels are not found."""
    if image.is_dir():
        # The folder may also hold what SIFA writes.
        return [file for file in sorted(image.iterdir()) if file.is_file() and not _is_beside_a_series(file)]
    if not image.name.lower().endswith(_HEADER_SUFFIXES):
        return [image]
    voxels = _voxel_files(image)
    return [image, *voxels] if voxels else []


def _voxel_files(header: Path) -> list[Path]:
    """Return the files beside a header that hold its voxels."""
    beside = [file for file in sorted(header.parent.iterdir()) if file.is_file() and not is_volume_file(file)]
    if header.suffix.lower() == ".hdr":  # It names no file; its voxels are in one of the same name.
        return [file for file in beside if file.name.startswith(f"{header.stem}.")]
    with header.open("rb") as opened:
        text = opened.read(_LOOKED_AT_BYTES)
    return [file for file in beside if os.fsencode(file.name) in text]


def _is_beside_a_series(file: Path) -> bool:
    return file.name.startswith(".") or is_volume_file(file) or file.suffix.lower() == ".csv"
