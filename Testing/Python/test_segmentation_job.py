"""Segmentation in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SIFASegmentationLib import segmentation_process
from SIFASegmentationLib.bundle import Bundle
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.examination import Examination, Models
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.jobs import Job, State
from SIFASegmentationLib.plausibility import unlike_training
from SIFASegmentationLib.segmentation import Segmentor
from SIFASegmentationLib.segmentation_job import (
    SegmentationSpecification,
    VolumeRequest,
    create_segmentation_job,
)
from SIFASegmentationLib.segmentation_options import SegmentationOptions
from SIFASegmentationLib.segmentation_process import run_segmentation
from SIFASegmentationLib.volumes import Volume

LIBRARY = Path(__file__).parents[2] / "SIFASegmentation"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1"}


def make_job(folder: Path, bundle: Bundle, images: list[Path], **settings: object) -> Job:
    volumes = tuple(VolumeRequest(name=image.name, image=str(image)) for image in images)
    specification = SegmentationSpecification(bundle=str(bundle.path), volumes=volumes, device="cpu", **settings)  # type: ignore[arg-type]
    return create_segmentation_job(folder, specification)


@pytest.fixture
def images(cohort: Path) -> list[Path]:
    return sorted((cohort / "ct").glob("*_image.nii.gz"))


def test_results_are_those_of_the_segmentor_and_events_tell_of_them(
    bundle: Bundle, images: list[Path], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "job ä", bundle, images, options=SegmentationOptions(probabilities=True))
    assert run_segmentation(job) is State.FINISHED
    events, _ = job.events()
    results = [event.data for event in events if event.kind == "result"]
    assert [result["volume"] for result in results] == [0, 1]
    volume = read_volume(images[1])
    expected = Segmentor(bundle, "cpu").segment(volume, SegmentationOptions(probabilities=True))
    labelmap = read_volume(job.folder / results[1]["labelmap"])
    assert np.array_equal(labelmap.array, expected.labelmap.array)
    assert labelmap.geometry == volume.geometry
    assert results[1]["confidence"] == pytest.approx(expected.confidence.tolist(), abs=1e-4)
    liver = read_volume(job.folder / results[1]["probabilities"]["liver"])
    assert np.array_equal(liver.array, expected.probabilities["liver"].array)
    progress = [event.data for event in events if event.kind == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == len(volume.array)
    assert progress[-1]["eta_seconds"] == 0
    # While the first volume is segmented, the time left includes the second.
    first = [data for data in progress if data["volume"] == 0][-1]
    assert first["eta_seconds"] > 0


def test_the_process_exits_with_0_when_done_and_2_without_a_job(
    bundle: Bundle, images: list[Path], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "job", bundle, images[:1])
    command = [sys.executable, "-m", "SIFASegmentationLib", str(job.folder), "--parent", str(os.getpid())]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert job.state() is State.FINISHED
    again = subprocess.run([*command[:3], str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "is not a job folder" in again.stderr


def test_a_process_whose_parent_is_gone_ends(bundle: Bundle, images: list[Path], tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    job = make_job(tmp_path / "job", bundle, images * 50)
    command = [sys.executable, "-m", "SIFASegmentationLib", str(job.folder), "--parent", str(gone.pid)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False, timeout=60)
    # The exit code is 3, or another one if the process failed because its files were being removed.
    assert done.returncode != 0
    # Nobody can use the result any more, and volumes of patients must not be left behind.
    assert not job.folder.exists()


def test_what_is_under_way_when_its_parent_goes_is_removed(bundle: Bundle, images: list[Path], tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    job = make_job(tmp_path / "job", bundle, images * 50)
    command = [sys.executable, "-m", "SIFASegmentationLib", str(job.folder), "--parent", str(parent.pid)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while job.last("result") is None and time.monotonic() < end:
            time.sleep(0.05)
        parent.communicate(b"\n")
        assert process.wait(60) != 0
    finally:
        process.kill()
        parent.kill()
    assert not job.folder.exists()


def test_a_stop_ends_it_and_keeps_what_is_done(bundle: Bundle, images: list[Path], tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", bundle, images)
    job.request_stop()
    assert run_segmentation(job) is State.STOPPED
    assert job.state() is State.STOPPED
    assert job.last("result") is None


def test_bad_input_fails_with_its_sentence(bundle: Bundle, images: list[Path], tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", bundle, [tmp_path / "nothing.nii.gz"])
    with pytest.raises(InputError, match=r"nothing\.nii\.gz does not exist"):
        run_segmentation(job)
    assert job.state() is State.FAILED
    other = Job.create(tmp_path / "other", "train", {})
    with pytest.raises(InputError, match="is no segmentation but 'train'"):
        run_segmentation(other)


def test_a_volume_that_can_not_be_used_does_not_end_the_others(
    bundle: Bundle, images: list[Path], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "job", bundle, [images[0], tmp_path / "nothing.nii.gz", images[1]])
    assert run_segmentation(job) is State.FINISHED
    events, _ = job.events()
    assert [event.data["volume"] for event in events if event.kind == "result"] == [0, 2]
    (refused,) = [event.data for event in events if event.kind == "refused"]
    assert refused["volume"] == 1
    assert "nothing.nii.gz does not exist" in refused["message"]


def test_a_volume_too_large_for_the_memory_does_not_end_the_others(
    bundle: Bundle, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = segmentation_process.examine

    def examine(models: Models, volume: Volume, *args: Any, **settings: Any) -> Examination:
        if volume.name == images[0].name:
            raise MemoryError
        return original(models, volume, *args, **settings)

    monkeypatch.setattr(segmentation_process, "examine", examine)
    job = make_job(tmp_path / "job", bundle, images)
    assert run_segmentation(job) is State.FINISHED
    refused = job.last("refused")
    assert refused is not None
    assert f"does not suffice for {images[0].name}" in refused.data["message"]


def test_volumes_unlike_the_training_data_are_warned_of(
    bundle: Bundle, images: list[Path], cohort: Path, tmp_path: Path
) -> None:
    volume = read_volume(images[0])
    preprocessing = bundle.manifest.preprocessing["target"]
    assert unlike_training(volume, preprocessing) == []
    mr = cohort / "mr" / "abdomen_mr_000_image.nii.gz"
    assert any("intensities" in sentence for sentence in unlike_training(read_volume(mr), preprocessing))
    windowed = preprocessing.model_copy(
        update={"intensity": preprocessing.intensity.model_copy(update={"window": (-100.0, 200.0)})}
    )
    shifted = Volume(volume.array - volume.array.min(), volume.geometry, "shifted")
    assert any("Hounsfield" in sentence for sentence in unlike_training(shifted, windowed))
    finer = preprocessing.model_copy(update={"spacing": preprocessing.spacing and preprocessing.spacing / 2})
    assert any("mm wide" in sentence for sentence in unlike_training(volume, finer))
    slices, pixels, _ = volume.geometry.spacing[::-1]
    assert preprocessing.slice_spacings is not None
    near, far = preprocessing.slice_spacings
    assert near <= slices <= far
    coarse = preprocessing.model_copy(
        update={"slice_spacings": (slices / 5, slices / 3), "pixel_spacings": (pixels / 4, pixels / 3)}
    )
    apart, blurred = unlike_training(volume, coarse)
    assert f"slices {slices:.3g} mm apart, the model was trained on {slices / 5:.3g} to {slices / 3:.3g} mm" in apart
    assert f"pixels of {pixels:.3g} mm" in blurred
    job = make_job(tmp_path / "job", bundle, [mr])
    run_segmentation(job)
    warning = job.last("warning")
    assert warning is not None
    assert warning.data["volume"] == 0


def test_a_stop_between_two_volumes_keeps_the_first(
    bundle: Bundle, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, original = make_job(tmp_path / "job", bundle, images), Job.emit

    def emit(self: Job, kind: str, **data: Any) -> None:
        original(self, kind, **data)
        if kind == "result":
            self.request_stop()

    monkeypatch.setattr(Job, "emit", emit)
    assert run_segmentation(job) is State.STOPPED
    (result,) = [event.data for event in job.events()[0] if event.kind == "result"]
    assert result["volume"] == 0
    assert (job.folder / result["labelmap"]).exists()
