"""Segmentation of a volume by a bundle's models, with doubts about the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from .bundle import Bundle
from .doubts import as_sentences, doubts_about_adaptation, doubts_about_structures
from .errors import InputError
from .plausibility import unlike_training
from .regions import BoxMM
from .segmentation import Progress, Segmentation, Segmentor
from .segmentation_options import SegmentationOptions
from .volumes import Volume


@dataclass(frozen=True)
class Models:
    """The loaded models of a bundle.

    Attributes:
        adapted: The bundle's main model.
        baseline: The model without adaptation, for comparison; None if not asked for.
    """

    adapted: Segmentor
    baseline: Segmentor | None = None

    @classmethod
    def load(cls, bundle: Bundle, device: str = "auto", threads: int = 0, *, baseline: bool = False) -> Models:
        """Load the models of a bundle, the one without adaptation if `baseline`; see `Segmentor` for the rest."""
        adapted = Segmentor(bundle, device, threads)
        return cls(adapted, Segmentor(bundle, device, threads, baseline=True) if baseline else None)


@dataclass(frozen=True)
class Examination:
    """Result of `examine`.

    Attributes:
        segmentation: Segmentation by the adapted model.
        baseline: Segmentation by the model without adaptation; None if it was not loaded.
        doubts: What speaks against each doubtful structure, by name.
    """

    segmentation: Segmentation
    baseline: Segmentation | None
    doubts: dict[str, str]


def examine(
    models: Models,
    volume: Volume,
    options: SegmentationOptions,
    *,
    region: BoxMM | None = None,
    warn: Callable[[str], None],
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Examination:
    """Segment a volume with each of the models, and check the results for what makes them doubtful.

    Args:
        models: Models of a bundle.
        volume: Volume to segment; warnings use its name.
        options: Options of the segmentation; probabilities are kept of the adapted model only.
        region: Field of view, mm, LPS; found automatically unless given.
        warn: Called with a sentence for each reason to doubt the result, as soon as it is known: the volume or
            structures in it are unlike those of the training, or adaptation seems to have made the result worse.
        progress: Called after each batch of slices, with the numbers of slices done and in all, over both models.
        cancelled: Asked after each batch of slices whether to stop.

    Raises:
        InputError: The region lies outside the volume, or the volume is constant.
        CancelledError: `cancelled` returned true.
    """
    manifest = models.adapted.manifest
    for sentence in unlike_training(volume, manifest.preprocessing[options.domain or manifest.domain], region):
        warn(sentence)
    steps = 1 if models.baseline is None else 2
    segmentation = models.adapted.segment(
        volume, options, region=region, progress=_of_steps(progress, 0, steps), cancelled=cancelled
    )
    doubts = doubts_about_structures(segmentation.found, manifest.usual)
    for sentence in as_sentences(volume.name, doubts):
        warn(sentence)
    if models.baseline is None:
        return Examination(segmentation, None, doubts)
    plain = replace(options, probabilities=False)
    baseline = models.baseline.segment(
        volume, plain, region=region, progress=_of_steps(progress, 1, steps), cancelled=cancelled
    )
    for sentence in doubts_about_adaptation(volume.name, segmentation.estimates, baseline.estimates):
        warn(sentence)
    return Examination(segmentation, baseline, doubts)


@contextmanager
def in_memory(name: str) -> Iterator[None]:
    """Turn a `MemoryError` of the block, which reads and examines the volume `name`, into an `InputError`.

    Raises:
        InputError: Memory does not suffice.
    """
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"The memory of this machine does not suffice for {name}",
            "close other programs, give a smaller region of interest, or use a machine with more",
        ) from error


def _of_steps(progress: Progress | None, step: int, steps: int) -> Progress | None:
    """Return a progress function for the model number `step` that reports its slices as part of those of all models."""
    if progress is None:
        return None
    return lambda done, total: progress(step * total + done, steps * total)
