"""Regions of interest: boxes in mm, given by a user as the part of a volume that the networks see."""

from __future__ import annotations

from math import isfinite
from typing import Self

from pydantic import FiniteFloat, ValidationError, model_validator

from .errors import InputError
from .schema import Frozen


class BoxMM(Frozen):
    """A region of interest: a box along the axes of the LPS frame, from `minimum` to `maximum`, in mm."""

    minimum: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    maximum: tuple[FiniteFloat, FiniteFloat, FiniteFloat]

    @model_validator(mode="after")
    def _has_a_volume(self) -> Self:
        if not all(low < high for low, high in zip(self.minimum, self.maximum, strict=True)):
            raise ValueError("every coordinate of the minimum must be less than that of the maximum")
        return self

    @property
    def text(self) -> str:
        """Text that `parse_box` reads back exactly: rounding could add a voxel if the box ends on a voxel's face."""
        return ",".join(str(end) for ends in zip(self.minimum, self.maximum, strict=True) for end in ends)


def parse_box(text: str, source: str) -> BoxMM:
    """Parse a region of interest written as `X0,X1,Y0,Y1,Z0,Z1` in mm, LPS.

    Args:
        text: The six numbers.
        source: Where the text comes from, for error messages: an option, or a line of a file.

    Raises:
        InputError: The text is not six numbers, or a lower bound is not below its upper bound.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not all(map(isfinite, numbers)):
        raise InputError(
            f"{source} '{text}' is not 6 numbers with commas between", "give X0,X1,Y0,Y1,Z0,Z1 in mm (LPS)"
        )
    x0, x1, y0, y1, z0, z1 = numbers
    try:
        return BoxMM(minimum=(x0, y0, z0), maximum=(x1, y1, z1))
    except ValidationError:
        raise InputError(
            f"{source} '{text}' has no volume", "give X0,X1,Y0,Y1,Z0,Z1 in mm (LPS), each lower bound first"
        ) from None
