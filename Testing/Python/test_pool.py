"""The pool of fakes."""

from __future__ import annotations

import torch

from SIFATrainingLib.pool import ImagePool


def fakes(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None].repeat(1, 1, 2, 2)


def test_until_it_is_full_the_pool_returns_what_comes_in() -> None:
    pool = ImagePool(4)
    assert torch.equal(pool.exchange(fakes(1, 2)), fakes(1, 2))
    assert torch.equal(pool.exchange(fakes(3, 4)), fakes(3, 4))


def test_then_half_of_the_images_are_swapped_for_old_ones_and_none_is_lost() -> None:
    torch.manual_seed(0)
    pool, size = ImagePool(50), 50
    pool.exchange(fakes(*range(size)))
    old = 0
    seen: list[float] = []
    for step in range(40):
        new = [float(size + 4 * step + k) for k in range(4)]
        shown = pool.exchange(fakes(*new))[:, 0, 0, 0].tolist()
        old += sum(value not in new for value in shown)
        seen += shown
    assert 60 <= old <= 100  # Half of 160 on average.
    assert pool.images is not None
    kept = pool.images[:, 0, 0, 0].tolist()
    assert sorted(seen + kept) == sorted(float(v) for v in range(size + 160))


def test_a_pool_of_none_passes_everything_on_without_gradient() -> None:
    x = fakes(1, 2).requires_grad_()
    shown = ImagePool(0).exchange(x)
    assert torch.equal(shown, x)
    assert not shown.requires_grad


def test_a_restored_pool_draws_the_same_fakes() -> None:
    pool = ImagePool(3)
    pool.exchange(fakes(1, 2))
    other = ImagePool(3)
    other.load_state_dict(pool.state_dict())
    for one in (pool, other):
        torch.manual_seed(1)
        one.exchange(fakes(5, 6, 7))
    assert pool.images is not None
    assert other.images is not None
    assert torch.equal(pool.images, other.images)
