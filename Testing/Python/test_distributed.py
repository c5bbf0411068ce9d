"""Two processes of batch B compute the gradients of one process of batch 2B, batch norm included."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch import multiprocessing as mp

from quick import quick_config
from SIFASegmentationLib.errors import InputError
from SIFATrainingLib.adaptation import AdaptationIteration
from SIFATrainingLib.batch_norm import _Normalise
from SIFATrainingLib.batches import BatchSource
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.distributed import is_same_everywhere, leave
from SIFATrainingLib.loss_log import LossLog
from SIFATrainingLib.methods import make_iteration
from SIFATrainingLib.model import Model
from SIFATrainingLib.networks import Networks
from SIFATrainingLib.players import Player


def moved(prepared: str, rank: int, processes: int, batch: int, schedule: str) -> list[torch.Tensor]:
    """Return the change of each parameter in one training step, with the memory layout that trainings use."""
    torch.set_num_threads(1)
    config = quick_config(
        batch=batch, pool=0, decoder_dropout=0.0, schedule=schedule, loss_weights={"random_contrast": 0.0}
    )
    model = Model.create(5, config, torch.device("cpu"))
    networks = model.networks.double()
    before = [parameter.detach().clone() for parameter in networks.parameters()]
    batches = BatchSource(
        PreparedDataset(Path(prepared)), "source", config.augmentation, batch=batch, seed=1,
        device=torch.device("cpu"), processes=processes, rank=rank,
    )  # fmt: skip
    given = batches.batch(0)
    model.iteration.step(type(given)(given.source.double(), given.labels, given.target.double()))
    return [after.detach() - start for after, start in zip(networks.parameters(), before, strict=True)]


def gradients(prepared: str, rank: int, processes: int, batch: int, schedule: str) -> list[torch.Tensor]:
    """Return the gradients of every optimiser in one step, averaged over processes, and the statistics of batch norm.

    Everything that each process draws at random by itself is switched off: dropout, pools, random contrasts.
    """
    torch.set_num_threads(1)
    config = quick_config(
        batch=batch, pool=0, decoder_dropout=0.0, schedule=schedule, loss_weights={"random_contrast": 0.0}
    )
    torch.manual_seed(0)
    networks = Networks(5, config.width, 0.0).double()
    dataset = PreparedDataset(Path(prepared))
    batches = BatchSource(
        dataset, "source", config.augmentation, batch=batch, seed=1, device=torch.device("cpu"),
        processes=processes, rank=rank,
    )  # fmt: skip
    collected: list[torch.Tensor] = []
    iteration = make_iteration(networks, config)
    assert isinstance(iteration, AdaptationIteration)
    for player in iteration.players().values():

        def record(player: Player = player) -> None:
            collected.extend(p.grad.clone() for p in player.parameters if p.grad is not None)

        # Record gradients instead of taking the optimiser's step, so that the networks do not change.
        player.optimiser.step = record  # type: ignore[method-assign, assignment]
    given = batches.batch(0)
    iteration.step(type(given)(given.source.double(), given.labels, given.target.double()))
    statistics = [b for b in networks.encoder.buffers() if b.dtype.is_floating_point]
    return collected + statistics


def work(rank: int, prepared: str, folder: str, schedules: tuple[str, ...]) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    assert is_same_everywhere(3, torch.device("cpu"))
    assert not is_same_everywhere(rank, torch.device("cpu"))
    for schedule in schedules:
        both = gradients(prepared, rank, 2, 2, schedule), moved(prepared, rank, 2, 2, schedule)
        torch.save(both, f"{folder}/{schedule}_{rank}.pt")
    group = weakref.ref(distributed.group.WORLD)
    leave()
    assert group() is None, "the group's threads live on, and can abort the process as it exits"


@pytest.mark.skipif(sys.platform == "win32", reason="gloo's file rendezvous needs POSIX paths")
def test_two_processes_compute_what_one_does(prepared: Path, tmp_path: Path) -> None:
    schedules = ("simultaneous", "sequential")
    mp.spawn(work, (str(prepared), str(tmp_path), schedules), nprocs=2)
    for schedule in schedules:
        expected = gradients(str(prepared), 0, 1, 4, schedule)
        expected_moves = moved(str(prepared), 0, 1, 4, schedule)
        for rank in (0, 1):
            found, found_moves = torch.load(tmp_path / f"{schedule}_{rank}.pt", weights_only=True)
            _assert_same_step(found, expected, found_moves, expected_moves)


def _assert_same_step(
    found: list[torch.Tensor],
    expected: list[torch.Tensor],
    found_moves: list[torch.Tensor],
    expected_moves: list[torch.Tensor],
) -> None:
    """Compare the results of `gradients` and of `moved`."""
    assert len(found) == len(expected) > 100
    for ours, theirs in zip(found, expected, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * scale + 1e-12)
    # Adam's first step follows the sign of the gradient. Rounding decides it where the gradient is almost 0, as in
    # biases before a norm, so these parameters are left out.
    decided = [pair for pair in zip(found_moves, expected_moves, strict=True) if pair[1].abs().max() > 1e-5]
    assert len(decided) > 150
    for ours, theirs in decided:
        assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.95


def test_gpus_get_the_statistics_where_they_look_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's CUDA kernel for the channels-last layout fails without them; the CPU kernel does not use them."""
    original, asked = torch.ops.aten.native_batch_norm_backward, []

    def backward(*arguments: object) -> object:
        asked.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(torch.ops.aten, "native_batch_norm_backward", backward)
    monkeypatch.setattr("SIFATrainingLib.batch_norm.torch_distributed.all_reduce", lambda _: None)
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.rand(2, 4, dtype=torch.float64, requires_grad=True).unbind()
    mean, variance = x.detach().mean((0, 2, 3)), x.detach().var((0, 2, 3), correction=0)
    _Normalise.apply(x, weight, bias, mean, variance, 1e-3).square().sum().backward()
    ((_g, _x, _weight, _mean, _variance, saved_mean, saved_inverse, *_),) = asked
    assert torch.equal(saved_mean, mean)
    torch.testing.assert_close(saved_inverse, (variance + 1e-3) ** -0.5)
    torch.testing.assert_close(x.grad, _gradient_of_batch_norm(x, weight, bias))


def _gradient_of_batch_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    again = x.detach().clone().requires_grad_()
    made = torch.nn.functional.batch_norm(again, None, None, weight.detach(), bias.detach(), True, 0.0, 1e-3)
    return torch.autograd.grad(made.square().sum(), again)[0]


def test_a_gradient_in_another_order_moves_the_same_weights() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(4, 3, 3, 3)
    results = []
    for given in (gradient, gradient.contiguous(memory_format=torch.channels_last)):
        parameter = torch.nn.Parameter(weight.clone(memory_format=torch.preserve_format))
        player = Player([parameter], torch.optim.Adam([parameter], 0.1, fused=True))
        player.move([given])
        results.append(parameter.detach())
    expected = weight - 0.1 * gradient.sign()
    for result in results:
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_a_loss_that_is_no_number_in_another_process_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def average(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        (ours,) = tensors
        theirs = torch.tensor([[3.0, 1.0], [3.0, float("nan")]])
        return [(ours + theirs) / 2]

    monkeypatch.setattr("SIFATrainingLib.loss_log.distributed.average", average)
    log = LossLog()
    log.add({"cycle": torch.tensor(1.0), "segmentation": torch.tensor(2.0)})
    log.add({"cycle": torch.tensor(1.0), "segmentation": torch.tensor(2.0)})
    with pytest.raises(InputError, match="'segmentation' was not a number at iteration 12"):
        log.flush(12)
