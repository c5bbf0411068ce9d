"""The structure-preserving term: it ignores changes of contrast and responds to changed borders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from SIFATrainingLib.structure import mind, structure_loss


def disc(radius: float, inside: float, outside: float) -> Tensor:
    """An image (1, 1, 48, 48) of a disc."""
    axis = torch.arange(48.0) - 23.5
    distance = (axis[:, None].square() + axis.square()).sqrt()
    return torch.where(distance < radius, inside, outside)[None, None]


@pytest.mark.parametrize("contrast", [(-0.6, 0.4), (0.9, -0.9), (0.3, 0.0)])
def test_contrast_makes_no_difference(contrast: tuple[float, float]) -> None:
    assert float(structure_loss(disc(12, *contrast), disc(12, 0.5, -0.5))) < 1e-3


def test_moved_and_invented_borders_do() -> None:
    image = disc(12, 0.5, -0.5)
    moved = [float(structure_loss(disc(12 + by, 0.5, -0.5), image)) for by in (0, 1, 3)]
    assert moved[0] == 0
    assert 0 < moved[1] < moved[2]
    assert float(structure_loss(disc(12, 0.0, 0.0), image)) > 0.02
    invented = image.clone()
    invented[..., 2:6, 2:6] = 0.5
    assert float(structure_loss(invented, image)) > 0.005


def test_noise_is_no_structure() -> None:
    torch.manual_seed(0)
    image = disc(12, 0.5, -0.5)
    noisy = image + 0.005 * torch.randn_like(image)
    assert float(structure_loss(noisy, image)) < 0.25 * float(structure_loss(disc(14, 0.5, -0.5), image))


def test_a_descriptor_is_in_range_by_hand_and_in_single_precision() -> None:
    image = torch.zeros(1, 1, 32, 32, dtype=torch.bfloat16)
    assert torch.equal(mind(image), torch.ones(1, 4, 32, 32))
    step = torch.zeros(1, 1, 32, 32)
    step[..., 16:] = 1
    right, left, down, up = mind(step)[0, :, 16, 13:17].unbind()
    # All rows are equal, so D = 0 upwards and downwards. Where D > 0 in one direction alone, V = D / 4: exp(-4).
    assert torch.equal(up, torch.ones(4))
    assert torch.equal(down, torch.ones(4))
    # At column 14, D = 2 / 3 to the right, since two of the patch's three columns change; D = 0 to the left, as at 13.
    assert right.tolist()[1] == pytest.approx(float(torch.exp(torch.tensor(-4.0))))
    assert left.tolist()[0] == 1
    assert bool((mind(step) >= 0).all() and (mind(step) <= 1).all())
