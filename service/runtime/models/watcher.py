"""Watching a models folder: what changes in it is loaded once it has come to rest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from service.runtime.models.catalog import Fingerprint, fingerprint, model_folders

log = logging.getLogger("ganymede.watching")


class Watcher:
    """Looks at a folder from time to time, by the names, sizes and times of its files.

    A model folder counts when two looks in a row find it the same, so that one that is being copied
    is left alone, and so is one whose name begins with a dot.
    """

    def __init__(self, folder: Path, seconds: float, reload: Callable[[Collection[Path]], object]):
        """Call `reload` with the folders that are not at rest yet, whenever another one changed."""
        self._folder = folder
        self._seconds = seconds
        self._reload = reload
        self._stopped = threading.Event()
        # What the last look found, and what the last reload has dealt with.
        self._seen = look(folder)
        self._known = dict(self._seen)
        self._thread = threading.Thread(target=self._run, name="ganymede-watch", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a reload that goes on comes to its end."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self.tick()
            except Exception:
                # A watcher that ended would leave its operator waiting for a model.
                log.exception("%s could not be looked at", self._folder)

    def tick(self) -> None:
        """Look once."""
        seen = look(self._folder)
        moving = {
            path
            for path in seen.keys() | self._seen.keys()
            if seen.get(path) != self._seen.get(path)
        }
        self._seen = seen
        changed = {
            path
            for path in (seen.keys() | self._known.keys()) - moving
            if seen.get(path) != self._known.get(path)
        }
        if not changed:
            return
        log.info("changed: %s", ", ".join(f"{p.parent.name}/{p.name}" for p in sorted(changed)))
        # Known before it is loaded: what fails is not tried again and again, but when it changes.
        for path in changed:
            if path in seen:
                self._known[path] = seen[path]
            else:
                self._known.pop(path, None)
        self._reload(moving)


def look(folder: Path) -> dict[Path, Fingerprint]:
    """Return what every model folder below `folder` looks like."""
    return {path: fingerprint(path) for path in model_folders(folder)}
