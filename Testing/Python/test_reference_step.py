"""The sequential schedule against the authors' seven passes: `Testing/Benchmarks/reference_step.py`."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from SIFATrainingLib.adaptation import AdaptationIteration
from SIFATrainingLib.config import make_config
from SIFATrainingLib.iteration import Batch
from SIFATrainingLib.networks import Networks

sys.path.insert(0, str(Path(__file__).parents[1] / "Benchmarks"))

from reference_step import ReferenceStep

# Data type, memory layout, iterations, and allowed difference as a share of a network's change. In float32 there is
# only one iteration, in one layout: with each further one, the adversaries amplify rounding errors a thousandfold.
RUNS = [
    (torch.float64, torch.contiguous_format, 3, 1e-6),
    (torch.float64, torch.channels_last, 3, 1e-6),
    (torch.float32, torch.contiguous_format, 1, 1e-3),
]


@pytest.mark.parametrize(("dtype", "layout", "iterations", "tolerance"), RUNS)
def test_the_sequential_schedule_gives_the_weights_of_seven_separate_passes(
    dtype: torch.dtype, layout: torch.memory_format, iterations: int, tolerance: float
) -> None:
    settings = {"batch_norm_statistics": "target", "probability_floor": 0.0, "decoder_dropout": 0.0}
    config = make_config("paper", width=0.125, batch=2, pool=3, **settings)
    ours, theirs = networks().to(dtype).to(memory_format=layout), networks().to(dtype)
    start = copy.deepcopy(theirs)
    product, reference = AdaptationIteration(ours, config), ReferenceStep(theirs, config)
    if dtype is torch.float32:
        warm([player.optimiser for player in product.players().values()])
        warm(reference.optimisers())
    for step in (product.step, reference.step):
        # The pools of both draw from torch's generator.
        torch.manual_seed(7)
        for batch in batches(iterations):
            step(Batch(batch.source.to(dtype), batch.labels, batch.target.to(dtype)))
    for name, _ in theirs.named_children():
        its, mine, first = (flat(n.get_submodule(name)) for n in (theirs, ours, start))
        change = (its - first).norm()
        assert change > 1e-5, name
        assert (mine - its).norm() < tolerance * change, name
    for (name, mine), its in zip(ours.encoder.named_buffers(), theirs.encoder.buffers(), strict=True):
        torch.testing.assert_close(mine, its, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(
    ("schedule", "passes"), [("reference", (9, 11, 7)), ("sequential", (5, 5, 6)), ("simultaneous", (2, 2, 2))]
)
def test_how_often_the_networks_are_asked(schedule: str, passes: tuple[int, int, int]) -> None:
    """Numbers of forward passes of G_t, E and U in one iteration."""
    settings = {} if schedule == "reference" else {"schedule": schedule}
    config = make_config("paper", width=0.125, batch=2, **settings)
    own, asked = networks(), [0, 0, 0]
    for index, network in enumerate((own.generator, own.encoder, own.decoder)):

        def count(*_: object, index: int = index) -> None:
            asked[index] += 1

        network.register_forward_hook(count)
    step = ReferenceStep(own, config).step if schedule == "reference" else AdaptationIteration(own, config).step
    step(batches(1)[0])
    assert tuple(asked) == passes


def warm(optimisers: list[torch.optim.Optimizer]) -> None:
    """Put Adam into a state as after many iterations, in which its steps follow the gradient.

    Its first step is as large for a gradient that is only rounding as for any other; in float32, two ways to compute
    the same would then diverge.
    """
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                optimiser.state[parameter] = {
                    "step": torch.tensor(1000.0),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.full_like(parameter, 1.0),
                }


def batches(count: int) -> list[Batch]:
    torch.manual_seed(5)
    return [
        Batch(torch.rand(2, 1, 32, 32) * 2 - 1, torch.randint(0, 3, (2, 32, 32)), torch.rand(2, 1, 32, 32) * 2 - 1)
        for _ in range(count)
    ]


def networks() -> Networks:
    torch.manual_seed(6)
    made = Networks(3, width=0.125, decoder_dropout=0.0)
    # Weights are larger than the authors' initial ones, so that every path has a gradient worth comparing.
    for parameter in made.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.08)
    return made


def flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
