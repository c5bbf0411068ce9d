"""Fixtures of the tests of the two modules, which are the same with stand-ins and inside Slicer.

QT_QPA_PLATFORM=offscreen python -m pytest Testing/Slicer
Slicer --testing --no-main-window --python-script Testing/Slicer/run_in_slicer.py
"""

from __future__ import annotations

import functools
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDERS = {
    "SIFASegmentation": ROOT / "SIFASegmentation",
    "SIFATraining": ROOT / "SIFATraining",
    "SampleModule": HERE / "sample_module",
}
IN_SLICER = "slicer" in sys.modules and hasattr(sys.modules["slicer"], "app")
RAISED_IN_SLOTS: list[str] = []

if not IN_SLICER:
    pytest.importorskip("slicer_core", reason="slicer-core is not installed")
    pytest.importorskip("PySide6", reason="PySide6 is not installed")
    sys.path.insert(0, str(HERE))
    from standins.install import install

    ENVIRONMENT = install()
    for folder in FOLDERS.values():
        sys.path.insert(0, str(folder))

import slicer  # noqa: E402  the stand-ins complete it


def run_events_until(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Run the event loop until a condition holds; return the condition's value.

    Raises:
        TimeoutError: It did not hold within `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while True:
        slicer.app.processEvents()
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise TimeoutError(f"It did not happen within {timeout} s.")
        time.sleep(0.005)


class LoadedModule:
    """A module with its window open.

    Attributes:
        python: The Python module of its file.
        module: What `slicer.modules` holds.
        parent: The Qt widget that holds the window.
        widget: The module's own widget object.
        logic: The window's logic.
    """

    def __init__(self, name: str, module: Any) -> None:
        self.python = sys.modules[name]
        self.module = module
        self._entry = f"{name}Widget"
        self._before = getattr(slicer.modules, self._entry, None)
        self.parent = module.createNewWidgetRepresentation()
        self.widget = self.parent.self()
        self.parent.enter()

    @property
    def ui(self) -> Any:
        """The widgets of its window by name."""
        return self.widget.ui

    @property
    def logic(self) -> Any:
        """The window's logic."""
        return self.widget.logic

    def close(self) -> None:
        """Leave the module and clean up, as Slicer does at its end."""
        if not self.parent:
            return
        if self.parent.isEntered:
            self.parent.exit()
        # As on a reload; otherwise Slicer would clean up every window that was ever opened when it quits.
        if (unloading := getattr(self.widget, "_onModuleAboutToBeUnloaded", None)) is not None:
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", unloading)
        self.widget.cleanup()
        self.parent.delete()
        if self._before is not None:
            setattr(slicer.modules, self._entry, self._before)
        elif hasattr(slicer.modules, self._entry):
            # A reload would clean up the widget that it finds here.
            delattr(slicer.modules, self._entry)


@pytest.fixture
def process_events_until() -> Callable[..., Any]:
    """`process_events_until(condition, timeout=10.0)`, see `run_events_until`."""
    return run_events_until


@pytest.fixture(scope="session")
def slicer_environment() -> Any:
    """Slicer's scene and application, real or not."""
    return slicer


@pytest.fixture(scope="session")
def make_patient_once() -> Callable[..., Any]:
    """`phantoms.make_patient`, which takes half a second, cached for all tests; its arrays are read-only."""
    from SIFASegmentationLib.phantoms import make_patient  # noqa: PLC0415

    @functools.cache
    def make(*arguments: Any) -> Any:
        drawn = make_patient(*arguments)
        for volume in drawn:
            volume.array.flags.writeable = False
        return drawn

    return make


@pytest.fixture
def load_sample(make_patient_once: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """`sample_data.load_patient`, with patients that are only drawn once for all tests."""
    from SIFASegmentationLib import phantoms  # noqa: PLC0415
    from SIFASegmentationWidgets.sample_data import load_patient  # noqa: PLC0415

    def load(*arguments: Any) -> tuple[Any, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(phantoms, "make_patient", make_patient_once)
            volume, reference = load_patient(*arguments)
        return volume, reference

    return load


@pytest.fixture
def small_samples(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`small_samples(size)`: from then on, sample patients have `size` rows and columns, which are drawn sooner."""
    from SIFASegmentationLib import phantoms  # noqa: PLC0415

    def draw_small(size: int) -> None:
        monkeypatch.setattr(phantoms, "make_patient", functools.partial(phantoms.make_patient, size=size))

    return draw_small


@pytest.fixture
def scene(slicer_environment: Any) -> Any:
    """The empty scene."""
    slicer_environment.mrmlScene.Clear(0)
    return slicer_environment.mrmlScene


@pytest.fixture
def load_module(scene: Any) -> Iterator[Callable[[str], LoadedModule]]:
    """Function that opens a module by name; all are left and cleaned up at the end of the test."""
    opened: list[LoadedModule] = []

    def load(name: str) -> LoadedModule:
        opened.append(LoadedModule(name, _module(name)))
        return opened[-1]

    yield load
    for module in reversed(opened):
        module.close()
    slicer.app.processEvents()


@pytest.fixture
def sample_model() -> Path:
    """Folder of the model that comes with the extension."""
    return FOLDERS["SIFASegmentation"] / "Resources" / "SampleModel"


def _module(name: str) -> Any:
    if not IN_SLICER:
        from standins.modules import load_scripted_module  # noqa: PLC0415

        load_scripted_module(ENVIRONMENT.application.moduleManager(), name, FOLDERS[name])
    return slicer.util.getModule(name)


@pytest.fixture
def module(load_module: Callable[[str], LoadedModule]) -> LoadedModule:
    """SIFASegmentation with its window open; test files of the other module have a fixture of their own."""
    return load_module("SIFASegmentation")


@pytest.fixture
def patient(module: LoadedModule, load_sample: Callable[..., tuple[Any, Any]]) -> tuple[Any, Any]:
    """Nodes of the sample CT: volume and reference segmentation."""
    return load_sample("SIFAAbdomenCT")


@pytest.fixture
def main_window(scene: Any) -> Iterator[Any]:
    """The main window, with a layout of views; skipped in a Slicer that was started without one."""
    if IN_SLICER:
        if slicer.util.mainWindow() is None:
            pytest.skip("Slicer was started without a main window")
        yield slicer.util.mainWindow()
        return
    from standins.main_window import MainWindow  # noqa: PLC0415

    stand_in = MainWindow(ENVIRONMENT.application)
    yield slicer.util.mainWindow()
    stand_in.close()


@pytest.fixture
def expected_fault() -> Callable[[str], AbstractContextManager[None]]:
    """`with expected_fault("words"):` around code in which Slicer prints a fault with these words and goes on."""
    if IN_SLICER:
        return _expected_in_slicer
    from standins import faults  # noqa: PLC0415

    return faults.expected


@contextmanager
def _expected_in_slicer(words: str) -> Iterator[None]:
    """Forget errors with these words that were raised in slots; only the stand-ins check that there were any."""
    before = list(RAISED_IN_SLOTS)
    yield
    RAISED_IN_SLOTS[:] = before + [text for text in RAISED_IN_SLOTS[len(before) :] if words not in text]


def _remember_error(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    RAISED_IN_SLOTS.append(text)
    print(text, file=sys.stderr)


@pytest.fixture(autouse=True)
def no_faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which a slot raised, a signature was wrong, or a window used something that does not exist."""
    if IN_SLICER:
        import qt  # noqa: PLC0415

        # Each test begins without known trainings and models, unless the settings are a user's.
        if slicer.app.testingEnabled():
            qt.QSettings().remove("SIFA")
        # PythonQt passes exceptions raised in slots to this hook, which prints them, and goes on.
        monkeypatch.setattr(sys, "excepthook", _remember_error)
        RAISED_IN_SLOTS.clear()
        yield
        if RAISED_IN_SLOTS:
            pytest.fail("\n".join(["A slot raised:", *RAISED_IN_SLOTS]), pytrace=False)
        return
    from PySide6.QtCore import QSettings  # noqa: PLC0415

    from standins import faults  # noqa: PLC0415

    QSettings().clear()
    faults.take()
    yield
    found = faults.take()
    if found:
        pytest.fail("\n".join(["Slicer would have printed:", *found]), pytrace=False)
