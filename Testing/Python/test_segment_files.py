"""Segmentation of files: names of volumes and results, records, and the table of estimates."""

from __future__ import annotations

import csv
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quick import sifa, sifa_here
from SIFASegmentationLib import examination, retries
from SIFASegmentationLib import segment_files as segment_files_module
from SIFASegmentationLib.bundle import Bundle, manifest_json
from SIFASegmentationLib.bundle_files import MANIFEST_FILE
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.estimates_table import ESTIMATES_FILE
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.output_names import output_name
from SIFASegmentationLib.result_records import Origin, Record
from SIFASegmentationLib.segment_files import Callbacks, OutputOptions, Request, SomeRefusedError, segment_files
from SIFASegmentationLib.segmentation import Segmentation, Segmentor
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.segmentation_outputs import OutputWriter
from SIFASegmentationLib.segmented_folder import SegmentedFolder


def test_warnings_call_volumes_as_is_said(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a hospital, each patient has a folder, and the file names in all of them are the same."""
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
            callbacks=Callbacks(on_slices=lambda name, _done, _total: told.append(name)),
        )  # fmt: skip
    for outputs, name in zip(caught.value.outputs, ("patient a", "patient b"), strict=True):
        assert outputs.name == name
        assert len(outputs.warnings) > 1  # About the modality, and about the liver.
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
        callbacks=Callbacks(
            on_outputs=lambda one: told.append((one.name, len(list(tmp_path.glob("*_segmentation.nii.gz")))))
        ),
    )  # fmt: skip
    assert told == [(output_name(images[0]), 1), (output_name(images[1]), 2)]


def test_a_name_that_is_no_text_ends_no_process(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    """Such names come from archives that were packed on another system."""
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
    """Volumes of two patients with the same file name, each in its patient's folder."""
    paths = [tmp_path / patient / "ct.nii.gz" for patient in ("s1", "s2")]
    for image, path in zip(sorted((cohort / "ct").glob("*_image.nii.gz")), paths, strict=True):
        path.parent.mkdir()
        shutil.copy(image, path)
    return paths


def test_results_of_another_image_are_not_replaced(bundle: Bundle, alike: list[Path], tmp_path: Path) -> None:
    """There is one call for each patient, as in an array of jobs."""
    out = tmp_path / "out"
    first, second = alike
    plain = SegmentationOptions(appearance=False)  # Results have no estimates then.
    (made,) = segment_files(bundle.path, first, out, plain, device="cpu")
    content = made.labelmap.read_bytes()
    for _ in range(2):
        (other,) = segment_files(bundle.path, second, out, plain, device="cpu")
        assert other.name == "s2_ct"
    assert made.labelmap.read_bytes() == content
    # Segmenting the same image again replaces its results, alone or among others.
    for volumes in (first, alike):
        made.labelmap.write_bytes(b"")
        assert segment_files(bundle.path, volumes, out, plain, device="cpu")[0].name == "ct"
        assert made.labelmap.read_bytes() == content
    # All names that this image could have are taken by others.
    third = tmp_path / "elsewhere" / "s2" / "ct.nii.gz"
    volume = read_volume(second)
    write_volume(replace(volume, array=volume.array + 1), third)
    with pytest.raises(InputError, match="has results called ct and s2_ct already, of other images") as caught:
        segment_files(bundle.path, third, out, plain, device="cpu")
    assert str(first.resolve()) in str(caught.value)
    # Follow the advice in the message.
    made.labelmap.unlink()
    (out / ".sifa" / "ct.json").unlink()
    assert segment_files(bundle.path, third, out, plain, device="cpu")[0].name == "ct"


def test_two_copies_of_an_image_have_a_name_each(bundle: Bundle, alike: list[Path], tmp_path: Path) -> None:
    shutil.copy(*alike)
    for volumes, names in ((alike[0], ["ct"]), (alike, ["ct", "s2_ct"])):
        made = segment_files(bundle.path, volumes, tmp_path / "out", device="cpu")
        assert [one.name for one in made] == names


def test_of_two_at_once_each_has_a_name(bundle: Bundle, alike: list[Path], tmp_path: Path) -> None:
    names: list[str] = []

    def start_the_other(*_: object) -> None:
        if not names:
            names.extend(one.name for one in segment_files(bundle.path, alike[1], tmp_path / "out", device="cpu"))

    callbacks = Callbacks(on_slices=start_the_other)
    (first,) = segment_files(bundle.path, alike[0], tmp_path / "out", device="cpu", callbacks=callbacks)
    assert (first.name, names) == ("ct", ["s2_ct"])


def test_an_image_is_known_wherever_it_lies_and_its_results_by_all_their_files(
    bundle: Bundle, alike: list[Path], tmp_path: Path
) -> None:
    out, options = tmp_path / "out", SegmentationOptions(appearance=False, probabilities=True)
    outputs = OutputOptions(confidence=True, baseline=False)

    def names(*images: Path) -> list[str]:
        made = segment_files(bundle.path, images, out, options, outputs=outputs, device="cpu", skip_existing=True)
        return [one.name for one in made]

    assert names(*alike) == ["s1_ct", "s2_ct"]
    moved = [path.parent.rename(tmp_path / f"elsewhere_{path.parent.name}") / path.name for path in alike]
    shutil.copytree(tmp_path / "elsewhere_s1", tmp_path / "mounted" / "s1")
    assert names(tmp_path / "mounted" / "s1" / "ct.nii.gz") == []
    for kind in ("_confidence.csv", "_probability_liver.nii.gz"):
        (out / f"s1_ct{kind}").unlink()
        assert names(tmp_path / "mounted" / "s1" / "ct.nii.gz") == ["s1_ct"]
    # Another image in the same place is not mistaken for it.
    shutil.copy(moved[1], tmp_path / "mounted" / "s1" / "ct.nii.gz")
    assert names(tmp_path / "mounted" / "s1" / "ct.nii.gz") == ["ct"]


def test_what_an_image_is_known_by(tmp_path: Path) -> None:
    def content(image: Path) -> str:
        return Origin(image, "model").content

    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"one")
    before = content(series)
    for beside in ("NAME_segmentation.nii.gz", ESTIMATES_FILE, ".DS_Store"):
        (series / beside).touch()
    assert content(series) == before
    (series / "1.dcm").rename(series / "2.dcm")
    assert content(series) != before
    # The headers are the same, but the voxels are not.
    for suffix, voxels, header in ((".mhd", "v.raw", "ElementDataFile = v.raw"), (".hdr", "P1.img", "")):
        for folder, value in (("a", b"0"), ("b", b"1"), ("c", b"1")):
            image = tmp_path / folder / f"P1{suffix}"
            image.parent.mkdir(exist_ok=True)
            image.write_text(header)
            (image.parent / voxels).write_bytes(value)
        one, other, copy = (content(tmp_path / folder / f"P1{suffix}") for folder in "abc")
        assert one != other == copy
    # An image whose voxels are not found is identified by its path.
    for folder in "bc":
        (tmp_path / folder / "v.raw").unlink()
    assert content(tmp_path / "b" / "P1.mhd") != content(tmp_path / "c" / "P1.mhd")


