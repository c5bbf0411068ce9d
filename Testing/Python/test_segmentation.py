"""Segmentation of volumes, with a model whose output is known and with a trained one."""

from __future__ import annotations

import csv
import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from SIFASegmentationLib.appearance import learn_appearance
from SIFASegmentationLib.bundle import Bundle
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.labelmaps import read_labelmap
from SIFASegmentationLib.output_names import output_name
from SIFASegmentationLib.preprocessing import prepare_volume
from SIFASegmentationLib.regions import BoxMM
from SIFASegmentationLib.segment_files import OutputOptions, Request, SomeRefusedError, segment_files
from SIFASegmentationLib.segmentation import (
    BATCH,
    CancelledError,
    Segmentor,
    slice_confidence,
)
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.structures import load_task
from SIFASegmentationLib.volumes import Geometry, Volume


def test_the_labelmap_lies_on_the_volumes_own_grid(bundle: Bundle, cohort: Path) -> None:
    volume = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    result = Segmentor(bundle, "cpu").segment(volume, SegmentationOptions(probabilities=True))
    assert result.labelmap.geometry == volume.geometry
    assert result.labelmap.array.shape == volume.array.shape
    assert result.labelmap.array.dtype == np.uint8
    assert result.labelmap.array.max() <= 4
    assert set(result.probabilities) == {"liver", "right kidney", "left kidney", "spleen", "highest"}
    assert result.confidence.shape == (volume.array.shape[result.slice_axis],)
    assert ((result.confidence >= 0) & (result.confidence <= 1)).all()


def test_storage_order_makes_no_difference(bundle: Bundle, cohort: Path) -> None:
    """The same patient stored with other axes gets the same labels, and slice confidences in the stored order."""
    volume = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    i, j, k = volume.geometry.spacing
    direction = volume.geometry.direction_matrix
    flipped = Volume(
        np.ascontiguousarray(volume.array[::-1].transpose(2, 0, 1)),
        Geometry(
            (volume.geometry.size[1], volume.geometry.size[2], volume.geometry.size[0]),
            (j, k, i),
            tuple(np.asarray(volume.geometry.origin) + direction[:, 2] * k * (volume.geometry.size[2] - 1)),
            tuple(np.stack([direction[:, 1], -direction[:, 2], direction[:, 0]], axis=1).ravel()),
        ),
        "flipped",
    )
    segmentor = Segmentor(bundle, "cpu")
    one, other = segmentor.segment(volume), segmentor.segment(flipped)
    back = other.labelmap.array.transpose(1, 2, 0)[::-1]
    assert (back == one.labelmap.array).mean() > 0.9999
    assert (one.slice_axis, other.slice_axis) == (0, 1)
    assert np.allclose(other.confidence[::-1], one.confidence, atol=1e-4)


def test_cancelling_and_progress(bundle: Bundle, cohort: Path) -> None:
    volume = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    seen: list[tuple[int, int]] = []
    segmentor = Segmentor(bundle, "cpu")
    with pytest.raises(CancelledError):
        segmentor.segment(volume, progress=lambda *done: seen.append(done), cancelled=lambda: len(seen) >= 2)
    assert seen == [(BATCH, len(volume.array)), (2 * BATCH, len(volume.array))]


