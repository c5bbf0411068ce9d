"""File names made from texts, and files that are written atomically."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from quick import ENVIRONMENT
from SIFASegmentationLib.files import file_name, file_names, remove_remains, write_atomically


def test_no_text_leads_to_another_folder() -> None:
    assert file_name("../../etc/passwd") == ".._.._etc_passwd"
    assert file_names(["../../x", "right kidney", "a/b", "a b", "A_B", "..", ""]) == [
        "x", "right_kidney", "a_b", "a_b_2", "A_B_3", "unnamed", "unnamed_2"
    ]  # fmt: skip


def test_several_write_one_path_at_once(tmp_path: Path) -> None:
    """Threads stand for machines with a shared disk, whose processes can have the same ID."""
    path, together = tmp_path / "table.csv", threading.Barrier(4)
    faults: list[Exception] = []

    def write(text: str) -> None:
        try:
            with write_atomically(path) as partial:
                partial.write_text(text, encoding="ascii")
                together.wait(10)
        except Exception as error:  # whatever it is, the test must see it
            faults.append(error)

    threads = [threading.Thread(target=write, args=(str(number) * 1000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(set(path.read_text(encoding="ascii"))) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_cleared_and_what_they_put_aside_comes_back(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from SIFASegmentationLib import files\n"
        "with files.write_atomically(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "scores.json"
    path.write_text("before")
    killed = subprocess.run([sys.executable, "-c", program, str(path)], env=ENVIRONMENT, check=False)
    assert killed.returncode != 0
    assert len(list(tmp_path.iterdir())) == 2
    # As if killed between moving the old folder aside and putting the new one in its place.
    (tmp_path / ".0123abcd.old.bundle").mkdir()
    (tmp_path / ".0123abcd.old.bundle" / "model.onnx").touch()
    (tmp_path / ".0123abcd.partial.bundle").mkdir()
    (tmp_path / ".hidden").touch()
    remove_remains(tmp_path)
    assert sorted(some.name for some in tmp_path.iterdir()) == [".hidden", "bundle", "scores.json"]
    assert path.read_text() == "before"
    assert (tmp_path / "bundle" / "model.onnx").exists()
