"""Tasks, read from JSON files, and their structures with label value, colour and SNOMED CT terminology."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from .errors import InputError, first_fault
from .orientation import Plane
from .schema import Frozen
from .scores import MEAN_OF_STRUCTURES

_PRESETS = Path(__file__).parent / "tasks"

GENERIC_TISSUE = "85756007"
"""Code of the SNOMED CT concept Tissue."""

MOST_STRUCTURES = 254
"""Labelmaps are stored as bytes, and in training the value 255 marks pixels to ignore."""

HIGHEST = "highest"
"""Name of the map of the highest probability of any class, including the background: how certain the segmentation is of
each voxel. It is 1 outside of the field of view, where all is background.
"""

_T = TypeVar("_T")
Channel = Annotated[int, Field(ge=0, le=255)]
Text = Annotated[str, Field(min_length=1)]
LabelCode = Annotated[int | Text, Field(union_mode="left_to_right")]
"""What a data set calls a structure: a value in its labelmaps, or the name of a segment or of the file of a mask."""


class Code(Frozen):
    """A SNOMED CT concept (coding scheme SCT in DICOM): its identifier and its meaning."""

    code: Annotated[str, Field(pattern=r"^\d{6,18}$")]
    meaning: Text


class Terminology(Frozen):
    """What a segment represents, in the codes of Slicer and DICOM SEG."""

    category: Code
    type: Code
    modifier: Code | None = None

    @property
    def entry(self) -> str:
        """The codes as Slicer stores them with a segment, in the tag `TerminologyEntry`."""
        codes = [f"SCT^{c.code}^{c.meaning}" if c else "^^" for c in (self.category, self.type, self.modifier)]
        anatomic_context = "Anatomic codes - DICOM master list~^^~^^"
        return "~".join(["Segmentation category and type - 3D Slicer General Anatomy list", *codes, anatomic_context])

    def is_in(self, entry: str) -> bool:
        """Whether a segment's entry in Slicer has the same type and modifier; the names of its lists don't matter."""
        wanted = [["SCT", self.type.code], ["SCT", self.modifier.code] if self.modifier else ["", ""]]
        return codes_of(entry) == wanted


def codes_of(entry: str) -> list[list[str]] | None:
    """Return scheme and code of the type and the modifier in a segment's entry in Slicer.

    Returns None for an entry without meaning, such as the generic `Tissue` that Slicer gives to every new segment.
    """
    codes = [fields.split("^")[:2] for fields in entry.split("~")[2:4]]
    return codes if len(codes) == 2 and codes[0][-1] not in (GENERIC_TISSUE, "") else None


class Structure(Frozen):
    """One structure of a task.

    Attributes:
        name: Its name in tables and segmentations.
        value: Its value in labelmaps, and its channel in the networks' output.
        color: Red, green, blue, 0 to 255.
        terminology: SNOMED CT codes.
        aliases: Other names; case, the order of the words and what separates them don't matter.
        parts: Largest number of separate parts that it can have: two, if both kidneys are one structure. Only that many
            parts of a segmentation are kept, the largest ones; 0 keeps all.
        tolerance_mm: Tolerance of its surface Dice, in mm; unless given, that of the evaluation, by default 2 mm.
    """

    name: Text
    value: Annotated[int, Field(ge=1, le=MOST_STRUCTURES)]
    color: tuple[Channel, Channel, Channel]
    terminology: Terminology
    aliases: tuple[Text, ...] = ()
    parts: Annotated[int, Field(ge=0)] = 1
    tolerance_mm: Annotated[FiniteFloat, Field(ge=0)] | None = None

    @property
    def all_names(self) -> tuple[str, ...]:
        """Its name and its aliases."""
        return (self.name, *self.aliases)


class LabelCoding(Frozen):
    """How the labels of a public data set name structures.

    Attributes:
        codes: Structure name -> value in the labelmaps, or name of the segment or of the mask's file, of which only the
            words count, as in aliases; or several of these, which the task takes as one structure, such as both
            kidneys. Structures that the data set does not label are left out.
        ignored: Values in the labelmaps that are background for the task.
    """

    codes: dict[str, Annotated[LabelCode | tuple[LabelCode, ...], Field(union_mode="left_to_right")]]
    ignored: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _codes_are_distinct(self) -> Self:
        for name, codes in self.codes.items():
            if not _each(codes) or min(_values(codes), default=1) < 1:
                raise ValueError(f"give {name!r} a code of 1 or more, or a list of such codes")
            # Such as "5,6", which is meant as two values.
            if numbers := [other for other in _names(codes) if not any(map(str.isalpha, other))]:
                raise ValueError(f"the name {numbers[0]!r} of {name!r} has no letter; write values as numbers, [5, 6]")
        if repeated := _repeated([*itertools.chain(*map(_values, self.codes.values())), *self.ignored]):
            raise ValueError(f"the code {repeated} is given twice")
        if repeated_name := _repeated(map(normal_name, itertools.chain(*self.names.values()))):
            raise ValueError(f"the name {repeated_name!r} is given twice")
        return self

    def fits(self, found: Iterable[int]) -> bool:
        """Whether values found in a file (without 0) can come from this coding."""
        values = set(found)
        structures = set(self.names_by_value)
        return bool(values & structures) and values <= structures | set(self.ignored)

    @property
    def names_by_value(self) -> dict[int, str]:
        """Structure of each value in the labelmaps, without the ignored values."""
        return {value: name for name, codes in self.codes.items() for value in _values(codes)}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Names of each structure's segments or mask files, if it has some; a coding by values has none."""
        return {name: names for name, codes in self.codes.items() if (names := _names(codes))}

    def names_of(self, structure: Structure) -> tuple[str, ...]:
        """Return the names of a structure's segments or mask files: those in the coding, else the structure's own.

        A structure that a coding with names leaves out has none.
        """
        if self.names and structure.name not in self.codes:
            return ()
        return self.names.get(structure.name, structure.all_names)


