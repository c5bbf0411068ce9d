"""The files of a prepared data set are closed before its folder is renamed or removed, as Windows requires."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from SIFATrainingLib import prepare as preparing
from SIFATrainingLib.prepare import prepare


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """References to all opened memory-mapped arrays, none of which may be alive at the end of an atomic write."""
    references: list[Any] = []
    original_open, original_write = preparing.open_memmap, preparing.write_atomically

    def open_memmap(*arguments: Any, **named: Any) -> Any:
        array = original_open(*arguments, **named)
        references.append(weakref.ref(array))
        return array

    @contextmanager
    def write_atomically(path: Path) -> Iterator[Path]:
        with original_write(path) as partial:
            try:
                yield partial
            finally:
                assert [reference for reference in references if reference() is not None] == []

    monkeypatch.setattr(preparing, "open_memmap", open_memmap)
    monkeypatch.setattr(preparing, "write_atomically", write_atomically)
    return references


def test_no_file_is_open_when_the_folder_is_renamed(cohort: Path, tmp_path: Path, opened: list[Any]) -> None:
    prepare(cohort / "mr", cohort / "ct", tmp_path / "out", size=32, report=lambda _step: None)
    # Slices and labels of two volumes, and slices of two more.
    assert len(opened) == 6
    assert (tmp_path / "out" / "manifest.json").exists()


def test_no_file_is_open_when_the_folder_is_given_up(cohort: Path, tmp_path: Path, opened: list[Any]) -> None:
    def stop(step: Any) -> None:
        if step.done == step.total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(cohort / "mr", cohort / "ct", tmp_path / "out", size=32, report=stop)
    assert len(opened) == 5
    assert list(tmp_path.iterdir()) == []
