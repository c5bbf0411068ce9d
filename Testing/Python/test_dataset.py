"""Preparing volumes, and drawing batches from them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from quick import QUICK_OPTIONS, preparation, quick_config, sifa_here, silent
from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.heartbeat import is_alive
from SIFASegmentationLib.image_files import read_volume, to_image, write_volume
from SIFASegmentationLib.jobs import Job
from SIFASegmentationLib.plausibility import unlike_training
from SIFASegmentationLib.preprocessing import Preprocessing, prepare_volume
from SIFASegmentationLib.regions import BoxMM
from SIFASegmentationLib.slicer_segmentations import write_slicer_segmentation
from SIFASegmentationLib.structures import load_task
from SIFASegmentationLib.volumes import Geometry, Volume, volume_name
from SIFATrainingLib.batches import BatchSource, SliceOrder
from SIFATrainingLib.config import NO_AUGMENTATION, AugmentationSettings
from SIFATrainingLib.dataset import FULL_SCALE, PreparedDataset
from SIFATrainingLib.export import export
from SIFATrainingLib.findings import Finding
from SIFATrainingLib.prepare import prepare
from SIFATrainingLib.steps import Step
from SIFATrainingLib.training import create_job
from SIFATrainingLib.volume_checks import VolumeChecks

CPU = torch.device("cpu")


def test_slices_labels_and_manifest_agree(prepared: Path) -> None:
    dataset = PreparedDataset(prepared)
    for name in ("source", "target"):
        entry = dataset.entry(name)
        assert len(entry.volumes) == 2
        assert entry.volumes[0].stop == entry.volumes[1].start
        slices = dataset.slices(name)
        assert slices.shape == (entry.slices, 32, 32)
        assert abs(int(slices.min())) == FULL_SCALE
        assert slices.max() > 0.8 * FULL_SCALE
    assert set(np.unique(dataset.labels("source"))) == {0, 1, 2, 3, 4}
    assert dataset.classes == 5
    assert dataset.manifest.source.preprocessing.spacing == dataset.manifest.target.preprocessing.spacing


def test_target_labels_are_not_opened_unless_asked_for(cohort: Path, prepared: Path, tmp_path: Path) -> None:
    noisy = shutil.copytree(cohort, tmp_path / "cohort")
    for label in (noisy / "ct").glob("*_label*"):
        label.write_bytes(b"no image at all")
    prepare(noisy / "mr", noisy / "ct", tmp_path / "out", size=32, report=silent)
    for file in sorted(prepared.iterdir()):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(InputError, match="holds no labels of its target"):
        PreparedDataset(prepared).labels("target")


def test_target_labels_for_the_supervised_bound(cohort: Path, tmp_path: Path) -> None:
    prepare(cohort / "mr", cohort / "ct", tmp_path / "out", size=32, target_labels=True, report=silent)
    dataset = PreparedDataset(tmp_path / "out")
    assert set(np.unique(dataset.labels("target"))) == {0, 1, 2, 3, 4}


def test_a_patient_held_out_is_not_there(cohort: Path, tmp_path: Path) -> None:
    manifest = prepare(
        cohort / "mr", cohort / "ct", tmp_path / "out", size=32, hold_out=["abdomen_ct_001"], report=silent
    )
    assert [volume.patient for volume in manifest.target.volumes] == ["abdomen_ct_000"]
    assert len(manifest.source.volumes) == 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hold_out": ["abdomen_ct_01"]}, "'abdomen_ct_01' to hold out is in neither domain"),
        ({"hold_out": ["abdomen_ct_000", "abdomen_ct_001"]}, "All patients of the target are held out: hold out"),
        ({"size": 30}, "size 30 can't be used"),
        ({"plane": "oblique"}, "plane oblique can't be used"),
        ({"task": "knee"}, "The task knee can't be read"),
        ({"source_coding": "BTCV "}, "coding 'BTCV '"),
        ({"source_coding": "CHAOS MR"}, "label codes 1, 2, 3, 4, which are not in the coding 'CHAOS MR'"),
        ({"roi": BoxMM(minimum=(900, 900, 900), maximum=(910, 910, 910))}, "lies outside the volume"),
    ],
)
def test_bad_settings_name_themselves_and_leave_nothing(
    cohort: Path, tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        prepare(cohort / "mr", cohort / "ct", tmp_path / "out", **{"size": 32, "report": silent, **settings})
    assert list(tmp_path.iterdir()) == []


def test_a_segmentation_that_slicer_cropped_is_put_back_into_place(
    cohort: Path, prepared: Path, tmp_path: Path
) -> None:
    cropped = shutil.copytree(cohort, tmp_path / "cohort", ignore=shutil.ignore_patterns("*mr*_label*"))
    for path in (cohort / "mr").glob("*_label*"):
        label = read_volume(path)
        found = np.argwhere(label.array)
        low, high = found.min(0), found.max(0) + 1
        size = tuple(int(n) for n in (high - low)[::-1])
        origin = np.asarray(label.geometry.origin) + low[::-1] * np.asarray(label.geometry.spacing)
        geometry = Geometry(size, label.geometry.spacing, tuple(origin.tolist()), label.geometry.direction)  # type: ignore[arg-type]
        part = Volume(label.array[tuple(map(slice, low, high))], geometry, label.name)
        write_slicer_segmentation(part, load_task("abdomen"), cropped / "mr" / f"{volume_name(path)}.seg.nrrd")
    prepare(cropped / "mr", cropped / "ct", tmp_path / "out", size=32, report=silent)
    whole, put_back = (PreparedDataset(folder).labels("source") for folder in (prepared, tmp_path / "out"))
    assert np.array_equal(put_back, whole)


def test_the_library_logs_warnings_every_time_and_prints_nothing(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("first", "second"):
        caplog.clear()
        prepare(cohort / "mr", cohort / "ct", tmp_path / name, size=32, spacing=1.0)
        assert [record.message.split(",")[0] for record in caplog.records if "grid" in record.message] == [
            f"{domain}: 2 of 2 fields of view are larger than the grid of 32 mm" for domain in ("source", "target")
        ]
    assert capsys.readouterr().out == ""


def test_a_grid_that_holds_no_body_is_told(cohort: Path, tmp_path: Path) -> None:
    """As when somebody gives the spacing to which another program resamples."""
    told: list[Finding] = []
    prepare(cohort / "mr", cohort / "ct", tmp_path / "out", size=32, spacing=1.0, report=silent, warn=told.append)
    assert [(one.subject, one.message.split(",")[0]) for one in told if "grid" in one.message] == [
        (name, "2 of 2 fields of view are larger than the grid of 32 mm") for name in ("source", "target")
    ]
    checks = VolumeChecks(preparation(cohort, spacing=1.0), silent)
    checks.run()
    assert sum("larger than the grid" in finding.message for finding in checks.findings) == 2
    for spacing in (1e-320, 1e6):
        with pytest.raises(InputError, match=f"The spacing {spacing} can't be used"):
            preparation(cohort, spacing=spacing)


def test_labels_on_another_grid_are_refused_by_name(cohort: Path, tmp_path: Path) -> None:
    mixed = shutil.copytree(cohort, tmp_path / "cohort")
    shutil.copy(mixed / "mr" / "abdomen_mr_000_label.nii.gz", mixed / "mr" / "abdomen_mr_001_label.nii.gz")
    with pytest.raises(InputError, match="abdomen_mr_001_label and the image abdomen_mr_001_image lie on different"):
        prepare(mixed / "mr", mixed / "ct", tmp_path / "out", size=32, report=silent)
    assert not (tmp_path / "out").exists()


def test_labels_that_can_not_be_used_are_found_before_anything_is_written(cohort: Path, tmp_path: Path) -> None:
    spoilt = shutil.copytree(cohort, tmp_path / "cohort")
    path = spoilt / "mr" / "abdomen_mr_001_label.nii.gz"
    label = read_volume(path)
    write_volume(replace(label, array=np.where(label.array == 4, 99, label.array)), path)
    told: list[str] = []
    with pytest.raises(InputError, match=r"abdomen_mr_001_label.* 99"):
        prepare(spoilt / "mr", spoilt / "ct", tmp_path / "out", size=32, report=lambda step: told.append(str(step)))
    assert told
    assert not any("resampling" in step for step in told)


def test_what_a_killed_preparation_left_goes_and_what_another_writes_stays(cohort: Path, tmp_path: Path) -> None:
    killed, others, alive = (
        tmp_path / name for name in (".0a1b2c3d.partial.set", ".0a1b2c3d.partial.other", ".4e5f6a7b.partial.set")
    )
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    beat = {"host": socket.gethostname(), "process": process.pid, "started": 1.0, "time": time.time()}
    for folder in (killed, others, alive):
        folder.mkdir()
        (folder / "source_slices.npy").touch()
    (killed / "heartbeat.json").write_text(json.dumps(beat))
    (alive / "heartbeat.json").write_text(json.dumps(beat | {"process": os.getpid()}))
    beating: list[bool] = []

    def report(step: Step) -> None:
        own = [path for path in tmp_path.glob(".*.partial.set") if path not in (killed, alive)]
        beating.extend(map(is_alive, own))

    prepare(cohort / "mr", cohort / "ct", tmp_path / "set", size=32, report=report)
    assert sorted(path.name for path in tmp_path.iterdir()) == [others.name, alive.name, "set"]
    assert beating
    assert all(beating)
    assert not (tmp_path / "set" / "heartbeat.json").exists()


def test_paths_may_be_text(cohort: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already exists"):
        prepare(str(cohort / "mr"), str(cohort / "ct"), str(prepared))
    job = create_job(str(prepared), str(tmp_path / "job"), quick_config(), "cpu")
    with pytest.raises(InputError, match="has no checkpoint yet"):
        export(str(job.folder), str(tmp_path / "bundle"))


def test_one_patient_in_both_splits_is_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="both in the target and in the test set"):
        prepare(cohort / "mr", cohort / "ct", tmp_path / "out", test=cohort / "ct", report=silent)
    with pytest.raises(InputError, match="both in the source and in the target"):
        prepare(cohort / "mr", cohort / "mr", tmp_path / "out", report=silent)


def test_a_region_of_its_own_overrides_the_common_one(cohort: Path, tmp_path: Path) -> None:
    images = sorted((cohort / "ct").glob("*_image*"))
    geometry = read_volume(images[0]).geometry
    corners = geometry.direction_matrix @ (np.array([[0, 0, 0], geometry.size]) * geometry.spacing).T
    low, high = np.sort(corners.T + geometry.origin, axis=0)
    # The region is the middle half of the slices and rows, with all columns.
    middle, quarter = (low + high) / 2, (high - low) / 4
    box = [(low[0], high[0]), *zip((middle - quarter)[1:], (middle + quarter)[1:], strict=True)]
    text = ",".join(f"{value:g}" for pair in box for value in pair)
    (tmp_path / "ct.csv").write_text(f'patient,image,region\na,{images[0]},"{text}"\nb,{images[1]},\n')
    whole = BoxMM(minimum=tuple(low - 1000), maximum=tuple(high + 1000))
    manifest = prepare(
        cohort / "mr", tmp_path / "ct.csv", tmp_path / "out", size=32, roi=whole, spacing=10, report=silent
    )
    first, second = (volume.stop - volume.start for volume in manifest.target.volumes)
    assert second == read_volume(images[1]).geometry.size[2]
    assert abs(first - geometry.size[2] / 2) <= 1
    middle_slice = PreparedDataset(tmp_path / "out").slices("target")[first // 2]
    rows = np.flatnonzero((middle_slice > -FULL_SCALE).any(axis=1)) * 10
    assert rows[-1] - rows[0] < 0.6 * (high - low)[1]


def test_a_damaged_data_set_is_refused(prepared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(prepared, tmp_path / "set")
    (copy / "target_slices.npy").write_bytes((copy / "target_slices.npy").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"target_slices\.npy is missing or damaged"):
        PreparedDataset(copy).slices("target")
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        PreparedDataset(copy)
    with pytest.raises(InputError, match="is not a prepared data set"):
        PreparedDataset(tmp_path)


def test_an_epoch_shows_every_slice_once_and_the_next_in_another_order() -> None:
    order = SliceOrder(10, seed=0, stream="target")
    first, second = order.at(0, 10), order.at(10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)
    assert list(SliceOrder(10, seed=0, stream="target").at(7, 6)) == [*first[7:], *second[:3]]


QUIET = AugmentationSettings(gamma=0, contrast=0, brightness=0, noise=0)


def source(prepared: Path, augmentation: AugmentationSettings, batch: int, **settings: Any) -> BatchSource:
    return BatchSource(PreparedDataset(prepared), "source", augmentation, batch=batch, seed=5, device=CPU, **settings)


def test_two_processes_share_the_batch_of_one(prepared: Path) -> None:
    whole = source(prepared, AugmentationSettings(), 4).batch(3)
    shares = [source(prepared, AugmentationSettings(), 2, processes=2, rank=rank).batch(3) for rank in (0, 1)]
    for name in ("source", "labels", "target"):
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name))


def test_streamed_slices_are_the_resident_ones(prepared: Path) -> None:
    """Both in order, when the next batch is read ahead, and out of order, as after a resumption."""
    resident = source(prepared, AugmentationSettings(), 4)
    streamed = source(prepared, AugmentationSettings(), 4, budget_bytes=0)
    for iteration in (0, 1, 2, 7, 8, 3):
        one, other = resident.batch(iteration), streamed.batch(iteration)
        assert torch.equal(one.source, other.source)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.target, other.target)


def test_pseudo_labels_move_with_their_slices_from_when_they_are_given(prepared: Path) -> None:
    dataset = PreparedDataset(prepared)
    for budget in (float("inf"), 0):
        batches = source(prepared, QUIET, 4, budget_bytes=budget)
        assert batches.batch(0).pseudo_labels is None
        # Pseudo-labels of what is brighter than a threshold show which slices they belong to. The batch that has
        # already been read ahead has to get them too.
        for darkest in (0, -FULL_SCALE // 2):
            batches.set_pseudo_labels((dataset.slices("target") > darkest).astype(np.uint8))
            batch = batches.batch(1)
            assert batch.pseudo_labels is not None
            assert batch.pseudo_labels.shape == (4, 32, 32)
            bright = (batch.target[:, 0] > darkest / FULL_SCALE).to(torch.uint8)
            # The slices are interpolated, the labels are not.
            assert (batch.pseudo_labels == bright).float().mean() > 0.9
            assert 0.02 < bright.float().mean() < 0.98


def test_without_augmentation_the_batch_is_what_was_stored(prepared: Path) -> None:
    dataset = PreparedDataset(prepared)
    batch = source(prepared, AugmentationSettings(enabled=False), 4).batch(0)
    indices = SliceOrder(len(dataset.slices("source")), 5, "labelled").at(0, 4)
    stored = torch.from_numpy(dataset.slices("source")[indices]).float() / FULL_SCALE
    assert torch.allclose(batch.source[:, 0], stored, atol=1e-5)
    assert np.array_equal(batch.labels.numpy(), dataset.labels("source")[indices])


def test_the_preview_shows_a_slice_of_many_structures(prepared: Path) -> None:
    preview = source(prepared, NO_AUGMENTATION, 4).preview()
    assert preview.source.shape == preview.target.shape == (1, 1, 32, 32)
    assert len(preview.labels[0].unique()) == max(len(np.unique(x)) for x in PreparedDataset(prepared).labels("source"))


def test_labels_are_warped_by_the_grid_of_their_slices(prepared: Path, tmp_path: Path) -> None:
    """Slices that show their labels still do so after augmentation, in both domains."""
    copy, masks = shutil.copytree(prepared, tmp_path / "set"), {}
    for name in ("source", "target"):
        masks[name] = np.zeros(np.load(copy / f"{name}_slices.npy").shape, np.uint8)
        for number, mask in enumerate(masks[name]):
            mask[4 + number % 6 : 20 + number % 6, 6:26] = 1
        np.save(copy / f"{name}_slices.npy", np.where(masks[name], FULL_SCALE, -FULL_SCALE).astype(np.int16))
    np.save(copy / "source_labels.npy", masks["source"])
    batches = source(copy, QUIET, 8)
    batches.set_pseudo_labels(masks["target"])
    batch = batches.batch(0)
    for slices, labels in ((batch.source, batch.labels), (batch.target, batch.pseudo_labels)):
        assert labels is not None
        assert ((slices[:, 0] > 0) == (labels == 1)).float().mean() > 0.99


def test_patients_held_out_leave_no_trace(cohort: Path, tmp_path: Path) -> None:
    """The grid and the intensities do not depend on them: the data set equals one without them, byte by byte."""
    for modality in ("mr", "ct"):
        shutil.copytree(cohort / modality, tmp_path / modality, ignore=shutil.ignore_patterns("*_001_*"))
    held = [f"abdomen_{modality}_001" for modality in ("mr", "ct")]
    prepare(cohort / "mr", cohort / "ct", tmp_path / "held", size=32, hold_out=held, report=silent)
    prepare(tmp_path / "mr", tmp_path / "ct", tmp_path / "never", size=32, report=silent)
    for file in (tmp_path / "never").iterdir():
        assert (tmp_path / "held" / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_papers_preprocessing_is_what_is_asked_for(cohort: Path, tmp_path: Path) -> None:
    def prepared_with(name: str, **settings: Any) -> Preprocessing:
        out = tmp_path / name
        prepare(cohort / "mr", cohort / "ct", out, size=32, report=silent, **settings)
        return PreparedDataset(out).entry("source").preprocessing

    usual = prepared_with("usual")
    assert (usual.spacing is None, usual.field_of_view) == (False, "body")
    papers = prepared_with("papers", stretch=True, full_slice=True, percentiles=(2, 98))
    assert (papers.spacing, papers.field_of_view) == (None, "full")
    assert papers.intensity.percentiles == (2, 98)
    # With `min_max`, the range is that of all voxels and there is no clipping, but stored values lie within it.
    robust, fixed = (
        prepared_with(f"{fixed}", percentiles=(0, 100), min_max=fixed).intensity for fixed in (False, True)
    )
    assert (robust.clip, fixed.clip) == (True, False)
    assert fixed.z_low <= robust.z_low < robust.z_high < fixed.z_high
    for case in find_cases(cohort / "mr", labelled=False):
        volume, entry = read_volume(case.image), PreparedDataset(tmp_path / "True").entry("source")
        slices = prepare_volume(volume, entry.preprocessing).slices
        assert np.abs(slices).max() <= 1
        assert not unlike_training(volume, entry.preprocessing)


def test_labels_that_a_training_will_not_see_are_told(cohort: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(cohort, tmp_path / "cohort")
    task = load_task("abdomen")
    for path in (copy / "mr").glob("*_label*"):
        label = read_volume(path)
        # The segment of the spleen, which is the later one, contains all of the liver; and there is a tumour.
        spleen = ((label.array == 1) | (label.array == 4)).astype(np.uint8)
        layers = [label.array * (label.array < 4), spleen]
        image = sitk.Compose([to_image(replace(label, array=layer.astype(np.uint8))) for layer in layers])
        for number, (name, layer, value) in enumerate(
            [("liver", 0, 1), ("right kidney", 0, 2), ("tumour", 0, 3), ("spleen", 1, 1)]
        ):
            for key, text in {"Name": name, "Layer": layer, "LabelValue": value, "ID": f"Segment_{number}"}.items():
                image.SetMetaData(f"Segment{number}_{key}", str(text))
        sitk.WriteImage(image, str(path.with_name(path.name.replace(".nii.gz", ".seg.nrrd"))))
        path.unlink()
    told: list[Finding] = []
    prepare(copy / "mr", copy / "ct", tmp_path / "out", task, size=32, report=silent, warn=told.append)
    first, second = sorted(path.name for path in (copy / "mr").glob("*.seg.nrrd"))
    unknown = "the labels tumour match no structure of the task, and become background"
    assert [(finding.subject, finding.message.split(" in ")[0]) for finding in told] == [
        (first, "segments or masks overlap"), (first, unknown),
        (second, "segments or masks overlap"), (second, unknown),
        ("source", "never labelled: liver, left kidney"),
    ]  # fmt: skip
    done = sifa_here("train", "--source", copy / "mr", "--target", copy / "ct", "--size", 32, "--iterations", 1,
                     "--out", tmp_path / "job", *QUICK_OPTIONS)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"warning: {first}: segments or masks overlap in" in done.stdout
    assert "warning: source: never labelled: liver, left kidney; label it in some volume" in done.stdout
    messages = [event.data["message"] for event in Job(tmp_path / "job").events()[0] if event.kind == "warning"]
    assert messages == [str(finding) for finding in told]
