"""Findings of the checks before a training, each on an input that causes it."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from quick import quick_config, sifa_here
from SIFASegmentationLib.image_files import read_volume, write_volume
from SIFASegmentationLib.labelmaps import read_labels
from SIFASegmentationLib.plausibility import doubt_about_mixture
from SIFASegmentationLib.slicer_segmentations import write_slicer_segmentation
from SIFASegmentationLib.structures import Task, load_task
from SIFASegmentationLib.volumes import Geometry, Volume
from SIFATrainingLib import devices, estimate
from SIFATrainingLib import preflight as module
from SIFATrainingLib.checkpoints import checkpoint_paths
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.estimate import measure
from SIFATrainingLib.findings import Finding
from SIFATrainingLib.model import Model
from SIFATrainingLib.preflight import TRAINING_PACKAGES, check_computer, preflight
from SIFATrainingLib.prepare import Preparation, make_preparation, prepare
from SIFATrainingLib.steps import Step
from SIFATrainingLib.training import create_job, train
from SIFATrainingLib.volume_checks import VolumeChecks


def preparation(cohort: Path, **settings: Any) -> Preparation:
    return make_preparation(**{"source": cohort / "mr", "target": cohort / "ct", "size": 32, **settings})


def found(cohort: Path, **settings: Any) -> dict[str, list[Finding]]:
    """Findings about the volumes, by subject."""
    checks = VolumeChecks(preparation(cohort, **settings), lambda _: None)
    checks.run()
    by_subject: dict[str, list[Finding]] = {}
    for finding in checks.findings:
        by_subject.setdefault(finding.subject, []).append(finding)
    return by_subject


@pytest.fixture
def copy(cohort: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cohort, tmp_path / "cohort")


def test_everything_is_said_of_a_cohort_that_is_fine(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda _: 1e10)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    steps: list[Step] = []
    before = sorted(tmp_path.rglob("*"))
    findings = preflight(
        preparation(cohort, monitor=cohort / "ct"), quick_config(), "cpu", tmp_path / "job",
        baseline_iterations=3, report=steps.append,
    )  # fmt: skip
    assert [step.done for step in steps] == list(range(6))
    assert {step.total for step in steps} == {6}
    assert sorted(tmp_path.rglob("*")) == before
    by_subject = {finding.subject: finding for finding in findings}
    assert {subject for subject, finding in by_subject.items() if finding.level != "ok"} == {"source", "target"}
    assert by_subject["abdomen_mr_001_label.nii.gz"].message == "all 4 structures"
    image = by_subject["abdomen_ct_000_image.nii.gz"].message
    geometry = read_volume(cohort / "ct" / "abdomen_ct_000_image.nii.gz").geometry
    assert image.startswith(f"48 x 48 x {geometry.size[2]} voxels of ")
    assert image.endswith(f"mm, LPS, {geometry.size[2]} axial slices")
    assert "about the same size" in by_subject["part of the body"].message
    assert "torch " in by_subject["packages"].message
    assert by_subject["device"].message.startswith("cpu: ")
    assert "for 9 iterations (estimated from one step of 2 slices of 32 x 32 on cpu" in by_subject["duration"].message
    assert str(tmp_path) in by_subject["disk"].message
    few = by_subject["source"]
    assert few.level == "warning"
    assert few.message.startswith("volumes: 2, slices: ")
    assert "ten or more" in few.fix


def test_a_window_is_for_ct_and_ct_is_for_a_window(cohort: Path) -> None:
    def doubted(**windows: tuple[float, float]) -> dict[str, str]:
        findings = found(cohort, **windows)
        return {name: one.fix for name in ("source", "target") for one in findings[name] if "window" in one.message}

    assert doubted() == {"target": "give --target-window, such as -150,300 for soft tissue"}
    assert doubted(target_window=(-150, 300)) == {}
    both = doubted(source_window=(-150, 300), target_window=(-150, 300))
    assert both == {"source": "leave out --source-window"}


def test_what_can_not_be_read_is_named_and_the_rest_is_checked(copy: Path) -> None:
    (copy / "mr" / "abdomen_mr_000_image.nii.gz").write_bytes(b"no image")
    flat = read_volume(copy / "ct" / "abdomen_ct_000_image.nii.gz")
    write_volume(replace(flat, array=np.full_like(flat.array, 7)), copy / "ct" / "abdomen_ct_000_image.nii.gz")
    findings = found(copy)
    for subject, sentence in (
        ("abdomen_mr_000_image.nii.gz", "can't be read"), ("abdomen_ct_000_image.nii.gz", "constant"),
    ):  # fmt: skip
        assert [finding.level for finding in findings[subject]] == ["error"]
        assert sentence in findings[subject][0].message
        assert findings[subject][0].fix.startswith("check ")
    assert findings["abdomen_mr_001_label.nii.gz"][0].level == "ok"


@pytest.mark.parametrize(
    ("settings", "subject", "sentence"),
    [
        ({"target": "nowhere"}, "target", "nowhere does not exist"),
        ({"monitor": "nowhere"}, "monitor", "nowhere does not exist"),
        ({"target": "mr"}, "patients", "both in the source and in the target"),
        ({"test": "ct"}, "patients", "both in the target and in the test set"),
        ({"hold_out": ["nobody"]}, "patients", "'nobody' to hold out is in neither domain"),
    ],
)
def test_sets_that_do_not_fit_together(cohort: Path, settings: dict[str, Any], subject: str, sentence: str) -> None:
    placed = {name: cohort / value if isinstance(value, str) else value for name, value in settings.items()}
    (finding,) = [f for f in found(cohort, **placed)[subject] if f.level == "error"]
    assert sentence in finding.message
    assert finding.fix


def test_labels_that_are_not_the_tasks(copy: Path) -> None:
    for number, values in ((0, [0, 1, 2, 3, 0]), (1, [0, 6, 0, 0, 0])):
        path = copy / "mr" / f"abdomen_mr_00{number}_label.nii.gz"
        label = read_volume(path)
        write_volume(replace(label, array=np.array(values, np.uint8)[label.array]), path)
    findings = found(copy)
    (partly,) = findings["abdomen_mr_000_label.nii.gz"]
    assert (partly.level, partly.message) == ("warning", "liver, right kidney, left kidney; without spleen")
    assert "teaches the model that it is background" in partly.fix
    (unknown,) = findings["abdomen_mr_001_label.nii.gz"]
    assert unknown.level == "error"
    assert "label codes 6" in unknown.message
    assert "choose that coding" in unknown.fix
    never = findings["source"][-1]
    assert (never.level, never.message) == ("error", "never labelled: spleen")


def test_a_structure_that_has_more_parts_than_are_kept(copy: Path) -> None:
    liver, kidneys, _, spleen = load_task("abdomen").structures
    kidneys = kidneys.model_copy(update={"name": "kidneys", "aliases": ()})
    structures = (liver, kidneys, spleen.model_copy(update={"value": 3}))
    for path in (copy / "mr").glob("*_label.nii.gz"):
        label = read_volume(path)
        write_volume(replace(label, array=np.array([0, 1, 2, 2, 3], np.uint8)[label.array]), path)
    task = Task(name="mine", title="Mine", plane="axial", structures=structures)
    told = found(copy, task=task)["source"][-1]
    assert (told.level, told.message) == (
        "warning", "kidneys has 2 large parts or more in 2 of 2 labelmaps, 1 would be kept"
    )  # fmt: skip
    assert told.fix.startswith('set "parts": 2')
    for parts in (2, 0):
        enough = (liver, kidneys.model_copy(update={"parts": parts}), structures[2])
        findings = found(copy, task=task.model_copy(update={"structures": enough}))["source"]
        assert not any("parts" in finding.message for finding in findings)


def test_segments_that_are_not_the_tasks(copy: Path) -> None:
    path = copy / "mr" / "abdomen_mr_000_label.nii.gz"
    task = load_task("abdomen")
    renamed = task.model_copy(
        update={"structures": (*task.structures[:3], task.structures[3].model_copy(update={"name": "tumour"}))}
    )
    segmentation = path.with_name("abdomen_mr_000_label.seg.nrrd")
    write_slicer_segmentation(read_volume(path), renamed, segmentation)
    path.unlink()
    assert read_labels(segmentation, task).unmatched == ("tumour",)
    missing, stranger = found(copy)["abdomen_mr_000_label.seg.nrrd"]
    assert "without spleen" in missing.message
    assert (stranger.level, stranger.fix) == ("warning", "to use them, rename them to spleen")
    assert "the labels tumour match no structure of the task" in stranger.message


def test_labels_of_an_nnunet_data_set_that_are_not_the_tasks(copy: Path) -> None:
    """If the task has no tumour, the tumour would become a hole in the liver."""
    source = copy / "mr"
    for path in source.glob("*_image.nii.gz"):
        label = path.with_name(path.name.replace("_image", "_label"))
        tumour = read_volume(label)
        tumour.array[tumour.array == 4] = 5
        write_volume(tumour, source / "labelsTr" / path.name.replace("_image", ""))
        (source / "imagesTr").mkdir(exist_ok=True)
        path.rename(source / "imagesTr" / path.name.replace("_image", "_0000"))
        label.unlink()
    names = {"background": 0, "liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 4, "liver tumour": 5, "x": 6}
    (source / "dataset.json").write_text(json.dumps({"labels": names}))
    missing, stranger = found(copy)["abdomen_mr_000.nii.gz"]
    assert "without spleen" in missing.message
    assert (stranger.level, stranger.fix) == ("warning", "to use them, rename them to spleen")
    assert stranger.message == "the labels liver tumour match no structure of the task, and become background"


def test_a_volume_of_another_modality_among_the_others(copy: Path) -> None:
    for path in (copy / "ct").glob("abdomen_ct_000_*"):
        shutil.copyfile(path, copy / "mr" / path.name)
    told = next(finding for finding in found(copy)["source"] if "unlike the others" in finding.message)
    assert told.level == "warning"
    assert told.message.startswith("1 of 3 volumes go below -500, as CT in Hounsfield units does")
    assert told.message.endswith("abdomen_ct_000_image.nii.gz")
    assert told.fix == "leave out those of another modality"
    assert doubt_about_mixture([("a", -1000.0), ("b", -1000.0), ("c", 0.0)]).startswith(
        "1 of 3 volumes do not go below"
    )
    assert doubt_about_mixture([("a", -1000.0), ("a", -1000.0)]) == doubt_about_mixture([("a", 0.0)]) == ""


def test_a_volume_taken_in_another_plane_and_an_oblique_one(copy: Path) -> None:
    image = read_volume(copy / "ct" / "abdomen_ct_000_image.nii.gz")
    a, b = image.geometry.spacing[:2]
    long = replace(image.geometry, spacing=(a, 4 * b, 2.0))
    write_volume(Volume(image.array, long, image.name), copy / "ct" / "abdomen_ct_000_image.nii.gz")
    c, s = np.cos(0.2), np.sin(0.2)
    turned = Geometry(image.geometry.size, image.geometry.spacing, (0, 0, 0), (c, -s, 0, s, c, 0, 0, 0, 1))
    write_volume(Volume(image.array, turned, image.name), copy / "ct" / "abdomen_ct_001_image.nii.gz")
    findings = found(copy)
    (other,) = findings["abdomen_ct_000_image.nii.gz"]
    assert other.level == "warning"
    assert other.fix == "it was acquired in coronal slices: choose that plane"
    assert ", near LPS, " in findings["abdomen_ct_001_image.nii.gz"][0].message


def test_volumes_that_may_be_labelmaps_and_those_that_are_not_used(cohort: Path, tmp_path: Path) -> None:
    target, ct = tmp_path / "target", cohort / "ct"
    (target / "more").mkdir(parents=True)
    # None of these names marks a labelmap.
    for name, place in (("image", "P1_ct"), ("label", "P1_liver"), ("image", "more/P2")):
        shutil.copyfile(ct / f"abdomen_ct_000_{name}.nii.gz", target / f"{place}.nii.gz")
    checked = found(cohort, target=target)
    prepared: list[Finding] = []
    prepare(cohort / "mr", target, tmp_path / "set", size=32, report=lambda _: None, warn=prepared.append)
    assert [finding.level for finding in checked["P1_ct.nii.gz"]] == ["ok"]
    (labelmap,) = (finding for finding in checked["P1_liver.nii.gz"] if finding.level == "warning")
    (unused,) = (finding for finding in checked["target"] if "subfolders" in finding.message)
    assert "different values in its middle slice, as a labelmap does" in labelmap.message
    assert unused.message == "volumes in subfolders are not used (more)"
    assert [finding for finding in prepared if finding.subject != "source"] == [unused, labelmap]


def test_domains_that_show_other_parts_of_the_body(copy: Path) -> None:
    for path in (copy / "ct").glob("*_image*"):
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(image[:, :, : image.GetSize()[2] // 3], str(path))
    (finding,) = found(copy)["part of the body"]
    assert finding.level == "warning"
    assert finding.message.startswith("fields of view differ in slice direction: ")
    assert "region of interest" in finding.fix


def test_a_package_that_is_missing_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module

    def load(name: str) -> Any:
        if name == "onnxscript":
            raise ModuleNotFoundError("No module named 'onnxscript'")
        if name == "torch":
            raise OSError("libcudart.so: cannot open shared object file")
        return original(name)

    monkeypatch.setattr(module.importlib, "import_module", load)
    findings = check_computer(quick_config(), classes=5, size=32)
    assert [(f.level, f.subject) for f in findings] == [("error", "torch"), ("error", "onnxscript")]
    assert "libcudart" in findings[0].message
    assert findings[1].fix == "install it: pip install onnxscript"


def test_a_torch_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.metadata.version
    old = "2.4.1+cu121"
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: old if name == "torch" else original(name))
    (finding,) = check_computer(quick_config(), classes=5, size=32)
    assert (finding.level, finding.message) == ("error", "version 2.4.1+cu121 is too old")
    assert finding.fix == "install 2.6 or later"
    # The package itself requires the same version.
    requirements = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert "torch>=2.6" in requirements["optional-dependencies"]["training"]


def test_what_is_installed_stands_the_same_everywhere() -> None:
    """The requirements are the same for pip, for both modules of Slicer, and for the checks before a training."""
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    of_pip = {*project["dependencies"], *project["optional-dependencies"]["training"]}
    for file in ("SIFASegmentation/Resources/requirements.txt", "SIFATraining/Resources/requirements-training.txt"):
        assert set((root / file).read_text().split()) <= of_pip
    names = {requirement.partition(">")[0] for requirement in of_pip}
    assert set(TRAINING_PACKAGES.values()) <= names


def of_computer(**settings: Any) -> dict[str, Finding]:
    config = quick_config(**settings.pop("config", {}))
    return {finding.subject: finding for finding in check_computer(config, "cpu", classes=5, size=32, **settings)}


def test_memory_that_does_not_suffice_names_the_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    config = quick_config(batch=64)
    measured = measure(config, 5, 32, "cpu")
    monkeypatch.setattr(estimate, "measure", lambda *_: measured)
    free = measured.memory_bytes(20) / 0.9
    monkeypatch.setattr(devices, "free_bytes", lambda _: free)
    memory = of_computer(config={"batch": 64})["memory"]
    assert (memory.level, memory.fix) == ("warning", "use a batch of 20")
    # The slices are kept in the same memory, if they are not too many.
    assert of_computer(config={"batch": 64}, slices=int(5 * measured.slice_bytes / (32 * 32 * 3)))["memory"].fix in {
        "use a batch of 14",
        "use a batch of 15",
    }
    assert of_computer(config={"batch": 64}, slices=int(free / (32 * 32 * 3)))["memory"].fix == "use a batch of 20"
    monkeypatch.setattr(devices, "free_bytes", lambda _: 1000.0)
    assert of_computer()["memory"].fix == "choose a smaller width or size"

    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(estimate, "measure", fail)
    none = of_computer()["memory"]
    assert none.level == "error"


def test_a_disk_that_is_full_or_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "can't be written to" in of_computer(out=tmp_path / "file" / "job")["disk"].message
    # `more_bytes` is what the job holds besides, such as volumes of a scene.
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    assert "about 10 GB will be written" in of_computer(more_bytes=10**10)["disk"].message
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    full = of_computer(out=tmp_path / "new" / "job")["disk"]
    assert (full.level, full.fix) == ("error", "free space, or choose another folder")


def test_a_training_of_weeks_is_warned_of() -> None:
    duration = of_computer(config={"iterations": 10**9})["duration"]
    assert duration.level == "warning"
    assert " days for 1,000,000,000 iterations" in duration.message


def test_an_unknown_device_is_an_error() -> None:
    (finding,) = [f for f in check_computer(quick_config(), "tpu", classes=5, size=32) if f.level == "error"]
    assert finding.subject == "device"


def test_the_targets_labels_are_in_memory_and_checkpoints(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices, sizes, estimates = len(PreparedDataset(prepared).slices("target")), [], []
    for labellings in (0, 1):
        config = quick_config(iterations=2, self_training={"share": 0.5, "labellings": labellings})
        job = create_job(prepared, tmp_path / f"job {labellings}", config, "cpu")
        train(job)
        sizes.append(checkpoint_paths(job.folder / "checkpoints")[-1].stat().st_size)
        estimates.append(measure(config, 5, 32, "cpu", slices))
    without, labelled = estimates
    assert labelled.checkpoint_bytes - without.checkpoint_bytes == slices * 32**2
    assert sizes[1] - sizes[0] == pytest.approx(slices * 32**2, rel=0.02)
    # The file also contains headers.
    assert labelled.checkpoint_bytes < sizes[1] < 1.3 * labelled.checkpoint_bytes
    assert labelled.fixed_bytes - without.fixed_bytes == slices * 32**2
    # Only the target's slices count, if their number is known.
    asked: list[int] = []
    monkeypatch.setattr(estimate, "measure", lambda *settings: asked.append(settings[-1]) or labelled)
    of_computer(slices=50, target_slices=30)
    of_computer(slices=50)
    assert asked == [30, 50]


@pytest.mark.parametrize("settings", [{}, {"method": "without_adaptation"}, {"schedule": "sequential", "ema_decay": 0}])
def test_estimates_grow_as_they_should(settings: dict[str, Any], tmp_path: Path) -> None:
    small, wide = (measure(quick_config(width=width, **settings), 5, 32, "cpu") for width in (0.0625, 0.125))
    assert small.seconds_per_iteration > 0
    assert small.largest_batch(small.memory_bytes(7) + 1) == 7
    assert small.largest_batch(0) == 0
    for name in ("fixed_bytes", "slice_bytes", "weight_bytes", "checkpoint_bytes"):
        assert 0 < getattr(small, name) < getattr(wide, name), name
    assert measure(quick_config(**settings), 5, 64, "cpu").slice_bytes == pytest.approx(4 * small.slice_bytes, rel=0.05)
    import torch  # noqa: PLC0415

    from SIFATrainingLib.checkpoints import save_checkpoint  # noqa: PLC0415

    model = Model.create(5, quick_config(pool=0, **settings), torch.device("cpu"))
    written = save_checkpoint(tmp_path / "c", 0, {"done": 0, "model": model.state_dict()})
    # The file may be smaller: before the first step, Adam has no moments.
    assert written.stat().st_size < 1.3 * small.checkpoint_bytes


def test_check_lists_findings_and_exits_with_2_if_a_training_could_not_run(
    cohort: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ["--size", 32, "--width", 0.0625, "--batch", 2, "--device", "cpu", "--iterations", 10]
    volumes = ["--source", "mr", "--target", "ct"]
    monkeypatch.chdir(cohort)
    fine = sifa_here("check", *volumes, *quick, "--out", tmp_path / "job")
    assert fine.exit_code == 0, fine.output
    assert "warning source: volumes: 2" in fine.stdout
    assert "ok      memory: about" in fine.stdout
    (copy / "mr" / "abdomen_mr_000_image.nii.gz").write_bytes(b"no image")
    monkeypatch.chdir(copy)
    broken = sifa_here("check", *volumes, *quick, "--json")
    assert broken.exit_code == 2
    listed = json.loads(broken.stdout.splitlines()[-1])
    assert [f["subject"] for f in listed if f["level"] == "error"] == ["abdomen_mr_000_image.nii.gz"]
    assert set(listed[0]) == {"level", "subject", "message", "fix"}
    alone = sifa_here("check", *quick, "--json")
    assert alone.exit_code == 0
    assert [f["subject"] for f in json.loads(alone.stdout)] == ["packages", "device", "memory", "duration", "disk"]
    assert not (tmp_path / "job").exists()


def test_seconds_are_scaled_by_slices_and_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: float(next(ticks)))
    # The measured step, two slices of 128 x 128, takes one second; it is scaled to eight slices of 256 x 256.
    assert measure(quick_config(batch=8), 5, 256, "cpu").seconds_per_iteration == pytest.approx(1 / 2 * 8 * 4)
