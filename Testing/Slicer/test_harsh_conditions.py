"""Both modules where things go wrong around them: full disks, two jobs at once, a Slicer that dies.

The same file runs inside Slicer. Full disks are real ones, small file systems in memory, where this user may mount one.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import slicer

from clicks import choose, use_sample

pytest.importorskip("pydantic", reason="the module installs it at the first use")
pytest.importorskip("onnxruntime", reason="the module installs it at the first use")
pytest.importorskip("torch", reason="training needs PyTorch")

HERE = Path(__file__).parent
QUICK = {"log_every": 1, "preview_every": 4, "checkpoint_every": 2, "pool": 3}
ENDLESS = 100000  # Iterations of a training that takes hours unless it is stopped.
BLOCK = 4096  # A file takes up as many whole blocks as it needs.

# A stand-in for Slicer that starts a training, says where it is, and waits to be killed.
STARTER = """
import sys, time
from pathlib import Path

here, settings, folder = map(Path, sys.argv[1:4])
sys.path[:0] = [str(here), *(str(here.parents[1] / name) for name in ("SIFASegmentation", "SIFATraining"))]
from standins.install import install

environment = install()
from PySide6.QtCore import QSettings

QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(settings))
from SIFATraining import SIFATrainingLogic, TrainingOptions
from SIFASegmentationWidgets.sample_data import load_patient

