"""Trained networks to a bundle: batch norm re-estimated and folded, ONNX written, and compared with torch."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from SIFASegmentationLib import __version__
from SIFASegmentationLib.bundle import (
    MODEL_FILE,
    WEIGHTS_FILE,
    Bundle,
    BundleManifest,
    TrainingSummary,
    Verification,
    manifest_json,
    read_bundle,
)
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.files import sha256, write_atomically
from SIFASegmentationLib.jobs import Job

from .checkpoints import checkpoint_paths, load_checkpoint
from .config import TrainingConfig
from .dataset import DomainName, PreparedDataset, as_slices
from .networks import BatchNorm, Networks, ResidualBlock, Segmentor, reestimate_batch_norm
from .training import TrainingSpecification, averaged_modules

LARGEST_DIFFERENCE = 1e-4
_VERIFIED_SLICES = 8
_BATCH_NORM_SLICES = 512  # More change the averages by less than their last digits.


class ExportError(RuntimeError):
    """The ONNX model computes something else than the networks: a fault of ours, no bundle is written."""


def export(job_folder: Path, out: Path, *, name: str | None = None, weights: str = "average") -> Bundle:
    """Write the bundle of a job's last checkpoint.

    Args:
        job_folder: From `sifa train`; finished, stopped, or still running.
        out: Folder to make or replace.
        name: What lists of models show; the task, the method and the date unless given.
        weights: `average` (the moving average, where the training kept one) or `raw`.

    Raises:
        InputError: Unknown `weights`, no usable checkpoint, or the prepared data set is gone.
        ExportError: The exported model differs from the networks by more than 1e-4 in a probability.
    """
    if weights not in ("average", "raw"):
        raise InputError(f"The weights '{weights}' are unknown: choose average or raw.")
    job = Job(job_folder)
    specification = TrainingSpecification.of(job)
    config = specification.config
    dataset = PreparedDataset(specification.prepared)
    state, done = _last_state(job)
    networks = Networks(dataset.classes, config.width, config.decoder_dropout)
    networks.load_state_dict(state["networks"])
    if weights == "average" and state["average"]:
        averaged_modules(networks).load_state_dict(state["average"])
    networks.eval()
    domain: DomainName = "source" if config.method == "without_adaptation" else "target"
    slices = dataset.slices(domain)
    if config.reestimate_batch_norm:
        reestimate_batch_norm(networks.encoder, _batches(slices, config.batch))
    segmentor = Segmentor(networks.encoder, networks.classifier).eval()
    shown = as_slices(torch.from_numpy(np.array(slices[_spread(len(slices), _VERIFIED_SLICES)])))
    model = to_onnx(fold_batch_norm(segmentor), shown[:2])
    difference = largest_difference(model, segmentor, shown)
    if not difference < LARGEST_DIFFERENCE:
        raise ExportError(f"the exported model differs from the networks by {difference:g} in a probability")
    with write_atomically(out) as partial:
        partial.mkdir(parents=True)
        (partial / MODEL_FILE).write_bytes(model)
        tensors = {key: tensor.contiguous() for key, tensor in networks.state_dict().items()}
        save_file(tensors, partial / WEIGHTS_FILE)
        manifest = BundleManifest(
            name=name or f"{dataset.manifest.task.name}, {config.method}, {datetime.now():%d %b %Y}",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            sifa_version=__version__,
            task=dataset.manifest.task,
            domain="target",
            preprocessing={
                "source": dataset.manifest.source.preprocessing,
                "target": dataset.manifest.target.preprocessing,
            },
            training=_summary(job, dataset, config, done),
            verification=Verification(slices=len(shown), largest_difference=difference),
            files={file: sha256(partial / file) for file in (MODEL_FILE, WEIGHTS_FILE)},
        )
        (partial / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
    return read_bundle(out)


def fold_batch_norm(segmentor: Segmentor) -> Segmentor:
    """A copy in which every batch norm has become part of the convolution before it; the same function, for `eval`."""
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


def to_onnx(segmentor: Segmentor, example: Tensor) -> bytes:
    """The segmentor as an ONNX model for any number of slices of the size of `example` (b > 1, 1, H, W)."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter's warnings concern its own insides.
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
    onnx.checker.check_model(program.model_proto)
    serialised: bytes = program.model_proto.SerializeToString()
    return serialised


@torch.no_grad()
def largest_difference(model: bytes, segmentor: Segmentor, slices: Tensor) -> float:
    """Largest absolute difference of any class probability between ONNX Runtime and torch, over slices (b, 1, H, W)."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    largest = 0.0
    for one in slices.split(1):
        (exported,) = session.run(None, {"slices": one.numpy()})
        largest = max(largest, float(np.abs(exported - segmentor(one).numpy()).max()))
    return largest


def _last_state(job: Job) -> tuple[dict[str, Any], int]:
    paths = checkpoint_paths(job.folder / "checkpoints")
    if not paths:
        raise InputError(f"{job.folder} has no checkpoint yet: train longer, or look at its log.txt.")
    checkpoint = load_checkpoint(paths[-1])
    return checkpoint["model"], int(checkpoint["done"])


def _batches(slices: NDArray[np.int16], batch: int) -> Iterator[Tensor]:
    """Slices spread over the domain, in whole batches of those that trained."""
    order = np.random.default_rng(0).permutation(len(slices))[:_BATCH_NORM_SLICES]
    for start in range(0, max(len(order) - batch, 0) + 1, batch):
        yield as_slices(torch.from_numpy(np.array(slices[np.sort(order[start : start + batch])])))


def _spread(total: int, count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, total - 1, count).astype(np.int64))


def _summary(job: Job, dataset: PreparedDataset, config: TrainingConfig, done: int) -> TrainingSummary:
    losses = job.last("losses")
    return TrainingSummary(
        method=config.method,
        iterations=done,
        source_volumes=tuple(volume.image for volume in dataset.manifest.source.volumes),
        target_volumes=tuple(volume.image for volume in dataset.manifest.target.volumes),
        losses=losses.data["losses"] if losses else {},
        settings=config.model_dump(),
    )
