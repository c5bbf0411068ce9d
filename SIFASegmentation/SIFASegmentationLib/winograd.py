"""Fast convolutions between many channels by Winograd's minimal filtering: 2.25 multiplications per pixel, not 9.

A bundle contains plain convolutions, which every runtime and every GPU supports. For a CPU, the graph is rewritten when
it is loaded: planes are cut into tiles of 4x4 output pixels, and each 3x3 convolution becomes

1. B^T d B for every tile d of 6x6 input pixels, which overlap by two;
2. for each of the 36 positions in a tile, one matrix product over the channels with G g G^T of the filters g;
3. A^T m A for every tile m of products, which gives the 4x4 pixels of the output.

Steps 1 and 3 handle all tiles of a line at once, in each direction by one product with a banded matrix, which includes
the padding and the dilation. Rewritten convolutions work on arrays (H, W, b, C); ONNX Runtime cancels the
transpositions between two of them in a row.

Sources: A. Lavin, S. Gray, Fast algorithms for convolutional neural networks, CVPR 2016; B. Barabasz et al., Error
analysis and improving the accuracy of Winograd convolution for deep neural networks, ACM TOMS 46 (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_TAPS = 3
POINTS = (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))
"""Points at which the polynomials are evaluated, besides infinity. Pairs of opposite and reciprocal numbers keep the
matrix entries near 1: on SIFA's encoder the error is half that of the usual 0, 1, -1, 2, -2."""
_LEAST_GAIN = 80
"""Least CK / (C + K), for C input and K output channels, at which rewriting pays: it saves operations in proportion to
CK per pixel and costs memory traffic in proportion to C + K (128 to 256 channels gain, 128 to 128 do not)."""


@dataclass(frozen=True)
class MinimalFilter:
    """Matrices of F(m, r): m outputs of a filter of r taps by m + r - 1 products, y = output [(taps g) * (data d)].

    Attributes:
        data: Matrix B^T (m + r - 1, m + r - 1).
        taps: Matrix G (m + r - 1, r).
        output: Matrix A^T (m, m + r - 1).
    """

    data: Float64Array
    taps: Float64Array
    output: Float64Array


@lru_cache
def minimal_filter(points: tuple[Fraction, ...] = POINTS, taps: int = _TAPS) -> MinimalFilter:
    """Construct F(m, taps) by evaluation at m + taps - 2 distinct points and at infinity (Toom and Cook).

    Args:
        points: The distinct points.
        taps: Number r of the filter's taps.

    Raises:
        ValueError: A point is given twice.
    """
    if len(set(points)) < len(points):
        raise ValueError(f"the points {points} are not distinct")
    outputs = len(points) + 2 - taps
    others = [tuple(other for other in points if other != point) for point in points]
    scales = [prod(point - other for other in rest) for point, rest in zip(points, others, strict=True)]
    top = [Fraction(0)]
    return MinimalFilter(
        data=_matrix([_polynomial(rest) + top for rest in others] + [_polynomial(points)]),
        taps=_matrix(
            [[point**power / scale for power in range(taps)] for point, scale in zip(points, scales, strict=True)]
            + [[Fraction(power == taps - 1) for power in range(taps)]]
        ),
        output=_matrix(
            [[*(point**power for point in points), Fraction(power == outputs - 1)] for power in range(outputs)]
        ),
    )


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, constant term first, of the polynomial with these roots and leading coefficient 1."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


def _matrix(rows: Sequence[Sequence[Fraction]]) -> Float64Array:
    return np.array(rows, np.float64)


@dataclass(frozen=True)
class Tiling:
    """A line of pixels cut into tiles of m outputs, separately for each phase of a dilation.

    Attributes:
        tiles: Number n of tiles over all phases.
        scatter: Matrix (a n, length), a = m + 2, that applies B^T to every tile of the line, with the zeros of the
            padding left out. Rows are ordered by position in the tile, then by tile.
        gather: Matrix (length, a n) that applies A^T to every tile's products and puts the outputs in their places.
    """

    tiles: int
    scatter: Float32Array
    gather: Float32Array


