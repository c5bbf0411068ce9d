"""Export of trained networks to a bundle: batch norm re-estimated and folded, ONNX written and compared with torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

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
from SIFASegmentationLib.bundle_files import ARCHIVE_SUFFIX, MANIFEST_FILE, is_bundle_alone
from SIFASegmentationLib.calibration import QualityCalibration
from SIFASegmentationLib.contrasts import ContrastRanges
from SIFASegmentationLib.errors import InputError, unwritable
from SIFASegmentationLib.files import sha256, write_atomically
from SIFASegmentationLib.jobs import CHECKPOINTS_FOLDER, Job

from .batches import as_slices
from .checkpoints import checkpoint_paths, load_checkpoint, loading_from
from .config import TRANSLATING_METHODS, TrainingConfig, labelled_domain, segmented_domain
from .dataset import DOMAINS, PreparedDataset
from .devices import choose_device
from .networks import Ensemble, Networks
from .onnx_model import ExportError, fold_batch_norm, largest_difference, to_onnx
from .quality_calibration import calibrate_quality
from .reestimation import reestimated
from .specification import BASELINE_FOLDER, TrainingSpecification
from .steps import Report, Step, say_nothing
from .target_contrasts import measure_contrasts

LARGEST_DIFFERENCE = 1e-4
"""Difference between the probabilities of ONNX and torch that an exported model must stay below."""
_VERIFIED_SLICES = 8

_FILES = (MANIFEST_FILE, MODEL_FILE, WEIGHTS_FILE, BASELINE_FILE)  # Files of a bundle.


def export(
    job_folder: str | Path,
    out: str | Path,
    *,
    others: Sequence[str | Path] = (),
    name: str | None = None,
    weights: str = "average",
    baseline: str | Path | None = None,
    device: str = "cpu",
    report: Report = say_nothing,
) -> Bundle:
    """Write a bundle from a job's last checkpoint.

    Args:
        job_folder: Job of a training; finished, stopped, or still running.
        out: Folder to make or replace, or a zip file, which is easier to send.
        others: Further jobs on the same prepared data set, such as those of other seeds. The bundle's model is then the
            mean of all models; its training summary and weights are those of `job_folder`.
        name: Name shown in lists of models; made of task, method and date unless given.
        weights: `average` (the moving average, if the training kept one) or `raw`.
        baseline: Job of a training without adaptation on the same prepared data set, whose model is included for
            comparison; by default the one that the job itself trained, if any.
        device: auto, cpu, cuda or mps, for the computations that an export needs.
        report: Called before each step.

    Raises:
        InputError: `out` is something other than a bundle or can't be written, `weights` or the device is unknown,
            there is no usable checkpoint, the prepared data set is gone, the baseline is not one, a job is given twice,
            or the jobs differ in structures or slices.
        ExportError: A probability of the exported model differs from that of the networks by 1e-4 or more.
    """
    if weights not in ("average", "raw"):
        raise InputError(f"The weights '{weights}' are unknown", "choose average or raw")
    out = Path(out).resolve()
    _check_place(out)
    place = torch.device(choose_device(device))
    folders = [job_folder, *others]
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise InputError(f"A job is given twice among {', '.join(map(str, folders))}", "give each once")
    trained, *others_trained = members = [_Trained.load(Job(folder), weights) for folder in folders]
    for other in others_trained:
        _check_alike(trained, other)
    own = trained.job.folder / BASELINE_FOLDER
    if baseline is None and checkpoint_paths(own / CHECKPOINTS_FOLDER):
        baseline = own
    unadapted = None if baseline is None else _Trained.load(Job(baseline), weights)
    if unadapted is not None:
        _check_baseline(unadapted, trained)
    name = name or f"{trained.dataset.manifest.task.name}, {trained.config.method}, {datetime.now():%d %b %Y}"
    if out.suffix.lower() != ARCHIVE_SUFFIX:
        return _write_bundle(members, unadapted, place, out, name, report)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".") as folder:
        bundle = _write_bundle(members, unadapted, place, Path(folder) / "bundle", name, report)
        return pack_bundle(bundle.path, out)


def _check_place(out: Path) -> None:
    """Refuse to replace anything but a bundle, before anything is computed.

    Raises:
        InputError: `out` is some other file or a folder that is not empty, or can't be looked at.
    """
    becomes_folder = out.suffix.lower() != ARCHIVE_SUFFIX
    try:
        is_folder = out.is_dir()
        is_free = not out.exists() or (is_folder and becomes_folder and not any(out.iterdir()))
    except OSError as error:
        raise unwritable(out, error) from error
    if not is_free and not (is_folder is becomes_folder and is_bundle_alone(out, _FILES)):
        raise InputError(f"{out} is there, and is no bundle that could be replaced", "choose another --out")


def _write_bundle(
    members: Sequence[_Trained], unadapted: _Trained | None, device: torch.device, out: Path, name: str, report: Report
) -> Bundle:
    """Make or replace the bundle `out`: a model and, for comparison, one without adaptation, if there is one."""

    def say(step: Step) -> None:
        report(step if unadapted is None else replace(step, message=f"adapted model, {step.message}"))

    def say_of_baseline(step: Step) -> None:
        report(replace(step, message=f"model without adaptation, {step.message}"))

    model = _Model.of(members, device, say)
    compared = None if unadapted is None else _Model.of([unadapted], device, say_of_baseline)
    trained = model.first
    with write_atomically(out) as partial:
        partial.mkdir(parents=True)
        verification = model.write(partial / MODEL_FILE, say)
        trained.write_weights(partial / WEIGHTS_FILE)
        labelled = trained.dataset.entry(labelled_domain(trained.config))
        manifest = BundleManifest(
            name=name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            sifa_version=__version__,
            task=trained.dataset.manifest.task,
            domain="target",
            preprocessing={domain: trained.dataset.entry(domain).preprocessing for domain in DOMAINS},
            training=trained.summary(),
            members=len(model.members),
            verification=verification,
            quality=model.quality(say),
            structures_ml=labelled.structures_ml,
            positions_mm=labelled.positions_mm,
            contrasts=model.contrasts(say),
            baseline=None if compared is None else _write_baseline(compared, partial / BASELINE_FILE, say_of_baseline),
            files={path.name: sha256(path) for path in sorted(partial.iterdir())},
        )
        (partial / MANIFEST_FILE).write_text(manifest_json(manifest), encoding="utf-8")
    return read_bundle(out)


def _write_baseline(compared: _Model, path: Path, report: Report) -> BaselineSummary:
    """Write a model as a bundle's baseline; return its summary for the manifest."""
    return BaselineSummary(
        verification=compared.write(path, report),
        iterations=compared.first.done,
        losses=compared.first.losses,
        quality=compared.quality(report),
    )


