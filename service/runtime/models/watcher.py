"""Watches a models folder and loads changes once they are complete."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from service.runtime.errors import UserError
from service.runtime.models.catalog import Fingerprint, fingerprint, model_folders

log = logging.getLogger("ganymede.watching")


class Watcher:
    """Checks a models folder periodically, by the names, sizes and times of its files.

    A changed model folder is loaded once two consecutive checks find it unchanged, so that a folder
    is not loaded while it is being copied. Folders with a leading dot are ignored.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        reload: Callable[[Collection[Path]], object],
        may_watch: Callable[[], bool] = lambda: True,
    ):
        """Call `reload` after a change, with the folders that are still changing.

        The folder is not checked while `may_watch` returns false.
        """
        self._may_watch = may_watch
        self._folder = folder
        self._seconds = seconds
        self._reload = reload
        self._stopped = threading.Event()
        # The result of the last check, and the state that was last loaded.
        self._seen = fingerprints(folder)
        self._loaded = dict(self._seen)
        self._thread = threading.Thread(target=self._run, name="ganymede-watch", daemon=True)

    def start(self) -> None:
        """Start the watcher thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; a reload in progress finishes."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                if self._may_watch():
                    self.tick()
            except Exception:
                # A dead watcher would silently ignore new models.
                log.exception("%s could not be checked", self._folder)

    def tick(self) -> None:
        """Check the folder once."""
        seen = fingerprints(self._folder)
        unstable = {
            path
            for path in seen.keys() | self._seen.keys()
            if seen.get(path) != self._seen.get(path)
        }
        self._seen = seen
        changed = {
            path
            for path in (seen.keys() | self._loaded.keys()) - unstable
            if seen.get(path) != self._loaded.get(path)
        }
        if not changed:
            return
        log.info("changed: %s", ", ".join(f"{p.parent.name}/{p.name}" for p in sorted(changed)))
        # Recorded before loading: a folder that fails is retried only after it changes.
        before = dict(self._loaded)
        for path in changed:
            if path in seen:
                self._loaded[path] = seen[path]
            else:
                self._loaded.pop(path, None)
        try:
            self._reload(unstable)
        except UserError as error:
            # Nothing was loaded: try again at the next check.
            self._loaded = before
            log.error("the changes could not be loaded: %s", error)


def fingerprints(folder: Path) -> dict[Path, Fingerprint]:
    """Return the fingerprint of every model folder below `folder`."""
    return {path: fingerprint(path) for path in model_folders(folder)}
