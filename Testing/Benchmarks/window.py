"""How long the windows of the two modules block the event loop, measured by the gaps between ticks of a fast timer.

    python Testing/Benchmarks/window.py > Testing/Benchmarks/window.md

The real modules run over the stand-ins of `Testing/Slicer`, their windows shown on Qt's offscreen screen, while real
jobs run and are followed. A thread watches where the main one is, so that what blocks the loop for long can be named:
functions in the table, lines and milliseconds on stderr.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
MODULES = {name: ROOT / name for name in ("SIFASegmentation", "SIFATraining")}
FOLDERS = tuple(str(folder) + os.sep for folder in MODULES.values())
sys.path[:0] = [str(ROOT / "Testing" / "Slicer"), *map(str, MODULES.values())]

from standins.install import install  # noqa: E402

ENVIRONMENT = install()

import slicer  # noqa: E402
from PySide6 import QtCore, QtWidgets  # noqa: E402

from SIFASegmentationLib.bundle import MODEL_FILE, manifest_json, read_bundle  # noqa: E402
from SIFASegmentationLib.bundle_files import MANIFEST_FILE  # noqa: E402
from SIFASegmentationLib.jobs import BUNDLE_FOLDER, Job, State  # noqa: E402
from SIFASegmentationLib.phantoms import make_patient  # noqa: E402
from SIFASegmentationLib.structures import load_task  # noqa: E402
from SIFASegmentationWidgets.models import SAMPLE_MODEL  # noqa: E402
from SIFASegmentationWidgets.nodes import RAS_TO_LPS, segmentation_from_labels  # noqa: E402
from SIFASegmentationWidgets.sample_data import load_patient  # noqa: E402
from SIFATrainingWidgets.known_jobs import remember_job  # noqa: E402
from standins import faults, plot_view, pythonqt  # noqa: E402
from standins.modules import load_scripted_module  # noqa: E402

TICK_MS = 5
LONG_MS = 30.0  # Longer gaps are reported on stderr.
LOOK_SECONDS = 0.005
ELSEWHERE = "outside of the modules"
PROMISED_MS = 100.0
ITERATIONS = 20000
PREVIEWS = 100
LISTED = 10
LARGE_MODEL_BYTES = 200 * 10**6
LOSSES = (
    "cycle_source", "cycle_target", "adversarial_target", "adversarial_source", "auxiliary", "segmentation",
    "lower_segmentation", "prediction", "lower_prediction", "target_discriminator", "source_discriminator",
    "auxiliary_discriminator", "prediction_discriminator", "lower_prediction_discriminator",
)  # fmt: skip

# Writes what a training writes: ten events a second, a preview every five seconds, a line of the log every two.
WRITER = """
import json, os, shutil, sys, time
from pathlib import Path
from SIFASegmentationLib.jobs import Job, State

job, iteration = Job(Path(sys.argv[1])), int(sys.argv[2])
losses = json.loads(sys.argv[3])
previews = job.folder / "previews"
first, parent, turn = next(previews.iterdir()), os.getppid(), 0
with job.heartbeat():
    job.emit_state(State.RUNNING)
    while os.getppid() == parent:
        time.sleep(0.1)
        turn += 1
        if turn % 2:
            job.emit("progress", stage="training", iteration=iteration, iterations=40000, seconds_per_iteration=0.2,
                     eta_seconds=0.2 * (40000 - iteration))
        else:
            iteration += 1
            job.emit("losses", stage="training", iteration=iteration, losses=losses)
        if turn % 50 == 0:
            name = f"iteration_{iteration:08d}.png"
            shutil.copyfile(first, previews / name)
            job.emit("preview", stage="training", iteration=iteration, file=f"previews/{name}")
        if turn % 20 == 0:
            with (job.folder / "log.txt").open("a") as log:
                log.write(f"iteration {iteration:,} of 40,000  {losses}\\n")
