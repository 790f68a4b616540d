"""A memory budget for models: decides which models are loaded, and unloads the others.

The loaded models fit into the budget, unless a single model exceeds it. The least recently used
models are unloaded first. A model that is unloaded while it runs finishes the run: its memory is
freed when its sessions are no longer referenced.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from service.runtime.onnx.machine import release_freed_memory

# Estimated memory of a model relative to its files (weights, and copies in the layouts of kernels),
# used until the model has been loaded and measured.
_MEMORY_PER_FILE_BYTE = 4


class Loadable(Protocol):
    """The interface of a model that the budget manages."""

    files_bytes: int
    memory_bytes: int

    @property
    def loaded(self) -> bool:
        """Whether it is loaded."""

    def unload(self) -> None:
        """Drop everything that can be loaded again."""


class MemoryBudget:
    """Keeps the most recently used models, up to `limit` bytes. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._loading = threading.RLock()
        self._lock = threading.Lock()
        # The loaded models, least recently used first; weak references, because the catalog owns
        # them.
        self._loaded: dict[weakref.ref[Loadable], None] = {}

    @property
    def used_bytes(self) -> int:
        """The memory of all loaded models in bytes."""
        with self._lock:
            return sum(model.memory_bytes for model in self._models())

    def has_room_for(self, model: Loadable) -> bool:
        """Return whether a further model would fit into the budget."""
        return self.used_bytes + _expected(model) <= self.limit

    @contextmanager
    def loading(self, model: Loadable) -> Iterator[None]:
        """Make room for a model that the caller loads in this context, and measure its memory.

        Only one model is loaded at a time, so its memory is the growth of the process.
        """
        with self._loading:
            self._shrink_to(self.limit - _expected(model), model)
            release_freed_memory()
            before = resident_bytes()
            yield
            release_freed_memory()
            growth = resident_bytes() - before
            model.memory_bytes = max(growth, model.files_bytes, model.memory_bytes)
            self.touch(model)
            if self._shrink_to(self.limit - model.memory_bytes, model):
                release_freed_memory()

    def touch(self, model: Loadable) -> None:
        """Mark a model as just used."""
        reference = weakref.ref(model)
        with self._lock:
            self._loaded.pop(reference, None)
            self._loaded[reference] = None

    def _shrink_to(self, limit: int, keep: Loadable) -> int:
        """Unload models, except `keep`, until the others fit into `limit`; return their number."""
        unloaded = 0
        with self._lock:
            others = [model for model in self._models() if model is not keep]
            used = sum(model.memory_bytes for model in others)
            for model in others:
                if used <= limit:
                    break
                model.unload()
                self._loaded.pop(weakref.ref(model), None)
                used -= model.memory_bytes
                unloaded += 1
        return unloaded

    def _models(self) -> list[Loadable]:
        """Remove unloaded models from the list, and return the others. The caller holds the lock.

        A model may have been touched by a thread after it was unloaded.
        """
        known = [(reference, reference()) for reference in self._loaded]
        loaded = {reference: model for reference, model in known if model and model.loaded}
        self._loaded = dict.fromkeys(loaded)
        return list(loaded.values())


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 if the system does not provide it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _expected(model: Loadable) -> int:
    return model.memory_bytes or _MEMORY_PER_FILE_BYTE * model.files_bytes
