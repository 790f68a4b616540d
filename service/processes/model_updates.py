"""Reloads the models of all processes of a server at once.

A reload has two phases. The process that was asked increments `requested`, and all processes load
the changes in the models folder beside what they serve. Once all have loaded the same, it sets
`active`, and every process serves the new models from its next request on. If a process fails, or
if not all have loaded the same because the folder changes meanwhile, none of them switches.

Invariants:

- All processes serve the same content of the models folder: the one that was active last.
- No request that starts after a response with a new model gets the previous one: a request compares
  `active` with what its process serves.
- One process reloads at a time. It holds a lock of a file, which the kernel releases if it dies.
  What was loaded for a reload that ended without a switch is dropped.
- A process that dies or stops does not block a reload.

A process that starts later loads the folder as it is. If that is not what the others serve, because
the folder changed without a reload, it starts a reload, so that all serve the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

from service.processes.worker_table import WorkerTable
from service.runtime.files import replacing
from service.runtime.models.catalog import Catalog, Changes, ReloadFailed
from service.runtime.onnx.machine import release_memory

log = logging.getLogger("ganymede.reload")

# Seconds between checks for a reload of another process, and for the progress of the others.
_POLL_S, _WAIT_POLL_S = 0.05, 0.01
# Seconds for all processes to load the changes.
_TIMEOUT_S = 600.0
# How often a reload is repeated if the folder changes while the processes load it.
_ATTEMPTS, _RETRY_S = 3, 0.5

# What a process loaded: the digest of each entry by its id; None if its folder cannot be served.
Content = dict[str, str | None]


class Server(Protocol):
    """What serves a catalog; an `Engine`."""

    def serve(self, catalog: Catalog) -> None:
        """Serve `catalog` from now on."""


class SharedModelUpdates:
    """The reloads of one process. Implements `service.runtime.models.updates.ModelUpdates`."""

    def __init__(self, table: WorkerTable, server: Server, timeout_s: float = _TIMEOUT_S) -> None:
        """Switch `server`. This process must have joined the table."""
        self._table = table
        self._server = server
        self._timeout_s = timeout_s
        self._active = table.server_column("active")
        self._requested = table.server_column("requested")
        # The generation that this process serves, and the newest one that it has loaded.
        self._serving = 0
        self._handled = 0
        # The catalog to reload from. Replaced by the prepared one when that is served.
        self._catalog: Catalog | None = None
        self._prepared: tuple[int, Catalog, Changes] | None = None
        self._lock = threading.RLock()
        # One generation is loaded at a time.
        self._preparing = threading.Lock()
        # Whether a generation became active that this process has not loaded.
        self._missed = False
        # A lock of a file belongs to the process, so threads need one of their own.
        self._reloading = threading.Lock()
        self._reload_lock = _open_lock(table.folder / "reload.lock")
        self._watch_lock = _open_lock(table.folder / "watch.lock")
        self._stopped = threading.Event()
        self._unreleased = False

    def follow(self) -> None:
        """Serve the active models. Called for every request."""
        if self._active[0] != self._serving:
            self._switch()

    def _switch(self) -> None:
        with self._lock:
            active = int(self._active[0])
            if active == self._serving:
                return
            if self._prepared is not None and self._prepared[0] == active:
                _, self._catalog, changes = self._prepared
                self._server.serve(self._catalog)
                self._unreleased = bool(changes.loaded or changes.failed or changes.removed)
            else:
                self._missed = self._catalog is not None
            self._prepared = None
            self._serving = active
            self._table.own["serving"] = active

    def enter(self, catalog: Catalog) -> None:
        """Take part in reloads from now on, with `catalog` as the first one.

        A newer one is served at once, if the folder has changed since `catalog` was loaded.
        """
        with self._exclusive():
            self._catalog = catalog
            self._handled = int(self._requested[0])
            self._serving = int(self._active[0])
            row = self._table.own
            row["prepared"] = row["serving"] = self._serving
            row["reloads"] = 1
            others_serve = _read(self._table.folder / "active.json")
            if others_serve is None:
                _write(self._table.folder / "active.json", content_of(catalog))
            elif others_serve != content_of(catalog):
                log.info("the models folder has changed since it was loaded: all processes reload")
                try:
                    self._reload(())
                except Exception as error:  # noqa: BLE001 - serving something is better than nothing
                    log.error("processes serve different models: %s", error)
        threading.Thread(target=self._run, name="ganymede-reload", daemon=True).start()

    def reload(self, skip: Collection[Path]) -> Changes:
        """Load the changes in the models folder, except for the folders in `skip`, in all
        processes.

        Returns the changes in this process. Raises RepositoryUnreadable, and ReloadFailed if
        another process failed.
        """
        with self._exclusive():
            return self._reload(skip)

    def may_watch(self) -> bool:
        """Return whether this process watches the models folder: one of all does."""
        return _try_lock(self._watch_lock)

    def stop(self) -> None:
        """Take no part in reloads any more."""
        self._stopped.set()
        self._table.own["reloads"] = 0
        fcntl.flock(self._watch_lock, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Exclude reloads of other processes and threads."""
        with self._reloading:
            fcntl.flock(self._reload_lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                with self._lock:
                    # Not switched to: the reload failed.
                    self._prepared = None
                fcntl.flock(self._reload_lock, fcntl.LOCK_UN)

    def _reload(self, skip: Collection[Path]) -> Changes:
        """Reload in all processes. The caller holds the lock."""
        for attempt in range(1, _ATTEMPTS + 1):
            generation = max(int(self._requested[0]), int(self._active[0])) + 1
            contents = self._prepare_all(generation, skip)
            if all(content == contents[self._table.index] for content in contents.values()):
                break
            if attempt == _ATTEMPTS:
                raise ReloadFailed(_difference(contents))
            time.sleep(_RETRY_S)
        _write(self._table.folder / "active.json", contents[self._table.index])
        assert self._prepared is not None  # noqa: S101 - this process has prepared
        changes = self._prepared[2]
        with self._table.locked():
            self._table.server["active"] = generation
        self.follow()
        return changes

    def _prepare_all(self, generation: int, skip: Collection[Path]) -> dict[int, Content]:
        """Let all processes load the changes; return what each has loaded, by its row.

        Raises the error of this process, and ReloadFailed for the others.
        """
        request = {"generation": generation, "skip": sorted(map(str, skip))}
        _write(self._table.folder / "reload.json", request)
        self._handled = generation
        reloads, own = self._table.column("reloads"), self._table.index
        others = [i for i in self._table.living_indices() if reloads[i] and i != own]
        with self._table.locked():
            self._table.server["requested"] = generation
        self._prepare(generation, skip)
        contents = {own: self._content(own, generation)}
        end = time.monotonic() + self._timeout_s
        prepared = self._table.column("prepared")
        for index in others:
            while prepared[index] != generation and self._table.is_alive(index) and reloads[index]:
                if time.monotonic() > end:
                    seconds = f"{self._timeout_s:g}"
                    raise ReloadFailed(f"process {index} has not loaded the models in {seconds} s")
                time.sleep(_WAIT_POLL_S)
            if prepared[index] == generation:
                contents[index] = self._content(index, generation)
        return contents

    def _content(self, index: int, generation: int) -> Content:
        """Return what a process has loaded. Raises ReloadFailed."""
        outcome = _read(self._table.folder / f"prepared-{index}.json")
        if outcome is None or outcome["generation"] != generation:
            raise ReloadFailed(f"process {index} does not state what it has loaded")
        if outcome["error"] is not None:
            raise ReloadFailed(f"process {index}: {outcome['error']}")
        content: Content = outcome["content"]
        return content

    def _prepare(self, generation: int, skip: Collection[Path]) -> None:
        """Load the changes beside what is served, unless a newer reload has begun."""
        with self._preparing:
            if generation == self._handled:
                self._load(generation, skip)

    def _load(self, generation: int, skip: Collection[Path]) -> None:
        assert self._catalog is not None  # noqa: S101 - a reload needs `enter`
        error: Exception | None = None
        content: Content = {}
        try:
            catalog, changes = self._catalog.reload(skip)
            content = content_of(catalog)
            with self._lock:
                self._prepared = generation, catalog, changes
        except Exception as problem:  # noqa: BLE001 - raised below or by the process that asked
            error = problem
        outcome = {
            "generation": generation,
            "content": content,
            "error": None if error is None else str(error) or type(error).__name__,
        }
        _write(self._table.folder / f"prepared-{self._table.index}.json", outcome)
        self._table.own["prepared"] = generation
        if error is not None:
            raise error

    def _run(self) -> None:
        """Prepare the reloads of other processes, and switch without waiting for a request."""
        while not self._stopped.wait(_POLL_S):
            try:
                self._tick()
            except Exception:
                # Without this thread, all later reloads would fail.
                log.exception("the models could not be reloaded")

    def _tick(self) -> None:
        if self._requested[0] > self._handled:
            self._prepare_requested()
        self.follow()
        if self._missed:
            self._missed = False
            log.warning("this process has not loaded the active models: all processes reload")
            self.reload(())
        if self._prepared is not None:
            self._drop_if_abandoned()
        if self._unreleased:
            self._unreleased = False
            # Unloading and loading sessions fragments the memory.
            release_memory()

    def _prepare_requested(self) -> None:
        request = _read(self._table.folder / "reload.json")
        generation = int(self._requested[0])
        self._handled = generation
        if request is None or request["generation"] != generation:
            return
        try:
            self._prepare(generation, [Path(path) for path in request["skip"]])
        except Exception as error:  # noqa: BLE001 - the process that asked reports it
            log.warning("the models could not be reloaded: %s", error)

    def _drop_if_abandoned(self) -> None:
        """Drop what was loaded for a reload that has ended without a switch."""
        if not self._reloading.acquire(blocking=False):
            return
        try:
            if not _try_lock(self._reload_lock):
                return
            self.follow()
            with self._lock:
                self._unreleased |= self._prepared is not None
                self._prepared = None
            fcntl.flock(self._reload_lock, fcntl.LOCK_UN)
        finally:
            self._reloading.release()


def content_of(catalog: Catalog) -> Content:
    """Return the digest of each entry by its id; None if its folder cannot be served as it is.

    A model that still serves the previous version of its folder counts as one that cannot.
    """
    return {
        entry.id: entry.model.digest if entry.model and entry.reason is None else None
        for entry in catalog.entries
    }


def _difference(contents: dict[int, Content]) -> str:
    ids = sorted({model for content in contents.values() for model in content})
    different = [
        model for model in ids if len({repr(c.get(model, "none")) for c in contents.values()}) > 1
    ]
    return (
        f"the processes have loaded different content of {', '.join(different)}, so that all keep "
        "the previous one: the folder changes while it is loaded, or one process cannot load it"
    )


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(path: Path, document: object) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
