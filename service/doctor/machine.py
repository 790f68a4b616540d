"""Checks the machine: CPUs, memory, shared memory, open files."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from service.doctor.findings import Finding, fine, warning
from service.runtime.formatting import format_size
from service.runtime.onnx.machine import available_memory, cpu_model, cpu_quota, machine_cpus

_ROOT = Path("/")
# The service itself, in one process, without models.
_MIN_MEMORY = 512 * 2**20
# Below this, the files that the processes of a server share may not fit.
_MIN_SHARED = 16 * 2**20
# Each connection is an open file.
_MIN_FILES = 4096


def check_machine(root: Path = _ROOT) -> Iterator[Finding]:
    """Check what the machine, or the container, gives to the service."""
    yield check_cpus(root)
    yield check_memory(root)
    yield check_shared_memory(root / "dev/shm")
    yield check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def check_cpus(root: Path = _ROOT) -> Finding:
    """Compare the CPUs that the service may use with those of the machine."""
    usable, quota, cores = machine_cpus(root), cpu_quota(root), os.cpu_count() or 1
    details = {"usable": usable, "cores": cores, "quota": None if quota == math.inf else quota}
    text = f"{usable} of {cores} ({cpu_model(root)})"
    if quota < 1:
        return warning(
            "cpu",
            f"{text}; the quota of the cgroup is {quota:g}",
            "requests wait while the quota is used up: give the container at least one CPU",
            **details,
        )
    if quota < cores:
        text += f"; the quota of the cgroup is {quota:g}"
    return fine("cpu", text, **details)


def check_memory(root: Path = _ROOT) -> Finding:
    """Check the memory that is available within the limit of the cgroup."""
    memory = available_memory(root)
    if memory is None:
        return fine("memory", "unknown: the system does not provide it")
    details = {"available": memory.available, "limit": memory.limit}
    text = f"{format_size(memory.available)} available of {format_size(memory.total)}"
    if memory.limit is not None:
        text += f"; the limit of the cgroup is {format_size(memory.limit)}"
    if memory.available < _MIN_MEMORY:
        return warning(
            "memory",
            text,
            "the service may be killed: give it more memory, or serve with --processes 1 and "
            "--memory-budget",
            **details,
        )
    return fine("memory", text, **details)


def check_shared_memory(folder: Path) -> Finding:
    """Check the file system in memory, where the processes of a server share their state."""
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return warning(
            "shared memory",
            f"{folder} does not exist or is not writable",
            "the processes share files in the temporary folder instead: put TMPDIR in memory",
        )
    space = os.statvfs(folder)
    free, size = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    text = f"{format_size(free)} free of {format_size(size)} in {folder}"
    if free < _MIN_SHARED:
        advice = f"remove old files from {folder}, or give the container more: docker --shm-size"
        return warning("shared memory", text, advice, free=free, size=size)
    return fine("shared memory", text, free=free, size=size)


def check_open_files(limit: int) -> Finding:
    """Check the soft limit of open files, -1 for none."""
    if limit == resource.RLIM_INFINITY:
        return fine("open files", "no limit", limit=None)
    if limit < _MIN_FILES:
        return warning(
            "open files",
            f"at most {limit:,}, of which each connection takes one",
            "before the service starts: ulimit -n 65536 (LimitNOFILE= for systemd)",
            limit=limit,
        )
    return fine("open files", f"at most {limit:,}", limit=limit)