@dataclass(frozen=True)
class _Trained:
    """The networks of a job's last checkpoint, after `done` iterations."""

    job: Job
    specification: TrainingSpecification
    dataset: PreparedDataset
    networks: Networks
    done: int

    @classmethod
    def load(cls, job: Job, weights: str) -> _Trained:
        """Load a job's last checkpoint; see `export` for `weights` and errors."""
        specification = TrainingSpecification.of(job)
        paths = checkpoint_paths(job.folder / CHECKPOINTS_FOLDER)
        if not paths:
            raise InputError(f"{job.folder} has no checkpoint yet", "train longer, or look at its log.txt")
        dataset = specification.dataset(job)
        checkpoint = load_checkpoint(paths[-1])
        config = specification.config
        networks = Networks(dataset.classes, config.width, config.decoder_dropout)
        with loading_from(paths[-1]):
            state = checkpoint["model"]
            networks.load_state_dict(state["networks"])
            if weights == "average" and state["average"]:
                networks.segmentation_network().load_state_dict(state["average"])
        return cls(job, specification, dataset, networks.eval(), int(checkpoint["done"]))

    @property
    def config(self) -> TrainingConfig:
        """Every setting of the training."""
        return self.specification.config

    @property
    def segmented(self) -> NDArray[np.int16]:
        """Slices (n, size, size) of the domain that the model is for: intensities times 32767."""
        return self.dataset.slices(segmented_domain(self.config))

    def reestimate_batch_norm(self, device: torch.device, report: Report) -> None:
        """Give E the batch norm that it is exported with, if the settings ask for re-estimation."""
        if self.config.reestimate_batch_norm:
            network = self.networks.segmentation_network()
            exported = reestimated(network.to(device), self.segmented, self.config.batch, device, report=report)
            network.to("cpu").load_state_dict(exported.state_dict())

    def write_weights(self, path: Path) -> None:
        """Write the weights of all networks (safetensors)."""
        # Not `save_file`, whose error on a full disk is not an `OSError`.
        path.write_bytes(save({key: tensor.contiguous() for key, tensor in self.networks.state_dict().items()}))

    def summary(self) -> TrainingSummary:
        """Summarise the training for the manifest."""
        source, target = (tuple(volume.image for volume in self.dataset.entry(domain).volumes) for domain in DOMAINS)
        initial = self.specification.initial
        return TrainingSummary(
            method=self.config.method,
            iterations=self.done,
            source_volumes=source,
            target_volumes=target,
            losses=self.losses,
            settings=self.config.model_dump(),
            initial=initial.name if initial is not None else None,
        )

    @property
    def losses(self) -> dict[str, float]:
        """Losses that were reported last, by name; empty if none were."""
        last = self.job.last("losses")
        return last.data["losses"] if last else {}


