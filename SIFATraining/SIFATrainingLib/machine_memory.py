"""Memory that is available to this process on this machine."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# By version of Linux's control groups: files of the limit and the usage, and key of the usage that only caches files.
_FILES_OF_VERSION = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_bytes_of_machine() -> float:
    """Return the memory that this process can still use, in bytes, within the limits of a container or scheduler.

    Memory that only caches files is included, since the system releases it. On macOS, the result is half of all memory.
    """
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415

        # MEMORYSTATUSEX: two 32-bit numbers, the first its own size, then seven of 64 bits: total, available, ...
        status = (ctypes.c_uint64 * 8)(64)
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return float(status[2])
    if sys.platform == "linux":
        return min(_available_bytes(), free_bytes_of_control_groups())
    # macOS only reports how much memory there is in all.
    return _half_of_all()


def free_bytes_of_control_groups(root: Path = Path("/")) -> float:
    """Return what the limits of this process's control groups leave it, in bytes; infinite without limits.

    Linux, "Control Group v2" (Documentation/admin-guide/cgroup-v2.rst) and "Memory Resource Controller" (cgroup-v1).

    Args:
        root: Folder that contains `proc` and `sys`.
    """
    free = math.inf
    for version, folder in _memory_groups(root):
        limit_file, used_file, cached_key = _FILES_OF_VERSION[version]
        try:
            limit = (folder / limit_file).read_text(encoding="ascii").strip()
            used = int((folder / used_file).read_text(encoding="ascii"))
            statistics = (folder / "memory.stat").read_text(encoding="ascii").split()
        except OSError:
            # The topmost group has no limit, and a container may not see the groups above its own.
            continue
        cached = int(statistics[statistics.index(cached_key) + 1]) if cached_key in statistics else 0
        if limit != "max":
            free = min(free, max(0, int(limit) - used + cached))
    return free


def _memory_groups(root: Path) -> Iterator[tuple[int, Path]]:
    """Yield version and folder of each control group that can limit this process's memory: its own and those above."""
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
