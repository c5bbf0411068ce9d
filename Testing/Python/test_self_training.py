"""Self-training: which pixels count, which networks it updates, and when it begins."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import distributed
from torch import multiprocessing as mp

from quick import final_state, quick_config, tensors
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import Job, State
from SIFASegmentationLib.preprocessing import Preprocessing
from SIFATrainingLib.config import SelfTrainingSettings, labels_target_at, main_iterations, make_config
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.distributed import any_process, leave
from SIFATrainingLib.figures import draw_losses
from SIFATrainingLib.iteration import Batch
from SIFATrainingLib.loop import learning_rate
from SIFATrainingLib.losses import IGNORED, segmentation_loss, soft_dice_loss, weighted_cross_entropy
from SIFATrainingLib.model import Model
from SIFATrainingLib.networks import SegmentationNetwork
from SIFATrainingLib.pace import Pace, work_of
from SIFATrainingLib.players import Player
from SIFATrainingLib.pseudo_labels import _fitting, confident_labels, label_target, label_volume
from SIFATrainingLib.self_training import SelfTrainingIteration
from SIFATrainingLib.supervision import supervise
from SIFATrainingLib.training import create_job, train
from SIFATrainingLib.whole_volumes import grid_spacing

CPU = torch.device("cpu")


def of_two_classes(probabilities: list[float]) -> torch.Tensor:
    """Return class probabilities (1, 2, 1, n) of a row of pixels from those of class 1."""
    p = torch.tensor(probabilities)
    return torch.stack([1 - p, p])[None, :, None]


def test_sure_pixels_count_and_of_each_class_the_surest() -> None:
    # Class 0 has 0.95, 0.93, 0.8, 0.6 in four pixels, class 1 has 0.7, 0.65, 0.6, 0.55; the surer half of each counts.
    probabilities = of_two_classes([0.05, 0.07, 0.2, 0.4, 0.7, 0.65, 0.6, 0.55])
    labels = confident_labels(probabilities, SelfTrainingSettings(confidence=0.9, kept=0.5))
    assert labels.tolist() == [[[0, 0, IGNORED, IGNORED, 1, 1, IGNORED, IGNORED]]]
    # 0.8 is not in the surer half of class 0, but above the confidence.
    labels = confident_labels(probabilities, SelfTrainingSettings(confidence=0.75, kept=0.5))
    assert labels.tolist() == [[[0, 0, 0, IGNORED, 1, 1, IGNORED, IGNORED]]]
    everything = confident_labels(probabilities, SelfTrainingSettings(kept=1.0))
    assert everything.tolist() == [[[0, 0, 0, 0, 1, 1, 1, 1]]]


def test_a_structure_that_is_nowhere_probable_has_no_surest_half() -> None:
    probabilities = torch.tensor([[0.96, 0.02, 0.02], [0.3, 0.32, 0.38], [0.28, 0.3, 0.42], [0.2, 0.7, 0.1]])
    labels = confident_labels(probabilities.T[None, :, None], SelfTrainingSettings())
    assert labels.tolist() == [[[0, IGNORED, IGNORED, 1]]]
    # A confidence below one half counts as it is.
    trusting = confident_labels(probabilities.T[None, :, None], SelfTrainingSettings(confidence=0.4))
    assert trusting.tolist() == [[[0, IGNORED, 2, 1]]]


def test_thresholds_by_class_are_those_of_a_plain_loop() -> None:
    torch.manual_seed(1)
    probabilities = (torch.randn(2, 4, 16, 16) * 2).softmax(1)
    settings = SelfTrainingSettings(confidence=0.85, kept=0.3)
    sure, labels = probabilities.max(1)
    expected = torch.full_like(labels, IGNORED)
    for value in range(4):
        own = sure[labels == value].sort().values
        threshold = min(0.85, float(own[int(0.7 * len(own))]))
        expected[(labels == value) & (sure >= threshold)] = value
    assert confident_labels(probabilities, settings).equal(expected.to(torch.uint8))


def test_a_volume_is_labelled_where_its_intensities_and_its_largest_part_say() -> None:
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[:48, :48]
    truth = np.zeros((4, 48, 48), np.uint8)
    truth[:, (rows - 16) ** 2 + (columns - 16) ** 2 < 10**2] = 1
    images = np.where(truth == 1, 0.5, -0.3) + rng.normal(0, 0.05, truth.shape)
    # The teacher sees the structure three pixels too far right, and a second part that is just as bright.
    seen = np.roll(truth, 3, 2)
    bowel = (rows - 38) ** 2 + (columns - 38) ** 2 < 4**2
    seen[:, bowel], images[:, bowel] = 1, 0.5
    p = np.where(seen == 1, 0.85, 0.15).astype(np.float32)
    probabilities = np.stack([1 - p, p], 1)
    batch_by_batch = confident_labels(torch.from_numpy(probabilities), SelfTrainingSettings()).numpy()
    shown = images.astype(np.float32)
    labels = label_volume(probabilities.copy(), shown, 2.0, {1: 1}, SelfTrainingSettings())
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, IGNORED}
    # Pixels in doubt are few: those of the border, where neighbours have an influence.
    assert (labels == IGNORED).mean() < 0.15
    counts, wrong = labels != IGNORED, labels != truth
    assert (counts & wrong).mean() < 0.2 * ((batch_by_batch != IGNORED) & (batch_by_batch != truth)).mean()
    assert not (labels[:, bowel] == 1).any()
    # The second part is kept if the structure has two.
    labels = label_volume(probabilities.copy(), shown, 2.0, {1: 2}, SelfTrainingSettings())
    assert set(np.unique(labels[:, bowel])) == {1, IGNORED}


def test_the_target_is_labelled_from_its_slices_alone_and_the_teacher_stays_as_it_was(prepared: Path) -> None:
    dataset, teacher = PreparedDataset(prepared), teacher_of(prepared)
    before = copy.deepcopy(teacher.state_dict())
    labelled = label_target(teacher, dataset, quick_config(), torch.device("cpu"))
    labels = labelled.slices
    assert labelled.volumes == 2
    assert labels.shape == dataset.slices("target").shape
    assert set(np.unique(labels)) <= {*range(dataset.classes), IGNORED}
    assert (labels != IGNORED).mean() > 0.5
    assert teacher.encoder.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_where_slices_are_stretched_their_spacing_is_about_that_of_a_field_of_view() -> None:
    assert grid_spacing(Preprocessing(size=128, spacing=2.5)) == 2.5
    assert grid_spacing(Preprocessing(size=128)) == 2 * grid_spacing(Preprocessing(size=256)) == 3.0


def test_what_is_left_is_told_by_what_each_part_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An iteration takes three seconds, one second in self-training, and more for a while on a busy computer."""
    clock = [0.0]
    monkeypatch.setattr("SIFATrainingLib.pace.time.monotonic", lambda: clock[0])
    config = quick_config(iterations=1000, self_training={"share": 0.3})
    pace, left = Pace(config, 0), {}
    for done in range(10, 1010, 10):
        clock[0] += 10 * (3.0 if done <= 700 else 1.0) * (5 if 100 < done <= 150 else 1)
        _each, left[done] = pace.report(done)
    assert left[10] == pytest.approx(690 * 3 + 300)
    assert left[100] == pytest.approx(600 * 3 + 300)
    assert left[150] > left[100]
    # The pace of long ago no longer counts.
    assert left[300] == pytest.approx(400 * 3 + 300)
    assert left[750] == pytest.approx(250)
    assert left[1000] == 0
    assert work_of(quick_config(iterations=9, method="without_adaptation", self_training={"share": 0}), 6) == 6