quick = {"log_every": 1, "preview_every": 1000, "checkpoint_every": 1000, "pool": 3}
options = TrainingOptions(size=32, width=0.0625, iterations=int(sys.argv[4]), batch=2, device="cpu", settings=quick)
logic = SIFATrainingLogic()
job = logic.start([load_patient("SIFAAbdomenMR")], [load_patient("SIFAAbdomenCT")[0]], folder, options)
print("process", logic.process_of(job).pid, flush=True)
time.sleep(600)
"""


class Disk:
    """A small file system that is mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, left: int = 0) -> None:
        """Fill it except for `left` bytes."""
        taken = shutil.disk_usage(self.folder).free - left
        with self._filler.open("ab", buffering=0) as file:
            while taken > 0:
                try:
                    taken -= file.write(bytes(min(taken, 2**20)))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    # A training on it has taken the rest meanwhile.
                    return

    def clear(self) -> None:
        """Free the space that was filled."""
        self._filler.unlink(missing_ok=True)

    @contextmanager
    def filled(self, left: int = 0) -> Iterator[None]:
        """Keep it filled, except for `left` bytes, while the block runs."""
        self.fill(left)
        try:
            yield
        finally:
            self.clear()

    def content(self) -> list[str]:
        """Return the names of the files on it, without the one that fills it."""
        return sorted(path.name for path in self.folder.iterdir() if path != self._filler)


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], Disk]]:
    """`small_disk(folder)` mounts one at a folder until the test ends. Request it before the module that uses it."""
    mounted: list[Path] = []

    def mount(folder: Path) -> Disk:
        if shutil.which("mount") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
            pytest.skip("a small file system can be mounted on Linux alone, and by root alone")
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"a small file system can't be mounted here: {made.stderr.strip()}")
        mounted.append(folder)
        return Disk(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def training(load_module: Any, load_sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """SIFATraining with a tiny training in its window: one labelled MR, one CT."""
    from SIFATrainingWidgets.known_jobs import known_jobs  # noqa: PLC0415

    # Two trainings whose threads compete for the same cores need ten times as long.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    module = load_module("SIFATraining")
    (mr, labels), (ct, _reference) = load_sample("SIFAAbdomenMR"), load_sample("SIFAAbdomenCT")
    module.ui.sourceTable.cellWidget(0, 0).setCurrentNode(mr)
    module.ui.sourceTable.cellWidget(0, 1).setCurrentNode(labels)
    module.ui.targetTable.cellWidget(0, 0).setCurrentNode(ct)
    parameters = module.logic.getParameterNode()
    parameters.outputFolder = str(tmp_path / "trainings")
    parameters.size, parameters.batch, parameters.baseline = 32, 1, False
    parameters.width = module.python.Width.eighth
    yield module
    # A training outlives its window, and a failing test must not leave one behind.
    for job in known_jobs():
        module.logic.kill(job)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished training of two iterations on the data in the window's tables; shows how large files are."""
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415
    from SIFASegmentationLib.phantoms import write_cohort  # noqa: PLC0415
    from SIFASegmentationWidgets.sample_data import SEED  # noqa: PLC0415
    from SIFATrainingLib.config import make_config  # noqa: PLC0415
    from SIFATrainingLib.prepare import make_preparation  # noqa: PLC0415
    from SIFATrainingLib.training import create_training_job, train  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("example")
    for modality in ("mr", "ct"):
        write_cohort(folder / modality, "abdomen", modality, [SEED])
    preparation = make_preparation(source=folder / "mr", target=folder / "ct", size=32)
    config = make_config(iterations=2, width=0.0625, batch=2, **QUICK)
    job = create_training_job(folder / "job", preparation, config, "cpu")
    assert train(job) is State.FINISHED
    return job.folder


def click_start(module: Any, name: str, iterations: int, seed: int = 0) -> Any:
    """Start a training by its window; return the job that the window then shows."""
    parameters = module.logic.getParameterNode()
    parameters.name, parameters.iterations, parameters.seed = name, iterations, seed
    module.ui.startButton.click()
    assert module.widget.training.job is not None, module.ui.statusLabel.text
    assert module.widget.training.job.folder.name == name, module.ui.statusLabel.text
    return module.widget.training.job


def start_quick(module: Any, folder: Path, iterations: int) -> Any:
    """Start a training of the window's nodes that reports and saves more often than the window can ask for."""
    given = {"size": 32, "width": 0.0625, "iterations": iterations, "batch": 2, "device": "cpu", "settings": QUICK}
    (source,), (target,) = module.widget.source.nodes(), module.widget.target.nodes()
    job = module.logic.start([source], [target], folder, module.python.TrainingOptions(**given))
    module.widget.training.show(job)
    return job


def iteration(module: Any) -> int:
    """Return the last iteration that the window of a training knows of."""
    return int(module.widget.training._monitor.latest.get("progress", {}).get("iteration", 0))


def curve(module: Any) -> list[float]:
    """Return the losses of the segmentation that the plot shows."""
    table = module.widget.training._monitor.scene.GetFirstNodeByName("losses values").GetTable()
    column = table.GetColumnByName("segmentation")
    return [column.GetValue(row) for row in range(column.GetNumberOfValues())]


def choose_job(module: Any, job: Any) -> None:
    """Choose a training from the window's list, as a user does."""
    box = module.ui.jobsComboBox
    box.setCurrentIndex(box.findData(str(job.folder)))
    box.activated(box.currentIndex)


def listed(module: Any) -> list[str]:
    """Return the trainings in the window's list, the newest first."""
    return [module.ui.jobsComboBox.itemText(index) for index in range(1, module.ui.jobsComboBox.count)]


def assert_tells_of_a_full_disk(text: str, folder: Path) -> None:
    """Check that the text is one sentence about the full disk and what to do."""
    assert str(folder) in text
    assert "free" in text
    assert "space" in text
    assert not any(word in text for word in ("\n", "Traceback", "Errno", "enforce"))


def sizes_as_written(folder: Path) -> list[int]:
    """Return the bytes that each file of a folder takes up on a disk, in the order in which they were finished."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    return [-(-path.stat().st_size // BLOCK) * BLOCK for path in files]


# Full disks


def test_whichever_file_of_a_new_training_finds_no_room_it_is_one_sentence(
    small_disk: Any, training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, ui = small_disk(tmp_path / "disk"), training.ui
    training.logic.getParameterNode().outputFolder = str(disk.folder)
    # The process is not started, so that only the files written before it are there.
    monkeypatch.setattr(training.logic, "resume", lambda _job: None)
    job = click_start(training, "complete", 4)
    sizes = [size for size in sizes_as_written(job.folder) if size]
    assert len(sizes) >= 7
    shutil.rmtree(job.folder)
    training.widget.training.show(None)
    for fitting in range(len(sizes)):
        with disk.filled(sum(sizes[:fitting])):
            training.logic.getParameterNode().name = "no room"
            ui.startButton.click()
            assert_tells_of_a_full_disk(ui.statusLabel.text, disk.folder)
            assert disk.content() == []
            assert training.widget.training.job is None
            assert ui.startButton.enabled
    assert click_start(training, "room", 4).folder.exists()


def test_a_disk_that_fills_up_while_volumes_are_prepared_fails_the_training(
    small_disk: Any, training: Any, tmp_path: Path, process_events_until: Any
) -> None:
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415

    disk = small_disk(tmp_path / "disk")
    job = start_quick(training, disk.folder / "job", ENDLESS)
    # The process has not come to its first slice yet.
    disk.fill(10 * BLOCK)
    process_events_until(lambda: training.ui.resumeButton.enabled, 60)
    assert job.state() is State.FAILED, (job.folder / "log.txt").read_text()
    assert_tells_of_a_full_disk(training.ui.statusLabel.text, disk.folder)
    assert not list(job.folder.glob("*prepared*"))
    disk.clear()
    training.ui.resumeButton.click()
    process_events_until(lambda: iteration(training) > 0, 300)


def test_a_disk_too_full_for_a_checkpoint_fails_the_training_and_keeps_the_one_before(
    small_disk: Any, training: Any, example: Path, tmp_path: Path, process_events_until: Any
) -> None:
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415

    disk = small_disk(tmp_path / "disk")
    job = start_quick(training, disk.folder / "job", 8)
    (checkpoint,) = sizes_as_written(example / "checkpoints")
    # There is room for two and a half checkpoints, and the process has not come to its first one yet.
    disk.fill(sum(sizes_as_written(example / "prepared")) + checkpoint * 5 // 2)
    process_events_until(lambda: training.ui.resumeButton.enabled, 300)
    assert job.state() is State.FAILED, (job.folder / "log.txt").read_text()
    assert_tells_of_a_full_disk(training.ui.statusLabel.text, disk.folder)
    kept = [path.name for path in (job.folder / "checkpoints").iterdir()]
    assert sorted(kept) == ["iteration_00000002.pt", "iteration_00000004.pt"]
    before = job.events_path.stat().st_size
    disk.clear()
    training.ui.resumeButton.click()

    def iterations_since() -> list[int]:
        return [event.data["iteration"] for event in job.events(before)[0] if event.kind == "losses"]

    # It goes on from the checkpoint of iteration 4, not from the start.
    assert process_events_until(iterations_since, 300)[0] == 5


def test_a_disk_too_full_for_the_model_fails_the_training_that_made_it(
    small_disk: Any, training: Any, example: Path, tmp_path: Path, process_events_until: Any
) -> None:
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415

    disk = small_disk(tmp_path / "disk")
    job = start_quick(training, disk.folder / "job", 2)
    folders = ("prepared", "checkpoints", "previews")
    before = sum(sum(sizes_as_written(example / name)) for name in folders)
    model, weights, _manifest = sizes_as_written(example / "result" / "bundle")
    # There is room for all but half of the weights, and the process has not come to its first slice yet.
    disk.fill(before + model + weights // 2)
    process_events_until(lambda: training.ui.resumeButton.enabled, 300)
    assert job.state() is State.FAILED, (job.folder / "log.txt").read_text()
    assert job.last("losses").data["iteration"] == 2
    assert_tells_of_a_full_disk(training.ui.statusLabel.text, disk.folder)
    assert not list(job.folder.glob("result/*"))
    disk.clear()
    training.ui.resumeButton.click()
    process_events_until(lambda: training.ui.useButton.enabled, 60)


def test_a_disk_full_to_the_last_byte_still_tells_why_the_training_failed(
    small_disk: Any, training: Any, tmp_path: Path, process_events_until: Any
) -> None:
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415

    disk = small_disk(tmp_path / "disk")
    job = start_quick(training, disk.folder / "job", ENDLESS)
    process_events_until(lambda: list(job.folder.glob("checkpoints/iteration_*.pt")), 300)
    with disk.filled():
        process_events_until(lambda: training.ui.resumeButton.enabled, 60)
        assert job.state() is State.FAILED
        assert_tells_of_a_full_disk(training.ui.statusLabel.text, disk.folder)
    done = iteration(training)
    assert done > 0
    training.ui.resumeButton.click()
    process_events_until(lambda: iteration(training) > done, 300)


@pytest.fixture
def segmentation(load_module: Any, load_sample: Any) -> Any:
    """SIFASegmentation with the sample model and a CT in its window."""
    module = load_module("SIFASegmentation")
    use_sample(module)
    choose(module, load_sample("SIFAAbdomenCT")[0])
    return module


def test_whichever_file_of_a_segmentation_finds_no_room_it_is_one_sentence(
    small_disk: Any, segmentation: Any, process_events_until: Any
) -> None:
    # Mounted over the application's folder for such files, which are visible again at the end.
    disk, ui = small_disk(Path(slicer.app.temporaryPath)), segmentation.ui
    ui.applyButton.click()
    sizes = [size for size in sizes_as_written(segmentation.widget.run.job.folder) if size]
    segmentation.widget.run.cancel()
    process_events_until(lambda: segmentation.widget.run is None, 60)
    assert disk.content() == []
    for fitting in range(len(sizes)):
        with disk.filled(sum(sizes[:fitting])):
            ui.applyButton.click()
            assert_tells_of_a_full_disk(ui.statusLabel.text, disk.folder)
            assert disk.content() == []
            assert segmentation.widget.run is None
            assert ui.applyButton.enabled


def test_a_disk_that_fills_up_while_a_volume_is_segmented_is_told(
    small_disk: Any, segmentation: Any, process_events_until: Any
) -> None:
    disk, ui = small_disk(Path(slicer.app.temporaryPath)), segmentation.ui
    ui.applyButton.click()
    # The process has not reported anything yet.
    with disk.filled():
        process_events_until(lambda: segmentation.widget.run is None, 60)
    assert_tells_of_a_full_disk(ui.statusLabel.text, disk.folder)
    assert ui.applyButton.enabled
    ui.applyButton.click()
    process_events_until(lambda: segmentation.widget.run is None, 60)
    assert ui.statusLabel.text.startswith("Segmented in ")


# Two jobs at once


def test_two_trainings_at_once_both_finish(training: Any, process_events_until: Any) -> None:
    from SIFASegmentationLib.jobs import ENDED, State  # noqa: PLC0415

    first = click_start(training, "first", 4)
    second = click_start(training, "second", 6)
    assert first.state() not in ENDED
    assert [title.split()[0] for title in listed(training)] == ["second", "first"]
    assert "second" in training.ui.jobsComboBox.currentText
    process_events_until(lambda: {first.state(), second.state()} <= ENDED, 300)
    for job, iterations in ((first, 4), (second, 6)):
        choose_job(training, job)
        assert job.state() is State.FINISHED, (job.folder / "log.txt").read_text()
        assert iteration(training) == iterations
        assert training.ui.progressBar.maximum == iterations
        assert training.ui.useButton.enabled
    assert listed(training) == ["second (finished)", "first (finished)"]


def test_of_two_trainings_one_is_stopped_and_the_other_goes_on_beside_a_segmentation(
    training: Any, segmentation: Any, process_events_until: Any
) -> None:
    from SIFASegmentationLib.jobs import State  # noqa: PLC0415

    stopped = click_start(training, "stopped", ENDLESS - 1, seed=1)
    other = click_start(training, "other", ENDLESS, seed=2)
    for job, iterations in ((stopped, ENDLESS - 1), (other, ENDLESS)):
        choose_job(training, job)
        process_events_until(lambda: iteration(training) > 0, 300)
        # Each has its own numbers and curve, not those of the other.
        assert training.ui.progressBar.maximum == iterations
        assert f"of {iterations:,}" in training.ui.statusLabel.text
        losses = [event.data["losses"]["segmentation"] for event in job.events()[0] if event.kind == "losses"]
        assert curve(training) == losses[: len(curve(training))]
        assert curve(training)
    choose_job(training, stopped)
    training.ui.stopButton.click()
    process_events_until(lambda: training.ui.resumeButton.enabled, 60)
    assert stopped.state() is State.STOPPED
    assert other.state() is State.RUNNING
    choose_job(training, other)
    assert training.ui.stopButton.enabled
    done = iteration(training)
    process_events_until(lambda: iteration(training) > done, 60)
    assert f"of {ENDLESS:,}" in training.ui.statusLabel.text
    assert "stopped (stopped)" in listed(training)
    segmentation.ui.applyButton.click()
    process_events_until(lambda: segmentation.widget.run is None, 300)
    assert segmentation.ui.statusLabel.text.startswith("Segmented in ")
    done = iteration(training)
    process_events_until(lambda: iteration(training) > done, 60)
    assert other.state() is State.RUNNING


def test_two_clicks_on_resume_start_one_process(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_events_until: Any
) -> None:
    from SIFASegmentationLib.jobs import Job, State  # noqa: PLC0415

    job = Job.create(tmp_path / "old", "train", {})
    job.emit_state(State.STOPPED)
    training.widget.training.open(job.folder)
    started: list[subprocess.Popen[bytes]] = []

    def start_sleeping(_job: Any, _module: str, _arguments: list[str]) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        return started[-1]

    monkeypatch.setattr(training.python, "start_process", start_sleeping)
    try:
        training.ui.resumeButton.click()
        # The process reports nothing: by the job's folder alone, the training is still stopped.
        assert not training.ui.resumeButton.enabled
        training.ui.resumeButton.click()
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert len(started) == 1
    process_events_until(lambda: training.ui.resumeButton.enabled, 60)


# The end of Slicer


def test_a_training_outlives_the_process_that_started_it(
    tmp_path: Path, load_module: Any, process_events_until: Any
) -> None:
    if "standins" not in sys.modules:
        pytest.skip("a second Slicer would have to be killed; outside of Slicer, a script stands for it")
    from PySide6.QtCore import QSettings  # noqa: PLC0415

    from SIFASegmentationLib.jobs import ENDED, Job, State  # noqa: PLC0415
    from SIFASegmentationWidgets.processes import kill_process  # noqa: PLC0415

    folder, said = tmp_path / "job", tmp_path / "said.txt"
    settings = Path(QSettings().fileName()).parents[1]
    command = [sys.executable, "-c", STARTER, str(HERE), str(settings), str(folder), "10"]
    with said.open("wb") as output:
        # A killed process can't remove its temporary files.
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        starter = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        process_events_until(lambda: b"process" in said.read_bytes() or starter.poll() is not None, 60)
        assert starter.poll() is None, said.read_text()
        # Killed with its whole process group, as at the end of a desktop session.
        os.killpg(starter.pid, signal.SIGKILL)
        starter.wait()
        job = Job(folder)
        assert job.last("progress") is None
        module = load_module("SIFATraining")
        assert module.widget.training.job is not None
        assert module.widget.training.job.folder == folder
        assert listed(module)[0].startswith("job ")
        process_events_until(lambda: iteration(module) > 0, 300)
        process_events_until(lambda: module.ui.useButton.enabled, 300)
        assert iteration(module) == 10
        # The model exists a moment before the last event.
        process_events_until(lambda: job.state() is State.FINISHED, 60)
        assert job.state() is State.FINISHED
        process_events_until(lambda: module.ui.jobsComboBox.currentText == "job (finished)", 60)
        assert module.ui.jobsComboBox.currentText == "job (finished)"
    finally:
        starter.kill()
        starter.wait()
        if (folder / "job.json").exists():
            job = Job(folder)
            # This ends a process whose number was not printed in time.
            job.request_stop()
            if job.state() not in ENDED:
                for number in re.findall(r"^process (\d+)$", said.read_text(), re.MULTILINE):
                    kill_process(int(number))
