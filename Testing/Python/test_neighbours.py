"""Slices seen with those on either side: which those are, and the whole way of three channels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quick import quick_config
from SIFASegmentationLib.bundle import Bundle
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.neighbours import stack_indices, stacked
from SIFASegmentationLib.preprocessing import Preprocessing, prepare_volume
from SIFASegmentationLib.segmentation import Segmentor
from SIFASegmentationLib.volumes import Geometry, Volume
from SIFATrainingLib.batches import BatchSource, as_slices
from SIFATrainingLib.config import NO_AUGMENTATION, AugmentationSettings
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.export import export
from SIFATrainingLib.random_contrast import in_random_contrast
from SIFATrainingLib.structure import structure_loss
from SIFATrainingLib.training import create_job, train

CPU = torch.device("cpu")
APART = 8.0
"""Between the slices of the networks, in mm; the phantoms' slices are 5 mm apart in CT, 8 in MR."""


def test_the_neighbour_is_the_slice_nearest_to_the_distance() -> None:
    assert stack_indices(3, 6, 0, 5).tolist() == [[3], [4], [5]]
    assert stack_indices(3, 7, 8, 3).tolist() == [[3, 3, 6], [3, 4, 6], [3, 5, 6], [3, 6, 6]]
    assert stack_indices(0, 3, 8, 7.7).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]
    # Slices thicker than the distance: the next one.
    assert stack_indices(0, 3, 2, 7.7).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]


