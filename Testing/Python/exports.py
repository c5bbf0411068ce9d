"""Exports to ONNX that trace each architecture only once in a process, since torch takes seconds for that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import pytest
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
            exported = to_onnx(segmentor, example)
            names = {tensor.name for tensor in onnx.load_model_from_string(exported).graph.initializer}
            if not set(state) <= names:
                # Tensors that happen to be equal, as those of untrained networks, have become one.
                return exported
            self._models[key] = exported
        model = onnx.load_model_from_string(self._models[key])
        for tensor in model.graph.initializer:
            if tensor.name in state:
                tensor.CopyFrom(numpy_helper.from_array(state[tensor.name].detach().cpu().numpy(), tensor.name))
        content: bytes = model.SerializeToString()
        return content


@contextmanager
def traced_once() -> Iterator[None]:
    """Within the block, let bundles and benchmarks of this process export by `TracedOnce`."""
    with pytest.MonkeyPatch.context() as patch:
        quick = TracedOnce()
        patch.setattr("SIFATrainingLib.export.to_onnx", quick)
        patch.setattr("SIFATrainingLib.bench.to_onnx", quick)
        yield
