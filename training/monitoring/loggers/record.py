"""What a tracking service has recorded of a run: needed to continue the same record."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from service.runtime.files import replacing
from training.monitoring.loggers.logger import LoggedRun

_FILE = "loggers.json"


class ServiceRecord:
    """The identifier of a run in a tracking service, and how far the service has recorded it.

    Stored in `loggers.json` of the run folder. A run that starts anew, at 0 images, gets a new
    record, because it may have another recipe than the run that was there before.
    """

    def __init__(self, service: str, run: LoggedRun) -> None:
        self._service, self._path = service, run.folder / _FILE
        recipe = hashlib.sha256(json.dumps(run.config, sort_keys=True).encode()).hexdigest()
        entry = self._read().get(service, {}) if run.images else {}
        # With another recipe, values after the checkpoint differ from those recorded before.
        self._recorded = int(entry.get("images", 0)) if entry.get("recipe") == recipe else 0
        self._entry: dict[str, Any] = {**entry, "recipe": recipe}

    @property
    def identifier(self) -> str | None:
        """The run's identifier in the service; None for a run that it does not have yet."""
        return self._entry.get("id")

    @property
    def address(self) -> str | None:
        """Where the service stores the run, for services that need to know."""
        return self._entry.get("address")

    def start(self, identifier: str, address: str | None = None) -> None:
        """Store the identifier of the run, under which it is continued when it is resumed."""
        if identifier != self.identifier:
            self._recorded = 0
            self._entry |= {"images": 0, "rows": 0}
        self._entry |= {"id": identifier, "address": address}
        self._write()

    def is_new(self, images: int) -> bool:
        """Return whether values at `images` images have yet to be recorded.

        A run that was killed has recorded values after its last checkpoint, and computes the same
        values again when it is resumed.
        """
        return images > self._recorded

    def advance(self, images: int) -> int:
        """Store that the values at `images` images are recorded, and return their row number.

        Row numbers count from 0 and continue in a resumed run, as services require.
        """
        row: int = self._entry.get("rows", 0)
        self._entry |= {"images": max(images, self._entry.get("images", 0)), "rows": row + 1}
        self._write()
        return row

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._path.read_text())
        except (OSError, ValueError):
            # Without the record, the service gets a new run.
            return {}
        return document if isinstance(document, dict) else {}

    def _write(self) -> None:
        document = {**self._read(), self._service: self._entry}
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n")
