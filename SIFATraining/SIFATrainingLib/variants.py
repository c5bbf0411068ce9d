"""The rows of a comparison; each is one way to train, given by its settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from SIFASegmentationLib.errors import InputError

from .config import SEGMENTATION_METHODS, WITHOUT_ADDITIONS, TrainingConfig, make_config, merge, with_settings

LOWER_BOUND, UPPER_BOUND = "without_adaptation", "supervised"
"""Names of the two rows between which lies the gap that adaptation can close."""

_MEAN = re.compile(r"(.+)_mean_of_(\d+)")  # Folder of the row for the mean of a row's models.


@dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Attributes:
        name: Name of its folder.
        title: Title in the table.
        settings: The method, and other settings that differ from the preset, nested as in `make_config`.
        preset: Preset of the training's settings.
        models: Number of models, of different seeds, whose mean segments; 1 for a single model.
    """

    name: str
    title: str
    settings: dict[str, Any]
    preset: str = "recommended"
    models: int = 1

    def config(
        self, common: dict[str, Any], iterations: int | None, bound_iterations: int | None, seed: int
    ) -> TrainingConfig:
        """Make the settings of its training; the row's own override the common ones.

        Args:
            common: Settings for all rows, nested as in `make_config`.
            iterations: Iterations of rows that adapt, unless other settings say how many; None for the preset's.
            bound_iterations: The same for rows that train on one domain only.
            seed: Seed of the training.

        Raises:
            InputError: A setting is unknown or out of bounds, or can't be common to all rows.
        """
        for name, option in (("seed", "--first-seed"), ("method", "--row")):
            if name in common:
                raise InputError(f"The rows of a comparison have a {name} each", f"leave it to {option}")
        number = bound_iterations if self.settings["method"] in SEGMENTATION_METHODS else iterations
        due = {} if number is None else {"iterations": number}
        own = merge(merge(due, common), self.settings)
        return make_config(self.preset, **{**own, "seed": seed})

    def mean_of(self, count: int) -> Variant:
        """Return the row for the mean of this row's models of `count` seeds."""
        title = f"{self.title}: mean of {count} models"
        return replace(self, name=f"{self.name}_mean_of_{count}", title=title, models=count)


VARIANTS = (
    Variant(LOWER_BOUND, "without adaptation", {"method": "without_adaptation"}),
    Variant(
        "random_contrasts",
        "random contrasts of the source alone",
        {"method": LOWER_BOUND, "loss_weights": {"random_contrast": 1.0}},
    ),
    Variant(
        "output_alignment",
        "alignment of predictions, no translation",
        {"method": "output_alignment", **WITHOUT_ADDITIONS},
    ),
    Variant("image_alignment", "image alignment", {"method": "image_alignment", **WITHOUT_ADDITIONS}),
    Variant(
        "image_and_prediction_alignment",
        "+ FA-P1, FA-P2",
        {"method": "image_and_prediction_alignment", **WITHOUT_ADDITIONS},
    ),
    Variant("sifa_plain", "+ FA-I = SIFA, plain", {"method": "sifa", **WITHOUT_ADDITIONS}),
    Variant("prior_sifa", "prior SIFA (no C2, no D_p2)", {"method": "prior_sifa", **WITHOUT_ADDITIONS}),
    Variant("sifa_paper", "SIFA, paper", {"method": "sifa"}, preset="paper"),
    Variant("without_translation", "as recommended, but no translation", {"method": "output_alignment"}),
    Variant("sifa", "SIFA, recommended", {"method": "sifa"}),
    Variant(UPPER_BOUND, "supervised on the target", {"method": "supervised"}),
)


def variant_of(folder: str, title: str, method: str) -> Variant:
    """Return the row stored in a folder of a comparison.

    Args:
        folder: Name of the folder.
        title: Title of the row, without what `mean_of` adds; made from the folder's name if empty.
        method: Method of its training.
    """
    if mean := _MEAN.fullmatch(folder):
        return variant_of(mean[1], title, method).mean_of(int(mean[2]))
    known = {variant.name: variant for variant in VARIANTS}
    return known.get(folder) or Variant(folder, title or folder.replace("_", " "), {"method": method})


def place_in_table(name: str) -> tuple[float, str, str]:
    """Sort key for rows: order of `VARIANTS`, further rows before the upper bound, and each mean after its row."""
    mean = _MEAN.fullmatch(name)
    row = mean[1] if mean else name
    names = [variant.name for variant in VARIANTS]
    return (names.index(row) if row in names else names.index(UPPER_BOUND) - 0.5), row, name


def choose_variants(names: Sequence[str] = (), also: Sequence[str] = ()) -> list[Variant]:
    """Choose the rows of a comparison.

    Args:
        names: Names of `VARIANTS`, returned in the order of that list; all if empty.
        also: Further rows as `TITLE: NAME=VALUE NAME=VALUE ...`, each SIFA with these settings.

    Raises:
        InputError: A name is unknown, a text can't be parsed, or a further row would use the folder of another.
    """
    known = [variant.name for variant in VARIANTS]
    for name in names:
        if name not in known:
            raise InputError(f"There is no row '{name}'", f"choose from {', '.join(known)}")
    further = [_read_variant(text) for text in also]
    folders = [variant.name for variant in further]
    for name in folders:
        # Even if that row is not chosen now: its folder may exist already, or be made later.
        if name in known or _MEAN.fullmatch(name) or folders.count(name) > 1:
            raise InputError(f"Two rows would be called '{name}'", "give that of --also another title")
    return [*(variant for variant in VARIANTS if not names or variant.name in names), *further]


def _read_variant(text: str) -> Variant:
    title, colon, rest = text.partition(":")
    name = re.sub(r"\W+", "_", title.strip().lower()).strip("_")
    if not colon or not name or not rest.split():
        raise InputError(f"--also '{text}' is not TITLE: NAME=VALUE ...", "see `sifa settings`")
    return Variant(name, title.strip(), with_settings({"method": "sifa"}, rest.split()))
