"""What volumes are called in warnings, and what a second run leaves in the table of estimates."""

from __future__ import annotations

import csv
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quick import sifa
from SIFASegmentationLib import examination, segmented_folder
from SIFASegmentationLib import segment_files as segment_files_module
from SIFASegmentationLib.bundle import Bundle, manifest_json
from SIFASegmentationLib.bundle_files import MANIFEST_FILE
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.segment_files import ESTIMATES_FILE, Request, SomeRefusedError, output_name, segment_files
from SIFASegmentationLib.segmentation import Segmentation, Segmentor
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.segmented_folder import SegmentedFolder, record_of


def test_warnings_call_volumes_as_is_said(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a hospital stores them: a folder of each patient, with one file name in all."""
    paths = [tmp_path / name / "ct.nii.gz" for name in ("a", "b", "c")]
    mr = read_volume(next((cohort / "mr").glob("*_image.nii.gz")))
    for path in paths[:2]:
        write_volume(mr, path)
    write_volume(replace(mr, array=np.ones_like(mr.array)), paths[2])
    monkeypatch.setattr(examination, "doubts_about_structures", lambda *_: {"liver": "it is blue"})
    requests = [Request(path, f"patient {path.parent.name}") for path in paths]
    told: list[str] = []
    with pytest.raises(SomeRefusedError, match="The volume patient c is constant") as caught:
        segment_files(
            bundle.path, requests, tmp_path / "out", device="cpu",
            report=lambda name, _done, _total: told.append(name),
        )  # fmt: skip
    for outputs, name in zip(caught.value.outputs, ("patient a", "patient b"), strict=True):
        assert outputs.name == name
        assert len(outputs.warnings) > 1  # Of the modality, and of the liver.
        assert all(warning.startswith((f"{name} ", f"{name}, ")) for warning in outputs.warnings)
    assert set(told) == {"patient a", "patient b"}
    (unnamed,) = segment_files(bundle.path, paths[:1], tmp_path / "unnamed", device="cpu")
    assert "ct.nii.gz, liver: it is blue: check its segmentation." in unnamed.warnings


def test_estimates_of_before_do_not_outlive_their_labelmap(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((cohort / "ct").glob("*_image.nii.gz"))

    def volumes() -> set[str]:
        with (tmp_path / ESTIMATES_FILE).open(newline="") as file:
            return {row["volume"] for row in csv.DictReader(file)}

    segment_files(bundle.path, images, tmp_path, device="cpu")
    assert volumes() == {output_name(path) for path in images}
    original = Segmentor.segment

    def without_estimates(*args: Any, **settings: Any) -> Segmentation:
        return replace(original(*args, **settings), estimates={})

    monkeypatch.setattr(Segmentor, "segment", without_estimates)
    segment_files(bundle.path, images[:1], tmp_path, device="cpu")
    assert volumes() == {output_name(images[1])}
    segment_files(bundle.path, images[1:], tmp_path, device="cpu")
    assert volumes() == set()
    shutil.rmtree(tmp_path)
    segment_files(bundle.path, images[:1], tmp_path, device="cpu")
    assert not (tmp_path / ESTIMATES_FILE).exists()


def test_a_model_of_anybody_writes_nowhere_else(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    model = shutil.copytree(bundle.path, tmp_path / "model")
    task = bundle.manifest.task
    named = zip(task.structures, ("../../escaped", "a/b", "..", "c:d"), strict=True)
    structures = tuple(structure.model_copy(update={"name": name}) for structure, name in named)
    hostile = bundle.manifest.model_copy(
        update={"task": task.model_copy(update={"structures": structures, "label_codes": {}})}
    )
    (model / MANIFEST_FILE).write_text(manifest_json(hostile), encoding="utf-8")
    out = tmp_path / "below" / "out"
    image = next((cohort / "ct").glob("*_image.nii.gz"))
    segment_files(model, [image], out, SegmentationOptions(probabilities=True), device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "model"]
    assert list((tmp_path / "below").iterdir()) == [out]
    name = output_name(image)
    kinds = ("segmentation", "probability_escaped", "probability_a_b", "probability_unnamed", "probability_c_d",
             "probability_highest")  # fmt: skip
    assert {path.name for path in out.glob("*.nii.gz")} == {f"{name}_{kind}.nii.gz" for kind in kinds}


def test_names_that_many_disks_take_for_one(bundle: Bundle, tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "P1.nii.gz", tmp_path / "a" / "p1.nii.gz"]
    with pytest.raises(InputError, match="Two volumes are called a_P1"):
        segment_files(bundle.path, paths, tmp_path / "out")


def test_where_results_go_is_looked_at_before_the_first_volume(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_files_module, "examine", lambda *_: pytest.fail("It was segmented."))
    (tmp_path / "file").touch()
    (tmp_path / ESTIMATES_FILE).write_text("volume;structure\n")
    for out, sentence in ((tmp_path / "file" / "out", "can't be written to"), (tmp_path, "was not written by SIFA")):
        with pytest.raises(InputError, match=sentence):
            segment_files(bundle.path, [cohort / "ct"], out, device="cpu")


def test_what_is_done_is_told_as_it_is_done(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    images, told = sorted((cohort / "ct").glob("*_image.nii.gz")), list[tuple[str, int]]()
    segment_files(
        bundle.path, images, tmp_path, device="cpu",
        on_outputs=lambda one: told.append((one.name, len(list(tmp_path.glob("*_segmentation.nii.gz"))))),
    )  # fmt: skip
    assert told == [(output_name(images[0]), 1), (output_name(images[1]), 2)]


def test_a_name_that_is_no_text_ends_no_process(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    """As of an archive that was packed on another system."""
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    try:
        shutil.copytree(cohort / "ct", folder)
    except OSError:
        pytest.skip("this disk has no such names")
    for volumes, out in (([folder], tmp_path / "out"), ([cohort / "ct"], folder / "out")):
        with pytest.raises(InputError, match=r"The name of .*M\?ller.* is not in UTF-8: rename the file or folder"):
            segment_files(bundle.path, volumes, out, device="cpu")


@pytest.fixture
def alike(cohort: Path, tmp_path: Path) -> list[Path]:
    """Volumes of two patients with one file name, each in a folder of its patient."""
    paths = [tmp_path / patient / "ct.nii.gz" for patient in ("s1", "s2")]
    for image, path in zip(sorted((cohort / "ct").glob("*_image.nii.gz")), paths, strict=True):
        path.parent.mkdir()
        shutil.copy(image, path)
    return paths


def test_results_of_another_image_are_not_replaced(bundle: Bundle, alike: list[Path], tmp_path: Path) -> None:
    """One call for each patient, as of an array of jobs."""
    out = tmp_path / "out"
    first, second = alike
    plain = SegmentationOptions(appearance=False)  # Without estimates.
    (made,) = segment_files(bundle.path, first, out, plain, device="cpu")
    content = made.labelmap.read_bytes()
    with pytest.raises(InputError, match="has results called ct already, of another image") as caught:
        segment_files(bundle.path, second, out, plain, device="cpu", suffix=".mha")
    assert str(first.resolve()) in str(caught.value)
    assert made.labelmap.read_bytes() == content
    # The same image again replaces them.
    made.labelmap.write_bytes(b"")
    segment_files(bundle.path, [first], out, plain, device="cpu")
    assert made.labelmap.read_bytes() == content
    # As does another one, as the sentence advises.
    (out / ".sifa" / "ct.json").unlink()
    segment_files(bundle.path, [second], out, plain, device="cpu")
    assert made.labelmap.read_bytes() != content


def test_of_two_at_once_the_second_is_told_before_it_begins(bundle: Bundle, alike: list[Path], tmp_path: Path) -> None:
    refused: list[str] = []

    def start_the_other(*_: object) -> None:
        try:
            segment_files(bundle.path, alike[1], tmp_path / "out", device="cpu", report=lambda *_: pytest.fail("begun"))
        except InputError as error:
            refused.append(str(error))

    segment_files(bundle.path, alike[0], tmp_path / "out", device="cpu", report=start_the_other)
    assert refused
    assert all("of another image" in sentence for sentence in refused)


def test_a_volume_that_fails_takes_no_name(bundle: Bundle, alike: list[Path], tmp_path: Path) -> None:
    volume = read_volume(alike[0])
    write_volume(replace(volume, array=np.ones_like(volume.array)), alike[0])
    with pytest.raises(InputError, match="is constant"):
        segment_files(bundle.path, alike[0], tmp_path / "out", device="cpu")
    segment_files(bundle.path, alike[1], tmp_path / "out", device="cpu")


def test_many_processes_write_to_one_table(tmp_path: Path) -> None:
    """Threads here, each with a folder object of its own."""
    (tmp_path / ESTIMATES_FILE).write_text(
        "volume,structure,estimated_dice,low,high,doubtful\nP of before,liver,0.5,0.4,0.6,no\n"
    )

    def work(number: int) -> None:
        for turn in range(5):
            name, folder = f"P{number}_{turn}", SegmentedFolder(tmp_path)
            image, labelmap = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_segmentation.nii.gz"
            with folder.claimed(name, image):
                labelmap.touch()
                row = ("liver", "0.5", "0.4", "0.6", "no", "")
                folder.finish(name, record_of(image, "model", labelmap, (row,)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with (tmp_path / ESTIMATES_FILE).open(newline="") as file:
        volumes = [row["volume"] for row in csv.DictReader(file)]
    assert sorted(volumes) == sorted([*(f"P{n}_{turn}" for n in range(8) for turn in range(5)), "P of before"])


def test_a_damaged_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmented_folder, "_TRIES", 1)
    (tmp_path / ".sifa").mkdir()
    (tmp_path / ".sifa" / "P1.json").write_text("{}")
    with pytest.raises(InputError, match=r"P1\.json is damaged or can't be read: delete it"):
        SegmentedFolder(tmp_path)


def test_an_interrupted_call_goes_on_where_it_was(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, done = Segmentor.segment, list[str]()

    def count(self: Segmentor, volume: Any, *args: Any, **settings: Any) -> Segmentation:
        done.append(volume.name)
        return original(self, volume, *args, **settings)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Segmentor, "segment", count)
    with pytest.raises(KeyboardInterrupt):
        segment_files(bundle.path, [cohort / "ct"], tmp_path, device="cpu", on_outputs=interrupt)
    numbers: list[tuple[int, int]] = []

    def go_on(**settings: Any) -> list[str]:
        done.clear()
        segment_files(
            bundle.path, [cohort / "ct"], tmp_path, device="cpu", skip_existing=True,
            on_volume=lambda *which: numbers.append(which), **settings,
        )  # fmt: skip
        return list(done)

    names = ["abdomen_ct_000_image.nii.gz", "abdomen_ct_001_image.nii.gz"]
    assert go_on() == names[1:]
    assert numbers == [(2, 2)]
    assert go_on() == []
    # What is there was made differently, or is not there any more.
    assert go_on(options=SegmentationOptions(fill_holes=True)) == names
    (tmp_path / "abdomen_ct_000_segmentation.nii.gz").unlink()
    assert go_on(options=SegmentationOptions(fill_holes=True)) == names[:1]


def test_a_volume_too_large_for_the_memory_ends_nothing(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((cohort / "ct").glob("*_image.nii.gz"))
    original = Segmentor.predict

    class FullSession:
        """As of ONNX Runtime."""

        def __init__(self, session: Any) -> None:
            self._session = session

        def run(self, *_: object) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

    def fail_once(self: Segmentor, slices: np.ndarray) -> np.ndarray:
        monkeypatch.setattr(Segmentor, "predict", original)
        whole, self._session = self._session, FullSession(self._session)
        try:
            return original(self, slices)
        finally:
            self._session = whole

    monkeypatch.setattr(Segmentor, "predict", fail_once)
    told: list[tuple[Path, str, int]] = []
    with pytest.raises(SomeRefusedError, match="1 of 2 volumes could not be segmented") as caught:
        segment_files(
            bundle.path, images, tmp_path, device="cpu",
            on_refused=lambda image, error: told.append((image, str(error), len(list(tmp_path.glob("*.nii.gz"))))),
        )  # fmt: skip
    assert [one.image for one in caught.value.outputs] == images[1:]
    ((image, sentence, written),) = told
    assert (image, written) == (images[0], 0)
    assert sentence.startswith(
        f"The memory of this machine does not suffice for {images[0].name}: close other programs"
    )


def test_a_path_is_one_volume(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    image = next((cohort / "ct").glob("*_image.nii.gz"))
    (made,) = segment_files(str(bundle.path), str(image), str(tmp_path), device="cpu")
    assert made.image == image


def test_the_command_counts_volumes_and_tells_of_each_that_is_refused(
    bundle: Bundle, alike: list[Path], tmp_path: Path
) -> None:
    alike[0].write_bytes(b"none")
    done = sifa("segment", bundle.path, *alike, "--out", tmp_path / "out", "--device", "cpu")
    assert done.returncode == 2
    assert "volume 2 of 2, s2/ct.nii.gz: slice " in done.stdout
    assert done.stderr.count(f"sifa: {alike[0]}") == 1
    assert "sifa: 1 of 2 volumes could not be segmented" in done.stderr
    options = SegmentationOptions("target")
    segment_files(bundle.path, alike[1], tmp_path / "one", options, device="cpu")
    again = sifa("segment", bundle.path, alike[1], "--out", tmp_path / "one", "--device", "cpu", "--skip-existing")
    assert "one has the results of all volumes already" in again.stdout
