"""Winograd's filtering compared with plain convolution: matrices, lines of tiles, rewritten graphs, whole models."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from SIFASegmentationLib import winograd
from SIFASegmentationLib.bundle import read_bundle
from SIFASegmentationLib.phantoms import make_patient
from SIFASegmentationLib.segmentation import Segmentor, open_session
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.winograd import minimal_filter, tiling, transformed_filters, with_fast_convolutions
from SIFATrainingLib.networks import Classifier, Encoder, SegmentationNetwork, reestimate_batch_norm
from SIFATrainingLib.onnx_model import fold_batch_norm, to_onnx

FRACTIONS = st.fractions(min_value=-3, max_value=3, max_denominator=4)
PLAIN = ["CPUExecutionProvider"]
SAMPLE_MODEL = Path(__file__).parents[2] / "SIFASegmentation" / "Resources" / "SampleModel"


@settings(deadline=None)
@given(st.sets(FRACTIONS, min_size=3, max_size=5), st.integers(2, 3), st.randoms(use_true_random=False))
def test_a_minimal_filter_is_a_correlation(points: set[Fraction], taps: int, random: Any) -> None:
    matrices = minimal_filter(tuple(sorted(points)), taps)
    outputs, places = matrices.output.shape
    assert places == outputs + taps - 1 == len(points) + 1
    data, weights = ([random.uniform(-1, 1) for _ in range(count)] for count in (places, taps))
    filtered = matrices.output @ ((matrices.taps @ weights) * (matrices.data @ data))
    assert np.allclose(filtered, np.correlate(data, weights, "valid"), atol=1e-6)


def test_a_point_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="not distinct"):
        minimal_filter((Fraction(0), Fraction(1), Fraction(1)), 3)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 3))
def test_a_line_of_tiles_is_a_padded_convolution(length: int, dilation: int) -> None:
    generator = np.random.default_rng(length)
    line, weights = generator.normal(size=length), generator.normal(size=3)
    tiles = tiling(length, dilation)
    products = (tiles.scatter @ line).reshape(-1, tiles.tiles) * (minimal_filter().taps @ weights)[:, np.newaxis]
    padded = np.pad(line, dilation)
    expected = sum(weight * padded[tap * dilation :][:length] for tap, weight in enumerate(weights))
    assert np.allclose(tiles.gather @ products.ravel(), expected, atol=1e-4)


def convolution_model(
    inputs: int = 256, outputs: int = 128, size: tuple[int, int] = (12, 20), bias: bool = True, kernel: int = 3,
    twice: bool = False, dtype: type[np.floating[Any]] = np.float32, **attributes: Any,
) -> bytes:  # fmt: skip
    """A model of one convolution, or two with the same filters, after a node that is not a convolution."""
    generator = np.random.default_rng(0)
    group = attributes.get("group", 1)
    weights = generator.normal(0, 1 / np.sqrt(9 * inputs), (outputs, inputs // group, kernel, kernel))
    constants = [numpy_helper.from_array(weights.astype(dtype), "weights")]
    names = ["weights"]
    if bias:
        constants.append(numpy_helper.from_array(generator.normal(size=outputs).astype(dtype), "bias"))
        names.append("bias")
    nodes = [helper.make_node("Relu", ["x"], ["positive"])]
    ends = ["first", "y"] if twice else ["y"]
    for start, end in zip(["positive", *ends], ends, strict=False):
        nodes.append(helper.make_node("Conv", [start, *names], [end], **attributes))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", kind, ["b", inputs, *size])],
        [helper.make_tensor_value_info("y", kind, ["b", outputs, None, None])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def run(session: onnxruntime.InferenceSession, x: NDArray[np.float32]) -> NDArray[np.float32]:
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    return y


def operations(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(model).graph.node]


@pytest.mark.parametrize(
    "settings",
    [
        {"pads": [1, 1, 1, 1]},
        {"pads": [1, 1, 1, 1], "bias": False},
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
        {"pads": [3, 3, 3, 3], "dilations": [3, 3], "size": (7, 10)},
        {"pads": [1, 1, 1, 1], "size": (3, 1)},
        {"pads": [1, 1, 1, 1], "inputs": 192, "outputs": 192, "twice": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_rewritten_convolution_computes_the_same(settings: dict[str, Any], batch: int) -> None:
    model = convolution_model(**settings)
    assert "Conv" not in operations(with_fast_convolutions(model).model)
    inputs, (height, width) = settings.get("inputs", 256), settings.get("size", (12, 20))
    x = np.random.default_rng(1).normal(size=(batch, inputs, height, width)).astype(np.float32)
    plain = run(onnxruntime.InferenceSession(model, providers=PLAIN), x)
    fast = run(open_session(model, PLAIN, 1), x)
    assert fast.shape == plain.shape
    assert np.abs(fast - plain).max() < 2e-5 * np.abs(plain).max()


@pytest.mark.parametrize(
    "settings",
    [
        {"pads": [1, 1, 1, 1], "inputs": 128},
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"pads": [0, 0, 0, 0]},
        {"pads": [1, 1, 1, 1], "dilations": [1, 2]},
        {"pads": [1, 1, 1, 1], "inputs": 1024, "outputs": 1024, "group": 2},
        {"auto_pad": "SAME_UPPER"},
        {"kernel": 1},
        {"pads": [1, 1, 1, 1], "dtype": np.float16},
        {"pads": [1, 1, 1, 1], "size": ("height", 12)},
    ],
    ids=str,
)
def test_other_convolutions_stay(settings: dict[str, Any]) -> None:
    model = convolution_model(**settings)
    fast = with_fast_convolutions(model)
    assert operations(fast.model) == operations(model) == ["Relu", "Conv"]
    assert not fast.filters


def test_filters_that_are_used_elsewhere_stay_beside_the_transformed_ones() -> None:
    model = onnx.load_model_from_string(convolution_model(pads=[1, 1, 1, 1]))
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, None))
    model.graph.node.append(helper.make_node("ReduceSum", ["weights"], ["sum"]))
    session = open_session(model.SerializeToString(), PLAIN, 1)
    _, total = session.run(None, {"x": np.zeros((1, 256, 12, 20), np.float32)})
    assert np.isclose(total.sum(), numpy_helper.to_array(model.graph.initializer[0]).sum(), atol=1e-3)


def test_transformed_filters_are_those_of_each_pair_of_channels() -> None:
    weights = np.random.default_rng(0).normal(size=(3, 5, 3, 3)).astype(np.float32)
    taps = minimal_filter().taps
    transformed = transformed_filters(weights)
    assert transformed.shape == (36, 5, 3)
    assert np.allclose(transformed[:, 4, 2].reshape(6, 6), taps @ weights[2, 4] @ taps.T, atol=1e-6)


def test_a_model_of_full_width_says_the_same_and_is_rewritten_where_it_counts() -> None:
    torch.manual_seed(0)
    encoder = Encoder()
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    classifier = Classifier(encoder.channels, 5)
    nn.init.normal_(classifier.convolution.weight, std=0.5)
    slices = torch.rand(2, 1, 64, 64) * 2 - 1
    reestimate_batch_norm(encoder, [slices])
    segmentor = SegmentationNetwork(encoder, classifier).eval()
    model = to_onnx(fold_batch_norm(segmentor), slices)
    assert len(with_fast_convolutions(model).filters) == 18
    with torch.no_grad():
        expected = segmentor(slices).numpy()
    assert expected.max(1).mean() > 0.6, "the model is sure enough for a difference to show"
    assert np.abs(run(open_session(model, PLAIN), slices.numpy()) - expected).max() < 1e-4


def test_a_trained_model_draws_the_same_labelmap(monkeypatch: pytest.MonkeyPatch) -> None:
    """All convolutions are rewritten, even those too narrow to gain: 30 in a row, not 18, add their rounding errors."""
    bundle = read_bundle(SAMPLE_MODEL)
    volume, _ = make_patient("abdomen", "ct", 900)
    options = SegmentationOptions(probabilities=True, largest_component=False)
    plain = Segmentor(bundle, "cpu").segment(volume, options)
    monkeypatch.setattr(winograd, "_LEAST_GAIN", 0)
    assert len(with_fast_convolutions(bundle.read("model.onnx")).filters) == 30
    fast = Segmentor(bundle, "cpu").segment(volume, options)
    for value in range(1, 5):
        one, other = plain.labelmap.array == value, fast.labelmap.array == value
        assert 2 * (one & other).sum() > 0.9999 * (one.sum() + other.sum()) > 0
    for name, expected in plain.probabilities.items():
        assert np.abs(fast.probabilities[name].array.astype(int) - expected.array).max() <= 1  # of 255