def test_rows_of_a_table_are_told_apart_by_their_patient(bundle: Bundle, alike: list[Path], tmp_path: Path) -> None:
    lines = ["patient,image"]
    for image in alike:
        deeper = image.parent / "scan" / image.name
        deeper.parent.mkdir()
        image.rename(deeper)
        lines.append(f"Patient {image.parent.name},{deeper.relative_to(tmp_path)}")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    made = segment_files(bundle.path, tmp_path / "cases.csv", tmp_path / "out", device="cpu")
    assert [one.name for one in made] == ["Patient_s1", "Patient_s2"]


def test_a_labelmap_of_somebody_else_is_not_replaced(
    bundle: Bundle, alike: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = alike[0].parent
    by_hand = folder / "ct_segmentation.nii.gz"
    by_hand.write_bytes(b"by hand")
    with monkeypatch.context() as patched:
        patched.setattr(segment_files_module, "examine", lambda *_: pytest.fail("It was segmented."))
        with pytest.raises(InputError, match=r"ct_segmentation\.nii\.gz is there already, and SIFA has no record"):
            segment_files(bundle.path, alike[0], folder, device="cpu")
    assert by_hand.read_bytes() == b"by hand"
    # A labelmap from before there were records has its estimates in the table.
    (folder / ESTIMATES_FILE).write_text("volume,structure,estimated_dice,low,high,doubtful\nct,liver,0.5,0.4,0.6,no\n")
    segment_files(bundle.path, alike[0], folder, device="cpu")
    assert by_hand.read_bytes() != b"by hand"


def test_a_labelmap_that_was_cut_off_from_its_record_is_ours(
    bundle: Bundle, alike: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk is full after the labelmap was written."""

    def fail(*_: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as patched:
        patched.setattr(OutputWriter, "_confidence", fail)
        with pytest.raises(OSError, match="full"):
            segment_files(bundle.path, alike[0], tmp_path / "out", outputs=OutputOptions(confidence=True), device="cpu")
    (made,) = segment_files(bundle.path, alike[0], tmp_path / "out", device="cpu", skip_existing=True)
    assert made.name == "ct"


def test_a_volume_that_fails_takes_no_name(bundle: Bundle, alike: list[Path], tmp_path: Path) -> None:
    volume = read_volume(alike[0])
    write_volume(replace(volume, array=np.ones_like(volume.array)), alike[0])
    with pytest.raises(InputError, match="is constant"):
        segment_files(bundle.path, alike[0], tmp_path / "out", device="cpu")
    segment_files(bundle.path, alike[1], tmp_path / "out", device="cpu")


def test_many_processes_write_to_one_table(tmp_path: Path) -> None:
    """Threads take the place of processes, each with a folder object of its own."""
    (tmp_path / ESTIMATES_FILE).write_text(
        "volume,structure,estimated_dice,low,high,doubtful\nP of before,liver,0.5,0.4,0.6,no\n"
    )

    def work(number: int) -> None:
        for turn in range(5):
            name, folder = f"P{number}_{turn}", SegmentedFolder(tmp_path)
            image, labelmap = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_segmentation.nii.gz"
            record = Origin(image, "model")
            with folder.claimed([name], record):
                labelmap.touch()
                folder.finish(name, record, [labelmap], (("liver", "0.5", "0.4", "0.6", "no", ""),))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with (tmp_path / ESTIMATES_FILE).open(newline="") as file:
        volumes = [row["volume"] for row in csv.DictReader(file)]
    assert sorted(volumes) == sorted([*(f"P{n}_{turn}" for n in range(8) for turn in range(5)), "P of before"])


def test_a_damaged_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_TRIES", 1)
    (tmp_path / ".sifa").mkdir()
    (tmp_path / ".sifa" / "P1.json").write_text("{}")
    with pytest.raises(InputError, match=r"P1\.json is damaged or can't be read: delete it"):
        SegmentedFolder(tmp_path)


def test_records_that_say_nothing_are_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from a process that was killed before it wrote, from a full disk, or from macOS."""
    monkeypatch.setattr(retries, "_TRIES", 1)
    records = tmp_path / ".sifa"
    records.mkdir()
    (records / "P1.json").touch()
    (records / "._P1.json").write_bytes(b"\0\5\26\7")
    folder, image = SegmentedFolder(tmp_path), Origin(tmp_path / "P1.nii.gz", "model")
    with folder.claimed(["P1"], image) as name:
        assert (records / f"{name}.json").stat().st_size > 0
    assert not (records / "P1.json").exists()

    def fail(_: Record) -> str:
        raise OSError("full")

    monkeypatch.setattr(Record, "model_dump_json", fail)
    with pytest.raises(OSError, match="full"), folder.claimed(["P1"], image):
        pass
    assert not (records / "P1.json").exists()


def test_files_in_use_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On Windows, a file that is being read can't be replaced, and one that is being replaced can't be read."""
    monkeypatch.setattr(retries, "_BETWEEN_TRIES_SECONDS", 0)
    held: dict[str, int] = {}

    def unless_held(action: Callable[..., Any]) -> Callable[..., Any]:
        def act(path: Path, *given: Any, **settings: Any) -> Any:
            # If there are two paths, others use the second.
            name = given[0].name if given and isinstance(given[0], Path) else path.name
            if held.get(name, 0) > 0:
                held[name] -= 1
                raise PermissionError(13, "in use", name)
            return action(path, *given, **settings)

        return act

    for method in ("open", "replace", "unlink", "read_bytes"):
        monkeypatch.setattr(Path, method, unless_held(getattr(Path, method)))
    folder, image = SegmentedFolder(tmp_path), Origin(tmp_path / "P1.nii.gz", "model")
    labelmap, row = tmp_path / "P1_segmentation.nii.gz", ("liver", "0.5", "0.4", "0.6", "no", "")
    for table_is_held in (5, 999):
        held["P1.json"] = 5
        with folder.claimed(["P1"], image) as name:
            labelmap.touch()
            held.update({"P1.json": 5, ESTIMATES_FILE: table_is_held})
            folder.finish(name, image, [labelmap], (row,))
        assert ("estimated_dice.csv can't be written to" in caplog.text) == (table_is_held == 999)
        assert folder.has("P1", image)
    held.clear()
    (tmp_path / ESTIMATES_FILE).unlink()
    with folder.claimed(["P2"], Origin(tmp_path / "P2.nii.gz", "model")) as name:
        folder.finish(name, Origin(tmp_path / "P2.nii.gz", "model"), [labelmap], ())
    assert "\nP1,liver,0.5," in (tmp_path / ESTIMATES_FILE).read_text()


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
        segment_files(bundle.path, [cohort / "ct"], tmp_path, device="cpu", callbacks=Callbacks(on_outputs=interrupt))
    numbers: list[tuple[int, int]] = []

    def go_on(**settings: Any) -> list[str]:
        done.clear()
        segment_files(
            bundle.path, [cohort / "ct"], tmp_path, device="cpu", skip_existing=True,
            callbacks=Callbacks(on_volume=lambda *which: numbers.append(which)), **settings,
        )  # fmt: skip
        return list(done)

    names = ["abdomen_ct_000_image.nii.gz", "abdomen_ct_001_image.nii.gz"]
    assert go_on() == names[1:]
    assert numbers == [(2, 2)]
    assert go_on() == []
    # Results that were made differently, or were deleted, are made again.
    assert go_on(options=SegmentationOptions(fill_holes=True)) == names
    (tmp_path / "abdomen_ct_000_segmentation.nii.gz").unlink()
    assert go_on(options=SegmentationOptions(fill_holes=True)) == names[:1]


def test_a_volume_too_large_for_the_memory_ends_nothing(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((cohort / "ct").glob("*_image.nii.gz"))
    original = Segmentor.predict

    class FullSession:
        """A session of ONNX Runtime that runs out of memory."""

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
            callbacks=Callbacks(
                on_refused=lambda image, error: told.append((image, str(error), len(list(tmp_path.glob("*.nii.gz")))))
            ),
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
    again = sifa_here("segment", bundle.path, alike[1], "--out", tmp_path / "one", "--device", "cpu", "--skip-existing")
    assert "one has the results of all volumes already" in again.stdout
