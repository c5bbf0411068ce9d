"""Detect incomplete or damaged NIfTI files, which readers and writers do not report.

ITK reads a file that ends early as if the rest were 0, ignores the checksum, replaces NaN by 0, and reports success for
a file that a full disk has cut off.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .errors import InputError
from .volumes import not_finite

_SUFFIXES = (".nii", ".nii.gz", ".hdr")
_VOXEL_SUFFIXES = (".img", ".img.gz")  # Suffixes of the voxels' file beside a separate header (`.hdr`).
_GZIP = b"\x1f\x8b"
HEADER_BYTES = {348: 352, 540: 544}
"""First possible byte of the voxels, by the size that the header gives for itself."""

_PORTION = 2**22  # Bytes read at a time.
_FARTHEST = 2**31  # Voxels that are said to begin beyond this byte are not believed to.
_KNOWN = 4096  # Results of so many recent checks are kept, for files that have not changed since.
# Bytes per voxel, by data type code. The header's field of bits per voxel is no guide: readers go by the code.
_VOXEL_BYTES = {
    2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8, 1536: 16, 1792: 16,
    2048: 32, 2304: 4,
}  # fmt: skip
_FLOATS = {16: "f4", 64: "f8"}


@dataclass(frozen=True)
class _Header:
    """Where the voxels begin, how many bytes they take, and their data type if they are floats."""

    offset: int
    size: int
    floats: np.dtype | None


def is_nifti(path: Path) -> bool:
    """Whether a file's name has a suffix of NIfTI."""
    return path.name.lower().endswith(_SUFFIXES)


def check_nifti(path: Path) -> None:
    """Check that a NIfTI file is complete and intact, and that its voxels are finite.

    A file without a NIfTI header passes; it is for the reader to refuse.

    Raises:
        InputError: The file is cut off or damaged, or has NaN or infinite voxels.
        OSError: The file can't be opened.
    """
    stamps = [(file, file.stat()) for file in (path, _voxels_of(path))]
    # Cached by file state, since preparing a data set reads each file twice.
    _check(path, tuple((file, status.st_size, status.st_mtime_ns) for file, status in stamps))


def is_whole_nifti(path: Path) -> bool:
    """Whether a NIfTI file that was just written is complete.

    Raises:
        OSError: The file can't be read.
    """
    try:
        _look_through(path, finite=False)
    except InputError:
        return False
    return path.stat().st_size > 0


@lru_cache(maxsize=_KNOWN)
def _check(path: Path, _stamps: tuple[tuple[Path, int, int], ...]) -> None:
    _look_through(path, finite=True)


def _voxels_of(path: Path) -> Path:
    """The file that contains the voxels: the one beside a separate header (`.hdr`), else the file itself."""
    if path.suffix.lower() != ".hdr":
        return path
    beside = (path.with_suffix(case(suffix)) for suffix in _VOXEL_SUFFIXES for case in (str.lower, str.upper))
    return next((file for file in beside if file.exists()), path)


def _look_through(path: Path, *, finite: bool) -> None:
    """Check as `check_nifti` does, with the check for finite voxels only if `finite`."""
    voxels = _voxels_of(path)
    with opened(path) as first, opened(voxels) as file:
        try:
            header = _header(first.read(max(HEADER_BYTES)), alone=voxels != path)
            if header is None:
                return
            file.seek(header.offset)
            for portion in _portions(file, header.size):
                floats = header.floats if finite else None
                if floats is not None and not np.isfinite(np.frombuffer(portion, floats)).all():
                    raise not_finite(path)
            _read_to_the_end(file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(
                f"{path} can't be read as an image (it is cut off or damaged)", "check that the file is complete"
            ) from error


def _read_to_the_end(file: io.BufferedIOBase) -> None:
    """Read to the end of a compressed file, where its checksum is verified; anything after that is ignored."""
    try:
        while file.read(_PORTION):
            pass
    except gzip.BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):
            raise


def header_layout(content: bytes) -> tuple[str, int] | None:
    """Byte order, `<` or `>`, and size of the header at the start of a file; None if it is not NIfTI."""
    for order in "<>":
        own_size = struct.unpack_from(f"{order}i", content)[0] if len(content) >= 4 else 0
        if own_size in HEADER_BYTES:
            return order, own_size
    return None


def opened(path: Path) -> io.BufferedIOBase:
    """Open a file for reading; like ITK, decompress it if its content is gzip, whatever its name."""
    with path.open("rb") as file:
        compressed = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _portions(file: io.BufferedIOBase, size: int) -> Iterator[bytes]:
    """Yield the next `size` bytes of a file in portions.

    Raises:
        EOFError: The file has fewer bytes.
    """
    while size > 0:
        portion = file.read(min(_PORTION, size))
        size -= len(portion)
        if not portion or (size > 0 and len(portion) < _PORTION):
            raise EOFError
        yield portion


def _header(content: bytes, *, alone: bool) -> _Header | None:
    """Parse the first bytes of a file; None if they are not a NIfTI header, or the data type is unknown.

    Args:
        content: At least the header, unless the file is shorter.
        alone: Whether the voxels are in a file of their own.

    Raises:
        EOFError: The content ends within the header.
    """
    layout = header_layout(content)
    if layout is None:
        return None
    order, own_size = layout
    if len(content) < own_size:
        raise EOFError
    if own_size == 540:
        (code,) = struct.unpack_from(f"{order}h", content, 12)
        count, *sizes = struct.unpack_from(f"{order}8q", content, 16)
        (offset,) = struct.unpack_from(f"{order}q", content, 168)
    else:
        count, *sizes = struct.unpack_from(f"{order}8h", content, 40)
        (code,) = struct.unpack_from(f"{order}h", content, 70)
        (offset,) = struct.unpack_from(f"{order}f", content, 108)
    if not 1 <= count <= len(sizes) or code not in _VOXEL_BYTES:
        return None
    # Readers take the least possible offset in place of one that makes no sense.
    least = 0 if alone else HEADER_BYTES[own_size]
    starts = int(offset) if (0 if alone else own_size) <= offset < _FARTHEST else least
    voxels = math.prod(max(size, 1) for size in sizes[:count])
    floats = np.dtype(f"{order}{_FLOATS[code]}") if code in _FLOATS else None
    return _Header(starts, voxels * _VOXEL_BYTES[code], floats)
