"""Trained networks to a bundle: batch norm re-estimated and folded, ONNX written, and compared with torch."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from SIFASegmentationLib import __version__
from SIFASegmentationLib.bundle import (
    BASELINE_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    BaselineSummary,
    Bundle,
    BundleManifest,
    TrainingSummary,
    Verification,
    manifest_json,
    pack_bundle,
    read_bundle,
)
from SIFASegmentationLib.bundle_files import ARCHIVE_SUFFIX, MANIFEST_FILE
from SIFASegmentationLib.calibration import QualityCalibration
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.files import sha256, write_atomically
from SIFASegmentationLib.jobs import Job

from .batch_norm import BatchNorm
from .batches import as_slices
from .checkpoints import checkpoint_paths, load_checkpoint
from .config import TRANSLATING_METHODS, TrainingConfig, labelled_domain
from .dataset import DOMAINS, DomainName, PreparedDataset
from .devices import choose_device
from .loop import averaged_modules
from .networks import Networks, ResidualBlock, Segmentor, reestimate_batch_norm
from .quality_calibration import calibrate_quality
from .specification import BASELINE_FOLDER, TrainingSpecification
from .steps import Report, Step, say_nothing

LARGEST_DIFFERENCE = 1e-4
_VERIFIED_SLICES = 8
_BATCH_NORM_SLICES = 512  # More change the averages by less than their last digits.


class ExportError(RuntimeError):
    """The ONNX model computes something else than the networks: a fault of ours, no bundle is written."""


def export(
    job_folder: Path,
    out: Path,
    *,
    name: str | None = None,
    weights: str = "average",
    baseline: Path | None = None,
    device: str = "cpu",
    report: Report = say_nothing,
) -> Bundle:
    """Write the bundle of a job's last checkpoint.

    Args:
        job_folder: From `sifa train`; finished, stopped, or still running.
        out: Folder to make or replace; or a zip file of that name, which is easier to send.
        name: What lists of models show; the task, the method and the date unless given.
        weights: `average` (the moving average, where the training kept one) or `raw`.
        baseline: Job of a training without adaptation on the same task and grid, whose model goes into the bundle as
            well, to compare with; the one that the job itself trained, if it did, unless given.
        device: auto, cpu, cuda or mps; where the networks compute what the bundle needs to know of them.
        report: Told of each step.

    Raises:
        InputError: Unknown `weights` or device, no usable checkpoint, the prepared data set is gone, or the baseline
            is not one.
        ExportError: The exported model differs from the networks by more than 1e-4 in a probability.
    """
    if weights not in ("average", "raw"):
        raise InputError(f"The weights '{weights}' are unknown: choose average or raw.")
    place = torch.device(choose_device(device))
    trained = _Trained.load(Job(job_folder), weights, place)
    own = trained.job.folder / BASELINE_FOLDER
    if baseline is None and checkpoint_paths(own / "checkpoints"):
        baseline = own
    compared = None if baseline is None else _Trained.load(Job(baseline), weights, place)
    if compared is not None:
        _check_comparable(compared, trained)
    name = name or f"{trained.dataset.manifest.task.name}, {trained.config.method}, {datetime.now():%d %b %Y}"
    if out.suffix.lower() != ARCHIVE_SUFFIX:
        return _write_bundle(trained, compared, out, name, report)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".") as folder:
        bundle = _write_bundle(trained, compared, Path(folder) / "bundle", name, report)
        return pack_bundle(bundle.path, out)


def _write_bundle(trained: _Trained, compared: _Trained | None, out: Path, name: str, report: Report) -> Bundle:
    """Make or replace the folder `out`."""

    def say(step: Step) -> None:
        report(step if compared is None else replace(step, message=f"adapted model, {step.message}"))

    def say_of_baseline(step: Step) -> None:
        report(replace(step, message=f"model without adaptation, {step.message}"))

    with write_atomically(out) as partial:
        partial.mkdir(parents=True)
        verification = trained.write_model(partial / MODEL_FILE, say)
        trained.write_weights(partial / WEIGHTS_FILE)
        manifest = BundleManifest(
            name=name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            sifa_version=__version__,
            task=trained.dataset.manifest.task,
            domain="target",
            preprocessing={domain: trained.dataset.entry(domain).preprocessing for domain in DOMAINS},
            training=trained.summary(),
            verification=verification,
            quality=trained.quality(say),
            structures_ml=trained.dataset.entry(labelled_domain(trained.config)).structures_ml,
            baseline=None if compared is None else compared.write_baseline(partial / BASELINE_FILE, say_of_baseline),
            files={path.name: sha256(path) for path in sorted(partial.iterdir())},
        )
        (partial / MANIFEST_FILE).write_text(manifest_json(manifest), encoding="utf-8")
    return read_bundle(out)


@dataclass(frozen=True)
class _Trained:
    """The networks of a job's last checkpoint, after `done` iterations."""

    job: Job
    specification: TrainingSpecification
    dataset: PreparedDataset
    networks: Networks
    done: int
    device: torch.device

    @classmethod
    def load(cls, job: Job, weights: str, device: torch.device) -> _Trained:
        """See `export` for `weights` and errors."""
        specification = TrainingSpecification.of(job)
        paths = checkpoint_paths(job.folder / "checkpoints")
        if not paths:
            raise InputError(f"{job.folder} has no checkpoint yet: train longer, or look at its log.txt.")
        dataset = PreparedDataset(specification.prepared)
        checkpoint = load_checkpoint(paths[-1])
        state = checkpoint["model"]
        config = specification.config
        networks = Networks(dataset.classes, config.width, config.decoder_dropout)
        networks.load_state_dict(state["networks"])
        if weights == "average" and state["average"]:
            averaged_modules(networks).load_state_dict(state["average"])
        return cls(job, specification, dataset, networks.eval(), int(checkpoint["done"]), device)

    @property
    def config(self) -> TrainingConfig:
        """Every setting."""
        return self.specification.config

    def write_model(self, path: Path, report: Report) -> Verification:
        """Re-estimate batch norm, write E and C1 as ONNX, compare with torch."""
        report(Step(0, 1, "writing it for ONNX Runtime"))
        domain: DomainName = "source" if self.config.method == "without_adaptation" else "target"
        slices = self.dataset.slices(domain)
        if self.config.reestimate_batch_norm:
            encoder = self.networks.encoder.to(self.device)
            reestimate_batch_norm(encoder, (batch.to(self.device) for batch in _batches(slices, self.config.batch)))
            encoder.to("cpu")
        segmentor = Segmentor(self.networks.encoder, self.networks.classifier).eval()
        shown = as_slices(torch.from_numpy(np.array(slices[_spread(len(slices), _VERIFIED_SLICES)])))
        model = to_onnx(fold_batch_norm(segmentor), shown[:2])
        difference = largest_difference(model, segmentor, shown)
        if not difference < LARGEST_DIFFERENCE:
            raise ExportError(f"the exported model differs from the networks by {difference:g} in a probability")
        path.write_bytes(model)
        return Verification(slices=len(shown), largest_difference=difference)

    def write_weights(self, path: Path) -> None:
        """Write all networks; after `write_model`, with its batch norm."""
        # Not by `save_file`, whose error on a full disk is not the system's.
        path.write_bytes(save({key: tensor.contiguous() for key, tensor in self.networks.state_dict().items()}))

    def write_baseline(self, path: Path, report: Report) -> BaselineSummary:
        """Write the model as a bundle's baseline; what the manifest says of it."""
        verification = self.write_model(path, report)
        return BaselineSummary(
            iterations=self.done, losses=self._losses(), verification=verification, quality=self.quality(report)
        )

    def quality(self, report: Report) -> QualityCalibration:
        """What the model's probabilities are worth; after `write_model`, with its batch norm."""
        segmentor = fold_batch_norm(Segmentor(self.networks.encoder, self.networks.classifier)).to(self.device)
        translates = self.config.method in TRANSLATING_METHODS
        generator = self.networks.generator.to(self.device) if translates else None
        return calibrate_quality(
            segmentor, self.dataset, labelled_domain(self.config), generator, self.device, report
        )

    def summary(self) -> TrainingSummary:
        """The card."""
        source, target = (
            tuple(volume.image for volume in self.dataset.entry(domain).volumes) for domain in DOMAINS
        )
        initial = self.specification.initial
        return TrainingSummary(
            method=self.config.method,
            iterations=self.done,
            source_volumes=source,
            target_volumes=target,
            losses=self._losses(),
            settings=self.config.model_dump(),
            initial=initial.name if initial is not None else None,
        )

    def _losses(self) -> dict[str, float]:
        last = self.job.last("losses")
        return last.data["losses"] if last else {}


