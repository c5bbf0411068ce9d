"""How much memory a process can still have."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from SIFATrainingLib.machine_memory import free_bytes_of_control_groups, free_bytes_of_machine


def write_groups(root: Path, groups: str, files: dict[str, str]) -> None:
    for path, text in {"proc/self/cgroup": groups, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{text}\n", encoding="ascii")


def test_the_tightest_limit_of_a_group_and_those_above_counts(tmp_path: Path) -> None:
    top = "sys/fs/cgroup"
    files = {
        f"{top}/memory.stat": "inactive_file 7",
        f"{top}/job/memory.max": "1000", f"{top}/job/memory.current": "900",
        f"{top}/job/memory.stat": "anon 500\ninactive_file 150\nfile 400",
        f"{top}/job/step/memory.max": "max", f"{top}/job/step/memory.current": "700",
        f"{top}/job/step/memory.stat": "inactive_file 20",
    }  # fmt: skip
    write_groups(tmp_path, "0::/job/step", files)
    # Memory that only caches files counts as free.
    assert free_bytes_of_control_groups(tmp_path) == 1000 - 900 + 150
    (tmp_path / top / "job" / "step" / "memory.max").write_text("800\n", encoding="ascii")
    assert free_bytes_of_control_groups(tmp_path) == 800 - 700 + 20
    (tmp_path / top / "job" / "step" / "memory.current").write_text("900\n", encoding="ascii")
    assert free_bytes_of_control_groups(tmp_path) == 0


def test_limits_of_the_first_version(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/slurm/job_1"
    files = {
        f"{group}/memory.limit_in_bytes": "5000", f"{group}/memory.usage_in_bytes": "2000",
        f"{group}/memory.stat": "cache 900\ntotal_inactive_file 300",
    }  # fmt: skip
    write_groups(tmp_path, "5:cpuset:/\n4:memory:/slurm/job_1\n0::/", files)
    assert free_bytes_of_control_groups(tmp_path) == 3300


def test_without_limits(tmp_path: Path) -> None:
    assert free_bytes_of_control_groups(tmp_path) == math.inf
    write_groups(tmp_path, "0::/", {})
    assert free_bytes_of_control_groups(tmp_path) == math.inf


def test_this_machine_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < free_bytes_of_machine() < 2**50
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("SIFATrainingLib.machine_memory.free_bytes_of_control_groups", lambda: 5.0)
    monkeypatch.setattr("SIFATrainingLib.machine_memory._available_bytes", lambda: 7.0)
    assert free_bytes_of_machine() == 5.0


def test_a_system_that_does_not_tell_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "MemTotal: 5 kB\nMemFree: 3 kB\n")
    monkeypatch.setattr("SIFATrainingLib.machine_memory.free_bytes_of_control_groups", lambda: math.inf)
    assert 2**20 < free_bytes_of_machine() < 2**50
