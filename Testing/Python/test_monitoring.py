"""Monitoring of a training on labelled target volumes: the scores, and that nothing is learned from the labels."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quick import final_state, quick_config, silent, tensors
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.jobs import Job, State
from SIFASegmentationLib.volumes import Volume
from SIFATrainingLib.batches import as_slices
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.monitoring import Monitor
from SIFATrainingLib.prepare import prepare
from SIFATrainingLib.training import create_job, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def monitored(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set `prepared` with the target's second patient, named in a CSV file, as monitor set."""
    folder = tmp_path_factory.mktemp("monitored")
    image, label = (cohort / "ct" / f"abdomen_ct_001_{kind}.nii.gz" for kind in ("image", "label"))
    (folder / "monitor.csv").write_text(f"patient,image,label\nabdomen_ct_001,{image},{label}\n")
    prepare(cohort / "mr", cohort / "ct", folder / "set", size=32, monitor=folder / "monitor.csv", report=silent)
    return folder / "set"


class Fixed(nn.Module):
    """Model that predicts given classes (n, 32, 32), batch after batch, whatever slices it sees."""

    def __init__(self, classes: Tensor) -> None:
        super().__init__()
        self.classes, self.shown = classes, 0

    def forward(self, slices: Tensor) -> Tensor:
        assert not self.training
        part = self.classes[self.shown : self.shown + len(slices)]
        self.shown += len(slices)
        return nn.functional.one_hot(part.long(), 5).movedim(-1, 1).float()