@given(
    slices=st.integers(1, 12), slab=st.integers(1, 5), distance=st.sampled_from([0.0, 2.0, 5.0, 9.0, 40.0])
)
def test_slab_by_slab_every_slice_has_its_neighbours(slices: int, slab: int, distance: float) -> None:
    array = np.random.default_rng(slices).normal(size=(slices, 9, 7)).astype(np.float32)
    geometry = Geometry((7, 9, slices), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    volume = Volume(array, geometry, "noise")
    prepared = prepare_volume(volume, Preprocessing(size=8, field_of_view="full"))
    slabs = [slice(start, min(start + slab, slices)) for start in range(0, slices, slab)]
    given_slabs, stacks = zip(*stacked(prepared, slabs, distance), strict=True)
    assert list(given_slabs) == slabs
    expected = prepared.slices[stack_indices(0, slices, distance, 3.0)]
    np.testing.assert_array_equal(np.concatenate(stacks), expected)


@pytest.mark.parametrize("budget", [float("inf"), 0])
def test_the_slice_itself_is_augmented_as_it_is_alone(prepared: Path, budget: float) -> None:
    settings = AugmentationSettings(noise=0)
    alone, among = (
        BatchSource(
            PreparedDataset(prepared), "source", settings, batch=4, seed=5, device=CPU, neighbour_mm=apart,
            budget_bytes=budget,
        )
        for apart in (0, APART)
    )  # fmt: skip
    one, three = alone.batch(2), among.batch(2)
    for name in ("source", "target"):
        assert getattr(three, name).shape == (4, 3, 32, 32)
        torch.testing.assert_close(getattr(three, name)[:, 1:2], getattr(one, name))
    assert torch.equal(three.labels, one.labels)
    assert alone.preview().source.equal(among.preview().source[:, 1:2])


def test_neighbours_are_of_the_same_volume_and_in_order(prepared: Path) -> None:
    dataset = PreparedDataset(prepared)
    batches = BatchSource(
        dataset, "source", NO_AUGMENTATION, batch=len(dataset.slices("source")), seed=0, device=CPU, neighbour_mm=APART
    )
    shown = sorted(batches.batch(0).source.numpy(), key=lambda stack: stack[1].tobytes())
    stored = as_slices(torch.from_numpy(dataset.stacks("source", APART)[:])).numpy()
    expected = sorted(stored, key=lambda stack: stack[1].tobytes())
    # Empty slices have no order among themselves.
    np.testing.assert_allclose([s[1] for s in shown], [s[1] for s in expected], atol=1e-5)
    for volume in dataset.entry("source").volumes:
        of_volume = dataset.stacks("source", APART).indices[volume.start : volume.stop]
        assert (of_volume.min(), of_volume.max()) == (volume.start, volume.stop - 1)


def test_a_data_set_that_does_not_know_its_distances_is_prepared_again(prepared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(prepared, tmp_path / "set")
    content = json.loads((copy / "manifest.json").read_text())
    for volume in content["target"]["volumes"]:
        del volume["slice_mm"]
    (copy / "manifest.json").write_text(json.dumps(content))
    dataset = PreparedDataset(copy)
    assert len(dataset.stacks("target", 0)) == len(dataset.slices("target"))
    with pytest.raises(InputError, match="neighbour_mm needs: run `sifa prepare` again"):
        dataset.stacks("target", APART)


def test_all_channels_get_the_same_contrast_and_count_the_same() -> None:
    torch.manual_seed(0)
    slices = torch.rand(4, 1, 32, 32).repeat(1, 3, 1, 1)
    changed = in_random_contrast(slices)
    torch.testing.assert_close(changed[:, 0], changed[:, 2])
    assert not torch.allclose(changed, slices, atol=0.01)
    made, original = torch.rand(2, 3, 24, 24), torch.rand(2, 3, 24, 24)
    each = [structure_loss(made[:, one : one + 1], original[:, one : one + 1]) for one in range(3)]
    torch.testing.assert_close(structure_loss(made, original), torch.stack(each).mean())


@pytest.fixture(scope="module")
def of_three(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    """Job and bundle of a training, self-training and all, that sees three slices."""
    folder = tmp_path_factory.mktemp("three")
    settings = {"share": 0.5, "labellings": 1, "random_contrast": 0.5}
    weights = {"random_contrast": 1, "structure": 1}
    config = quick_config(neighbour_mm=APART, self_training=settings, loss_weights=weights)
    train(create_job(prepared, folder / "job", config, "cpu"))
    return folder / "job", export(folder / "job", folder / "bundle")


def test_a_model_of_three_slices_segments_volumes(of_three: tuple[Path, Bundle], cohort: Path) -> None:
    _, bundle = of_three
    assert bundle.manifest.neighbour_mm == APART
    assert bundle.manifest.quality is not None
    assert bundle.manifest.verification.largest_difference < 1e-4
    segmentor, volume = Segmentor(bundle, "cpu"), read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    prepared = prepare_volume(volume, bundle.manifest.preprocessing["target"])
    spacing = prepared.placement.spacings[0]
    stacks = prepared.slices[stack_indices(0, len(prepared), APART, spacing)]
    expected = prepared.placement.restore_probabilities(segmentor.predict(stacks)).argmax(1)
    found = segmentor.segment(volume, appearance=False, largest_component=False)
    np.testing.assert_array_equal(prepared.placement.view(found.labelmap.array), expected)
    # What is beside a slice does matter.
    alone = segmentor.predict(np.repeat(stacks[:, 1:2], 3, axis=1))
    assert np.abs(alone - segmentor.predict(stacks)).max() > 1e-4


def test_models_that_see_otherwise_are_not_mixed(
    of_three: tuple[Path, Bundle], finished_job: Path, prepared: Path, tmp_path: Path
) -> None:
    job, bundle = of_three
    with pytest.raises(InputError, match="was not trained on the slices of"):
        export(job, tmp_path / "mean", others=[finished_job])
    unadapted = create_job(prepared, tmp_path / "unadapted", quick_config(method="without_adaptation"), "cpu")
    train(unadapted)
    with pytest.raises(InputError, match="with those 8 mm away"):
        export(job, tmp_path / "with baseline", baseline=unadapted.folder)
    with pytest.raises(InputError, match="train with neighbour_mm=8, or start from another bundle"):
        create_job(prepared, tmp_path / "job", quick_config(), "cpu", initial=bundle.path)
