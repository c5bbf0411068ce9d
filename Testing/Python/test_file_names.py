"""Texts that become names of files."""

from __future__ import annotations

import threading
from pathlib import Path

from SIFASegmentationLib.files import file_name, file_names, write_atomically


def test_no_text_leads_to_another_folder() -> None:
    assert file_name("../../etc/passwd") == ".._.._etc_passwd"
    assert file_names(["../../x", "right kidney", "a/b", "a b", "A_B", "..", ""]) == [
        "x", "right_kidney", "a_b", "a_b_2", "A_B_3", "unnamed", "unnamed_2"
    ]  # fmt: skip


def test_several_write_one_path_at_once(tmp_path: Path) -> None:
    """Threads here; elsewhere machines that share a disk, whose processes can have one number."""
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