class Task(Frozen):
    """What a model segments.

    Attributes:
        name: Short name, the preset's or the file's.
        title: Name shown in windows.
        plane: Plane of the slices.
        structures: Values 1, 2, ... in this order, so that a label value is the network's output channel; 0 is
            background.
        label_codes: Codings of public data sets, by name.
    """

    name: Text
    title: Text
    plane: Plane
    structures: Annotated[tuple[Structure, ...], Field(min_length=1)]
    label_codes: dict[str, LabelCoding] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        values = [structure.value for structure in self.structures]
        if repeated := _repeated(values):
            raise ValueError(f"two structures have the value {repeated}")
        if values != list(range(1, len(values) + 1)):
            raise ValueError(f"the structures have the values {values}: number them 1, 2, 3, ... in their order")
        names = [name for structure in self.structures for name in _normal_names(structure.all_names)]
        if repeated_name := _repeated(names):
            raise ValueError(f"two structures have the name or alias {repeated_name!r}")
        # Tables use the one for the mean of all structures, maps the other for the highest probability.
        for name in (MEAN_OF_STRUCTURES, HIGHEST):
            if any(normal_name(structure.name) == name for structure in self.structures):
                raise ValueError(f"no structure can be called {name!r}, which tables and maps have a use for")
        own = set(self.names)
        for coding_name, coding in self.label_codes.items():
            if unknown := sorted(set(coding.codes) - own):
                raise ValueError(f"the coding {coding_name!r} names the unknown structure {unknown[0]!r}")
            names = [name for structure in self.structures for name in _normal_names(coding.names_of(structure))]
            if repeated_name := _repeated(names):
                raise ValueError(f"in the coding {coding_name!r} two structures have the name {repeated_name!r}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the structures, in the order of their values."""
        return tuple(structure.name for structure in self.structures)

    @property
    def names_by_value(self) -> dict[int, str]:
        """Names of the structures by their values in labelmaps."""
        return {structure.value: structure.name for structure in self.structures}

    @property
    def classes(self) -> int:
        """K, the number of channels of the networks' output: the background and the structures."""
        return 1 + len(self.structures)

    @property
    def parts(self) -> dict[int, int]:
        """`Structure.parts` by label value."""
        return {structure.value: structure.parts for structure in self.structures}

    @property
    def tolerances_mm(self) -> dict[int, float]:
        """Tolerance of surface Dice in mm, by label value, for structures that have their own."""
        return {s.value: s.tolerance_mm for s in self.structures if s.tolerance_mm is not None}

    @property
    def own_coding(self) -> LabelCoding:
        """The task's own values, as a coding."""
        return LabelCoding(codes={structure.name: structure.value for structure in self.structures})

    def structure_named(self, name: str, coding: LabelCoding | None = None) -> Structure | None:
        """Return the structure with this name or alias (`Right Kidney`, `kidney_right`, ...); None if there is none.

        Args:
            name: A name, of which only the words count, in any order.
            coding: Coding that may name structures otherwise (`LabelCoding.names_of`).
        """
        wanted = normal_name(name)
        for structure in self.structures:
            names = structure.all_names if coding is None else coding.names_of(structure)
            if wanted in map(normal_name, names):
                return structure
        return None


def preset_names() -> list[str]:
    """Return the names of the tasks that come with the library."""
    return sorted(path.stem for path in _PRESETS.glob("*.json"))


def load_task(name_or_path: str | Path) -> Task:
    """Load a task by the name of a preset, or from a JSON file.

    Raises:
        InputError: There is no such preset or file, or the file is not a valid task; the message names the file and the
            field.
    """
    preset = _PRESETS / f"{name_or_path}.json"
    path = preset if str(name_or_path) in preset_names() else Path(name_or_path)
    try:
        return Task.model_validate_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The task {name_or_path} can't be read",
            f"give the path of a JSON file or one of the presets {', '.join(preset_names())}",
        ) from error
    except ValidationError as error:
        field, message = first_fault(error)
        reason = f"{field}, {message}" if field else message
        raise InputError(f"{path} is not a valid task ({reason})", "correct the file") from error


def normal_name(name: str) -> str:
    """Reduce a name to its words, sorted: `RightKidney`, `kidney_right`, `Kidney (right)` -> `kidney right`."""
    # An accent stored as a separate character, as on macOS, would end a word.
    composed = unicodedata.normalize("NFC", name)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", composed).casefold()
    return " ".join(sorted(re.findall(r"[^\W_]+", words)))


def _normal_names(names: Iterable[str]) -> set[str]:
    return set(map(normal_name, names))


def _each(codes: LabelCode | tuple[LabelCode, ...]) -> tuple[LabelCode, ...]:
    return codes if isinstance(codes, tuple) else (codes,)


def _values(codes: LabelCode | tuple[LabelCode, ...]) -> tuple[int, ...]:
    return tuple(code for code in _each(codes) if isinstance(code, int))


def _names(codes: LabelCode | tuple[LabelCode, ...]) -> tuple[str, ...]:
    return tuple(code for code in _each(codes) if isinstance(code, str))


def _repeated(items: Iterable[_T]) -> _T | None:
    return next((item for item, count in Counter(items).items() if count > 1), None)
