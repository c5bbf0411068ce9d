"""Every setting of a training, once: type, bounds, default, and where the default comes from.

"Paper" is Chen et al., IEEE TMI 2020; "code" is the authors' public TensorFlow program. The defaults are the preset
`recommended`; the preset `paper` takes the authors' choice wherever the two differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from SIFASegmentationLib.errors import InputError, first_fault
from SIFASegmentationLib.schema import Frozen
from SIFASegmentationLib.segmentation_options import Domain

Method = Literal[
    "sifa",
    "image_alignment",
    "image_and_prediction_alignment",
    "prior_sifa",
    "output_alignment",
    "without_adaptation",
    "supervised",
]

SEGMENTATION_METHODS = frozenset({"without_adaptation", "supervised"})
"""Methods that train E, C1 and C2 on labelled slices of one domain, and nothing else."""

TRANSLATING_METHODS = frozenset({"sifa", "image_alignment", "image_and_prediction_alignment", "prior_sifa"})
"""Methods that translate slices of one domain to the appearance of the other."""

ADAPTING_METHODS = TRANSLATING_METHODS | {"output_alignment"}
"""Methods that learn from unlabelled target slices, and so can end with self-training on them."""


class LossWeights(Frozen):
    """Weights of the losses: the lambdas of eq. 6 with the values of section III-C, and two terms beyond the paper."""

    cycle: float = Field(10.0, ge=0, description="Cycle consistency of both domains (paper, lambda_cyc).")
    segmentation: float = Field(1.0, ge=0, description="Segmentation by C1 (paper, lambda_seg 1).")
    lower_segmentation: float = Field(0.1, ge=0, description="Segmentation by C2 (paper, lambda_seg 2).")
    encoder_image: float = Field(
        0.1,
        ge=0,
        description="The image losses, as they move E: cycle and adversarial (paper, lambda_adv s; code).",
    )
    prediction: float = Field(0.1, ge=0, description="D_p1 against E and C1 (paper, lambda_adv p1).")
    lower_prediction: float = Field(0.01, ge=0, description="D_p2 against E and C2 (paper, lambda_adv p2).")
    auxiliary: float = Field(0.1, ge=0, description="Auxiliary task of D_s against E, eq. 5 (paper, lambda_adv s~).")
    structure: float = Field(
        0.0, ge=0, description="Edges of translated source slices stay in place (`structure.py`; paper: none)."
    )
    random_contrast: float = Field(
        1.0, ge=0, description="Segmentation in contrasts that no scanner has (`random_contrast.py`; paper: none)."
    )


Gamma = Annotated[float, Field(ge=0, description="Random gamma of the intensities: exp(u), u uniform, plus or minus.")]
Contrast = Annotated[float, Field(ge=0, lt=1, description="Random factor about mid-grey, 1 plus or minus.")]
Brightness = Annotated[float, Field(ge=0, le=1, description="Random offset on the scale [-1, 1], plus or minus.")]
Noise = Annotated[float, Field(ge=0, le=1, description="Largest standard deviation of Gaussian noise.")]


class IntensityAugmentation(Frozen):
    """Random changes of intensities, drawn anew for every slice at every iteration."""

    gamma: Gamma = 0.2
    contrast: Contrast = 0.1
    brightness: Brightness = 0.1
    noise: Noise = 0.02


class AugmentationSettings(IntensityAugmentation):
    """Random transforms, drawn anew for every slice at every iteration (the authors baked a few offline)."""

    enabled: bool = Field(True, description="false: slices are shown as they are, whatever else stands here.")
    rotation_degrees: float = Field(15.0, ge=0, le=180, description="Rotation, plus or minus.")
    scaling: float = Field(0.15, ge=0, lt=1, description="Scale factor, 1 plus or minus.")
    shear_degrees: float = Field(5.0, ge=0, le=45, description="Shear, plus or minus.")
    translation: float = Field(0.05, ge=0, le=0.5, description="Shift along either axis, share of the grid.")


NO_AUGMENTATION = AugmentationSettings(
    enabled=False, rotation_degrees=0, scaling=0, shear_degrees=0, translation=0, gamma=0, contrast=0, brightness=0,
    noise=0,
)  # fmt: skip
"""Settings used in place of others where `augmentation.enabled` is false."""


class SelfTrainingSettings(IntensityAugmentation):
    """Settings of the last part of a training, on target labels the moving average is sure of (`self_training.py`).

    The intensity changes apply to the slices that the networks see; the moving average sees them unchanged.
    """

    share: float = Field(0.3, ge=0, lt=1, description="Share of the iterations; 0: none (paper).")
    weight: float = Field(1.0, ge=0, description="Weight of the target's loss beside the source's.")
    confidence: float = Field(0.9, gt=0, le=1, description="Pixels with at least this probability are always used.")
    kept: float = Field(0.5, gt=0, le=1, description="This share of each class, the surest pixels, is always used.")
    labellings: int = Field(
        6, ge=0, description="Times that whole volumes are labelled (`pseudo_labels.py`); 0: each batch as it comes."
    )
    random_contrast: float = Field(0.5, ge=0, le=1, description="Share of slices shown in another contrast.")
    gamma: Gamma = 0.6
    contrast: Contrast = 0.3
    brightness: Brightness = 0.2
    noise: Noise = 0.05


class TrainingConfig(Frozen):
    """All settings of a training."""

    method: Method = Field("sifa", description="What is trained; the others are SIFA's ablations and bounds.")
    iterations: int = Field(20_000, ge=1, description="Number of iterations (paper: 20,000).")
    batch: int = Field(8, ge=1, description="Slices of each domain per process and iteration (paper: 8).")
    width: float = Field(1.0, gt=0, le=4, description="Channels as a fraction of the paper's.")
    seed: int = Field(0, ge=0, lt=2**63, description="Everything random follows from it.")
    learning_rate: float = Field(2e-4, gt=0, description="Adam, all networks (paper: 2e-4, constant).")
    decay_share: float = Field(
        0.25, ge=0, le=1, description="Last share of the iterations, over which learning rates decay to 0 (paper: 0)."
    )
    weight_decay: float = Field(
        1e-4,
        ge=0,
        description="Times half the squared weights of the convolutions of E, C1, C2 (code: of its norms as well).",
    )
    decoupled_weight_decay: bool = Field(
        False, description="AdamW's form in place of L2 in the loss (code: L2): all but none at these rates."
    )
    schedule: Literal["sequential", "simultaneous"] = Field(
        "simultaneous",
        description="Networks updated one after the other (paper, III-C), or all from one forward pass.",
    )
    loss_weights: LossWeights = LossWeights()
    adversarial: Literal["least_squares", "log"] = Field(
        "least_squares", description="GAN loss (paper: log in eq. 1; code: least squares)."
    )
    probability_floor: float = Field(
        0.0, ge=0, lt=0.5, description="Clip of probabilities in the cross-entropy (code: 0.005)."
    )
    prediction_input: Literal["logits", "softmax"] = Field("logits", description="What D_p sees (code: logits).")
    pool: int = Field(50, ge=0, description="Images in each pool of fakes (code: 50 batches).")
    decoder_dropout: float = Field(0.25, ge=0, lt=1, description="Dropout in U's residual blocks (code: 0.25).")
    batch_norm_statistics: Literal["target", "mixed"] = Field(
        "target", description="Whose slices update E's running statistics (code: mixed, at every pass of E)."
    )
    reestimate_batch_norm: bool = Field(
        True, description="Average E's statistics over up to 512 slices of its domain before export."
    )
    ema_decay: float = Field(
        0.998,
        ge=0,
        lt=1,
        description="Moving average of E and C1: exported, and teacher of the self-training; 0: raw weights, and none.",
    )
    augmentation: AugmentationSettings = AugmentationSettings()
    self_training: SelfTrainingSettings = SelfTrainingSettings()
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the forward passes; auto: bfloat16 on GPUs and CPUs that have it (code: float32).",
    )
    log_every: int = Field(20, ge=1, description="Iterations between two reports of the losses.")
    monitor_every: int = Field(500, ge=1, description="Iterations between two Dice of the monitor volumes.")
    preview_every: int = Field(500, ge=1, description="Iterations between two preview strips.")
    checkpoint_every: int = Field(500, ge=1, description="Iterations between two checkpoints.")


def main_iterations(config: TrainingConfig) -> int:
    """Number of iterations before self-training; all of them without self-training, whose teacher is the average."""
    teaches = config.method in ADAPTING_METHODS and config.ema_decay > 0
    share = config.self_training.share if teaches else 0.0
    return config.iterations - round(share * config.iterations)


def labels_target_at(config: TrainingConfig, done: int) -> bool:
    """Whether the target's volumes are to be labelled after `done` iterations, for the iterations that follow."""
    first, times = main_iterations(config), config.self_training.labellings
    if done < first or done == config.iterations or times == 0:
        return False
    return (done - first) % ceil((config.iterations - first) / times) == 0


