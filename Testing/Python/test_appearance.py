"""Correction by a volume's intensities: with known anatomy, in any contrast, and where intensities do not help."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from SIFASegmentationLib.appearance import Appearance, doubtful_box, learn_appearance, sampling_step

SPACINGS = (2.0, 2.0)


def volume(seed: int, levels: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (6, 64, 64) of two structures, slices with these intensities, and a network's uncertain prediction."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    labels = np.zeros((6, 64, 64), np.int64)
    labels[:, (rows - 24) ** 2 + (columns - 22) ** 2 < 14**2] = 1
    labels[:, (rows - 42) ** 2 + (columns - 44) ** 2 < 9**2] = 2
    slices = np.array(levels)[labels] + rng.normal(0, 0.05, labels.shape)
    # The network sees everything a few pixels away from where it is.
    seen = np.roll(labels, (3, 3), (1, 2))
    probabilities = np.full((3, *labels.shape), 0.035)
    np.put_along_axis(probabilities, seen[np.newaxis], 0.93, 0)
    return labels, slices.astype(np.float32), np.moveaxis(probabilities, 0, 1).astype(np.float32)


def dice(found: np.ndarray, labels: np.ndarray, value: int) -> float:
    one, other = found == value, labels == value
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def decided(probabilities: np.ndarray, slices: np.ndarray, spacings: tuple[float, float] = SPACINGS) -> np.ndarray:
    result = probabilities.copy()
    learn_appearance(result, slices, spacings).decide(result, slices, spacings)
    return result


LEVEL = st.floats(-0.9, 0.9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), levels=st.tuples(LEVEL, LEVEL, LEVEL))
def test_structures_end_where_their_intensities_end_in_any_contrast(
    seed: int, levels: tuple[float, float, float]
) -> None:
    labels, slices, probabilities = volume(seed, levels)
    result = decided(probabilities, slices)
    np.testing.assert_allclose(result.sum(1), 1, atol=1e-4)
    for value in (1, 2):
        before, after = (dice(p.argmax(1), labels, value) for p in (probabilities, result))
        others = [level for other, level in enumerate(levels) if other != value]
        told_apart = min(abs(levels[value] - level) for level in others) > 0.4
        # More than half of the error is corrected; where intensities do not differ, their noise does little harm.
        assert after > ((1 + before) / 2 if told_apart else before - 0.12)


def test_an_inverted_volume_is_decided_alike() -> None:
    _, slices, probabilities = volume(1, (-0.2, 0.3, 0.7))
    np.testing.assert_allclose(decided(probabilities, -slices), decided(probabilities, slices), atol=0.02)


def test_where_everything_looks_alike_nothing_is_decided() -> None:
    _, slices, probabilities = volume(0, (0.1, 0.1, 0.1))
    same = np.zeros_like(slices)
    learned = learn_appearance(probabilities, same, SPACINGS)
    np.testing.assert_allclose(learned.applied(probabilities, same), probabilities, atol=1e-3)


@pytest.mark.parametrize("spacing", [0.6, 0.75, 0.9, 1.25, 2.0, 3.21, 3.67, 6.0])
def test_what_is_mirrored_is_decided_in_the_mirror(spacing: float) -> None:
    """The correction shifts nothing, not even by half a pixel."""
    _, slices, probabilities = volume(6, (-0.3, 0.2, 0.5))
    spacings = (spacing, 1.1 * spacing)
    result = decided(probabilities, slices, spacings)
    for axis in (-2, -1):
        mirrored = decided(np.flip(probabilities, axis), np.flip(slices, axis), spacings)
        np.testing.assert_allclose(np.flip(mirrored, axis), result, atol=1e-5)


def test_pixels_are_averaged_over_the_same_distance_whatever_their_size() -> None:
    for spacing in (0.3, 0.5, 0.8, 1.25, 2.0, 3.21, 5.0, 8.0):
        # One sure pixel of structure 1 in a slice without information: the result is the kernel of the average.
        probabilities = np.zeros((1, 2, 1, 201), np.float32)
        probabilities[:, 0], probabilities[:, 1] = 0.98, 0.02
        probabilities[0, :, 0, 100] = 0, 1
        same = Appearance(np.full((64, 2), 1 / 64, np.float32))
        same.decide(probabilities, np.zeros((1, 1, 201), np.float32), (100.0, spacing))
        raised = probabilities[0, 1, 0] - 0.02
        weights = raised / raised.sum()
        along = (np.arange(201) - 100) * spacing
        assert abs((weights * along).sum()) < 1e-3
        assert np.sqrt((weights * along**2).sum()) == pytest.approx(2.0, rel=0.01)


def test_a_structure_that_was_not_found_takes_nothing_from_others() -> None:
    labels, slices, probabilities = volume(3, (-0.5, 0.2, 0.6))
    # The second structure keeps only a probability of 0.02.
    probabilities[:, 0] += probabilities[:, 2] - 0.02
    probabilities[:, 2] = 0.02
    result = decided(probabilities, slices)
    assert not (result.argmax(1) == 2).any()
    assert dice(result.argmax(1), labels, 1) > dice(probabilities.argmax(1), labels, 1) + 0.05


def test_where_no_structure_is_probable_nothing_changes() -> None:
    _, slices, probabilities = volume(4, (-0.5, 0.2, 0.6))
    probabilities[:, 1:, :, 50:] = 0.001
    probabilities[:, 0, :, 50:] = 0.998
    result = probabilities.copy()
    assert doubtful_box(result) == (slice(0, 64), slice(0, 50))
    learn_appearance(result, slices, SPACINGS).decide(result, slices, SPACINGS)
    np.testing.assert_array_equal(result[..., 50:], probabilities[..., 50:])
    assert (result[..., :50] != probabilities[..., :50]).any()
    empty = np.zeros_like(probabilities)
    empty[:, 0] = 1
    kept = empty.copy()
    assert doubtful_box(empty) == (slice(0, 0), slice(0, 0))
    learn_appearance(empty, slices, SPACINGS).decide(empty, slices, SPACINGS)
    np.testing.assert_array_equal(empty, kept)


def test_large_volumes_are_learned_from_a_part_of_their_pixels() -> None:
    assert sampling_step(100, 5, 128) == 1
    assert sampling_step(200, 5, 256) == 2
    assert sampling_step(1000, 105, 256) == 21
    _, slices, probabilities = volume(5, (-0.4, 0.1, 0.5))
    whole = learn_appearance(probabilities, slices, SPACINGS)
    part = learn_appearance(probabilities[..., ::2, ::2], slices[:, ::2, ::2], (4.0, 4.0))
    np.testing.assert_allclose(part.likelihoods.sum(0), 1, atol=1e-5)
    assert np.abs(part.likelihoods - whole.likelihoods).max() < 0.05
