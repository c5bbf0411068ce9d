"""What nnU-Net and the Medical Decathlon say of label values, in the `dataset.json` of a data set."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from .errors import InputError, first_fault
from .structures import LabelCoding, Task, normal_name

NNUNET_FILE = "dataset.json"
"""In which nnU-Net says what label values are, above the labels and beside its predictions."""

_NNUNET_LABELS = ("labelsTr", "labelsTs")


class NnunetLabels(NamedTuple):
    """What a `dataset.json` of nnU-Net, or of the Medical Decathlon, says of label values.

    Attributes:
        coding: Of a task. Values that are no structure's are background, but for what nnU-Net is told to ignore, which
            is nothing.
        others: Name and values of each label, or region of labels, that is no structure of the task.
    """

    coding: LabelCoding
    others: tuple[tuple[str, list[int]], ...]

    def lost(self, found: Iterable[int]) -> tuple[str, ...]:
        """Names of what becomes background of the values `found` in a file."""
        lost = {*found} & {*self.coding.ignored}
        return tuple(name for name, values in self.others if lost & {*values})


def labels_beside(path: Path, task: Task) -> NnunetLabels | None:
    """What the `dataset.json` of an nnU-Net data set says of its labels; None where there is none.

    Raises:
        InputError: As `nnunet_labels`.
    """
    file = path.parent.parent / NNUNET_FILE
    return nnunet_labels(file, task) if path.parent.name in _NNUNET_LABELS and file.is_file() else None


def nnunet_labels(file: Path, task: Task) -> NnunetLabels:
    """What a `dataset.json` says of label values, which are in its own order.

    Raises:
        InputError: It can't be read, names no structure of the task, names one twice, or gives two the same value.
    """
    try:
        labels = json.loads(file.read_text(encoding="utf-8-sig"))["labels"]
        # nnU-Net names values, and lists those of a region; the Medical Decathlon values names.
        pairs = [(value, name) if name.isdigit() else (name, value) for name, value in labels.items()]
        values = [(str(name), _whole_numbers(value)) for name, value in pairs]
        matched = _values_of_structures(values, task)
        named = {number for name, numbers in values if name != "ignore" for number in numbers}
        ignored = named - {0, *itertools.chain(*matched.values())}
        coding = LabelCoding(codes=matched, ignored=tuple(sorted(ignored)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = first_fault(error)[1] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise InputError(f"{file} has no readable labels ({reason})", "correct it, or give a coding") from error
    if not matched:
        names = ", ".join(name for name, numbers in values if numbers != [0])
        raise InputError(
            f"{file} names {names}, none of which is in the task {task.name}",
            f"choose another task, give a coding, or name them {', '.join(task.names)}",
        )
    return NnunetLabels(coding, tuple((name, some) for name, some in values if task.structure_named(name) is None))


def _whole_numbers(value: Any) -> list[int]:
    """The values of a label: one, or those of a region.

    Raises:
        ValueError: Any of them is no whole number.
        TypeError: They are no numbers.
    """
    numbers = [float(number) for number in (value if isinstance(value, list) else [value])]
    if not all(number.is_integer() for number in numbers):
        raise ValueError(f"{value} is no whole number")
    return [int(number) for number in numbers]


def _values_of_structures(values: Iterable[tuple[str, list[int]]], task: Task) -> dict[str, tuple[int, ...]]:
    """By structure, of names and values those that are the task's: all of its labels, which may be regions.

    Raises:
        ValueError: Two names are one.
    """
    matched: dict[str, set[int]] = {}
    seen: set[str] = set()
    for name, numbers in values:
        structure = task.structure_named(name)
        if structure is None or numbers == [0]:
            continue
        # Two aliases are two parts of it, such as both kidneys; one name twice is an error.
        if normal_name(name) in seen:
            raise ValueError(f"{name} is there twice")
        seen.add(normal_name(name))
        matched.setdefault(structure.name, set()).update(numbers)
    return {name: tuple(sorted(numbers)) for name, numbers in matched.items()}