@lru_cache
def tiling(length: int, dilation: int = 1) -> Tiling:
    """Tiles for a filter of 3 taps, `dilation` pixels apart, on a line that is padded to keep its length."""
    matrices = minimal_filter()
    outputs, places = matrices.output.shape
    longest_phase = -(-length // dilation)
    in_phase = -(-longest_phase // outputs)
    scatter = np.zeros((places, dilation, in_phase, length), np.float32)
    gather = np.zeros((length, places, dilation, in_phase), np.float32)
    for phase, tile in product(range(dilation), range(in_phase)):
        for place in range(places):
            pixel = phase + dilation * (tile * outputs + place - 1)
            if 0 <= pixel < length:
                scatter[:, phase, tile, pixel] = matrices.data[:, place]
        for output in range(outputs):
            pixel = phase + dilation * (tile * outputs + output)
            if pixel < length:
                gather[pixel, :, phase, tile] = matrices.output[output]
    tiles = dilation * in_phase
    return Tiling(tiles, scatter.reshape(places * tiles, length), gather.reshape(length, places * tiles))


def transformed_filters(weights: Float32Array) -> Float32Array:
    """Transform filters g (K, C, 3, 3) to G g G^T (36, C, K)."""
    outputs, inputs = weights.shape[:2]
    taps = minimal_filter().taps
    both = np.kron(taps, taps).astype(np.float32)
    by_tap = weights.transpose(2, 3, 1, 0).reshape(_TAPS * _TAPS, inputs * outputs)
    return (both @ by_tap).reshape(len(both), inputs, outputs)


@dataclass(frozen=True)
class FastModel:
    """A rewritten model.

    Attributes:
        model: The serialised graph, without the transformed filters.
        filters: The transformed filters by name. They are kept apart so that they are not copied once more: they are
            four times as large as the original ones.
    """

    model: bytes
    filters: dict[str, Float32Array]


def with_fast_convolutions(model: bytes) -> FastModel:
    """Rewrite the convolutions of an ONNX model that gain from it, and leave everything else as it is.

    Raises:
        google.protobuf.message.DecodeError: `model` is not an ONNX model.
    """
    rewritten = onnx.load_model_from_string(model)
    graph = rewritten.graph
    rewriting = _Rewriting(graph)
    nodes = [new for node in graph.node for new in rewriting.nodes_for(node)]
    kept = [tensor for tensor in graph.initializer if tensor.name not in rewriting.replaced]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *rewriting.constants.values()])
    with ThreadPoolExecutor() as pool:
        filters = pool.map(transformed_filters, rewriting.filters.values())
        return FastModel(rewritten.SerializeToString(), dict(zip(rewriting.filters, filters, strict=True)))


