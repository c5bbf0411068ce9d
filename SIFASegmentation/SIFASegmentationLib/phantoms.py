"""Synthetic patients in CT and MR, with labels, for tests, the demo, and trials without data.

A random anatomy (`phantom_anatomy`) is imaged: tissues get the values of the modality, slices are thick, edges are
blurred, and each modality has its own noise, texture and inhomogeneity.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .errors import InputError
from .image_files import write_volume
from .phantom_anatomy import Rng, Tissue, abdomen, cardiac
from .phantom_shapes import Layer, ellipsoid, half_space, paint, rotation
from .volumes import Geometry, Volume

Modality = Literal["ct", "mr"]
Float32Array = NDArray[np.float32]

ANATOMIES = {"abdomen": abdomen, "cardiac": cardiac}
MODALITIES = ("ct", "mr")

_EXTENT_Z = {"abdomen": (-78.0, 84.0), "cardiac": (-78.0, 84.0)}
_SUBSLICES = 3  # Samples across the thickness of a slice.


@dataclass(frozen=True)
class _Protocol:
    """Imaging parameters of a modality; pairs are ranges from which each patient's value is drawn.

    Attributes:
        field_mm: Width of the square field of view.
        thickness_mm: Slice thickness, equal to the slice distance.
        blur_mm: Standard deviation of the in-plane blur.
        noise: Standard deviation of the noise, in units of the image.
        texture: Standard deviation of the smooth variation inside tissues, in units of the image.
        bias: Largest absolute logarithm of the smooth multiplicative field.
    """

    field_mm: tuple[float, float]
    thickness_mm: tuple[float, float]
    blur_mm: tuple[float, float]
    noise: tuple[float, float]
    texture: float
    bias: float


_PROTOCOLS: dict[tuple[str, Modality], _Protocol] = {
    ("abdomen", "ct"): _Protocol((370, 420), (3.0, 5.0), (0.9, 1.4), (10, 20), 5.0, 0.0),
    ("abdomen", "mr"): _Protocol((340, 400), (5.5, 8.0), (1.0, 1.8), (10, 20), 12.0, 0.45),
    ("cardiac", "ct"): _Protocol((190, 220), (1.5, 2.5), (0.7, 1.1), (14, 26), 6.0, 0.0),
    ("cardiac", "mr"): _Protocol((210, 245), (2.5, 4.0), (0.9, 1.5), (12, 26), 14.0, 0.45),
}

# Mean and spread (uniform, plus or minus) of each tissue, in HU for CT. The abdomen is imaged by CT in the portal
# venous phase, and by MR like fat-suppressed T2: dark liver, bright spleen and kidneys, dark flowing blood. The heart
# is imaged by CT angiography, with more contrast agent on the left side than on the right, and by MR like balanced
# steady state with T2 preparation: bright blood on both sides and bright fat, dark muscle.
_CT: dict[Tissue, tuple[float, float]] = {
    Tissue.AIR: (-1000, 0), Tissue.FAT: (-100, 10), Tissue.MUSCLE: (58, 6), Tissue.BONE: (420, 60),
    Tissue.MARROW: (190, 40), Tissue.CORD_FLUID: (20, 8), Tissue.LUNG: (-850, 30), Tissue.LIVER: (112, 10),
    Tissue.KIDNEY: (190, 18), Tissue.SPLEEN: (140, 9), Tissue.PANCREAS: (95, 10), Tissue.BILE: (8, 6),
    Tissue.ARTERY: (165, 20), Tissue.VEIN: (150, 20), Tissue.LIVER_VESSEL: (160, 15), Tissue.STOMACH: (25, 20),
    Tissue.BOWEL_WALL: (80, 15), Tissue.BOWEL_CONTENT: (90, 90), Tissue.GAS: (-900, 60),
    Tissue.LEFT_BLOOD: (330, 40), Tissue.RIGHT_BLOOD: (210, 60), Tissue.MYOCARDIUM: (115, 15),
    Tissue.TABLE: (-180, 60),
}  # fmt: skip
_MR: dict[Tissue, tuple[float, float]] = {
    Tissue.AIR: (0, 0), Tissue.FAT: (110, 20), Tissue.MUSCLE: (90, 15), Tissue.BONE: (50, 15),
    Tissue.MARROW: (170, 40), Tissue.CORD_FLUID: (1050, 80), Tissue.LUNG: (25, 10), Tissue.LIVER: (140, 15),
    Tissue.KIDNEY: (680, 40), Tissue.SPLEEN: (600, 40), Tissue.PANCREAS: (350, 30), Tissue.BILE: (1050, 120),
    Tissue.ARTERY: (45, 15), Tissue.VEIN: (70, 30), Tissue.LIVER_VESSEL: (420, 60), Tissue.STOMACH: (700, 350),
    Tissue.BOWEL_WALL: (300, 60), Tissue.BOWEL_CONTENT: (550, 350), Tissue.GAS: (15, 5),
    Tissue.LEFT_BLOOD: (800, 60), Tissue.RIGHT_BLOOD: (770, 70), Tissue.MYOCARDIUM: (200, 30),
    Tissue.TABLE: (0, 0),
}  # fmt: skip
_CARDIAC_MR = {Tissue.FAT: (600.0, 50.0), Tissue.LIVER: (300.0, 40.0), Tissue.MUSCLE: (180.0, 30.0)}


def make_patient(task: str, modality: str, seed: int, *, size: int = 128) -> tuple[Volume, Volume]:
    """Make a synthetic patient: image (int16; HU for CT) and labelmap (uint8, the task's values) on one grid.

    The same arguments give the same patient; the same seed in another modality is another patient.

    Args:
        task: abdomen or cardiac.
        modality: ct or mr.
        seed: Number of the patient, from 0.
        size: Rows and columns; the field of view in mm does not depend on it.

    Raises:
        InputError: The task or modality is unknown.
    """
    if task not in ANATOMIES or modality not in MODALITIES:
        raise InputError(
            f"There are no phantoms of '{task}' in '{modality}'",
            f"choose {' or '.join(ANATOMIES)}, in {' or '.join(MODALITIES)}",
        )
    kind: Modality = "ct" if modality == "ct" else "mr"
    rng = np.random.default_rng([zlib.crc32(f"{task} {kind}".encode()), seed])
    protocol = _PROTOCOLS[task, kind]
    layers = ANATOMIES[task](rng)
    if kind == "ct":
        layers = [*_table(layers), *layers]
    geometry = _geometry(task, protocol, size, rng)
    means = _tissue_values(task, kind, rng)
    image, labels = _render(layers, geometry, means, rng)
    image = _blurred(image, geometry, rng.uniform(*protocol.blur_mm))
    image = _with_texture(image, protocol.texture, geometry, rng)
    is_ct = kind == "ct"
    voxels = _finish_ct(image, protocol, geometry.spacing[0], rng) if is_ct else _finish_mr(image, protocol, rng)
    name = patient_name(task, kind, seed)
    return Volume(voxels, geometry, f"{name}_image"), Volume(labels, geometry, f"{name}_label")


def patient_name(task: str, modality: str, seed: int) -> str:
    """Name of a synthetic patient, such as `abdomen_ct_003`."""
    return f"{task}_{modality}_{seed:03d}"


def write_cohort(
    folder: Path, task: str, modality: str, seeds: Iterable[int], *, labelled: bool = True, size: int = 128
) -> list[Path]:
    """Write `NAME_image.nii.gz`, and `NAME_label.nii.gz` if `labelled`, for each seed; return the images' paths."""
    images = []
    for seed in seeds:
        image, label = make_patient(task, modality, seed, size=size)
        path = folder / f"{image.name}.nii.gz"
        if labelled:
            write_volume(label, folder / f"{label.name}.nii.gz")
        write_volume(image, path)
        images.append(path)
    return images


def _geometry(task: str, protocol: _Protocol, size: int, rng: Rng) -> Geometry:
    """Geometry of axial slices, a little off centre."""
    low, high = _EXTENT_Z[task]
    thickness = float(rng.uniform(*protocol.thickness_mm))
    spacing = float(rng.uniform(*protocol.field_mm)) / size
    corner = -(size - 1) / 2 * spacing
    x, y = corner + rng.normal(0, 4, 2)
    slices = int((high - low) / thickness)
    return Geometry(
        (size, size, slices), (spacing, spacing, thickness), (float(x), float(y), low), (1, 0, 0, 0, 1, 0, 0, 0, 1)
    )


def _tissue_values(task: str, modality: Modality, rng: Rng) -> Float32Array:
    """Values (tissues,) of the tissues in this patient."""
    table = dict(_CT if modality == "ct" else _MR)
    if task == "cardiac" and modality == "mr":
        table |= _CARDIAC_MR
    values = np.zeros(len(Tissue), np.float32)
    # A common factor for all tissues in MR, whose scale is arbitrary.
    gain = 1.0 if modality == "ct" else rng.uniform(0.8, 1.25)
    for tissue, (mean, spread) in table.items():
        values[tissue] = gain * (mean + spread * rng.uniform(-1, 1))
    return values


def _render(
    layers: list[Layer], geometry: Geometry, means: Float32Array, rng: Rng
) -> tuple[Float32Array, NDArray[np.uint8]]:
    """Image (k, j, i) averaged across the thickness of the slices, and labels (k, j, i) in the middle of the slices."""
    columns, rows, slices = geometry.size
    turn = rotation(rng.normal(0, 2.5, 3)).astype(np.float32)
    x, y = (geometry.origin[a] + geometry.spacing[a] * np.arange(geometry.size[a]) for a in (0, 1))
    image = np.zeros((slices, rows, columns), np.float32)
    labels = np.zeros(image.shape, np.uint8)
    for sub in range(_SUBSLICES):
        offset = ((sub + 0.5) / _SUBSLICES - 0.5) * geometry.spacing[2]
        z = geometry.origin[2] + geometry.spacing[2] * np.arange(slices) + offset
        grid = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1]).astype(np.float32)
        tissue, structure = paint(layers, np.einsum("ab,bkji->akji", turn, grid))
        image += means[tissue] / _SUBSLICES
        if sub == _SUBSLICES // 2:
            labels = structure
    return image, labels


