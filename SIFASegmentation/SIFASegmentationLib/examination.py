"""A volume through a bundle's models: what they say of it, and what speaks against that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from .bundle import Bundle
from .doubts import as_sentences, doubts_about_adaptation, doubts_about_structures
from .errors import InputError
from .field_of_view import BoxMM
from .plausibility import unlike_training
from .segmentation import Progress, Segmentation, Segmentor
from .segmentation_options import SegmentationOptions
from .volumes import Volume


@dataclass(frozen=True)
class Models:
    """Those of a bundle, loaded.

    Attributes:
        adapted: The bundle's own.
        baseline: The one without adaptation to compare with, where asked for.
    """

    adapted: Segmentor
    baseline: Segmentor | None = None

    @classmethod
    def load(cls, bundle: Bundle, device: str = "auto", threads: int = 0, *, baseline: bool = False) -> Models:
        """Those of a bundle; see `Segmentor` for the arguments and what is raised."""
        adapted = Segmentor(bundle, device, threads)
        return cls(adapted, Segmentor(bundle, device, threads, baseline=True) if baseline else None)


@dataclass(frozen=True)
class Examination:
    """What came of a volume.

    Attributes:
        segmentation: By the adapted model.
        baseline: By the model without adaptation, where there is one.
        doubts: What speaks against a structure, where something does.
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
    """Segment a volume with each of the models, and doubt what they say.

    Args:
        models: Loaded.
        volume: Its name is what warnings call it.
        options: How; probabilities are kept of the adapted model alone.
        region: Field of view, mm, LPS; found automatically unless given.
        warn: Gets a sentence as soon as something is known to make the result doubtful: how the volume and the
            structures in it are unlike those of the training, and that adaptation seems to have made it worse.
        progress: Called after each batch of slices, with those done and all, of both models together.
        cancelled: Asked after each batch of slices.

    Raises:
        InputError: The region lies outside the volume, or the volume is constant.
        CancelledError: `cancelled` said so.
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
    """In the block, a volume of that name is read and examined.

    Raises:
        InputError: The memory does not suffice.
    """
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"The memory of this machine does not suffice for {name}",
            "close other programs, give a smaller region of interest, or use a machine with more",
        ) from error


def _of_steps(progress: Progress | None, step: int, steps: int) -> Progress | None:
    """The count of slices of one of several models, as part of the count of all."""
    if progress is None:
        return None
    return lambda done, total: progress(step * total + done, steps * total)
