"""Export of bundles, and the errors for bundles that are incomplete or damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quick import preparation, quick_config, sifa_here
from SIFASegmentationLib import bundle_files
from SIFASegmentationLib.bundle import MODEL_FILE, WEIGHTS_FILE, Bundle, pack_bundle, pack_bundle_in_pieces, read_bundle
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import Job, State
from SIFASegmentationLib.segmentation import Segmentor
from SIFATrainingLib.batches import spread_batches
from SIFATrainingLib.checkpoints import checkpoint_paths, load_checkpoint
from SIFATrainingLib.dataset import PreparedDataset
from SIFATrainingLib.export import export
from SIFATrainingLib.networks import Classifier, Encoder, Networks, SegmentationNetwork, reestimate_batch_norm
from SIFATrainingLib.onnx_model import fold_batch_norm
from SIFATrainingLib.training import create_job, create_training_job, train


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return shutil.copytree(bundle.path, tmp_path / "bundle")


def test_the_card_says_what_was_trained(bundle: Bundle) -> None:
    manifest = read_bundle(bundle.path).manifest
    assert manifest.training.method == "sifa"
    assert manifest.training.iterations == 6
    assert manifest.training.source_volumes == ("abdomen_mr_000_image.nii.gz", "abdomen_mr_001_image.nii.gz")
    assert manifest.training.losses["segmentation"] > 0
    assert [s.name for s in manifest.task.structures] == ["liver", "right kidney", "left kidney", "spleen"]
    assert manifest.preprocessing["target"].size == 32
    assert manifest.verification.slices == 8
    assert 0 < manifest.verification.largest_difference < 1e-4
    assert sorted(manifest.files) == [MODEL_FILE, WEIGHTS_FILE]


def test_the_weights_are_those_of_all_networks_with_averaged_segmentor(bundle: Bundle, finished_job: Path) -> None:
    tensors = load_file(bundle.path / WEIGHTS_FILE)
    networks = Networks(5, width=0.0625)
    networks.load_state_dict(tensors)
    state = load_checkpoint(checkpoint_paths(finished_job / "checkpoints")[-1])["model"]
    assert torch.equal(tensors["generator.body.0.weight"], state["networks"]["generator.body.0.weight"])
    assert torch.equal(tensors["encoder.lower.0.weight"], state["average"]["encoder.lower.0.weight"])
    assert not torch.equal(tensors["encoder.lower.0.weight"], state["networks"]["encoder.lower.0.weight"])


def test_the_model_does_not_tell_where_it_was_made(bundle: Bundle) -> None:
    content = bundle.read("model.onnx")
    assert b".py" not in content
    assert b"site-packages" not in content


def test_the_model_computes_what_the_networks_do(bundle: Bundle) -> None:
    networks = Networks(5, width=0.0625)
    networks.load_state_dict(load_file(bundle.path / WEIGHTS_FILE))
    segmentor = SegmentationNetwork(networks.encoder, networks.classifier).eval()
    slices = torch.rand(3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = segmentor(slices).numpy()
    found = Segmentor(bundle, "cpu").predict(slices[:, 0].numpy())
    assert np.abs(found - expected).max() < 1e-4
    assert np.allclose(found.sum(1), 1, atol=1e-5)


def test_folding_batch_norm_changes_nothing_but_its_presence() -> None:
    torch.manual_seed(0)
    encoder = Encoder(0.0625)
    segmentor = SegmentationNetwork(encoder, Classifier(encoder.channels, 3))
    reestimate_batch_norm(encoder, [torch.rand(4, 1, 32, 32)])
    folded = fold_batch_norm(segmentor.eval())
    assert not [m for m in folded.modules() if "BatchNorm" in type(m).__name__]
    assert [m for m in segmentor.modules() if "BatchNorm" in type(m).__name__]
    slices = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(folded(slices), segmentor(slices), atol=1e-5)


def test_raw_weights_and_a_name_can_be_asked_for(finished_job: Path, tmp_path: Path) -> None:
    raw = export(finished_job, tmp_path / "raw", name="mine", weights="raw")
    assert raw.manifest.name == "mine"
    state = load_checkpoint(checkpoint_paths(finished_job / "checkpoints")[-1])["model"]["networks"]
    tensors = load_file(raw.path / WEIGHTS_FILE)
    assert torch.equal(tensors["encoder.lower.0.weight"], state["encoder.lower.0.weight"])
    with pytest.raises(InputError, match="weights 'best' are unknown"):
        export(finished_job, tmp_path / "other", weights="best")


def test_a_tampered_model_is_refused(copy: Path) -> None:
    content = bytearray((copy / MODEL_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / MODEL_FILE).write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx is not the file that was exported"):
        Segmentor(read_bundle(copy))


def test_a_missing_model_is_named(copy: Path) -> None:
    (copy / MODEL_FILE).unlink()
    with pytest.raises(InputError, match=r"model\.onnx is missing"):
        Segmentor(read_bundle(copy))


def change(copy: Path, **values: object) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, **values}))


def rewrite(copy: Path, **values: object) -> None:
    """Change a manifest and its checksum, as somebody could who knows about the checksum."""
    content = json.loads((copy / "manifest.json").read_text()) | values
    del content["checksum"]
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps({**content, "checksum": checksum}))


def test_a_manifest_without_one_of_the_domains_is_refused(bundle: Bundle, copy: Path) -> None:
    source = bundle.manifest.model_dump(mode="json")["preprocessing"]["source"]
    rewrite(copy, preprocessing={"source": source})
    with pytest.raises(InputError, match=r"\(at 'preprocessing'\)"):
        read_bundle(copy)


def test_a_manifest_is_not_read_whatever_its_size(bundle: Bundle, copy: Path, tmp_path: Path) -> None:
    rewrite(copy, name="x" * 2**23)
    with zipfile.ZipFile(tmp_path / "small.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(copy / "manifest.json", "manifest.json")
    for path in (copy, tmp_path / "small.zip"):
        with pytest.raises(InputError, match=r"manifest\.json is larger than any manifest"):
            read_bundle(path)


def test_a_changed_manifest_is_refused(copy: Path) -> None:
    change(copy, domain="source")
    with pytest.raises(InputError, match="was changed since the export"):
        read_bundle(copy)


def test_a_newer_schema_is_refused(copy: Path) -> None:
    change(copy, schema_version=2)
    with pytest.raises(InputError, match="schema version 2"):
        read_bundle(copy)


def test_a_manifest_of_a_later_version_is_no_damage(copy: Path) -> None:
    rewrite(copy, sifa_version="9.1", news=1)
    with pytest.raises(InputError, match=r"\(at 'news'\): install SIFA 9\.1 or a later one"):
        read_bundle(copy)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"checksum": 1}', "\x00\x01", '{"checksum": 1, "a": ' + "[" * 100_000]
)
def test_an_invalid_manifest_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        read_bundle(copy)


def test_a_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a bundle"):
        read_bundle(tmp_path)
    with pytest.raises(InputError, match="is not a bundle"):
        read_bundle(tmp_path / "nothing")


def test_one_file_holds_the_whole_bundle(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_bundle(bundle.path, tmp_path / "model.zip")
    assert packed.manifest == bundle.manifest
    for name in bundle.manifest.files:
        assert packed.read(name) == bundle.read(name)
    slices = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32)).astype(np.float32)
    assert np.array_equal(Segmentor(packed, "cpu").predict(slices), Segmentor(bundle, "cpu").predict(slices))
    monkeypatch.setattr(bundle_files, "_PORTION_BYTES", 1000)
    again = pack_bundle(bundle.path, tmp_path / "again.zip")
    assert again.path.read_bytes() == packed.path.read_bytes()
    # One that is given up in its midst leaves nothing.
    work = pack_bundle_in_pieces(bundle.path, tmp_path / "never.zip")
    while not any("never" in path.name for path in tmp_path.iterdir()):
        next(work)
    work.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.zip", "model.zip"]


def test_a_folder_that_was_zipped_by_hand(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "in" / "my model")
    archive = shutil.make_archive(str(tmp_path / "sent"), "zip", tmp_path / "in")
    opened = read_bundle(archive)
    assert opened.manifest == bundle.manifest
    assert opened.read(MODEL_FILE) == bundle.read(MODEL_FILE)


def test_an_export_replaces_nothing_but_a_bundle(
    finished_job: Path, bundle: Bundle, prepared: Path, tmp_path: Path
) -> None:
    for name in ("models/one/notes.txt", "job/job.json", "thesis.zip", "file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "folder.zip").mkdir()
    shutil.copytree(prepared, tmp_path / "prepared")
    shutil.copytree(bundle.path, tmp_path / "annotated")
    (tmp_path / "annotated" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name in ("models", "job", "thesis.zip", "file", "folder.zip", "prepared", "annotated"):
        with pytest.raises(InputError, match=f"{name} is there, and is no bundle that could be replaced"):
            export(finished_job, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
    # Another bundle and an empty folder are replaced.
    shutil.copytree(bundle.path, tmp_path / "old")
    (tmp_path / "old" / ".DS_Store").touch()
    for name in ("old", "empty"):
        assert export(finished_job, tmp_path / name, name="new").manifest.name == "new"
    packed = pack_bundle(bundle.path, tmp_path / "packed.zip").path
    assert export(finished_job, packed, name="new").manifest.name == "new"


def test_a_data_set_that_changed_after_the_training_is_none_of_its(prepared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(prepared, tmp_path / "set")
    job = create_job(copy, tmp_path / "job", quick_config(iterations=2), "cpu")
    train(job)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["source"]["preprocessing"]["spacing"] = 9.0
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match="set has changed since the job"):
        export(job.folder, tmp_path / "bundle")


def test_a_checkpoint_of_other_networks_is_told_in_one_sentence(prepared: Path, tmp_path: Path) -> None:
    job = create_job(prepared, tmp_path / "job", quick_config(iterations=2), "cpu")
    train(job)
    content = json.loads((job.folder / "job.json").read_text(encoding="utf-8"))
    content["specification"]["config"] |= {"width": 0.125, "iterations": 4}
    (job.folder / "job.json").write_text(json.dumps(content), encoding="utf-8")
    job.emit_state(State.STOPPED)
    for attempt in (lambda: export(job.folder, tmp_path / "bundle"), lambda: train(Job(job.folder))):
        with pytest.raises(InputError, match="is no checkpoint of the networks that the job's settings make"):
            attempt()


def test_exporting_to_one_file(finished_job: Path, tmp_path: Path) -> None:
    exported = export(finished_job, tmp_path / "new" / "model.zip", name="sent")
    assert exported.path == tmp_path / "new" / "model.zip"
    assert read_bundle(exported.path).manifest.name == "sent"
    assert [path.name for path in exported.path.parent.iterdir()] == ["model.zip"]


def test_archives_that_are_not_whole(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack_bundle(bundle.path, tmp_path / "model.zip").path
    content = bytearray(path.read_bytes())
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.zip is damaged or no plain zip file"):
        read_bundle(tmp_path / "cut.zip")
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.zip").write_bytes(content)
    changed = read_bundle(tmp_path / "changed.zip")
    with pytest.raises(InputError, match=r"changed\.zip"):
        _ = [changed.read(name) for name in changed.manifest.files]
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(bundle.path / "manifest.json", "manifest.json")
    damaged = bytearray((tmp_path / "packed.zip").read_bytes())
    damaged[100:140] = b"\xff" * 40
    (tmp_path / "packed.zip").write_bytes(damaged)
    assert not bundle_files.is_bundle(tmp_path / "packed.zip")
    with pytest.raises(InputError, match=r"packed\.zip is damaged"):
        read_bundle(tmp_path / "packed.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w", zipfile.ZIP_BZIP2) as other:
        other.writestr("manifest.json", b"{}")
    with pytest.raises(InputError, match="compressed in an unusual way"):
        read_bundle(tmp_path / "other.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("photo.jpg", b"")
    with pytest.raises(InputError, match="is not a bundle"):
        read_bundle(tmp_path / "other.zip")
    with pytest.raises(InputError, match="let it end with"):
        pack_bundle(bundle.path, tmp_path / "model.tar")
    opened = read_bundle(path)
    monkeypatch.setattr(bundle_files, "_LARGEST", 10)
    with pytest.raises(InputError, match="larger than any model"):
        opened.read(MODEL_FILE)


def test_a_bundle_of_several_trainings_says_their_mean(
    bundle: Bundle, finished_job: Path, prepared: Path, tmp_path: Path
) -> None:
    other = create_job(prepared, tmp_path / "other", quick_config(seed=1), "cpu")
    train(other)
    alone = export(other.folder, tmp_path / "alone")
    told = sifa_here("export", finished_job, other.folder, "--out", tmp_path / "both.zip", "--device", "cpu")
    assert told.exit_code == 0, told.output
    both = read_bundle(tmp_path / "both.zip")
    assert (both.manifest.members, bundle.manifest.members) == (2, 1)
    assert both.manifest.training == bundle.manifest.training
    assert both.read(WEIGHTS_FILE) == bundle.read(WEIGHTS_FILE)
    assert both.manifest.quality is not None
    slices = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32)).astype(np.float32)
    mean, one, two = (Segmentor(some, "cpu").predict(slices) for some in (both, bundle, alone))
    assert np.abs(one - two).max() > 1e-3
    np.testing.assert_allclose(mean, (one + two) / 2, atol=1e-5)


def test_trainings_that_have_no_mean_are_refused(finished_job: Path, cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is given twice"):
        export(finished_job, tmp_path / "bundle", others=[finished_job])
    other_slices = preparation(cohort, size=40)
    elsewhere = create_training_job(tmp_path / "job", other_slices, quick_config(iterations=1), "cpu", export=False)
    train(elsewhere)
    with pytest.raises(InputError, match="was not trained on the slices of"):
        export(finished_job, tmp_path / "bundle", others=[elsewhere.folder])
    assert not (tmp_path / "bundle").exists()


def test_exporting_a_job_without_checkpoint(prepared: Path, tmp_path: Path) -> None:
    job = create_job(prepared, tmp_path / "job", quick_config())
    with pytest.raises(InputError, match="has no checkpoint yet"):
        export(job.folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_exported_batch_norm_is_that_of_the_targets_slices(bundle: Bundle, prepared: Path) -> None:
    weights, networks = load_file(bundle.path / WEIGHTS_FILE), Networks(5, width=0.0625)
    networks.load_state_dict(weights)
    target = PreparedDataset(prepared).slices("target")
    reestimate_batch_norm(networks.encoder, spread_batches(target, quick_config().batch))
    for name, expected in networks.encoder.named_buffers():
        torch.testing.assert_close(weights[f"encoder.{name}"], expected, rtol=1e-4, atol=1e-5)