"""


@dataclass
class Phase:
    """The gaps of one phase.

    Attributes:
        gaps: All gaps, in ms.
        blocks: Long gaps, in ms, each with the milliseconds spent at each place.
    """

    gaps: list[float] = field(default_factory=list)
    blocks: list[tuple[float, Counter[str]]] = field(default_factory=list)


class Clock:
    """A fast timer that records the gaps between its ticks, by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}
        self._phase = self._next = ""
        self._last = self._looked = 0.0
        self._running = False
        self._places: Counter[str] = Counter()
        self._timer = QtCore.QTimer(interval=TICK_MS, timerType=QtCore.Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        threading.Thread(target=self._keep_looking, args=(threading.get_ident(),), daemon=True).start()

    def enter(self, phase: str) -> None:
        """Start a phase now; the current gap belongs to it."""
        self._phase = self._next = phase

    def enter_after_this(self, phase: str) -> None:
        """Start a phase at the next tick; the current gap belongs to the phase before."""
        self._next = phase

    def run(self, work: Callable[[], Any], until: Callable[[], Any], limit: float = 600.0) -> None:
        """Run the event loop, do `work` in it after a moment, and stop when `until()` is true.

        Raises:
            TimeoutError: `until()` was not true within `limit` seconds.
        """
        loop, end, errors = QtCore.QEventLoop(), time.monotonic() + limit, []

        def do() -> None:
            try:
                work()
            except Exception as error:  # Qt would ignore it
                errors.append(error)
            # Only now, since `work` may process events.
            QtCore.QTimer.singleShot(100, checks.start)

        def look() -> None:
            if errors or until() or time.monotonic() > end:
                loop.quit()

        self._phase = self._next = ""
        checks = QtCore.QTimer(interval=50)
        checks.timeout.connect(look)
        QtCore.QTimer.singleShot(300, do)
        self._last = self._looked = time.perf_counter()
        self._running = True
        self._timer.start()
        loop.exec()
        self._running = False
        self._timer.stop()
        checks.stop()
        if errors:
            raise errors[0]
        if time.monotonic() > end:
            raise TimeoutError(f"It did not happen within {limit} s.")

    def _tick(self) -> None:
        now = time.perf_counter()
        gap = 1000 * (now - self._last)
        if self._phase:
            phase = self.phases.setdefault(self._phase, Phase())
            phase.gaps.append(gap)
            if gap > LONG_MS:
                phase.blocks.append((gap, self._places))
        self._phase, self._places = self._next, Counter()
        self._last = self._looked = time.perf_counter()

    def _keep_looking(self, watched: int) -> None:
        """Record every few milliseconds where the watched thread is.

        A call that holds Python's lock is only seen when it returns or calls Python; then all of its time is counted.
        """
        while True:
            time.sleep(LOOK_SECONDS)
            if self._running:
                now = time.perf_counter()
                self._places[place_of(sys._current_frames()[watched])] += round(1000 * (now - self._looked))
                self._looked = now


def place_of(frame: FrameType | None) -> str:
    """Return the innermost place in the modules, and what it called outside: `nodes.py:12 f > util.py:34 g`."""
    inner = ""
    while frame is not None:
        file = frame.f_code.co_filename
        here = f"{Path(file).name}:{frame.f_lineno} {frame.f_code.co_name}"
        if file.startswith(FOLDERS):
            return here + inner
        inner = f" > {here}"
        frame = frame.f_back
    return ELSEWHERE


def function_of(place: str) -> str:
    """Return the function of a place: `nodes.py:12 f > util.py:34 g` -> `nodes.f`."""
    found = re.match(r"(\w+)\.py:\d+ (\S+)", place)
    return f"`{found[1]}.{found[2]}`" if found is not None else place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="For which a training is followed.")
    parser.add_argument("--slices", type=int, nargs=2, default=[100, 150], help="Of the volumes (segment, train).")
    parser.add_argument("--size", type=int, default=512, help="Rows and columns of the volumes.")
    arguments = parser.parse_args()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    # The stand-in draws plots point by point, which VTK does in Slicer.
    plot_view.qMRMLPlotView.paintEvent = lambda _self, _event: None
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        measure_following(clock, Path(folder), arguments.seconds)
        measure_segmentation(clock, arguments.size, arguments.slices[0])
        measure_start(clock, Path(folder), arguments.size, arguments.slices[1])
        measure_buttons(clock, Path(folder), arguments.size, arguments.slices[1])
    measure_drawing(clock)
    found = faults.take()
    if found:
        sys.exit("\n".join(found))
    print(report(clock, arguments, load))
    print(details(clock), file=sys.stderr)


