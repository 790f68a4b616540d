"""The interface by which processes agree on the models that all of them serve."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from service.runtime.models.catalog import Catalog, Changes


class ModelUpdates(Protocol):
    """Reloads the models of all processes of a server at once.

    It serves catalogs by `Engine.serve`.
    """

    def follow(self) -> None:
        """Serve the active models. Called for every request."""

    def enter(self, catalog: Catalog) -> None:
        """Take part in reloads from now on, with `catalog` as the first one.

        A newer one is served at once, if the folder has changed since `catalog` was loaded.
        """

    def reload(self, skip: Collection[Path]) -> Changes:
        """Load the changes in the models folder, except for the folders in `skip`, in all
        processes.

        Returns the changes in this process. Raises RepositoryUnreadable and ReloadFailed.
        """

    def may_watch(self) -> bool:
        """Return whether this process watches the models folder: one of all does."""

    def stop(self) -> None:
        """Take no part in reloads any more."""
