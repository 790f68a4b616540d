"""The memory of tensors, and the measured peak of a block."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Linux only; there, the peak can be reset.
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def tensor_bytes(state: Any) -> int:
    """Return the bytes of all tensors in nested mappings and sequences, each counted once."""
    found: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            found[id(value)] = value.numel() * value.element_size()
        elif isinstance(value, dict):
            for each in value.values():
                visit(each)
        elif isinstance(value, (list, tuple)):
            for each in value:
                visit(each)

    visit(state)
    return sum(found.values())


class PeakMemory:
    """The largest amount of memory that was in use during a block, in bytes.

    On CUDA, the memory that PyTorch has allocated; otherwise that of the process, which includes
    the interpreter and PyTorch itself.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes = 0

    @property
    def kind(self) -> str:
        """What is measured: `gpu` or `process`."""
        return "gpu" if self._device.type == "cuda" else "process"

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the block. The largest of several blocks counts."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif _CLEAR.exists():
            _CLEAR.write_text("5")
        yield
        self.bytes = max(self.bytes, self._peak())

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if _STATUS.exists():
            (line,) = (row for row in _STATUS.read_text().splitlines() if row.startswith("VmHWM"))
            return int(line.split()[1]) * 1024
        import resource  # noqa: PLC0415 - not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
