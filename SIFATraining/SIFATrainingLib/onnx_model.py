"""E and C1 as an ONNX model: folding batch norm, exporting, and comparing with torch."""

from __future__ import annotations

import copy
import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from .batch_norm import BatchNorm
from .networks import ResidualBlock


class ExportError(RuntimeError):
    """The ONNX model can't be made, or differs from the networks: a fault of the program, so no bundle is written."""


def fold_batch_norm(segmentor: nn.Module) -> nn.Module:
    """Return a copy of a segmentor, in evaluation mode, with every batch norm merged into the convolution before it."""
    folded = copy.deepcopy(segmentor).eval()
    for module in folded.modules():
        if isinstance(module, ResidualBlock):
            for convolution, norm in (("first", "first_norm"), ("second", "second_norm")):
                _fold(module, convolution, norm)
        elif isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                if isinstance(module[index], nn.Conv2d) and isinstance(module[index + 1], BatchNorm):
                    _fold(module, str(index), str(index + 1))
    return folded


def _fold(parent: nn.Module, convolution: str, norm: str) -> None:
    before, after = parent.get_submodule(convolution), parent.get_submodule(norm)
    if not isinstance(before, nn.Conv2d) or not isinstance(after, BatchNorm):
        raise TypeError(f"{convolution}, {norm} are not a convolution and its batch norm")
    fused = nn.utils.fusion.fuse_conv_bn_eval(before, after)
    parent.add_module(convolution, fused)
    parent.add_module(norm, nn.Identity())


def to_onnx(segmentor: nn.Module, example: Tensor) -> bytes:
    """Export a segmentor to a serialised ONNX model, for any number of slices of the example's size.

    Args:
        segmentor: Maps slices to class probabilities; in evaluation mode.
        example: Slices (b > 1, 1, H, W).

    Raises:
        ExportError: Torch did not return a model.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter's warnings are about its own internals.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            segmentor,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["slices"],
            output_names=["probabilities"],
            dynamic_shapes={"x": {0: torch.export.Dim("b")}},
        )
    if program is None:
        raise ExportError("torch made no ONNX program")
    model = program.model_proto
    _forget_origin(model)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString()
    return serialised


def _forget_origin(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata: stack traces that contain paths of this computer."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer,
                 *model.functions):  # fmt: skip
        del part.metadata_props[:]


@torch.no_grad()
def largest_difference(model: bytes, segmentor: nn.Module, slices: Tensor) -> float:
    """Return the largest absolute difference of class probabilities between ONNX Runtime (on the CPU) and torch.

    Args:
        model: Serialised ONNX model.
        segmentor: The networks it was made from, on the CPU, in evaluation mode.
        slices: Slices (b, 1, H, W) to compare them on, one at a time.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    largest = 0.0
    for one in slices.split(1):
        (exported,) = session.run(None, {"slices": one.numpy()})
        largest = max(largest, float(np.abs(exported - segmentor(one).numpy()).max()))
    return largest