def labelled_domain(config: TrainingConfig) -> Domain:
    """Domain whose labels the method trains on."""
    return "target" if config.method == "supervised" else "source"


def segmented_domain(config: TrainingConfig) -> Domain:
    """Domain that the exported model segments, and that its batch norm statistics come from."""
    return "source" if config.method == "without_adaptation" else "target"


WITHOUT_ADDITIONS: dict[str, Any] = {
    "decay_share": 0.0,
    "loss_weights": {"random_contrast": 0.0},
    "self_training": {"share": 0.0, "labellings": 0, "random_contrast": 0.0},
}
"""Settings that turn off what `recommended` adds to the losses and the course of a training."""

PRESETS: dict[str, dict[str, Any]] = {
    "recommended": {},
    "paper": {
        **WITHOUT_ADDITIONS,
        "schedule": "sequential",
        "probability_floor": 0.005,
        "batch_norm_statistics": "mixed",
        "reestimate_batch_norm": False,
        "ema_decay": 0.0,
        "augmentation": {"gamma": 0.0, "contrast": 0.0, "brightness": 0.0, "noise": 0.0},
    },
}

METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    # The bounds are the paper's, except that C2 is trained alongside C1 as in SIFA.
    "without_adaptation": WITHOUT_ADDITIONS,
    "supervised": WITHOUT_ADDITIONS,
    # Section IV-E: image alignment alone is SIFA without its feature-alignment losses, which are then added in turn.
    "image_alignment": {"loss_weights": {"prediction": 0.0, "lower_prediction": 0.0, "auxiliary": 0.0}},
    "image_and_prediction_alignment": {"loss_weights": {"auxiliary": 0.0}},
    # Chen et al., AAAI 2019: no second classifier, no D_p2.
    "prior_sifa": {"loss_weights": {"lower_segmentation": 0.0, "lower_prediction": 0.0}},
}


