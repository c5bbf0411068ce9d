"""NIfTI files that are not whole: no reader and no writer says so by itself.

ITK takes a file that ends early for one whose rest is 0, does not look at the checksum, replaces voxels that are no
numbers by 0, and reports a file as written that a full disk has cut off.
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
_VOXEL_SUFFIXES = (".img", ".img.gz")  # Of the file beside a header that stands alone.
_GZIP = b"\x1f\x8b"
HEADER_BYTES = {348: 352, 540: 544}
"""By what a header says of its size: where voxels begin at the earliest."""

_PORTION = 2**22  # Bytes looked at together.
_FARTHEST = 2**31  # That voxels may begin.
_KNOWN = 4096  # Files that were looked at lately, and have not changed since.
# By code of the type. What the header says of bits is no guide: readers go by the code.
_VOXEL_BYTES = {
    2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8, 1536: 16, 1792: 16,
    2048: 32, 2304: 4,
}  # fmt: skip
_FLOATS = {16: "f4", 64: "f8"}


@dataclass(frozen=True)
class _Header:
    """Where the voxels begin, how many bytes they are, and their type where they are floats."""

    offset: int
    size: int
    floats: np.dtype | None


def is_nifti(path: Path) -> bool:
    """Whether a file's name ends as that of a NIfTI file."""
    return path.name.lower().endswith(_SUFFIXES)


def check_nifti(path: Path) -> None:
    """Refuse a NIfTI file that is cut off or damaged, or has voxels that are no finite numbers.

    What has no header of NIfTI is left for the reader to refuse.

    Raises:
        InputError: It is one of these.
        OSError: It can't be opened.
    """
    stamps = [(file, file.stat()) for file in (path, _voxels_of(path))]
    # A preparation reads each twice.
    _check(path, tuple((file, status.st_size, status.st_mtime_ns) for file, status in stamps))


def is_whole_nifti(path: Path) -> bool:
    """Whether all is there of a NIfTI file that was written just now.

    Raises:
        OSError: It can't be read.
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
    """The file of the voxels: beside a header that stands alone (`.hdr`), else the file itself."""
    if path.suffix.lower() != ".hdr":
        return path
    beside = (path.with_suffix(case(suffix)) for suffix in _VOXEL_SUFFIXES for case in (str.lower, str.upper))
    return next((file for file in beside if file.exists()), path)


def _look_through(path: Path, *, finite: bool) -> None:
    """See `check_nifti`; whether voxels are finite is asked only if so said."""
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
    """Where the checksum stands; what comes after it is nobody's."""
    try:
        while file.read(_PORTION):
            pass
    except gzip.BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):
            raise


def header_layout(content: bytes) -> tuple[str, int] | None:
    """The order of bytes, `<` or `>`, and the size of the header that a file begins with; None if it is no NIfTI."""
    for order in "<>":
        own_size = struct.unpack_from(f"{order}i", content)[0] if len(content) >= 4 else 0
        if own_size in HEADER_BYTES:
            return order, own_size
    return None


def opened(path: Path) -> io.BufferedIOBase:
    """A file, decompressed where it is compressed, whatever it is called: as ITK reads it."""
    with path.open("rb") as file:
        compressed = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _portions(file: io.BufferedIOBase, size: int) -> Iterator[bytes]:
    """The next bytes of a file, so many of them.

    Raises:
        EOFError: There are fewer.
    """
    while size > 0:
        portion = file.read(min(_PORTION, size))
        size -= len(portion)
        if not portion or (size > 0 and len(portion) < _PORTION):
            raise EOFError
        yield portion


def _header(content: bytes, *, alone: bool) -> _Header | None:
    """What the first bytes of a file say; None where they are no header of NIfTI, or of voxels of no known type.

    `alone`: the voxels are in a file of their own.

    Raises:
        EOFError: They end within it.
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
    # Readers take the least for whatever makes no sense.
    least = 0 if alone else HEADER_BYTES[own_size]
    starts = int(offset) if (0 if alone else own_size) <= offset < _FARTHEST else least
    voxels = math.prod(max(size, 1) for size in sizes[:count])
    floats = np.dtype(f"{order}{_FLOATS[code]}") if code in _FLOATS else None
    return _Header(starts, voxels * _VOXEL_BYTES[code], floats)