class _Rewriting:
    """Replacement of a graph's nodes.

    Attributes:
        constants: Initializers that the new nodes need, by name.
        filters: Filters to transform, by the name of the result.
        replaced: Names of initializers that are no longer needed.
    """

    def __init__(self, graph: Any) -> None:
        self.constants: dict[str, Any] = {}
        self.filters: dict[str, Float32Array] = {}
        self.replaced: set[str] = set()
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._uses = [name for node in graph.node for name in node.input]
        self._shapes = {
            value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.input, *graph.output)
        }

    def nodes_for(self, node: Any) -> list[Any]:
        """The nodes that compute a node's output: the node itself, or those of a rewritten convolution."""
        dilation = self._dilation(node)
        return [node] if dilation is None else self._convolution(node, dilation)

    def _dilation(self, node: Any) -> int | None:
        """Dilation of a convolution that is worth rewriting, else None.

        It has 3x3 filters, no stride or groups, padding that keeps a known size, and enough channels.
        """
        if node.op_type != "Conv" or node.input[1] not in self._weights:
            return None
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        weights = self._weights[node.input[1]]
        outputs, inputs, *kernel = weights.dims
        dilations = list(attributes.get("dilations", (1, 1)))
        usual = (
            weights.data_type == onnx.TensorProto.FLOAT
            and kernel == [_TAPS, _TAPS]
            and attributes.get("group", 1) == 1
            and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
            and list(attributes.get("strides", (1, 1))) == [1, 1]
            and dilations[0] == dilations[1]
            and list(attributes.get("pads", ())) == 4 * dilations[:1]
            and all(self._shapes.get(node.input[0], [0, 0, 0, 0])[2:])
        )
        gains = inputs * outputs >= _LEAST_GAIN * (inputs + outputs)
        return dilations[0] if usual and gains else None

    def _convolution(self, node: Any, dilation: int) -> list[Any]:
        weights = node.input[1]
        outputs, inputs = self._weights[weights].dims[:2]
        height, width = self._shapes[node.input[0]][2:]
        down, across = tiling(height, dilation), tiling(width, dilation)
        places = len(down.scatter) // down.tiles
        transformed = f"{weights}_winograd"
        if transformed not in self.filters:
            self.filters[transformed] = numpy_helper.to_array(self._weights[weights])
            self.constants[transformed] = _declared(transformed, (places * places, inputs, outputs))
            if self._uses.count(weights) == 1:
                self.replaced.add(weights)
        chain = _Chain(node.input[0], node.output[0], self.constants)
        chain.transpose(2, 3, 0, 1)
        chain.reshape(height, -1)
        chain.multiply_left(f"scatter_{height}_{dilation}", down.scatter)
        chain.reshape(places * down.tiles, width, -1)
        chain.multiply_left(f"scatter_{width}_{dilation}", across.scatter)
        chain.reshape(places, down.tiles, places, across.tiles, -1, inputs)
        chain.transpose(0, 2, 1, 3, 4, 5)
        chain.reshape(places * places, -1, inputs)
        chain.then("MatMul", transformed)
        chain.reshape(places, places, down.tiles, across.tiles, -1, outputs)
        chain.transpose(0, 2, 1, 3, 4, 5)
        chain.reshape(places * down.tiles, places * across.tiles, -1)
        chain.multiply_left(f"gather_{width}_{dilation}", across.gather)
        chain.reshape(places * down.tiles, -1)
        chain.multiply_left(f"gather_{height}_{dilation}", down.gather)
        chain.reshape(height, width, -1, outputs)
        if len(node.input) > 2:
            chain.then("Add", node.input[2])
        return chain.ending_with_transpose(2, 3, 0, 1)


class _Chain:
    """A sequence of nodes, each of which takes the output of the one before."""

    def __init__(self, start: str, end: str, constants: dict[str, Any]) -> None:
        self._nodes: list[Any] = []
        self._last, self._end, self._constants = start, end, constants

    def transpose(self, *axes: int) -> None:
        self._append("Transpose", [self._last], perm=axes)

    def reshape(self, *shape: int) -> None:
        self.then("Reshape", self._constant("shape_" + "_".join(map(str, shape)), np.array(shape, np.int64)))

    def multiply_left(self, name: str, matrix: Float32Array) -> None:
        self._append("MatMul", [self._constant(name, matrix), self._last])

    def then(self, operation: str, second: str) -> None:
        self._append(operation, [self._last, second])

    def ending_with_transpose(self, *axes: int) -> list[Any]:
        self._nodes.append(helper.make_node("Transpose", [self._last], [self._end], perm=axes))
        return self._nodes

    def _append(self, operation: str, inputs: list[str], **attributes: Any) -> None:
        self._last = f"{self._end}_winograd_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operation, inputs, [self._last], **attributes))

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        name = f"winograd_{name}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(array, name)
        return name


def _declared(name: str, shape: tuple[int, ...]) -> Any:
    """An initializer whose values are passed to the session instead of being part of the model."""
    tensor = onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return tensor