def make_config(preset: str = "recommended", /, **settings: Any) -> TrainingConfig:
    """Make the settings of a training from a preset.

    Args:
        preset: Name of one of `PRESETS`.
        settings: Settings that override those of the preset and of the method; nested ones as dictionaries.

    Raises:
        InputError: The preset or a setting is unknown, or a value is out of bounds; the message names it.
    """
    if preset not in PRESETS:
        raise InputError(f"The preset '{preset}' is unknown", f"choose {' or '.join(PRESETS)}")
    method = settings.get("method", "sifa")
    of_method = METHOD_SETTINGS.get(method, {}) if isinstance(method, str) else {}
    merged = merge(merge(PRESETS[preset], of_method), settings)
    try:
        return TrainingConfig.model_validate(merged)
    except ValidationError as error:
        field, message = first_fault(error)
        raise InputError(f"The setting '{field}' is not usable ({message})", "see `sifa settings`") from None


def baseline_config(config: TrainingConfig, iterations: int) -> TrainingConfig:
    """Settings of the training without adaptation that a training with `config` is compared with."""
    own = {"method": "without_adaptation", "iterations": iterations}
    return TrainingConfig.model_validate(merge(config.model_dump(), METHOD_SETTINGS["without_adaptation"] | own))


def with_settings(settings: dict[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """Override settings for `make_config` by texts such as `name=value` and `group.name=value`.

    Raises:
        InputError: A text does not have that form. Names and values are left for `make_config` to check.
    """
    merged = settings
    for text in texts:
        name, _equals, value = text.partition("=")
        if not name or not value:
            raise InputError(f"'{text}' is not NAME=VALUE, such as loss_weights.cycle=5", "see `sifa settings`")
        *groups, last = name.split(".")
        branch: dict[str, Any] = {last: value}
        for group in reversed(groups):
            branch = {group: branch}
        merged = merge(merged, branch)
    return merged


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Override nested settings by others, group by group; neither dictionary is changed."""
    merged = dict(base)
    for key, value in over.items():
        nested = merged.get(key)
        merged[key] = merge(nested, value) if isinstance(nested, dict) and isinstance(value, dict) else value
    return merged


def describe(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield name, value and description of every setting; nested ones are named as in `loss_weights.cycle`."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from describe(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description or ""