@dataclass(frozen=True)
class _Model:
    """Model of a bundle: that of one training, or the mean of several on the same slices."""

    members: tuple[_Trained, ...]
    device: torch.device

    @property
    def first(self) -> _Trained:
        return self.members[0]

    @classmethod
    def of(cls, members: Sequence[_Trained], device: torch.device, report: Report) -> _Model:
        """Make a model whose members have the batch norm that is exported, computed on `device`."""
        for member in members:
            member.reestimate_batch_norm(device, report)
        return cls(tuple(members), device)

    @cached_property
    def network(self) -> nn.Module:
        """Network that maps slices to class probabilities, in `eval` mode, on the CPU."""
        networks = [member.networks.segmentation_network() for member in self.members]
        return (networks[0] if len(networks) == 1 else Ensemble(networks)).eval()

    @cached_property
    def folded(self) -> nn.Module:
        """`network` with batch norm folded into the weights of the preceding convolutions."""
        return fold_batch_norm(self.network)

    def write(self, path: Path, report: Report) -> Verification:
        """Write the model as ONNX and compare it with torch; see `export` for errors."""
        report(Step(0, 1, "writing it for ONNX Runtime"))
        slices = self.first.segmented
        shown = as_slices(torch.from_numpy(np.array(slices[_spread(len(slices), _VERIFIED_SLICES)])))
        model = to_onnx(self.folded, shown[:2])
        difference = largest_difference(model, self.network, shown)
        if not difference < LARGEST_DIFFERENCE:
            raise ExportError(f"the exported model differs from the networks by {difference:g} in a probability")
        path.write_bytes(model)
        return Verification(slices=len(shown), largest_difference=difference)

    def quality(self, report: Report) -> QualityCalibration | None:
        """Calibrate the model's expected Dice; None if no structure is found or labelled."""
        config = self.first.config
        generator = self.first.networks.generator.to(self.device) if config.method in TRANSLATING_METHODS else None
        return calibrate_quality(
            self.folded.to(self.device),
            self.first.dataset,
            labelled_domain(config),
            generator,
            self.device,
            report,
        )

    def contrasts(self, report: Report) -> ContrastRanges:
        """Measure the usual contrasts between structures in the target's volumes.

        Empty if the model has not been adapted to these volumes, since it may be wrong about most of them.
        """
        if segmented_domain(self.first.config) != "target":
            return {}
        return measure_contrasts(self.folded.to(self.device), self.first.dataset, self.device, report)


def _check_baseline(baseline: _Trained, trained: _Trained) -> None:
    if baseline.config.method != "without_adaptation":
        raise InputError(
            f"{baseline.job.folder} was trained by the method {baseline.config.method}",
            "give a job trained by without_adaptation as the baseline",
        )
    _check_alike(trained, baseline)


def _check_alike(first: _Trained, other: _Trained) -> None:
    """Refuse trainings that differ in structures or in the preprocessing of their slices.

    Raises:
        InputError: They differ; the message names how.
    """
    own, others = (trained.dataset.manifest.task.names for trained in (first, other))
    if own != others:
        raise InputError(
            f"{other.job.folder} segments {', '.join(others)}, {first.job.folder} {', '.join(own)}",
            "give jobs that were trained on the same task",
        )
    for domain in DOMAINS:
        one, two = (dict(trained.dataset.entry(domain).preprocessing) for trained in (first, other))
        if unlike := [name for name in one if one[name] != two[name]]:
            raise InputError(
                f"{other.job.folder} was not trained on the slices of {first.job.folder}, the preprocessing of its "
                f"{domain} has another {' and '.join(unlike)}",
                "give jobs that were trained on the same prepared data set",
            )


def _spread(total: int, count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, total - 1, count).astype(np.int64))
