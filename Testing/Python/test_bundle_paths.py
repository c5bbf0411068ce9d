"""Paths that can't be read as a bundle, for whatever reason, give an error of one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from SIFASegmentationLib.bundle import read_bundle
from SIFASegmentationLib.errors import InputError


def test_a_manifest_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(InputError, match=r"manifest\.json can't be read \(.+\): check the path and its permissions"):
        read_bundle(tmp_path)


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_a_name_that_is_too_long(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match=r"can't be read \(.+\): check the path"):
        read_bundle(tmp_path / ("model" * 100 + suffix))


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_args: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    if name == "model":
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    # A file's mode would not stop root, as which tests may run in a container.
    monkeypatch.setattr("SIFASegmentationLib.bundle_files.zipfile.ZipFile", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=rf"{name}.manifest\.json can't be read \(Permission denied\): check the path"):
        read_bundle(tmp_path / name)
