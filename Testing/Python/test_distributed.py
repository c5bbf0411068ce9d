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
from SIFATrainingLib.adaptation import AdaptationIteration
from SIFATrainingLib.batches import BatchSource
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.distributed import leave
from SIFATrainingLib.methods import make_iteration
from SIFATrainingLib.networks import Networks
from SIFATrainingLib.players import Player


def gradients(prepared: str, rank: int, processes: int, batch: int, schedule: str) -> list[torch.Tensor]:
    """Gradients that every optimiser gets in one step, after they were averaged; what processes draw for themselves is
    off: dropout, pools, random contrasts."""
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

        # In place of the optimiser's step: the networks stay as they are.
        player.optimiser.step = record  # type: ignore[method-assign, assignment]
    given = batches.batch(0)
    iteration.step(type(given)(given.source.double(), given.labels, given.target.double()))
    statistics = [b for b in networks.encoder.buffers() if b.dtype.is_floating_point]
    return collected + statistics


def work(rank: int, prepared: str, folder: str, schedule: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(gradients(prepared, rank, 2, 2, schedule), f"{folder}/{rank}.pt")
    group = weakref.ref(distributed.group.WORLD)
    leave()
    assert group() is None, "the group's threads live on, and can abort the process as it exits"


@pytest.mark.skipif(sys.platform == "win32", reason="gloo's file rendezvous needs POSIX paths")
@pytest.mark.parametrize("schedule", ["simultaneous", "sequential"])
def test_two_processes_compute_what_one_does(prepared: Path, tmp_path: Path, schedule: str) -> None:
    expected = gradients(str(prepared), 0, 1, 4, schedule)
    mp.spawn(work, (str(prepared), str(tmp_path), schedule), nprocs=2)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert len(found) == len(expected) > 100
        for ours, theirs in zip(found, expected, strict=True):
            scale = float(theirs.abs().max())
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * scale + 1e-12)
