"""Trained networks to a bundle: batch norm re-estimated and folded, ONNX written, and compared with torch."""

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
_VERIFIED_SLICES = 8

_FILES = (MANIFEST_FILE, MODEL_FILE, WEIGHTS_FILE, BASELINE_FILE)  # Of a bundle.


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
    """Write the bundle of a job's last checkpoint.

    Args:
        job_folder: From `sifa train`; finished, stopped, or still running.
        out: Folder to make or replace; or a zip file of that name, which is easier to send.
        others: Further jobs on the same prepared data set, of other seeds say: the bundle's model is the mean of all,
            its card and its weights are the first one's.
        name: What lists of models show; the task, the method and the date unless given.
        weights: `average` (the moving average, where the training kept one) or `raw`.
        baseline: Job of a training without adaptation on the same prepared data set, whose model goes into the bundle
            as well, to compare with; the one that the job itself trained, if it did, unless given.
        device: auto, cpu, cuda or mps; where the networks compute what the bundle needs to know of them.
        report: Told of each step.

    Raises:
        InputError: Something else than a bundle is at `out`, unknown `weights` or device, no usable checkpoint, the
            prepared data set is gone, the baseline is not one, a job is given twice, or the jobs segment other
            structures or other slices.
        ExportError: The exported model differs from the networks by more than 1e-4 in a probability.
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
        InputError: Something else is there: a file, or a folder that is not empty.
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
    """Make or replace the folder `out`, of a model and the one without adaptation to compare with."""

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
    """Write a model as a bundle's baseline; what the manifest says of it."""
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
        """See `export` for `weights` and errors."""
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
        """Every setting."""
        return self.specification.config

    @property
    def segmented(self) -> NDArray[np.int16]:
        """Slices (n, size, size), times 32767, of the domain that the model is for."""
        return self.dataset.slices(segmented_domain(self.config))

    def reestimate_batch_norm(self, device: torch.device, report: Report) -> None:
        """Give E the batch norm that it is exported with, where the training asks for another than its own."""
        if self.config.reestimate_batch_norm:
            network = self.networks.segmentation_network()
            exported = reestimated(network.to(device), self.segmented, self.config.batch, device, report=report)
            network.to("cpu").load_state_dict(exported.state_dict())

    def write_weights(self, path: Path) -> None:
        """Write all networks."""
        # Not by `save_file`, whose error on a full disk is not the system's.
        path.write_bytes(save({key: tensor.contiguous() for key, tensor in self.networks.state_dict().items()}))

    def summary(self) -> TrainingSummary:
        """The card."""
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
        """The last that were reported."""
        last = self.job.last("losses")
        return last.data["losses"] if last else {}


@dataclass(frozen=True)
class _Model:
    """What a bundle segments by: one training, or the mean of several on the same slices."""

    members: tuple[_Trained, ...]
    device: torch.device

    @property
    def first(self) -> _Trained:
        return self.members[0]

    @classmethod
    def of(cls, members: Sequence[_Trained], device: torch.device, report: Report) -> _Model:
        """With the batch norm that is exported; computed on `device`."""
        for member in members:
            member.reestimate_batch_norm(device, report)
        return cls(tuple(members), device)

    @cached_property
    def network(self) -> nn.Module:
        """Slices to class probabilities, in `eval`, on the CPU."""
        networks = [member.networks.segmentation_network() for member in self.members]
        return (networks[0] if len(networks) == 1 else Ensemble(networks)).eval()

    @cached_property
    def folded(self) -> nn.Module:
        """The same function, with batch norm in the weights of the convolutions before it."""
        return fold_batch_norm(self.network)

    def write(self, path: Path, report: Report) -> Verification:
        """Write it as ONNX, and compare with torch."""
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
        """What its probabilities are worth, where that can be found."""
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
        """How bright the structures are beside one another in the target's volumes; nothing where it has not adapted to
        them, and may be wrong about most."""
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
    """Of one bundle: they must be asked about the same slices, for the same structures."""
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
