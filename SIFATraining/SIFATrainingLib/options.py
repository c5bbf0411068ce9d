"""Options that several commands share: what to prepare, and how to train."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.regions import BoxMM, parse_box
from SIFASegmentationLib.segmentation_options import Domain
from SIFASegmentationLib.structures import Task, load_task

from .config import Method, TrainingConfig, make_config, with_settings
from .dataset import DOMAINS
from .prepare import Preparation, make_preparation

Roi = Annotated[
    str | None,
    typer.Option(metavar="X0,X1,Y0,Y1,Z0,Z1", help="Region of interest in mm (LPS); the body's box unless given."),
]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]


def _default_of(settings: type[BaseModel], name: str) -> str:
    default = settings.model_fields[name].default
    return ",".join(map(str, default)) if isinstance(default, tuple) else f"{default}"


_prepared_by_default = functools.partial(_default_of, Preparation)
_trained_by_default = functools.partial(_default_of, TrainingConfig)


def takes(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command, so that `groups[NAME]` makes its argument NAME from command-line options.

    The parameters of that function become options of the command, in place of the argument.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = {name: inspect.signature(group, eval_str=True).parameters for name, group in groups.items()}
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            parameters += own[parameter.name].values() if parameter.name in own else [parameter]

        @functools.wraps(command)
        def call(**values: Any) -> None:
            made = {name: groups[name](**{key: values.pop(key) for key in keys}) for name, keys in own.items()}
            command(**values, **made)

        keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        # Typer reads both the signature and the annotations.
        call.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


Width = Annotated[
    float | None,
    typer.Option(help=f"Channels as a fraction of the paper's; {_trained_by_default('width')} unless given."),
]
Batch = Annotated[
    int | None,
    typer.Option(help=f"Slices of each domain per process and iteration; {_trained_by_default('batch')} unless given."),
]


Size = Annotated[
    int | None,
    typer.Option(
        help=f"Rows and columns of the networks' grid, a multiple of 8; {_prepared_by_default('size')} unless given."
    ),
]


def given(**options: Any) -> dict[str, Any]:
    """Return those of a command's options that were given."""
    return {name: value for name, value in options.items() if value is not None and value is not False and value != ()}


def preparation_options(
    source: Annotated[
        Path | None,
        typer.Option(help="Labelled volumes: a folder (*_image, *_label; nnU-Net; TotalSegmentator) or a CSV."),
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Unlabelled volumes: a folder or a CSV. Labels there are not read.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help=f"abdomen, cardiac, or a task file (JSON); {_prepared_by_default('task')} unless given."),
    ] = None,
    plane: Annotated[str | None, typer.Option(help="axial, coronal or sagittal; the task's unless given.")] = None,
    size: Size = None,
    spacing: Annotated[
        float | None, typer.Option(help="The grid's pixel spacing in mm; chosen from the data unless given.")
    ] = None,
    stretch: Annotated[bool, typer.Option("--stretch", help="Stretch each field of view to the grid (paper).")] = False,
    roi: Roi = None,
    full_slice: Annotated[bool, typer.Option("--full-slice", help="Don't crop to the body.")] = False,
    source_coding: Annotated[
        str | None,
        typer.Option(
            help="The task's coding of the source's label values, or of the names of its segments or masks: 'MMWHS', "
            "'CHAOS MR', 'BTCV', ..."
        ),
    ] = None,
    target_coding: Annotated[
        str | None, typer.Option(help="The same for the target's labels, where they are read: scores, --monitor.")
    ] = None,
    source_window: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Clip the source to this HU window, not to percentiles.")
    ] = None,
    target_window: Annotated[str | None, typer.Option(metavar="LOW,HIGH", help="The same for the target.")] = None,
    percentiles: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="Clip each volume to these percentiles of its own; "
            f"{_prepared_by_default('percentiles')} unless given.",
        ),
    ] = None,
    min_max: Annotated[
        bool,
        typer.Option("--min-max", help="Scale by the domain's least and greatest z-score, without clip (paper)."),
    ] = False,
    hold_out: Annotated[
        list[str] | None, typer.Option(metavar="PATIENT", help="A patient to leave out; can be repeated.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Test volumes; their patients must not be in the data set.")] = None,
    target_labels: Annotated[
        bool, typer.Option("--target-labels", help="Store target labels too, for --method supervised.")
    ] = False,
    monitor: Annotated[
        Path | None,
        typer.Option(help="Labelled volumes of the target modality to monitor training with; never trained on."),
    ] = None,
) -> dict[str, Any]:
    """Define the options that say what to prepare; return the attributes of `Preparation` that were given.

    Raises:
        InputError: A window, a region or percentiles can't be read.
    """
    options = {
        "source": source, "target": target, "task": task,
        "plane": plane, "size": size, "spacing": spacing, "stretch": stretch, "roi": parse_roi(roi),
        "full_slice": full_slice, "source_coding": source_coding, "target_coding": target_coding,
        "source_window": _pair(source_window, "--source-window"),
        "target_window": _pair(target_window, "--target-window"),
        "percentiles": _pair(percentiles, "--percentiles"), "min_max": min_max,
        "hold_out": tuple(hold_out or ()), "test": test,
        "target_labels": target_labels, "monitor": monitor,
    }  # fmt: skip
    return given(**options)


