"""Run the tests of the two modules inside a real Slicer, the same files that run over the stand-ins.

    Slicer --testing --no-main-window --python-script Testing/Slicer/run_in_slicer.py [--install]

`--testing` keeps the user's settings out of it and answers message boxes. The main window may stay; tests that need one
are skipped without it. `--install` puts what the modules need from pip into this Slicer first; torch comes through the
extension PyTorch, or by `PythonSlicer -m pip install torch`. Arguments of pytest are taken from the environment, since
Slicer takes a first argument that ends with .py for a script of its own:

    SIFA_PYTEST="-v Testing/Slicer/test_following.py" Slicer --testing ...

The exit code is pytest's: 0 if all passed; 1 if packages are missing, without which most tests could only be skipped.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

import qt
import slicer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODULES = {
    "SIFASegmentation": ROOT / "SIFASegmentation",
    "SIFATraining": ROOT / "SIFATraining",
    "SampleModule": HERE / "sample_module",
}
REQUIREMENTS = [
    ROOT / "SIFASegmentation" / "Resources" / "requirements.txt",
    ROOT / "SIFATraining" / "Resources" / "requirements-training.txt",
]
NEEDED = ("pydantic", "onnx", "onnxruntime")
# Slicer's standard output has no file behind it, and a folder of the repository may not be writable.
PYTEST_OPTIONS = ["--capture=no", "--color=no", "-p", "no:faulthandler", "-p", "no:cacheprovider"]


def import_pytest() -> Any:
    """pytest, installed into Slicer if it is not there yet.

    Raises:
        RuntimeError: It can't be installed; says what to do.
    """
    try:
        return importlib.import_module("pytest")
    except ImportError:
        print("pytest is not in this Slicer: installing it with slicer.util.pip_install.")
    try:
        slicer.util.pip_install("pytest")
        importlib.invalidate_caches()
        return importlib.import_module("pytest")
    except Exception as error:
        raise RuntimeError("pytest can't be installed: run PythonSlicer -m pip install pytest, then again.") from error


def load_modules() -> None:
    """Load the modules that this Slicer does not have from the repository.

    Raises:
        RuntimeError: A module can't be loaded; Slicer has printed why.
    """
    factory = slicer.app.moduleManager().factoryManager()
    missing = [name for name in MODULES if not factory.isLoaded(name)]
    for name in missing:
        # The helper packages of one module are imported by the other.
        sys.path.insert(0, str(MODULES[name]))
        factory.registerModule(qt.QFileInfo(str(MODULES[name] / f"{name}.py")))
    # SIFATraining depends on SIFASegmentation, which comes first in the list.
    if missing and not factory.loadModules(missing):
        raise RuntimeError(f"Slicer could not load {', '.join(missing)}: see the messages above.")


def run(arguments: list[str]) -> int:
    """Run the tests; pytest's exit code."""
    load_modules()
    from SIFASegmentationWidgets.dependencies import SLICERS_OWN, missing_packages, packages_to_install  # noqa: PLC0415

    if "--install" in arguments:
        for path in REQUIREMENTS:
            slicer.util.pip_install(packages_to_install(path))
        importlib.invalidate_caches()
    if missing := missing_packages((*NEEDED, *SLICERS_OWN)):
        raise RuntimeError(f"This Slicer lacks {', '.join(missing)}: add --install.")
    pytest = import_pytest()
    chosen = shlex.split(os.environ.get("SIFA_PYTEST", "")) or [str(HERE)]
    return int(pytest.main([*PYTEST_OPTIONS, "--rootdir", str(ROOT), *chosen]))


def main() -> None:
    """Run, and end Slicer whatever happens: an error in a script would leave it open."""
    code = 1
    try:
        code = run(sys.argv[1:])
    except BaseException:  # pytest may raise SystemExit, which must not pass either
        traceback.print_exc()
    slicer.util.exit(code)


if __name__ == "__main__":
    main()
