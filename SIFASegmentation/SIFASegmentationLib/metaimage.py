"""Write MetaImage (.mha) files in portions, so that a window stays responsive and the volume is not copied.

The format is a text header, then the voxels as they lie in memory: itk.org/Wiki/ITK/MetaIO/Documentation. SimpleITK
writes the same, but copies the volume first, and returns only when all of it is written.
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
    """Write a volume as uncompressed MetaImage, atomically and with its exact geometry; folders are made as needed.

    Yields after each portion; a generator that is closed early leaves nothing behind.

    Args:
        volume: Volume of integers, 32- or 64-bit floats, or bool, which becomes uint8.
        path: Path that ends in `.mha`.

    Raises:
        InputError: The file can't be written.
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
        # One axis per row.
        "TransformMatrix": _numbers(geometry.direction_matrix.T),
        "Offset": _numbers(geometry.origin),
        "ElementSpacing": _numbers(geometry.spacing),
        "DimSize": _numbers(geometry.size),
        "ElementType": element_type,
        # This must be the last field: the voxels follow it.
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{name} = {value}\n" for name, value in fields.items())


def _numbers(values: ArrayLike) -> str:
    """Numbers as text that restores them exactly."""
    return " ".join(map(repr, np.ravel(values).tolist()))


def _portions(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield slices of an array (k, j, i), one or more at a time, as in the file: little-endian and contiguous."""
    count = max(1, PORTION_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), count):
        planes = array[start : start + count]
        yield np.ascontiguousarray(planes, dtype=planes.dtype.newbyteorder("<"))