def _check_comparable(baseline: _Trained, trained: _Trained) -> None:
    if baseline.config.method != "without_adaptation":
        raise InputError(
            f"{baseline.job.folder} was trained by the method {baseline.config.method}: give a job trained by "
            "without_adaptation as the baseline."
        )
    if _structures(baseline) != _structures(trained):
        raise InputError(
            f"{baseline.job.folder} segments {', '.join(_structures(baseline))}, {trained.job.folder} "
            f"{', '.join(_structures(trained))}: give a baseline on the same task."
        )
    if _grid(baseline) != _grid(trained):
        raise InputError(
            f"{baseline.job.folder} was trained on slices {_grid(baseline)}, {trained.job.folder} on {_grid(trained)}: "
            "give a baseline trained on the same prepared data set."
        )


def _structures(trained: _Trained) -> list[str]:
    return [structure.name for structure in trained.dataset.manifest.task.structures]


def _grid(trained: _Trained) -> str:
    grid = trained.dataset.entry("target").preprocessing
    spaced = "stretched" if grid.spacing is None else f"{grid.spacing:g} mm"
    return f"{grid.plane}, {grid.size} x {grid.size}, {spaced}, field of view {grid.field_of_view}"


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
    """The segmentor as an ONNX model for any number of slices of the example's size.

    Args:
        segmentor: In `eval`.
        example: Slices (b > 1, 1, H, W).
    """
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
    model = program.model_proto
    _forget_origin(model)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString()
    return serialised


def _forget_origin(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes of where it ran: stack traces, with the paths of this computer's files."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer,
                 *model.functions):  # fmt: skip
        del part.metadata_props[:]


@torch.no_grad()
def largest_difference(model: bytes, segmentor: Segmentor, slices: Tensor) -> float:
    """Largest absolute difference of any class probability between ONNX Runtime and torch, over slices (b, 1, H, W)."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    largest = 0.0
    for one in slices.split(1):
        (exported,) = session.run(None, {"slices": one.numpy()})
        largest = max(largest, float(np.abs(exported - segmentor(one).numpy()).max()))
    return largest


def _batches(slices: NDArray[np.int16], batch: int) -> Iterator[Tensor]:
    """Slices spread over the domain, in whole batches of those that trained."""
    order = np.random.default_rng(0).permutation(len(slices))[:_BATCH_NORM_SLICES]
    for start in range(0, max(len(order) - batch, 0) + 1, batch):
        yield as_slices(torch.from_numpy(np.array(slices[np.sort(order[start : start + batch])])))


def _spread(total: int, count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, total - 1, count).astype(np.int64))
