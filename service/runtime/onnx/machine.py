"""What this process may use of the machine, and how it gives back what it used."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

# New objects, less those that are gone again, at which the collector looks at the young ones.
_YOUNG_OBJECTS = 5_000
_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT) -> int:
    """Return how many CPUs this process may use, at least one.

    A container's quota counts, not the CPUs of its host. `root` is where /proc and /sys are.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(math.ceil(quota), 1) if quota < count else count


def cpu_quota(root: Path = _ROOT) -> float:
    """Return the CPUs that the cgroups of this process grant it, infinite without a quota.

    Every group up the tree may set one (cgroup v2: ``cpu.max``; v1: ``cpu.cfs_quota_us``), and the
    smallest holds.
    """
    quotas = [_quota(folder) for top, folder in _groups(root) for folder in _upwards(folder, top)]
    return min(quotas, default=math.inf)


def cpu_model(root: Path = _ROOT) -> str:
    """Return the name of the CPU, as far as the system tells it."""
    try:
        for line in (root / "proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def release_memory() -> None:
    """Return to the system what nothing refers to any more, cycles of references included.

    Also of what `freeze_garbage_collection` has kept out of them; what is left of that stays so.
    """
    kept_out = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if kept_out:
        gc.freeze()
    release_freed_memory()


def freeze_garbage_collection() -> None:
    """Let Python's garbage collector look no more at what is there now, and less often at the rest.

    For a process that serves: its modules and models are a hundred thousand objects, and a look at
    all of them stops every thread for 40 ms, or for 150 where others use the CPU too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def release_freed_memory() -> None:
    """Return to the system what was freed: the C library keeps it otherwise."""
    # Where there is no GNU C library, there is no such function.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _groups(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the CPU controllers' mount points, each with this process's group below it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    top = root / "sys/fs/cgroup"
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        below = path.lstrip("/")
        if not controllers:
            # v2, or beside v1 ("hybrid") in a folder of its own.
            for mount in (top, top / "unified"):
                yield mount, mount / below
        elif "cpu" in controllers.split(","):
            for mount in {top / controllers, top / "cpu"}:
                yield mount, mount / below
    if not lines:
        yield top, top


def _upwards(folder: Path, top: Path) -> Iterator[Path]:
    """Yield `folder` and what lies above it, up to and with `top`.

    In a container the path is often the host's and does not exist; the mount point then is the
    container's own group.
    """
    while folder != top and top in folder.parents:
        yield folder
        folder = folder.parent
    yield top


def _quota(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return math.inf  # "max", which is no quota.
    return cpus if cpus > 0 else math.inf  # -1, which is none in v1.