def test_stages_at_the_same_time_give_the_same(bundle: Bundle, cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages in threads, as on a GPU; a segmentation that is stopped ends as well."""
    volume = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    segmentor = Segmentor(bundle, "cpu")
    one = segmentor.segment(volume, SegmentationOptions(probabilities=True))
    monkeypatch.setattr(Segmentor, "device", "cuda")
    other = segmentor.segment(volume, SegmentationOptions(probabilities=True))
    assert (one.labelmap.array == other.labelmap.array).all()
    assert all((one.probabilities[name].array == other.probabilities[name].array).all() for name in one.probabilities)
    with pytest.raises(CancelledError):
        segmentor.segment(volume, cancelled=lambda: True)


def test_what_the_intensities_say_is_told_in_the_volumes_own_pixels(bundle: Bundle, cohort: Path) -> None:
    segmentor, volume = Segmentor(bundle, "cpu"), read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    plain, decided = (
        segmentor.segment(
            volume, SegmentationOptions(appearance=appearance, largest_component=False, probabilities=True)
        )
        for appearance in (False, True)
    )
    assert (plain.labelmap.array != decided.labelmap.array).any()
    np.testing.assert_array_equal(decided.confidence, plain.confidence)
    prepared = prepare_volume(volume, bundle.manifest.preprocessing["target"])
    placement, slices = prepared.placement, prepared.slices
    predicted = np.concatenate([segmentor.predict(slices[i : i + 4]) for i in range(0, len(slices), 4)])
    appearance = learn_appearance(predicted, slices, placement.grid_spacing)
    for start in range(0, len(slices), 4):
        slab = slice(start, start + 4)
        expected = placement.restore_probabilities(predicted[slab])
        appearance.decide(expected, prepared.intensities(slab), placement.spacings[1:])
        # Not all are equal: probabilities were kept in half precision, and only where a structure is probable.
        same = placement.view(decided.labelmap.array)[slab] == expected.argmax(1)
        assert same.mean() > 0.99


def test_estimates_are_of_what_was_calibrated_alone(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    image = cohort / "ct" / "abdomen_ct_000_image.nii.gz"
    segmentor, volume = Segmentor(bundle, "cpu"), read_volume(image)
    for settings, estimated in (
        ({}, True), ({"refine": True}, True), ({"appearance": False}, False), ({"largest_component": False}, False),
        ({"domain": "source"}, False),
    ):  # fmt: skip
        assert bool(segmentor.segment(volume, SegmentationOptions(**settings)).estimates) == estimated, settings
    (outputs,) = segment_files(bundle.path, [image], tmp_path, SegmentationOptions(appearance=False), device="cpu")
    assert outputs.labelmap.exists()
    assert not (tmp_path / "estimated_dice.csv").exists()


def test_a_structure_of_two_parts_keeps_both(bundle: Bundle, cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_two_squares(_self: Segmentor, slices: np.ndarray) -> np.ndarray:
        probabilities = np.zeros((len(slices), 5, *slices.shape[1:]), np.float32)
        probabilities[:, 2, 10:14, 8:13] = probabilities[:, 2, 18:22, 20:24] = 1
        probabilities[:, 0] = 1 - probabilities.sum(1)
        return probabilities

    monkeypatch.setattr(Segmentor, "predict", of_two_squares)
    segmentor, volume = Segmentor(bundle, "cpu"), read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    structures = segmentor.manifest.task.structures
    kept = []
    for parts in (1, 2, 0):
        changed = (structures[0], structures[1].model_copy(update={"parts": parts}), *structures[2:])
        task = segmentor.manifest.task.model_copy(update={"structures": changed})
        segmentor.manifest = segmentor.manifest.model_copy(update={"task": task})
        made = segmentor.segment(volume, SegmentationOptions(appearance=False))
        kept.append(made.found["right kidney"].kept)
        assert made.found["right kidney"].ml == pytest.approx(
            (made.labelmap.array == 2).sum() * volume.geometry.voxel_volume_ml
        )
    assert kept == [pytest.approx(20 / 36, abs=0.05), 1, 1]


def test_refining_asks_again_half_a_cell_away(
    bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmentor = Segmentor(bundle, "cpu")
    size = segmentor.manifest.preprocessing["target"].size
    slices = np.random.default_rng(0).uniform(-1, 1, (2, size, size)).astype(np.float32)
    moved = np.full_like(slices, -1)
    moved[:, 4:, 4:] = slices[:, :-4, :-4]
    refined, plain, there = segmentor.predict_refined(slices), segmentor.predict(slices), segmentor.predict(moved)
    np.testing.assert_allclose(refined[..., 5, 9], (plain[..., 5, 9] + there[..., 9, 13]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(refined[..., -4:, :], plain[..., -4:, :])
    np.testing.assert_array_equal(refined[..., -4:], plain[..., -4:])
    np.testing.assert_allclose(refined.sum(1), 1, atol=1e-5)

    image = cohort / "ct" / "abdomen_ct_000_image.nii.gz"
    (plainly,) = segment_files(bundle.path, [image], tmp_path / "plain", device="cpu")
    (finely,) = segment_files(bundle.path, [image], tmp_path / "fine", SegmentationOptions(refine=True), device="cpu")
    assert (read_volume(plainly.labelmap).array != read_volume(finely.labelmap).array).any()

    # A prediction that depends only on the pixel itself is shifted back to its place.
    def by_pixel(_self: Segmentor, shown: np.ndarray) -> np.ndarray:
        one = (shown + 1) / 2
        return np.stack([1 - one, one], 1)

    monkeypatch.setattr(Segmentor, "predict", by_pixel)
    np.testing.assert_allclose(segmentor.predict_refined(slices), by_pixel(segmentor, slices), atol=1e-6)


def test_confidence_looks_at_what_is_not_surely_background() -> None:
    probabilities = np.zeros((3, 2, 2, 2), np.float32)
    probabilities[:, 0] = 1.0
    probabilities[1, :, 0, 0] = (0.4, 0.6)
    probabilities[1, :, 0, 1] = (0.8, 0.2)
    probabilities[2, :, 0, 0] = (0.5, 0.5)
    assert slice_confidence(probabilities) == pytest.approx([1.0, 0.7, 0.5])


def test_files_of_a_folder(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    options = SegmentationOptions(probabilities=True)
    outputs = segment_files(
        bundle.path, [cohort / "ct"], tmp_path, options, outputs=OutputOptions(confidence=True), device="cpu"
    )
    names = sorted(path.name for path in tmp_path.iterdir() if path.name != ".sifa")
    assert len(outputs) == 2
    assert len(names) == 2 * (1 + 4 + 1 + 1) + 1
    assert "abdomen_ct_000_probability_right_kidney.nii.gz" in names
    image = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    labelmap = read_volume(tmp_path / "abdomen_ct_000_segmentation.nii.gz")
    assert labelmap.geometry == image.geometry
    liver = read_volume(tmp_path / "abdomen_ct_000_probability_liver.nii.gz")
    assert 0 <= liver.array.min() <= liver.array.max() <= 1
    rows = (tmp_path / "abdomen_ct_000_confidence.csv").read_text().splitlines()
    assert rows[0] == "slice_k,confidence"
    assert len(rows) == 1 + len(image.array)


def test_volumes_come_one_by_one_into_one_table(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    first, second = sorted((cohort / "ct").glob("*_image.nii.gz"))
    for path in (first, second, first):
        segment_files(bundle.path, [path], tmp_path, device="cpu")
    with (tmp_path / "estimated_dice.csv").open(newline="") as file:
        rows = [(row["volume"], row["structure"]) for row in csv.DictReader(file)]
    structures = ("liver", "right kidney", "left kidney", "spleen")
    names = (output_name(path) for path in (first, second))
    assert sorted(rows) == sorted(itertools.product(names, structures))
    # Files as Excel may save them.
    for spoilt in ("volume;structure\n", "volume,structure,estimated_dice,low,high,doubtful\nM\xfcller,x,1,1,1,no\n"):
        (tmp_path / "estimated_dice.csv").write_text(spoilt, encoding="latin-1")
        with pytest.raises(InputError, match="was not written by SIFA, or was edited since: move it away"):
            segment_files(bundle.path, [first], tmp_path, device="cpu")
    (tmp_path / "estimated_dice.csv").write_text("")
    segment_files(bundle.path, [first], tmp_path, device="cpu")


def test_outputs_are_called_as_is_said(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    channel = tmp_path / "imagesTs" / "P1_0000.nii.gz"
    channel.parent.mkdir()
    image = next((cohort / "ct").glob("*_image.nii.gz"))
    shutil.copy(image, channel)
    (made,) = segment_files(bundle.path, [channel], tmp_path / "out", device="cpu")
    assert made.labelmap.name == "P1_segmentation.nii.gz"
    # As hospitals store them: a folder for each patient, with the same file name in all.
    folders = [tmp_path / name / "ct.nii.gz" for name in ("a", "b")]
    for path in folders:
        path.parent.mkdir()
        shutil.copy(image, path)
    alike = segment_files(bundle.path, folders, tmp_path / "alike", device="cpu")
    assert [one.labelmap.name for one in alike] == ["a_ct_segmentation.nii.gz", "b_ct_segmentation.nii.gz"]
    assert [one.name for one in alike] == ["a_ct", "b_ct"]
    requests = [Request(path, name) for path, name in zip(folders, "ab", strict=True)]
    named = segment_files(bundle.path, requests, tmp_path / "out", device="cpu")
    assert [one.labelmap.name for one in named] == ["a_segmentation.nii.gz", "b_segmentation.nii.gz"]
    table = (tmp_path / "out" / "estimated_dice.csv").read_text()
    assert all(f"\n{name}," in table for name in ("a", "b", "P1"))


def test_a_table_names_volumes_and_their_regions(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    first, second = sorted((cohort / "ct").glob("*_image.nii.gz"))
    # The region is the lower half of the slices, and extends beyond the volume.
    geometry = read_volume(first).geometry
    middle = geometry.origin[2] + geometry.spacing[2] * geometry.size[2] / 2
    half = BoxMM(minimum=(-999, -999, -999), maximum=(999, 999, middle))
    lines = [f'P1,{first},"-999,999,-999,999,-999,{middle}"', f"P2,{second},"]
    (tmp_path / "cases.csv").write_text("\n".join(["patient,image,region", *lines]))
    by_table = segment_files(bundle.path, [tmp_path / "cases.csv"], tmp_path / "table", device="cpu")
    requests = [Request(first, region=half), Request(second)]
    by_request = segment_files(bundle.path, requests, tmp_path / "requests", device="cpu")
    (whole,) = segment_files(bundle.path, [first], tmp_path / "whole", device="cpu")
    arrays = [[read_volume(one.labelmap).array for one in made] for made in (by_table, by_request)]
    assert all(np.array_equal(*pair) for pair in zip(*arrays, strict=True))
    assert not np.array_equal(arrays[0][0], read_volume(whole.labelmap).array)


def test_a_segmentation_for_slicer_has_names_and_reads_back(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    image = cohort / "ct" / "abdomen_ct_001_image.nii.gz"
    for suffix in (".seg.nrrd", ".nii.gz"):
        segment_files(bundle.path, [image], tmp_path, outputs=OutputOptions(suffix=suffix), device="cpu")
    task = load_task("abdomen")
    one, other = (
        read_labelmap(tmp_path / f"abdomen_ct_001_segmentation{suffix}", task, allow_empty=True)
        for suffix in (".seg.nrrd", ".nii.gz")
    )
    assert np.array_equal(one.array, other.array)


def test_where_cuda_does_not_start_auto_takes_the_processor_and_cuda_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime lists CUDA if it was built with it, whether or not CUDA's libraries are installed."""
    asked: list[list[str]] = []
    original = onnxruntime.InferenceSession

    def session(model: bytes, options: Any, providers: list[str]) -> Any:
        asked.append(providers)
        return original(model, options, providers=["CPUExecutionProvider"])

    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    assert Segmentor(bundle, "auto").device == "cpu"
    # The session is opened again for the CPU, which needs the model in another form.
    assert asked == [listed, ["CPUExecutionProvider"]]
    with pytest.raises(InputError, match="can't start CUDA here: install the versions"):
        Segmentor(bundle, "cuda")


@pytest.mark.parametrize("message", ["Failed to allocate memory for requested buffer of size 9", "no kernel image"])
def test_a_full_gpu_is_told_of(message: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    segmentor = Segmentor(bundle, "cpu")

    def run(*_: Any) -> Any:
        raise RuntimeError(message)

    monkeypatch.setattr(segmentor, "_session", SimpleNamespace(run=run, get_inputs=segmentor._session.get_inputs))
    monkeypatch.setattr(Segmentor, "device", "cuda")
    full = message.startswith("Failed")
    expected = "does not hold 2 slices: close other programs that use it" if full else message
    with pytest.raises(InputError if full else RuntimeError, match=expected):
        segmentor.predict(np.zeros((2, 32, 32), np.float32))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"device": "tpu"}, "device 'tpu' is unknown"), ({"device": "cuda"}, "has no CUDA"),
     ({"task": load_task("cardiac")}, "not the structures of the task cardiac")],
)  # fmt: skip
def test_settings_that_can_not_be_used_are_refused_in_one_sentence(
    bundle: Bundle, cohort: Path, tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        segment_files(bundle.path, [cohort / "ct"], tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InputError, match=r"The format '\.png' can't be written: choose \.nii\.gz, "):
        OutputOptions(suffix=".png")


def test_volumes_that_can_not_be_used_are_refused_in_one_sentence(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, sentence in ((tmp_path / "no.nii.gz", "does not exist"), (tmp_path / "empty", "holds no")):
        with pytest.raises(InputError, match=sentence):
            segment_files(bundle.path, [path], tmp_path / "out", device="cpu")
    volume = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz")
    flat = replace(volume, array=np.full_like(volume.array, 7))
    write_volume(flat, tmp_path / "flat.nii.gz")
    with pytest.raises(InputError, match=r"flat\.nii\.gz is constant"):
        segment_files(bundle.path, [tmp_path / "flat.nii.gz"], tmp_path / "out", device="cpu")
    images = sorted((cohort / "ct").glob("*_image.nii.gz"))
    with pytest.raises(SomeRefusedError, match=r"1 of 3 volumes could not .*:\n.*flat\.nii\.gz is constant") as caught:
        segment_files(bundle.path, [images[0], tmp_path / "flat.nii.gz", images[1]], tmp_path / "some", device="cpu")
    assert [outputs.image for outputs in caught.value.outputs] == images
    assert all(outputs.labelmap.exists() for outputs in caught.value.outputs)
    with pytest.raises(InputError, match=r"abdomen_ct_000_image\.nii\.gz is given twice: name it once"):
        segment_files(bundle.path, [cohort / "ct", cohort / "ct"], tmp_path / "out", device="cpu")