def names_volumes(options: dict[str, Any]) -> bool:
    """Whether `preparation_options` name the volumes of either domain."""
    return any(domain in options for domain in DOMAINS)


def named_preparation(options: dict[str, Any]) -> Preparation:
    """Make the preparation of `preparation_options` that name both domains.

    Raises:
        InputError: A domain is not named, or a value is out of bounds.
    """
    if any(domain not in options for domain in DOMAINS):
        raise InputError("Volumes are missing", "give both --source (labelled) and --target (unlabelled)")
    return make_preparation(**options)


def checked_preparation(options: dict[str, Any]) -> tuple[Preparation, Domain | None]:
    """Make the preparation of `preparation_options`; return it and, if they name only one domain, that domain.

    Raises:
        InputError: A value is out of bounds.
    """
    named = [domain for domain in DOMAINS if domain in options]
    if len(named) > 1:
        return make_preparation(**options), None
    # The other domain has to be given too, but is not looked at.
    return make_preparation(**{**options, **dict.fromkeys(DOMAINS, options[named[0]])}), named[0]


def refuse_preparation(options: dict[str, Any]) -> None:
    """Refuse `preparation_options` where there is nothing to prepare.

    Raises:
        InputError: An option is given; the message names it.
    """
    for name in options:
        option = name.replace("_", "-")
        raise InputError(f"--{option} has no effect on a data set that is prepared already", "leave it out")


def grid_of(options: dict[str, Any]) -> tuple[Task, int]:
    """Return the task and the rows of the grid of `preparation_options`, which need not name volumes.

    Raises:
        InputError: There is no such task.
    """
    task, size = (options.get(name, Preparation.model_fields[name].default) for name in ("task", "size"))
    return load_task(task), size


def config_options(
    preset: Annotated[str, typer.Option(help="recommended, or paper: the authors' choices.")] = "recommended",
    method: Annotated[
        str,
        typer.Option(help=f"{', '.join(get_args(Method))}."),
    ] = "sifa",
    width: Width = None,
    iterations: Annotated[
        int | None, typer.Option(help=f"Number of iterations; {_trained_by_default('iterations')} unless given.")
    ] = None,
    batch: Batch = None,
    seed: Annotated[
        int | None,
        typer.Option(help=f"Everything random follows from it; {_trained_by_default('seed')} unless given."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate of all networks.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any other setting, such as loss_weights.cycle=5; `sifa settings`."
        ),
    ] = None,
) -> TrainingConfig:
    """Define the options that say how to train.

    Raises:
        InputError: A setting is unknown or out of bounds.
    """
    options = {
        "width": width, "iterations": iterations, "batch": batch, "seed": seed, "learning_rate": learning_rate,
        "precision": precision,
    }  # fmt: skip
    return make_config(preset, **with_settings({"method": method, **given(**options)}, setting or []))


def parse_seconds(duration: str | None) -> float:
    """Parse a duration (`9m`, `2h30m`, `90s` or `90`) as seconds; infinity for None.

    Raises:
        InputError: It is not a duration.
    """
    if duration is None:
        return math.inf
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", duration.strip())
    if not match or not any(match.groups()):
        raise InputError(f"--time-limit '{duration}' is no duration", "write it as 90s, 9m or 2h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600.0 * hours + 60 * minutes + seconds


def parse_roi(text: str | None) -> BoxMM | None:
    """Parse `--roi` as a box; None for None."""
    return None if text is None else parse_box(text, "--roi")


def _pair(text: str | None, option: str) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} '{text}' is not two numbers separated by a comma", "give LOW,HIGH") from None
    return low, high