def test_the_monitor_set_has_the_targets_preprocessing_and_changes_nothing_else(
    prepared: Path, monitored: Path
) -> None:
    dataset = PreparedDataset(monitored)
    entry, target = dataset.entry("monitor"), dataset.entry("target")
    assert entry.preprocessing == target.preprocessing
    own = slice(target.volumes[1].start, target.volumes[1].stop)
    assert np.array_equal(dataset.slices("monitor"), dataset.slices("target")[own])
    assert set(np.unique(dataset.labels("monitor"))) == {0, 1, 2, 3, 4}
    assert not target.labelled
    for file in prepared.glob("*.npy"):
        assert (monitored / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(InputError, match="holds no monitor volumes: prepare it with --monitor"):
        PreparedDataset(prepared).slices("monitor")


def test_dice_is_that_of_whole_volumes(monitored: Path) -> None:
    dataset = PreparedDataset(monitored)
    labels = torch.from_numpy(np.array(dataset.labels("monitor")))
    monitor = Monitor(dataset, 3, CPU)
    perfect = monitor.dice(Fixed(labels))
    assert perfect == {"liver": 1, "right kidney": 1, "left kidney": 1, "spleen": 1, "mean": 1}
    wrong = labels.clone()
    wrong[labels == 1] = 0
    wrong[0, 0, :10] = 4
    assert labels[0, 0].sum() == 0
    spleen = int((labels == 4).sum())
    found = monitor.dice(Fixed(wrong))
    assert found["liver"] == 0
    assert found["spleen"] == pytest.approx(2 * spleen / (2 * spleen + 10))
    assert found["mean"] == pytest.approx((0 + 1 + 1 + found["spleen"]) / 4)


def test_a_structure_that_is_nowhere_has_no_dice(monitored: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(monitored, tmp_path / "set")
    labels = np.load(folder / "monitor_labels.npy")
    labels[labels == 4] = 0
    np.save(folder / "monitor_labels.npy", labels)
    monitor = Monitor(PreparedDataset(folder), 8, CPU)
    assert sorted(monitor.dice(Fixed(torch.from_numpy(labels)))) == ["left kidney", "liver", "mean", "right kidney"]
    assert monitor.dice(Fixed(torch.from_numpy(np.where(labels == 0, 4, labels))))["spleen"] == 0


def watched(data: Path, folder: Path, **settings: Any) -> Job:
    job = create_job(data, folder, quick_config(monitor_every=2, **settings), "cpu")
    train(job)
    return job


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.0, "decoder_dropout": 0.25}, {"schedule": "sequential"}])
def test_the_weights_do_not_depend_on_being_watched_nor_on_what_the_labels_say(
    prepared: Path, monitored: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    noisy = shutil.copytree(monitored, tmp_path / "noisy")
    shape = np.load(noisy / "monitor_labels.npy").shape
    np.save(noisy / "monitor_labels.npy", np.random.default_rng(0).integers(0, 5, shape, np.uint8))
    jobs = [
        watched(data, tmp_path / f"job{number}", iterations=4, **settings)
        for number, data in enumerate((prepared, monitored, noisy))
    ]
    weights = [tensors(final_state(job)) for job in jobs]
    for others in weights[1:]:
        assert all(torch.equal(a, b) for a, b in zip(weights[0], others, strict=True))
    events = [[event.data for event in job.events()[0] if event.kind == "monitor"] for job in jobs]
    assert [len(some) for some in events] == [0, 2, 2]
    assert [event["iteration"] for event in events[1]] == [2, 4]
    assert events[1][0]["stage"] == "training"
    assert events[1] != events[2]
    assert set(events[1][-1]["dice"]) == {"liver", "right kidney", "left kidney", "spleen", "mean"}


@pytest.mark.parametrize("settings", [{}, {"method": "without_adaptation"}, {"reestimate_batch_norm": False}])
def test_it_scores_what_would_be_exported(monitored: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    from SIFATrainingLib.batches import spread_batches  # noqa: PLC0415
    from SIFATrainingLib.networks import Networks, reestimate_batch_norm  # noqa: PLC0415

    job = watched(monitored, tmp_path / "job", iterations=2, **settings)
    networks = Networks(5, 0.0625)
    state = final_state(job)["model"]
    networks.segmentation_network().load_state_dict(state["average"])
    networks.eval()
    dataset = PreparedDataset(monitored)
    with torch.no_grad():
        if settings.get("reestimate_batch_norm", True):
            # The statistics come from the domain that the model is for; the running ones belong to other weights.
            shown = dataset.slices("source" if "method" in settings else "target")
            before, batch = networks.encoder.state_dict()["lower.1.running_mean"].clone(), quick_config().batch
            reestimate_batch_norm(networks.encoder, spread_batches(shown, batch, 16 * batch))
            assert not torch.equal(before, networks.encoder.state_dict()["lower.1.running_mean"])
        slices = as_slices(torch.from_numpy(np.array(dataset.slices("monitor"))))
        predicted = networks.segmentation_network()(slices).argmax(1)
    expected = Monitor(dataset, 7, CPU).dice(Fixed(predicted))
    last = job.last("monitor")
    assert last is not None
    assert last.data["dice"] == pytest.approx(expected)


STOPPABLE = quick_config(iterations=4, monitor_every=4)


@pytest.fixture(scope="module")
def uninterrupted(monitored: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished job with the settings `STOPPABLE`."""
    job = create_job(monitored, tmp_path_factory.mktemp("uninterrupted") / "job", STOPPABLE, "cpu")
    assert train(job) is State.FINISHED
    return job


@pytest.mark.parametrize("within", ["batch norm", "monitor set"])
def test_a_stop_while_it_watches_is_honoured_and_no_score_is_lost(
    uninterrupted: Job, monitored: Path, tmp_path: Path, within: str
) -> None:
    broken = create_job(monitored, tmp_path / "job", STOPPABLE, "cpu")
    # `must_stop` is called before four iterations, each batch of slices and each monitor volume.
    batches = len(range(0, min(32, len(PreparedDataset(monitored).slices("target"))), 2))
    stop_at, asks = {"batch norm": 4 + 1, "monitor set": 4 + batches}[within], itertools.count()
    assert train(broken, must_stop=lambda: next(asks) >= stop_at) is State.STOPPED
    assert next(asks) == stop_at + 1
    assert broken.last("monitor") is None
    assert train(broken) is State.FINISHED
    one, other = (final_state(job) for job in (uninterrupted, broken))
    assert not other["owes_score"]
    assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    told = [[event.data for event in job.events()[0] if event.kind == "monitor"] for job in (uninterrupted, broken)]
    assert len(told[0]) == 1
    assert told[0] == told[1]


def test_a_patient_of_the_source_or_of_the_test_set_does_not_watch(cohort: Path, tmp_path: Path) -> None:
    for settings, sentence in (
        ({"monitor": cohort / "mr"}, "both in the source and in the monitor set"),
        ({"monitor": cohort / "ct", "test": cohort / "ct"}, "test set"),
        ({"monitor": tmp_path}, "holds no labelled volumes"),
    ):
        with pytest.raises(InputError, match=sentence):
            prepare(cohort / "mr", cohort / "ct", tmp_path / "out", size=32, report=silent, **settings)


def test_the_targets_coding_is_the_monitors(cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / "btcv"
    for kind in ("image", "label"):
        volume = read_volume(cohort / "ct" / f"abdomen_ct_000_{kind}.nii.gz")
        array = volume.array if kind == "image" else np.array([0, 6, 2, 3, 1], np.uint8)[volume.array]
        write_volume(Volume(array, volume.geometry, volume.name), folder / f"abdomen_ct_000_{kind}.nii.gz")
    out = tmp_path / "out"
    prepare(cohort / "mr", cohort / "ct", out, size=32, monitor=folder, target_coding="BTCV", report=silent)
    assert set(np.unique(PreparedDataset(out).labels("monitor"))) == {0, 1, 2, 3, 4}
