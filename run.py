#!/usr/bin/env python3
"""Two commands for a machine with nothing but Python 3.11 or 3.12: `run.py demo` and `run.py test`.

The first time, each installs what it needs into `.venv`, with the versions of `constraints.txt`. Further options are
passed on: `python3 run.py demo --out DIR`, `python3 run.py test -k metrics`. Tests run in several processes;
`--numprocesses=0` runs them in one, for a debugger.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
EXTRAS = {"demo": "training", "test": "training,development"}
# Each file of tests runs in one process, so that its fixtures are made once; every process needs about 2 GB of memory.
IN_PARALLEL = ("--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile")
OLDEST, NEWEST = (3, 11), (3, 12)


def main(arguments: list[str]) -> int:
    """Make the environment if needed and run the command; return its exit code."""
    if not arguments or arguments[0] not in EXTRAS:
        print(f"{__doc__}\nusage: python3 run.py demo|test [options]")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        print(
            f"run.py: this is Python {sys.version_info.major}.{sys.version_info.minor}, SIFA is tested with 3.11 and "
            "3.12: run it with one of them, such as `python3.12 run.py demo`.",
            file=sys.stderr,
        )
        return 2
    command, options = arguments[0], arguments[1:]
    if not make_environment(EXTRAS[command]):
        return 1
    module = ["SIFATrainingLib", "demo"] if command == "demo" else ["pytest", *IN_PARALLEL]
    folder = None if command == "demo" else ROOT
    return subprocess.run([str(PYTHON), "-m", *module, *options], check=False, cwd=folder).returncode


def make_environment(extras: str) -> bool:
    """Make `.venv` with these extras of the package, unless it has them already; return whether this succeeded."""
    stamp, wanted = ENVIRONMENT / f"installed-{extras.replace(',', '-')}.txt", _fingerprint(extras)
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return True
    if not PYTHON.exists():
        print(f"run.py: making a Python environment in {ENVIRONMENT}", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
    print(f"run.py: installing SIFA and what it needs ({extras}); a few minutes the first time", flush=True)
    options = ["--quiet", "--disable-pip-version-check", "--constraint", str(ROOT / "constraints.txt")]
    install = [str(PYTHON), "-m", "pip", "install", *options, "--editable", f"{ROOT}[{extras}]"]
    done = subprocess.run(install, check=False)
    if done.returncode != 0:
        print("run.py: the installation failed: check the network and the messages above.", file=sys.stderr)
        return False
    stamp.write_text(wanted)
    return True


def _fingerprint(extras: str) -> str:
    """Return a digest that changes when the environment has to be made anew."""
    files = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(files + extras.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
