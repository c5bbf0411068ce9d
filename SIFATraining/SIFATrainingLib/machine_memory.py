"""How much memory a process can still have on this machine."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Of the limit, of what is used, and of the part of it that only caches files; by version of Linux' control groups.
_FILES_OF_VERSION = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_bytes_of_machine() -> float:
    """Memory that this process can still have, in bytes, whatever limits a container or a scheduler set.

    What caches files counts, for the system gives it back.
    """
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415

        # MEMORYSTATUSEX: two 32-bit numbers, the first its own size, then seven of 64 bits: total, available, ...
        status = (ctypes.c_uint64 * 8)(64)
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return float(status[2])
    if sys.platform == "linux":
        return min(_available_bytes(), free_bytes_of_control_groups())
    # macOS tells no more than what is there in all.
    return _half_of_all()


def free_bytes_of_control_groups(root: Path = Path("/")) -> float:
    """What the limits of this process's control groups leave it, in bytes; infinite without any.

    Linux, "Control Group v2" (Documentation/admin-guide/cgroup-v2.rst) and "Memory Resource Controller" (cgroup-v1).

    Args:
        root: Folder of `proc` and `sys`.
    """
    free = math.inf
    for version, folder in _memory_groups(root):
        limit_file, used_file, cached_key = _FILES_OF_VERSION[version]
        try:
            limit = (folder / limit_file).read_text(encoding="ascii").strip()
            used = int((folder / used_file).read_text(encoding="ascii"))
            statistics = (folder / "memory.stat").read_text(encoding="ascii").split()
        except OSError:
            # The topmost group has no limit, and a container may not see those above its own.
            continue
        cached = int(statistics[statistics.index(cached_key) + 1]) if cached_key in statistics else 0
        if limit != "max":
            free = min(free, max(0, int(limit) - used + cached))
    return free


def _memory_groups(root: Path) -> Iterator[tuple[int, Path]]:
    """Version and folder of each control group that can limit the memory of this process: its own and those above."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        version, top = (2, mounted) if not controllers else (1, mounted / "memory")
        group = top / path.lstrip("/")
        yield from ((version, folder) for folder in (group, *group.parents) if folder.is_relative_to(top))


def _available_bytes() -> float:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    told = (1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return next(told, _half_of_all())


def _half_of_all() -> float:
    return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
