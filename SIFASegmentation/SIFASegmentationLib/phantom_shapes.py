"""Solid shapes as implicit functions, and layers of them that are painted onto sample points.

A shape is a function of position: the approximate signed distance to its surface in mm, negative inside. Union,
intersection and difference are then minima and maxima (Ricci, "A constructive geometry for computer graphics", 1973), a
wall of given thickness is a shifted level, and nothing is tied to a voxel grid until it is painted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.float32]
Points = NDArray[np.float32]
Vector = NDArray[np.float64]

EVERYWHERE = np.full(3, np.inf)


@dataclass(frozen=True, eq=False)
class Shape:
    """A solid.

    Attributes:
        distance: Maps points (3, ...) in mm to an approximate signed distance (...) in mm, negative inside.
        low: Lower corner (3,) of a box that contains the solid, in mm; -inf where it is unbounded.
        high: Upper corner (3,) of the box, in mm; inf where it is unbounded.
    """

    distance: Callable[[Points], Field]
    low: Vector
    high: Vector

    def __or__(self, other: Shape) -> Shape:
        return Shape(
            lambda p: np.minimum(self.distance(p), other.distance(p)),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    def __and__(self, other: Shape) -> Shape:
        return Shape(
            lambda p: np.maximum(self.distance(p), other.distance(p)),
            np.maximum(self.low, other.low),
            np.minimum(self.high, other.high),
        )

    def __sub__(self, other: Shape) -> Shape:
        return Shape(lambda p: np.maximum(self.distance(p), -other.distance(p)), self.low, self.high)

    def grown(self, margin: float) -> Shape:
        """The solid with its surface moved outwards by `margin` mm (inwards if negative)."""
        return Shape(lambda p: self.distance(p) - np.float32(margin), self.low - margin, self.high + margin)

    def blended(self, other: Shape, radius: float) -> Shape:
        """Union whose seam is rounded over about `radius` mm (quadratic polynomial smooth minimum)."""

        def distance(p: Points) -> Field:
            a, b = self.distance(p), other.distance(p)
            overlap = np.maximum(np.float32(radius) - np.abs(a - b), 0)
            return np.asarray(np.minimum(a, b) - overlap * overlap / np.float32(4 * radius), np.float32)

        return Shape(
            distance,
            np.minimum(self.low, other.low) - radius / 4,
            np.maximum(self.high, other.high) + radius / 4,
        )


def rotation(degrees: ArrayLike) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) for angles about x, then y, then z, in degrees."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, np.float64)


def ellipsoid(centre: ArrayLike, radii: ArrayLike, axes: NDArray[np.float64] | None = None) -> Shape:
    """Ellipsoid with semi-axes `radii` (3,) along the columns of the rotation `axes` (3, 3), in mm."""
    middle, semi = np.asarray(centre, np.float64), np.asarray(radii, np.float64)
    turn = np.eye(3) if axes is None else axes
    to_unit = (turn / semi).T.astype(np.float32)
    reach = np.sqrt(((turn * semi) ** 2).sum(axis=1))

    def distance(p: Points) -> Field:
        x, y, z = (p[axis] - np.float32(middle[axis]) for axis in range(3))
        level = np.zeros_like(x)
        slope = np.full_like(x, 1e-12)
        for row, radius in zip(to_unit, semi, strict=True):
            along = row[0] * x + row[1] * y + row[2] * z
            along *= along
            level += along
            slope += along / np.float32(radius**2)
        # f / |grad f| for f = |q| - 1, with q the point in units of the semi-axes: exact to first order at the surface.
        return np.asarray((level - np.sqrt(level)) / np.sqrt(slope), np.float32)

    return Shape(distance, middle - reach, middle + reach)


def tube(path: ArrayLike, radii: ArrayLike) -> Shape:
    """Round tube along the polyline `path` (n, 3) whose radius changes linearly between the n `radii`, in mm."""
    nodes = np.asarray(path, np.float64)
    widths = np.broadcast_to(np.asarray(radii, np.float64), len(nodes))

    def distance(p: Points) -> Field:
        nearest = np.full(p.shape[1:], np.inf, np.float32)
        for start, end, wide, narrow in zip(nodes[:-1], nodes[1:], widths[:-1], widths[1:], strict=True):
            step = (end - start).astype(np.float32)
            x, y, z = (p[axis] - np.float32(start[axis]) for axis in range(3))
            along = np.clip((x * step[0] + y * step[1] + z * step[2]) / np.float32(step @ step), 0, 1)
            off = np.sqrt((x - along * step[0]) ** 2 + (y - along * step[1]) ** 2 + (z - along * step[2]) ** 2)
            np.minimum(nearest, off - np.float32(wide) - along * np.float32(narrow - wide), out=nearest)
        return nearest

    widest = float(widths.max())
    return Shape(distance, nodes.min(axis=0) - widest, nodes.max(axis=0) + widest)


def half_space(point: ArrayLike, normal: ArrayLike) -> Shape:
    """Half-space behind the plane through `point` (mm) with outward `normal`."""
    outward = np.asarray(normal, np.float64) / np.linalg.norm(normal)
    offset = float(outward @ np.asarray(point, np.float64))
    nx, ny, nz = outward.astype(np.float32)
    return Shape(lambda p: nx * p[0] + ny * p[1] + nz * p[2] - np.float32(offset), -EVERYWHERE, EVERYWHERE)


def trunk(half_width: float, half_depth: float, exponent: float, taper: float) -> Shape:
    """Infinite upright cylinder with the section of a superellipse, like the trunk.

    Args:
        half_width: Half-axis along x at z = 0, in mm.
        half_depth: Half-axis along y at z = 0, in mm.
        exponent: Exponent of the superellipse; 2 is an ellipse.
        taper: Relative widening per mm of z.
    """
    power, inverse = np.float32(exponent), np.float32(1 / exponent)

    def distance(p: Points) -> Field:
        scale = 1 + np.float32(taper) * p[2]
        level = (
            np.abs(p[0] / (np.float32(half_width) * scale)) ** power
            + np.abs(p[1] / (np.float32(half_depth) * scale)) ** power
        ) ** inverse
        return np.asarray((level - 1) * np.hypot(p[0], p[1]) / (level + np.float32(1e-6)), np.float32)

    return Shape(distance, -EVERYWHERE, EVERYWHERE)


@dataclass(frozen=True, eq=False)
class Layer:
    """A shape to paint with a tissue and a label.

    Attributes:
        shape: Where to paint.
        tissue: Tissue to paint.
        structure: Label value to paint; 0 is background.
        over: Tissues that may be painted over; None for all.
    """

    shape: Shape
    tissue: int
    structure: int = 0
    over: tuple[int, ...] | None = None


def paint(layers: Sequence[Layer], points: Points) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tissue (k, j, i) and structure (k, j, i) at `points` (3, k, j, i), with later layers over earlier ones."""
    tissue = np.zeros(points.shape[1:], np.uint8)
    structure = np.zeros_like(tissue)
    ranges = _coordinate_ranges(points)
    for layer in layers:
        window = _window(ranges, layer.shape)
        inside = layer.shape.distance(points[:, *window]) < 0
        if layer.over is not None:
            inside &= np.isin(tissue[window], layer.over)
        tissue[window][inside] = layer.tissue
        structure[window][inside] = layer.structure
    return tissue, structure


def _coordinate_ranges(points: Points) -> list[tuple[Field, Field]]:
    """For each array axis, the least and greatest coordinates (3, n) in each of its n planes."""
    ranges = []
    for axis in range(1, 4):
        others = tuple(other for other in range(1, 4) if other != axis)
        ranges.append((points.min(axis=others), points.max(axis=others)))
    return ranges


def _window(ranges: list[tuple[Field, Field]], shape: Shape) -> tuple[slice, slice, slice]:
    """The part of the array whose planes meet the shape's box, so that small shapes cost little."""
    slices = []
    for least, greatest in ranges:
        meets = ((greatest >= shape.low[:, None]) & (least <= shape.high[:, None])).all(axis=0)
        hits = np.flatnonzero(meets)
        slices.append(slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, 0))
    return slices[0], slices[1], slices[2]