def _table(layers: list[Layer]) -> list[Layer]:
    """The couch under the back, which the body, painted later, covers where they touch."""
    body = layers[0].shape
    couch = ellipsoid((0, 175, 0), (210, 60, 1e4)) - ellipsoid((0, 170, 0), (206, 55, 1e4))
    return [Layer((couch & half_space((0, 155, 0), (0, 1, 0))) - body, Tissue.TABLE)]


def _blurred(image: Float32Array, geometry: Geometry, sigma_mm: float) -> Float32Array:
    sigma = (0, sigma_mm / geometry.spacing[1], sigma_mm / geometry.spacing[0])
    blurred: Float32Array = ndimage.gaussian_filter(image, sigma)
    return blurred


def _smooth_noise(shape: tuple[int, ...], sigma: tuple[float, ...], rng: Rng) -> Float32Array:
    """Gaussian noise correlated over `sigma` voxels, with unit standard deviation."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap")
    return np.asarray(noise / noise.std(), np.float32)


def _with_texture(image: Float32Array, strength: float, geometry: Geometry, rng: Rng) -> Float32Array:
    sigma = (0.5, 3.0 / geometry.spacing[1], 3.0 / geometry.spacing[0])
    inside = image > image.min() + 0.05 * (image.max() - image.min())
    textured: Float32Array = image + strength * inside * _smooth_noise(image.shape, sigma, rng)
    return textured


def _finish_ct(image: Float32Array, protocol: _Protocol, pixel_mm: float, rng: Rng) -> NDArray[np.int16]:
    """Add noise correlated in the plane, as reconstruction leaves it, and clip at air."""
    pixels = 0.8 / pixel_mm
    noise = rng.uniform(*protocol.noise) * _smooth_noise(image.shape, (0, pixels, pixels), rng)
    voxels: NDArray[np.int16] = np.clip(np.rint(image + noise), -1024, 3071).astype(np.int16)
    return voxels


def _finish_mr(image: Float32Array, protocol: _Protocol, rng: Rng) -> NDArray[np.int16]:
    """Apply the receive field, then Rician noise: the magnitude of a complex signal."""
    sigma = tuple(0.25 * n for n in image.shape)
    field = _smooth_noise(image.shape, sigma, rng)
    signal = image * np.exp(protocol.bias * field / np.abs(field).max())
    level = rng.uniform(*protocol.noise)
    real, imaginary = (level * rng.standard_normal(image.shape, np.float32) for _ in range(2))
    voxels: NDArray[np.int16] = np.clip(np.rint(np.hypot(signal + real, imaginary)), 0, 4095).astype(np.int16)
    return voxels