def teacher_of(prepared: Path) -> SegmentationNetwork:
    """Return the moving average of networks with random weights."""
    model = Model.create(PreparedDataset(prepared).classes, quick_config(), torch.device("cpu"))
    assert model.average is not None
    return model.average.average


def test_a_volume_too_large_to_label_is_told_of(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def label(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("SIFATrainingLib.loop.label_target", label)
    config = quick_config(iterations=4, self_training={"share": 0.5, "labellings": 1})
    with pytest.raises(InputError, match=r"The memory does not hold the largest of the target volumes .*labellings=0"):
        train(create_job(prepared, tmp_path / "job", config, "cpu"))


def test_threads_are_as_many_as_the_memory_holds_volumes(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = PreparedDataset(prepared)
    longest = max(volume.stop - volume.start for volume in dataset.entry("target").volumes)
    each = longest * 32 * 32 * 5 * 20
    for free, expected in ((0.0, 1), (7.0 * each, 3), (4.1 * each, 2)):
        monkeypatch.setattr("SIFATrainingLib.pseudo_labels.free_bytes", lambda _, free=free: free)
        assert _fitting(dataset) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="gloo's file rendezvous needs POSIX paths")
def test_two_processes_label_what_one_does(prepared: Path, tmp_path: Path) -> None:
    data = in_halves(prepared, tmp_path / "set")
    expected = label_target(teacher_of(data), PreparedDataset(data), quick_config(batch=4), CPU).slices
    mp.spawn(label_a_share, (str(data), str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        # Summing statistics in another order can change pixels at the edge of a threshold.
        assert (np.load(tmp_path / f"{rank}.npy") != expected).mean() < 0.002


def label_a_share(rank: int, data: str, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    dataset, teacher, config = PreparedDataset(Path(data)), teacher_of(Path(data)), quick_config(batch=2)
    # Only the second process is asked to end, once each has labelled a volume.
    asks = itertools.count()
    asked_at = len(range(0, len(dataset.slices("target")) - 3, 4)) + 1

    def must_end() -> bool:
        return any_process(rank == 1 and next(asks) == asked_at, CPU)

    begun = label_target(teacher, dataset, config, CPU, must_end=must_end)
    assert begun.volumes == 2
    labelled = label_target(teacher, dataset, config, CPU, begun)
    assert labelled.volumes == 3
    known = slice(dataset.entry("target").volumes[2].start)
    assert np.array_equal(labelled.slices[known], begun.slices[known])
    np.save(f"{folder}/{rank}.npy", labelled.slices)
    leave()


def in_halves(prepared: Path, folder: Path) -> Path:
    """Copy a data set and split the first of its two target volumes, since two processes can't share three evenly."""
    shutil.copytree(prepared, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    first, second = manifest["target"]["volumes"]
    middle = first["stop"] // 2
    manifest["target"]["volumes"] = [{**first, "stop": middle}, {**first, "start": middle}, second]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


STOPPABLE = quick_config(iterations=4, self_training={"share": 0.5, "labellings": 1})


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished job with the settings `STOPPABLE` on the data set `in_halves`."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    job = create_job(in_halves(prepared, folder / "set"), folder / "job", STOPPABLE, "cpu")
    assert train(job) is State.FINISHED
    return job


@pytest.mark.parametrize("within", ["batch norm", "first volume", "last volume"])
def test_a_stop_while_the_target_is_labelled_is_honoured_and_changes_nothing(
    uninterrupted: Job, tmp_path: Path, within: str
) -> None:
    data = uninterrupted.folder.with_name("set")
    broken = create_job(data, tmp_path / "job", STOPPABLE, "cpu")
    # `must_stop` is called before three iterations, each batch of slices and each volume.
    batches = len(PreparedDataset(data).slices("target")) // STOPPABLE.batch
    stop_at = {"batch norm": 4, "first volume": 3 + batches, "last volume": 3 + batches + 2}[within]
    asks = itertools.count()
    assert train(broken, must_stop=lambda: next(asks) >= stop_at) is State.STOPPED
    assert next(asks) == stop_at + 1
    stopped = final_state(broken)
    assert stopped["done"] == 2
    assert stopped.get("begun_volumes") == {"batch norm": None, "first volume": 0, "last volume": 2}[within]
    assert train(broken) is State.FINISHED
    one, other = (final_state(job) for job in (uninterrupted, broken))
    assert "begun_volumes" not in other
    assert len(tensors(one)) == len(tensors(other)) > 50
    assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def test_ignored_pixels_have_no_part_in_the_loss() -> None:
    torch.manual_seed(2)
    logits = torch.randn(1, 3, 4, 8, requires_grad=True)
    labels = torch.randint(0, 3, (1, 4, 8))
    seen, hidden = labels[..., :4], torch.cat([labels[..., :4], torch.full((1, 4, 4), IGNORED)], 2)
    # The cross-entropy is averaged over all pixels, ignored ones included.
    expected = weighted_cross_entropy(logits[..., :4], seen) / 2 + soft_dice_loss(logits[..., :4], seen)
    found = segmentation_loss(logits, hidden)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient[..., 4:].abs().max() == 0
    assert gradient[..., :4].abs().max() > 0


def test_the_last_part_moves_the_segmentor_alone_and_asks_the_average() -> None:
    torch.manual_seed(3)
    config = quick_config(self_training={"share": 0.5})
    model = Model.create(3, config, torch.device("cpu"))
    assert model.self_training is not None
    assert model.average is not None
    before, teacher = copy.deepcopy(model.networks), copy.deepcopy(model.average.average)
    slices = torch.rand(2, 1, 32, 32) * 2 - 1
    losses = model.self_training.step(Batch(slices, torch.randint(0, 3, (2, 32, 32)), slices.flip(3)))
    assert list(losses) == ["segmentation", "lower_segmentation", "self_training", "lower_self_training"]
    for name, after in model.networks.named_parameters():
        moved = not torch.equal(after, before.get_parameter(name))
        assert moved == name.startswith(("encoder", "classifier", "lower_classifier")), name
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, model.average.average.state_dict()[name]), name


@pytest.mark.parametrize(("method", "translated"), [("sifa", True), ("output_alignment", False)])
def test_what_translates_nothing_learns_the_labelled_slices_as_they_are(method: str, translated: bool) -> None:
    config = quick_config(method=method, self_training={"share": 0.5})
    model = Model.create(3, config, torch.device("cpu"))
    assert model.self_training is not None
    asked: list[torch.Tensor] = []
    model.networks.generator.register_forward_hook(lambda _module, given, _made: asked.append(given[0]))
    shown: list[torch.Tensor] = []
    model.networks.encoder.register_forward_hook(lambda _module, given, _made: shown.append(given[0]))
    slices = torch.rand(2, 1, 32, 32) * 2 - 1
    with patch.object(SelfTrainingIteration, "_changed", lambda _self, given: given):
        model.self_training.step(Batch(slices, torch.randint(0, 3, (2, 32, 32)), slices.flip(3)))
    assert bool(asked) == translated
    assert torch.equal(shown[0], slices) != translated
    assert torch.equal(shown[1], slices.flip(3))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 10),
        ({"self_training": {"share": 0.3}}, 7),
        ({"self_training": {"share": 0.3}, "ema_decay": 0.0}, 10),
        ({"self_training": {"share": 0.3}, "method": "supervised"}, 10),
        ({"self_training": {"share": 0.3}, "method": "image_alignment"}, 7),
        ({"self_training": {"share": 0.3}, "method": "output_alignment"}, 7),
    ],
)
def test_self_training_takes_its_share_of_the_last_iterations(settings: dict[str, object], expected: int) -> None:
    assert main_iterations(make_config(**{"iterations": 10, "self_training": {"share": 0.0}, **settings})) == expected


@pytest.mark.parametrize(
    ("labellings", "expected"), [(0, []), (1, [12]), (2, [12, 16]), (3, [12, 15, 18]), (50, list(range(12, 20)))]
)
def test_when_volumes_are_labelled(labellings: int, expected: list[int]) -> None:
    config = make_config(iterations=20, self_training={"share": 0.4, "labellings": labellings})
    assert [done for done in range(21) if labels_target_at(config, done)] == expected


def test_a_training_without_self_training_labels_nothing() -> None:
    config = make_config(iterations=20, method="supervised", self_training={"share": 0.4, "labellings": 2})
    assert not any(labels_target_at(config, done) for done in range(21))


def test_the_last_part_learns_the_labels_that_the_batch_brings() -> None:
    torch.manual_seed(5)
    model = Model.create(3, quick_config(self_training={"share": 0.5}), torch.device("cpu"))
    assert model.self_training is not None
    slices, labels = torch.rand(2, 1, 32, 32) * 2 - 1, torch.randint(0, 3, (2, 32, 32))
    nothing = torch.full_like(labels, IGNORED)
    losses = model.self_training.step(Batch(slices, labels, slices.flip(3), nothing))
    # If all pixels are ignored, the cross-entropy is 0, and so is the Dice of every class.
    assert float(losses["self_training"]) == 1
    losses = model.self_training.step(Batch(slices, labels, slices.flip(3), labels))
    assert float(losses["self_training"]) > 1


def test_the_rate_falls_in_a_straight_line() -> None:
    config = make_config(iterations=10, decay_share=0.4, learning_rate=1e-3)
    rates = [learning_rate(config, done) for done in range(10)]
    assert rates[:7] == [1e-3] * 7
    assert rates[7:] == pytest.approx([0.75e-3, 0.5e-3, 0.25e-3])
    assert learning_rate(make_config(iterations=10, decay_share=0.0), 9) == 2e-4


def test_a_job_reports_both_parts_apart(prepared: Path, tmp_path: Path) -> None:
    config = quick_config(iterations=5, log_every=4, self_training={"share": 0.4}, decay_share=0.5)
    job = create_job(prepared, tmp_path / "job", config, "cpu")
    train(job)
    events = [event.data for event in job.events()[0] if event.kind == "losses"]
    parts = {event["iteration"]: "self_training" in event["losses"] for event in events}
    assert parts == {2: False, 3: False, 4: True, 5: True}
    # Each loss is drawn only where it was reported: those of the cycles end where self-training begins.
    drawn = {line.get_label(): line.get_xdata() for axis in draw_losses(job.folder).axes for line in axis.lines}
    assert list(drawn["cycle source"]) == [2, 3]
    assert list(drawn["self training"]) == [4, 5]
    assert list(drawn["segmentation"]) == [2, 3, 4, 5]


def test_the_last_part_is_moved_by_x_st_and_by_weighted_x_t(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = dict.fromkeys(("gamma", "contrast", "brightness", "noise", "random_contrast"), 0.0)
    chosen = quick_config(self_training={"share": 0.5, "weight": 3.0, **quiet})
    moved: list[torch.Tensor] = []
    model = Model.create(3, chosen, torch.device("cpu"))
    assert model.self_training is not None
    n, x, (y, pseudo) = model.networks, torch.rand(2, 1, 32, 32) * 2 - 1, torch.randint(0, 3, (2, 2, 32, 32))
    monkeypatch.setattr(Player, "move", lambda _player, gradients: moved.extend(gradients))
    model.self_training.step(Batch(x, y, x.flip(3), pseudo))
    own, *_ = supervise(n, chosen, n.encoder(n.generator(x)), y)
    taught, *_ = supervise(n, chosen, n.encoder(x.flip(3)), pseudo)
    expected = torch.autograd.grad(own + 3 * taught, n.segmentor_parameters())
    for one, other in zip(moved, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-6)
