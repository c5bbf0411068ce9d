"""NIfTI files that are not whole: no reader and no writer says so by itself.

ITK takes a file that ends early for one whose rest is 0, does not look at the checksum, replaces voxels that are no
numbers by 0, and reports a file as written that a full disk has cut off.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from .errors import InputError

_SUFFIXES = (".nii", ".nii.gz")
_HEADER_BYTES = 540  # Of NIfTI-2; NIfTI-1 has 348.
_GZIP = b"\x1f\x8b"
_PORTION = 2**22  # Bytes looked at together.
_FLOATS = {16: "f4", 64: "f8"}  # Codes of the numbers that may be none.


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
    with _opened(path) as file:
        try:
            header = _header(file.read(_HEADER_BYTES))
            if header is None:
                return
            file.seek(header.offset)
            for portion in _portions(file, header.size):
                if header.floats is not None and not np.isfinite(np.frombuffer(portion, header.floats)).all():
                    raise InputError(f"{path} has voxels that are not finite (NaN or infinite)", "replace them first")
            # The checksum stands at the end.
            while file.read(_PORTION):
                pass
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(
                f"{path} can't be read as an image (it is cut off or damaged)", "check that the file is complete"
            ) from error


def _opened(path: Path) -> BinaryIO:
    """A file, decompressed where it is compressed, whatever it is called: as ITK reads it."""
    with path.open("rb") as file:
        compressed = file.read(len(_GZIP)) == _GZIP
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")


def _portions(file: BinaryIO, size: int) -> Iterator[bytes]:
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


def _header(content: bytes) -> _Header | None:
    """What the first bytes of a file say; None where they are no header of NIfTI.

    Raises:
        EOFError: They end within it.
    """
    for order in "<>":
        if len(content) >= 4 and struct.unpack_from(f"{order}i", content)[0] in (348, 540):
            break
    else:
        return None
    second = struct.unpack_from(f"{order}i", content)[0] == 540
    if len(content) < (540 if second else 348):
        raise EOFError
    if second:
        code, bits = struct.unpack_from(f"{order}2h", content, 12)
        count, *sizes = struct.unpack_from(f"{order}8q", content, 16)
        (offset,) = struct.unpack_from(f"{order}q", content, 168)
    else:
        count, *sizes = struct.unpack_from(f"{order}8h", content, 40)
        code, bits = struct.unpack_from(f"{order}2h", content, 70)
        offset = int(struct.unpack_from(f"{order}f", content, 108)[0])
    if not 1 <= count <= len(sizes):
        return None
    voxels = int(np.prod([max(size, 1) for size in sizes[:count]], dtype=object))
    floats = np.dtype(f"{order}{_FLOATS[code]}") if code in _FLOATS else None
    return _Header(offset, voxels * bits // 8, floats)
