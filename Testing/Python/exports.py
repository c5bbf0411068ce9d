"""Exports to ONNX that trace each architecture only once in a process, since torch takes seconds for that."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from SIFATrainingLib.onnx_model import to_onnx


class TracedOnce:
    """Does what `to_onnx` does; networks of a known architecture and slice size get its graph and their own weights."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, tuple[int, ...]], bytes] = {}

    def __call__(self, segmentor: nn.Module, example: Tensor) -> bytes:
        """Export a segmentor to a serialised ONNX model; arguments and errors are those of `to_onnx`."""
        state = segmentor.state_dict()
        key = (str(segmentor), tuple(example.shape[1:]))
        if key not in self._models:
            self._models[key] = to_onnx(_with_distinct_weights(segmentor), example)
        model = onnx.load_model_from_string(self._models[key])
        initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, weights in state.items():
            initializers[name].CopyFrom(numpy_helper.from_array(weights.detach().cpu().numpy(), name))
        content: bytes = model.SerializeToString()
        return content


def _with_distinct_weights(segmentor: nn.Module) -> nn.Module:
    """Return a copy with random weights: tensors that are equal, as in untrained networks, would be exported as one."""
    drawn = copy.deepcopy(segmentor)
    generator = torch.Generator().manual_seed(0)
    for weights in drawn.state_dict().values():
        weights.copy_(torch.rand(weights.shape, generator=generator))
    return drawn


@contextmanager
def traced_once() -> Iterator[None]:
    """Within the block, let bundles and benchmarks of this process export by `TracedOnce`."""
    with pytest.MonkeyPatch.context() as patch:
        quick = TracedOnce()
        patch.setattr("SIFATrainingLib.export.to_onnx", quick)
        patch.setattr("SIFATrainingLib.bench.to_onnx", quick)
        yield
