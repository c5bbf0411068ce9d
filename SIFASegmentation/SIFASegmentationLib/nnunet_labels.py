"""Read what the `dataset.json` of nnU-Net and Medical Decathlon data sets says about label values."""

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
"""The file in which nnU-Net defines label values, in the folder above the labels and beside its predictions."""

_NNUNET_LABELS = ("labelsTr", "labelsTs")


class NnunetLabels(NamedTuple):
    """Label values as defined by a `dataset.json` of nnU-Net or the Medical Decathlon.

    Attributes:
        coding: Coding of a task's structures. Values of other labels count as background, except the value that
            nnU-Net is to ignore, which the coding does not know.
        others: Name and values of each label, or region of labels, that is no structure of the task.
    """

    coding: LabelCoding
    others: tuple[tuple[str, list[int]], ...]

    def lost(self, found: Iterable[int]) -> tuple[str, ...]:
        """Return the names of labels whose values, among those `found` in a file, become background."""
        lost = {*found} & {*self.coding.ignored}
        return tuple(name for name, values in self.others if lost & {*values})


def labels_beside(path: Path, task: Task) -> NnunetLabels | None:
    """Read the label values of the nnU-Net data set to which a labelmap belongs; None if it belongs to none.

    Raises:
        InputError: The `dataset.json` can't be used (`nnunet_labels`).
    """
    file = path.parent.parent / NNUNET_FILE
    return nnunet_labels(file, task) if path.parent.name in _NNUNET_LABELS and file.is_file() else None


def nnunet_labels(file: Path, task: Task) -> NnunetLabels:
    """Read the label values of a task's structures from a `dataset.json`.

    Raises:
        InputError: The file can't be read, names no structure of the task, names one twice, or gives two the same
            value.
    """
    try:
        labels = json.loads(file.read_text(encoding="utf-8-sig"))["labels"]
        # nnU-Net maps names to values, or to lists of them for regions; the Medical Decathlon maps values to names.
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
    """Return the values of a label: one, or those of a region.

    Raises:
        ValueError: A value is not a whole number.
        TypeError: A value is not a number.
    """
    numbers = [float(number) for number in (value if isinstance(value, list) else [value])]
    if not all(number.is_integer() for number in numbers):
        raise ValueError(f"{value} is no whole number")
    return [int(number) for number in numbers]


def _values_of_structures(values: Iterable[tuple[str, list[int]]], task: Task) -> dict[str, tuple[int, ...]]:
    """Return the values of each structure of the task, given the names and values of labels, which may be regions.

    Raises:
        ValueError: Two labels have the same name.
    """
    matched: dict[str, set[int]] = {}
    seen: set[str] = set()
    for name, numbers in values:
        structure = task.structure_named(name)
        if structure is None or numbers == [0]:
            continue
        # Two aliases of a structure are parts of it, such as both kidneys; the same name twice is an error.
        if normal_name(name) in seen:
            raise ValueError(f"{name} is there twice")
        seen.add(normal_name(name))
        matched.setdefault(structure.name, set()).update(numbers)
    return {name: tuple(sorted(numbers)) for name, numbers in matched.items()}
