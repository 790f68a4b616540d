"""The number of processes that was found to pay, so that later starts need not measure first.

Imports nothing slow: the supervisor reads it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from service.runtime.files import CannotWrite, cache_folder, replacing
from service.runtime.onnx.machine import cpu_model, machine_cpus

log = logging.getLogger("ganymede.processes")

_KEPT = 100
# Exists if the kernel has a driver for a GPU.
_GPU_DRIVER = Path("/proc/driver/nvidia/version")


class ChoiceCache:
    """The choice for one configuration: the models, the machine, and how models are run."""

    def __init__(self, models: Path, options: str) -> None:
        """Find the choice for the folder `models`, run with `options`."""
        self._path = cache_folder("processes.json")
        files = sorted(models.glob("*/*/*"))
        parts = [
            *(f"{path.relative_to(models)} {_version(path)}" for path in files),
            options,
            str(_GPU_DRIVER.exists()),
            cpu_model(),
            str(machine_cpus()),
        ]
        self._key = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def get(self) -> int:
        """Return the number of processes; 0 if it is not known."""
        count = self._read().get(self._key)
        return count if isinstance(count, int) and 1 <= count <= machine_cpus() else 0

    def put(self, count: int) -> None:
        """Store the number of processes. It is not an error if it cannot be written."""
        choices = self._read()
        choices.pop(self._key, None)
        choices[self._key] = count
        kept = dict(list(choices.items())[-_KEPT:])
        try:
            with replacing(self._path) as temporary:
                temporary.write_text(json.dumps(kept, indent=1) + "\n")
        except CannotWrite as error:
            log.info("the number of processes cannot be cached: %s", error)

    def _read(self) -> dict[str, object]:
        try:
            choices = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return choices if isinstance(choices, dict) else {}


def _version(file: Path) -> str:
    try:
        status = file.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