def report(clock: Clock, arguments: argparse.Namespace, load: str) -> str:
    """Return the table in Markdown."""
    lines = [
        "# How long the windows hold up the event loop",
        "",
        f"Made by `Testing/Benchmarks/window.py`, {date.today()}, {cpu_name()}, {os.cpu_count()} cores (load before: "
        f"{load}),",
        f"Python {platform.python_version()}, PySide6 {version('PySide6-Essentials')}, slicer-core "
        f"{version('slicer-core')}. Gaps between ticks of a timer of {TICK_MS} ms, while",
        f"a job runs and its window is shown; at most {PROMISED_MS:.0f} ms is promised, but for the closed surface of "
        "one large segment, which",
        "Slicer makes in one piece, and the first import of SciPy. The segmented volume has "
        f"{arguments.size} x {arguments.size} x {arguments.slices[0]} voxels, those",
        f"of the training {arguments.size} x {arguments.size} x {arguments.slices[1]}. Slice and 3D views, and the "
        "drawing of plots, are Slicer's own and not in it.",
        "",
        "| window | while | gaps | median, ms | 99 %, ms | longest, ms | too long | the longest is spent in |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, phase in clock.phases.items():
        window, doing = name.split(": ", 1)
        median, high = np.percentile(phase.gaps, (50, 99))
        over = sum(gap > PROMISED_MS for gap in phase.gaps)
        by_function: Counter[str] = Counter()
        for place, spent in max(phase.blocks, default=(0.0, Counter[str]()), key=lambda block: block[0])[1].items():
            by_function[function_of(place)] += spent
        where = by_function.most_common(1)[0][0] if by_function else "-"
        lines.append(
            f"| {window} | {doing} | {len(phase.gaps)} | {median:.0f} | {high:.0f} | {max(phase.gaps):.0f} | {over} | "
            f"{where} |"
        )
    return "\n".join(lines)


def details(clock: Clock) -> str:
    """Return the three longest gaps of each phase, and the places where most of their time was spent."""
    lines = []
    for name, phase in clock.phases.items():
        for gap, places in sorted(phase.blocks, key=lambda block: -block[0])[:3]:
            lines.append(f"{name}: {gap:.0f} ms")
            lines += [f"    {spent:5d} ms  {place}" for place, spent in places.most_common(8)]
    return "\n".join(lines)


def cpu_name() -> str:
    """Return the name of the machine's CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


@contextmanager
def opened(name: str) -> Iterator[Any]:
    """Show a module's window; yield its Python widget."""
    slicer.mrmlScene.Clear(0)
    load_scripted_module(ENVIRONMENT.application.moduleManager(), name, MODULES[name])
    parent = slicer.util.getModule(name).createNewWidgetRepresentation()
    native = pythonqt.unwrap(parent)
    native.resize(560, 1000)
    native.show()
    parent.enter()
    QtWidgets.QApplication.processEvents()
    try:
        yield parent.self()
    finally:
        parent.exit()
        parent.self().cleanup()
        parent.delete()
        QtWidgets.QApplication.processEvents()


def progress(text: str) -> None:
    """Print on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


# Following a training


def measure_following(clock: Clock, folder: Path, seconds: float) -> None:
    """Measure how a long training is found and followed, and the module opened again with ten of them in its list."""
    variants = {"every 20th iteration reported": 20, "every iteration reported": 1}
    jobs = {text: make_job(folder / f"every {every}", every) for text, every in variants.items()}
    warm = make_job(folder / "warm", ITERATIONS // 10)
    with opened("SIFATraining") as widget:
        widget.training.open(warm.folder)
        for text, job in jobs.items():
            progress(f"SIFA Training: {text}")
            doing = f"SIFA Training: {ITERATIONS:,} iterations, {text}"
            with writer(job):
                followed_since: list[float] = []

                def open_job(job: Job = job, doing: str = doing) -> None:
                    clock.enter(f"{doing}: found")
                    widget.training.open(job.folder)

                def over(doing: str = doing, followed_since: list[float] = followed_since) -> bool:
                    if widget.training._follower.behind:
                        return False
                    if not followed_since:
                        clock.enter_after_this(f"{doing}: followed")
                        followed_since.append(time.monotonic())
                    elapsed = time.monotonic() - followed_since[0]
                    # Losses, previews and log are each shown for a third of the time.
                    widget.ui.progressTabs.setCurrentIndex(min(2, int(3 * elapsed / seconds)))
                    return elapsed > seconds

                clock.run(open_job, over)
            widget.training.show(None)
    QtCore.QSettings().clear()
    listed = [make_job(folder / f"listed {number}", 20, previews=0) for number in range(LISTED)]
    with opened("SIFATraining") as widget:
        for job in listed:
            job.emit_state(State.FINISHED)
            remember_job(job)

        def enter() -> None:
            clock.enter(f"SIFA Training: opened again, {LISTED} trainings of {ITERATIONS:,} iterations in its list")
            widget.enter()
            clock.enter_after_this("")

        clock.run(enter, lambda: True)


def make_job(folder: Path, every: int, previews: int = PREVIEWS) -> Job:
    """Make the job folder of a training of `ITERATIONS` iterations that reported every `every` of them."""
    job = Job.create(folder, "train", {})
    job.emit_state(State.RUNNING)
    rng = np.random.default_rng(0)
    lines, started = [], time.time() - ITERATIONS

    def add(kind: str, iteration: int, **data: Any) -> None:
        event = {"stage": "training", "iteration": iteration, **data}
        lines.append(json.dumps({"time": started + iteration, "kind": kind, "data": event}))

    for iteration in range(every, ITERATIONS + 1, every):
        values = np.exp(-iteration / ITERATIONS) + 0.1 * rng.random(len(LOSSES))
        add("losses", iteration, losses=dict(zip(LOSSES, values.tolist(), strict=True)))
        add("progress", iteration, iterations=2 * ITERATIONS, seconds_per_iteration=1.0, eta_seconds=float(ITERATIONS))
        if previews and iteration % (ITERATIONS // previews) == 0:
            add("preview", iteration, file=f"previews/iteration_{iteration:08d}.png")
    with job.events_path.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    (folder / "log.txt").write_text("iteration 1,000 of 40,000  segmentation 0.500  1.00 s each, 5:30:00 left\n" * 1500)
    if previews:
        write_previews(folder / "previews", rng, previews)
    return job


def write_previews(folder: Path, rng: np.random.Generator, count: int) -> None:
    """Write previews that are as large, and as hard to compress, as those of a training with 256 x 256 pixels."""
    from PIL import Image  # noqa: PLC0415  comes with what training needs

    folder.mkdir()
    gray = rng.integers(0, 30, (512, 1024)) + np.arange(1024) // 5
    first = folder / f"iteration_{ITERATIONS // count:08d}.png"
    Image.fromarray(np.repeat(gray[..., np.newaxis], 3, axis=2).astype(np.uint8)).save(first)
    for number in range(2, count + 1):
        shutil.copyfile(first, folder / f"iteration_{number * ITERATIONS // count:08d}.png")


@contextmanager
def writer(job: Job) -> Iterator[None]:
    """Run a process that continues a job as a training would, until the block ends."""
    losses = json.dumps(dict.fromkeys(LOSSES, 0.5))
    environment = {**os.environ, "PYTHONPATH": str(MODULES["SIFASegmentation"])}
    command = [sys.executable, "-c", WRITER, str(job.folder), str(ITERATIONS), losses]
    process = subprocess.Popen(command, env=environment)
    try:
        end = time.monotonic() + 60
        while not job.is_alive():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("The writer of events did not start.")
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


# Volumes


def make_nodes(modality: str, seed: int, size: int, slices: int) -> tuple[Any, Any]:
    """Make nodes of a synthetic abdomen, volume and segmentation, on a grid of size x size x slices."""
    image, labelmap = make_patient("abdomen", modality, seed, size=size)
    index = np.linspace(0, len(image.array) - 1, slices).round().astype(int)
    matrix = np.eye(4)
    i, j, k = image.geometry.spacing
    matrix[:3, :3] = image.geometry.direction_matrix * (i, j, k * len(image.array) / slices)
    matrix[:3, 3] = image.geometry.origin
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{modality} {seed}")
    slicer.util.updateVolumeFromArray(volume, taken(image.array, index))
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(RAS_TO_LPS @ matrix))
    volume.CreateDefaultDisplayNodes()
    labels = taken(labelmap.array, index)
    return volume, segmentation_from_labels(labels, volume, load_task("abdomen"), f"{modality} {seed} labels")


def taken(array: NDArray[Any], index: NDArray[np.int_]) -> NDArray[Any]:
    """Return the slices of an array with the given indices, contiguous."""
    return np.ascontiguousarray(array[index])


# A segmentation


def measure_segmentation(clock: Clock, size: int, slices: int) -> None:
    """Measure the segmentation of a volume by the sample model, without and with a reference to score by."""
    for scored in (False, True):
        progress(f"SIFA Segmentation: {'with' if scored else 'without'} a reference")
        with opened("SIFASegmentation") as widget:
            volume, reference = make_nodes("ct", 100, size, slices)
            widget.use_model(SAMPLE_MODEL)
            widget.ui.volumesTable.cellWidget(0, 0).setCurrentNode(volume)
            if scored:
                widget.ui.volumesTable.cellWidget(0, 2).setCurrentNode(reference)
            segment(clock, widget, f"SIFA Segmentation: {'with a reference, ' if scored else ''}")


def segment(clock: Clock, widget: Any, doing: str) -> None:
    """Press the button, and measure start, prediction and import until the end."""
    run_class = type(widget.logic).start.__globals__["SegmentationRun"]
    import_result, ended_at = run_class._import, []
    end = f"{doing}import of the result, table of {'scores' if doing.endswith(', ') else 'volumes'}"

    def start() -> None:
        clock.enter(f"{doing}start")
        widget.ui.applyButton.click()
        assert widget.run is not None, widget.ui.statusLabel.text
        clock.enter_after_this(f"{doing}prediction")

    def importing(run: Any, data: dict[str, Any]) -> Any:
        clock.enter(end)
        return import_result(run, data)

    def over() -> bool:
        if widget.run is None:
            ended_at.append(time.monotonic())
        # Wait a moment longer, for what is drawn at the end.
        return bool(ended_at) and time.monotonic() > ended_at[0] + 1

    run_class._import = importing
    try:
        clock.run(start, over)
    finally:
        run_class._import = import_result
    assert widget.ui.statusLabel.text.startswith("Segmented"), widget.ui.statusLabel.text


# The start of a training


def measure_start(clock: Clock, folder: Path, size: int, slices: int) -> None:
    """Measure the start of a training: two labelled volumes and an unlabelled one are written, then it is killed."""
    progress("SIFA Training: start")
    QtCore.QSettings().clear()
    with opened("SIFATraining") as widget:
        for seed in (1, 2):
            volume, labels = make_nodes("mr", seed, size, slices)
            if seed > 1:
                widget.source.add()
            widget.ui.sourceTable.cellWidget(seed - 1, 0).setCurrentNode(volume)
            widget.ui.sourceTable.cellWidget(seed - 1, 1).setCurrentNode(labels)
        volume, labels = make_nodes("ct", 3, size, slices)
        slicer.mrmlScene.RemoveNode(labels)
        widget.ui.targetTable.cellWidget(0, 0).setCurrentNode(volume)
        widget.logic.getParameterNode().outputFolder = str(folder / "started")
        show_writing = widget._show_writing

        def start() -> None:
            clock.enter("SIFA Training: start, before the first volume")
            widget.ui.startButton.click()
            clock.enter_after_this("")

        def writing(name: str, done: int, total: int) -> None:
            # This processes events, and so the tick that ends the previous gap.
            show_writing(name, done, total)
            kind = "a labelled volume" if name.startswith("mr") else "an unlabelled volume, and the process"
            clock.enter(f"SIFA Training: start, {kind}")

        widget._show_writing = writing
        try:
            clock.run(start, lambda: True)
            assert widget.training.job is not None, widget.ui.statusLabel.text
        finally:
            if widget.training.job is not None:
                widget.logic.kill(widget.training.job)


# What else takes long


def measure_buttons(clock: Clock, folder: Path, size: int, slices: int) -> None:
    """Structures taken from a segment that fills its volume, checks of three volumes, and a model saved as one file."""
    progress("SIFA Training: buttons")
    with opened("SIFATraining") as widget:
        volume, labels = make_nodes("mr", 1, size, slices)
        filled = np.ones((slices, size, size), np.uint8)
        whole = segmentation_from_labels(filled, volume, load_task("abdomen"), "whole")
        widget.ui.sourceTable.cellWidget(0, 0).setCurrentNode(volume)
        widget.ui.sourceTable.cellWidget(0, 1).setCurrentNode(whole)
        click(clock, widget.ui.ownTaskButton, "SIFA Training: My structures")
        assert widget.task().names == ("liver",), widget.ui.statusLabel.text
        widget.ui.sourceTable.cellWidget(0, 1).setCurrentNode(labels)
        for seed in (2, 3):
            other, labels = make_nodes("ct", seed, size, slices)
            slicer.mrmlScene.RemoveNode(labels)
            # What has to be looked at voxel by voxel.
            slicer.util.updateVolumeFromArray(other, slicer.util.arrayFromVolume(other).astype(np.float32))
            widget.target.add(other)
        widget.logic.getParameterNode().task = type(widget.logic.getParameterNode().task).abdomen
        click(clock, widget.ui.checkButton, "SIFA Training: Check everything, until its process is started")
        assert widget.findings.findings
        widget.findings.abandon_probe()
        # Of few events: its losses are drawn at once, before anything is measured.
        job = make_job(folder / "finished", ITERATIONS, previews=0)
        job.emit_state(State.FINISHED)
        write_large_bundle(job.folder / BUNDLE_FOLDER)
        widget.training.open(job.folder)
        save, name = widget.ui.saveModelButton, f"SIFA Training: Save as file, {LARGE_MODEL_BYTES // 10**6} MB"
        click(clock, save, name, lambda: widget.training.save_model(folder / "saved.zip"))
        assert (folder / "saved.zip").is_file(), widget.ui.statusLabel.text


def click(clock: Clock, button: Any, doing: str, press: Callable[[], Any] | None = None) -> None:
    """Press a button, or do as if, and wait until it says again what it said before."""
    text = button.text

    def start() -> None:
        clock.enter(doing)
        (press or button.click)()

    clock.run(start, lambda: button.text == text)


def write_large_bundle(folder: Path) -> None:
    """A bundle as large as one of networks of full width, with a model of noise."""
    shutil.copytree(SAMPLE_MODEL, folder)
    model = np.random.default_rng(0).bytes(LARGE_MODEL_BYTES)
    (folder / MODEL_FILE).write_bytes(model)
    manifest = read_bundle(folder).manifest
    files = {**manifest.files, MODEL_FILE: hashlib.sha256(model).hexdigest()}
    text = manifest_json(manifest.model_copy(update={"files": files}))
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def measure_drawing(clock: Clock) -> None:
    """A sample patient is drawn."""
    progress("Sample Data")
    slicer.mrmlScene.Clear(0)

    def draw() -> None:
        clock.enter("Sample Data: a heart in MR is drawn")
        load_patient("SIFAHeartMR")
        clock.enter_after_this("")

    clock.run(draw, lambda: True)


if __name__ == "__main__":
    main()
