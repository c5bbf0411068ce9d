"""Synthetic patients."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.phantoms import make_patient, write_cohort
from SIFASegmentationLib.structures import load_task
from SIFASegmentationLib.volumes import Volume

VOLUMES_ML = {
    "abdomen": {"liver": (700, 2200), "right kidney": (70, 260), "left kidney": (70, 260), "spleen": (70, 320)},
    "cardiac": {"AA": (20, 100), "LAC": (40, 150), "LVC": (40, 140), "MYO": (60, 220)},
}


drawn = cache(make_patient)
"""`make_patient`, which draws a patient that several tests look at only once."""


def centre(label: Volume, value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Centroid in mm, LPS."""
    kji = np.argwhere(label.array == value).mean(0)
    return np.asarray(label.geometry.origin) + kji[::-1] * np.asarray(label.geometry.spacing)


@pytest.mark.parametrize("task", ["abdomen", "cardiac"])
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_every_structure_is_there_in_a_plausible_size(task: str, modality: str) -> None:
    sizes = []
    for seed in range(5):
        image, label = drawn(task, modality, seed, size=64)
        assert image.geometry == label.geometry
        assert image.array.dtype == np.int16
        for structure in load_task(task).structures:
            ml = (label.array == structure.value).sum() * label.geometry.voxel_volume_ml
            low, high = VOLUMES_ML[task][structure.name]
            assert low < ml < high, structure.name
            sizes.append(ml)
    assert len(set(sizes)) == len(sizes)


def test_organs_lie_on_their_sides() -> None:
    for modality in ("ct", "mr"):
        _, label = drawn("abdomen", modality, 3, size=64)
        liver, right, left, spleen = (centre(label, value) for value in (1, 2, 3, 4))
        assert liver[0] < spleen[0]
        assert right[0] < left[0]
        assert min(right[1], left[1]) > liver[1]


def test_the_same_seed_draws_the_same_patient_and_modalities_are_unpaired() -> None:
    one, other = make_patient("abdomen", "ct", 1, size=48), make_patient("abdomen", "ct", 1, size=48)
    assert np.array_equal(one[0].array, other[0].array)
    assert np.array_equal(one[1].array, other[1].array)
    mr = make_patient("abdomen", "mr", 1, size=48)[1]
    assert mr.geometry != one[1].geometry


def test_the_modalities_differ_as_real_ones_do() -> None:
    """Bone is brightest in CT, and organs have other contrasts in MR."""
    for task in ("abdomen", "cardiac"):
        ct, ct_label = drawn(task, "ct", 2, size=96)
        mr, mr_label = drawn(task, "mr", 2, size=96)
        assert ct.array.min() < -900
        assert mr.array.min() >= 0
        brightest = [image.array > np.percentile(image.array, 99.5) for image in (ct, mr)]
        # Most of the brightest voxels of a CT are bone, and lie outside the structures.
        assert (ct_label.array[brightest[0]] > 0).mean() < 0.5
        assert ct_label.array.any()
        assert mr_label.array.any()
    # Spleen and liver differ much in T2, and hardly in the portal venous phase of CT.
    contrast = []
    for modality in ("ct", "mr"):
        image, label = drawn("abdomen", modality, 2, size=96)
        spleen, liver = (np.median(image.array[label.array == value]) for value in (4, 1))
        contrast.append((spleen - liver) / (liver - np.percentile(image.array, 1)))
    assert contrast[1] > 10 * contrast[0] > 0


def test_the_fat_around_the_heart_is_darker_than_its_wall_in_ct_and_brighter_in_mr() -> None:
    brighter = []
    for modality in ("ct", "mr"):
        image, label = drawn("cardiac", modality, 2, size=96)
        inside = label.array == 4
        # The surroundings, without the blurred edge, other structures, lung and air.
        near = ndimage.binary_dilation(inside, iterations=6) & ~ndimage.binary_dilation(label.array > 0, iterations=2)
        around = image.array[near & (image.array > (-300 if modality == "ct" else 60))]
        brighter.append(np.median(around) > np.median(image.array[inside]))
    assert brighter == [False, True]


def test_a_cohort_on_disk(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path, "cardiac", "mr", [4, 5], size=32)
    write_cohort(tmp_path / "unlabelled", "cardiac", "ct", [4], labelled=False, size=32)
    assert [path.name for path in paths] == ["cardiac_mr_004_image.nii.gz", "cardiac_mr_005_image.nii.gz"]
    assert read_volume(tmp_path / "cardiac_mr_005_label.nii.gz").array.max() == 4
    assert [path.name for path in (tmp_path / "unlabelled").iterdir()] == ["cardiac_ct_004_image.nii.gz"]


def test_what_there_are_no_phantoms_of() -> None:
    for task, modality in (("knee", "ct"), ("abdomen", "pet")):
        with pytest.raises(InputError, match="no phantoms of"):
            make_patient(task, modality, 0)
