"""The CPUs and memory that this process may use, and how it returns unused memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# The device in the settings. Defined here because the command line needs it at its start, and this
# module imports nothing slow.
ProviderOption = Literal["auto", "cuda", "cpu"]

# Threshold of net new objects for a collection of the youngest generation.
_GC_THRESHOLD = 5_000
_ROOT = Path("/")
# Processes of this server that share the CPUs.
_sharing_processes = 1


def share_cpus(processes: int) -> None:
    """Limit `usable_cpus` to the share of one of `processes` processes."""
    global _sharing_processes  # noqa: PLW0603 - a property of the process
    _sharing_processes = processes


def sharing_processes() -> int:
    """Return the number of processes that share this machine's CPUs and its GPU with this one."""
    return _sharing_processes


def usable_cpus(root: Path = _ROOT) -> int:
    """Return the number of CPUs that this process may use, at least one.

    This is its share of `machine_cpus`, if it called `share_cpus`.
    """
    return max(machine_cpus(root) // _sharing_processes, 1)


def machine_cpus(root: Path = _ROOT) -> int:
    """Return the number of CPUs for all processes of this server, at least one.

    Respects the CPU quota of a container. `root` is the folder that contains /proc and /sys.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(math.ceil(quota), 1) if quota < count else count


def cpu_quota(root: Path = _ROOT) -> float:
    """Return the CPU quota of this process's cgroups, infinite without one.

    Every group up the tree may set a quota (cgroup v2: ``cpu.max``; v1: ``cpu.cfs_quota_us``); the
    smallest applies.
    """
    return min(map(_quota, _groups(root, "cpu")), default=math.inf)


@dataclass(frozen=True)
class MachineMemory:
    """The memory of the machine, and what this process may use of it, in bytes."""

    total: int
    # Free, or used only by caches; within the limit.
    available: int
    # The limit of the cgroup; None without one.
    limit: int | None


def available_memory(root: Path = _ROOT) -> MachineMemory | None:
    """Return the memory that this process may use; None if the system does not provide it.

    Respects the memory limit of a container. `root` is the folder that contains /proc and /sys.
    """
    sizes = {}
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if rest.strip().endswith("kB"):
                sizes[name] = 1024 * int(rest.split()[0])
        total, available = sizes["MemTotal"], sizes["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return None
    limits = [found for folder in _groups(root, "memory") if (found := _memory_limit(folder))]
    # Version 1 states a number beyond any memory if there is no limit.
    limits = [(limit, used) for limit, used in limits if limit < total]
    if not limits:
        return MachineMemory(total, available, None)
    left = min(limit - used for limit, used in limits)
    return MachineMemory(total, max(min(available, left), 0), min(limit for limit, _ in limits))


def cpu_model(root: Path = _ROOT) -> str:
    """Return the name of the CPU if the system provides it."""
    try:
        for line in (root / "proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def release_memory() -> None:
    """Collect garbage, including frozen objects, and return the freed memory to the system.

    Objects that are still in use stay frozen.
    """
    frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if frozen:
        gc.freeze()
    release_freed_memory()


def freeze_garbage_collection() -> None:
    """Exclude all existing objects from garbage collection, and collect less often.

    For the serving process: its modules and models are 100,000 objects, and a full collection would
    stop every thread for 40 ms, or 150 ms on a busy machine.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)


def release_freed_memory() -> None:
    """Return freed memory to the system, which the C library otherwise keeps."""
    # Only the GNU C library has this function.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _groups(root: Path, kind: str) -> Iterator[Path]:
    """Yield this process's groups of one kind of controller, `cpu` or `memory`, up to the root."""
    for top, folder in _mounted_groups(root, kind):
        yield from _ancestors(folder, top)


def _mounted_groups(root: Path, kind: str) -> Iterator[tuple[Path, Path]]:
    """Yield the mount points of the controllers, each with this process's group below it."""
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
            # v2, or the v2 part of a hybrid v1 hierarchy, which has its own folder.
            for mount in (top, top / "unified"):
                yield mount, mount / below
        elif kind in controllers.split(","):
            for mount in {top / controllers, top / kind}:
                yield mount, mount / below
    if not lines:
        yield top, top


def _ancestors(folder: Path, top: Path) -> Iterator[Path]:
    """Yield `folder` and its ancestors up to and including `top`.

    In a container the path is often a path of the host, and does not exist. The mount point is then
    the container's own group.
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
        return math.inf  # "max": no quota.
    return cpus if cpus > 0 else math.inf  # -1: no quota in v1.


def _memory_limit(group: Path) -> tuple[int, int] | None:
    """Return the memory limit of a group and what it uses; None without a limit.

    Caches count as used in a group, although they make way: inactive ones are subtracted.
    """
    for limit_name, used_name, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = int((group / limit_name).read_text())
            used = int((group / used_name).read_text())
            statistics = (group / "memory.stat").read_text()
        except (OSError, ValueError):
            continue  # "max": no limit.
        pairs = (line.split() for line in statistics.splitlines())
        cached = next((int(pair[1]) for pair in pairs if pair[:1] == [inactive]), 0)
        return limit, max(used - cached, 0)
    return None
