"""A budget of memory for models: which are loaded, and which wait for the request that wants them.

What is loaded fits into the budget, or is one model alone that does not. Of what has to go, that
goes first which has been used the longest time ago. A model that is given back while it runs ends
the run: its memory is free when nobody holds its sessions any more.
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

# A loaded model takes about so many times its files: weights, and copies of them as kernels want
# them. Only a guess, until it has been loaded and is known.
_TIMES_ITS_FILES = 4


class Loadable(Protocol):
    """What the budget asks of a model."""

    files_bytes: int
    memory_bytes: int

    @property
    def loaded(self) -> bool:
        """Whether it takes that memory now."""

    def give_back(self) -> None:
        """Let go of everything that can be loaded again."""


class MemoryBudget:
    """Keeps the models that were used last, up to `most` bytes. Threads may share it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._loading = threading.RLock()
        self._lock = threading.Lock()
        # The loaded ones, the longest unused first. They live as long as somebody else wants them.
        self._loaded: dict[weakref.ref[Loadable], None] = {}

    @property
    def used_bytes(self) -> int:
        """What the loaded models take."""
        with self._lock:
            return sum(model.memory_bytes for model in self._models())

    def has_room_for(self, model: Loadable) -> bool:
        """Whether a model that is not loaded would fit beside those that are."""
        return self.used_bytes + _expected(model) <= self.most

    @contextmanager
    def loading(self, model: Loadable) -> Iterator[None]:
        """Make room for a model that is loaded within this context, and count it from its end on.

        One at a time: what a model takes is what the process grows by meanwhile.
        """
        with self._loading:
            self._fit(self.most - _expected(model), model)
            release_freed_memory()
            before = resident_bytes()
            yield
            release_freed_memory()
            grown = resident_bytes() - before
            model.memory_bytes = max(grown, model.files_bytes, model.memory_bytes)
            self.touch(model)
            if self._fit(self.most - model.memory_bytes, model):
                release_freed_memory()

    def touch(self, model: Loadable) -> None:
        """Note that a model is used now."""
        reference = weakref.ref(model)
        with self._lock:
            self._loaded.pop(reference, None)
            self._loaded[reference] = None

    def _fit(self, most: int, for_whom: Loadable) -> int:
        """Give models back until the others take no more than `most`; return how many."""
        gone = 0
        with self._lock:
            others = [model for model in self._models() if model is not for_whom]
            taken = sum(model.memory_bytes for model in others)
            for model in others:
                if taken <= most:
                    break
                model.give_back()
                self._loaded.pop(weakref.ref(model), None)
                taken -= model.memory_bytes
                gone += 1
        return gone

    def _models(self) -> list[Loadable]:
        """Return the loaded models, and forget the others; the lock is held.

        One that was given back while a thread was about to use it is noted, and not loaded.
        """
        known = [(reference, reference()) for reference in self._loaded]
        loaded = {reference: model for reference, model in known if model and model.loaded}
        self._loaded = dict.fromkeys(loaded)
        return list(loaded.values())


def resident_bytes() -> int:
    """Return the memory that this process takes; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _expected(model: Loadable) -> int:
    return model.memory_bytes or _TIMES_ITS_FILES * model.files_bytes
