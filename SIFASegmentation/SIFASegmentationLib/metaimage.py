"""MetaImage (.mha) written in portions, so that a window that writes a volume is not held up, and nothing is copied.

The format is a header of text, then the voxels as they lie in memory: itk.org/Wiki/ITK/MetaIO/Documentation. SimpleITK
writes the same, but copies the volume first, and returns when all of it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import unwritable
from .files import write_atomically
from .volumes import Volume

PORTION_BYTES = 4 * 1024 * 1024

_TYPES = {
    "uint8": "MET_UCHAR", "int8": "MET_CHAR", "uint16": "MET_USHORT", "int16": "MET_SHORT", "uint32": "MET_UINT",
    "int32": "MET_INT", "uint64": "MET_ULONG_LONG", "int64": "MET_LONG_LONG", "float32": "MET_FLOAT",
    "float64": "MET_DOUBLE",
}  # fmt: skip


def write_in_portions(volume: Volume, path: Path) -> Iterator[None]:
    """Write a volume as MetaImage, uncompressed, geometry to the last bit; whole or not at all. Folders are made.

    Yields after each portion; left before its end, it leaves nothing behind.

    Args:
        volume: Of integers, of floats of 32 or 64 bits, or of bool, which becomes uint8.
        path: Ends with .mha.

    Raises:
        InputError: The place can't be written to.
    """
    array = volume.array.view(np.uint8) if volume.array.dtype == np.bool_ else volume.array
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as partial, partial.open("wb") as file:
            file.write(_header(volume, _TYPES[array.dtype.name]).encode("ascii"))
            for planes in _portions(array):
                file.write(planes.data)
                yield
    except OSError as error:
        raise unwritable(path, error) from error


def _header(volume: Volume, element_type: str) -> str:
    geometry = volume.geometry
    fields = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        # An axis a row.
        "TransformMatrix": _numbers(geometry.direction_matrix.T),
        "Offset": _numbers(geometry.origin),
        "ElementSpacing": _numbers(geometry.spacing),
        "DimSize": _numbers(geometry.size),
        "ElementType": element_type,
        # The last one: what follows it is voxels.
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{name} = {value}\n" for name, value in fields.items())


def _numbers(values: ArrayLike) -> str:
    """To the last bit."""
    return " ".join(map(repr, np.ravel(values).tolist()))


def _portions(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Slices of an array (k, j, i), at least one at a time, as they lie in the file: little-endian and without gaps."""
    count = max(1, PORTION_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), count):
        planes = array[start : start + count]
        yield np.ascontiguousarray(planes, dtype=planes.dtype.newbyteorder("<"))
