"""The model repository: which models there are, which can be served, and why the others cannot.

Every folder ``models/<name>/<version>`` is an entry. An entry that fails says so and harms no
other; a name without a version means the newest version that is ready.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from service.runtime.manifest import MANIFEST_FILE, Manifest, ManifestError, read_manifest
from service.runtime.model import Model
from service.runtime.sessions import ExecutionPlan, GraphError, Provider, ProviderUnavailable

log = logging.getLogger("ganymede.catalog")


class State(StrEnum):
    """What an entry can do."""

    READY = "ready"
    FAILED = "failed"


class ModelNotFound(Exception):
    """No model of that name or version."""


class ModelFailed(Exception):
    """The model is there and cannot be served; the message says why."""


@dataclass(frozen=True)
class Entry:
    """One version of one model. `model` is there when it is ready, `reason` when it is not."""

    name: str
    version: str
    state: State
    manifest: Manifest | None = None
    model: Model | None = None
    reason: str | None = None

    @property
    def id(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


class Catalog:
    """The entries of one models folder, loaded for one provider."""

    def __init__(self, folder: Path, provider: Provider, plan: ExecutionPlan) -> None:
        self.folder = folder
        self.provider = provider
        self.plan = plan
        self.entries: tuple[Entry, ...] = ()

    def load(self) -> None:
        """Look at every folder and load what can be loaded."""
        self.entries = tuple(
            load_entry(path, self.provider, self.plan) for path in model_folders(self.folder)
        )

    def names(self) -> list[str]:
        """Return the names of the models, sorted."""
        return sorted({entry.name for entry in self.entries})

    def versions(self, name: str) -> list[Entry]:
        """Return the entries of `name`, the newest first."""
        entries = [entry for entry in self.entries if entry.name == name]
        return sorted(entries, key=lambda entry: version_key(entry.version), reverse=True)

    def default(self, name: str) -> Entry:
        """Return the newest version that is ready, else the newest. Raises ModelNotFound."""
        versions = self.versions(name)
        if not versions:
            raise ModelNotFound(
                f"no model {name!r}; there are: {', '.join(self.names()) or 'none'}"
            )
        return next((entry for entry in versions if entry.state is State.READY), versions[0])

    def entry(self, wanted: str) -> Entry:
        """Return the entry of ``name`` or ``name@version``. Raises ModelNotFound."""
        name, at, version = wanted.partition("@")
        if not at:
            return self.default(name)
        default = self.default(name)
        for entry in self.versions(name):
            if entry.version == version:
                return entry
        have = ", ".join(entry.version for entry in self.versions(name))
        raise ModelNotFound(f"no version {version!r} of {default.name!r}; there are: {have}")

    def get(self, wanted: str) -> Model:
        """Return the loaded model of ``name`` or ``name@version``.

        Raises ModelNotFound, or ModelFailed when it is there and cannot be served.
        """
        entry = self.entry(wanted)
        if entry.model is None:
            raise ModelFailed(f"{entry.id} cannot be served: {entry.reason}")
        return entry.model


def model_folders(folder: Path) -> Iterator[Path]:
    """Yield every ``<name>/<version>`` below `folder`; what begins with a dot is being written."""
    for name in sorted(folder.iterdir() if folder.is_dir() else []):
        if not name.is_dir() or name.name.startswith("."):
            continue
        try:
            versions = list(name.iterdir())
        except OSError as error:  # Such as the lost+found of a mounted volume.
            log.warning("%s is left out: %s", name, error.strerror)
            continue
        for version in sorted(versions, key=lambda path: version_key(path.name)):
            if version.is_dir() and not version.name.startswith("."):
                yield version


def load_entry(folder: Path, provider: Provider, plan: ExecutionPlan) -> Entry:
    """Load one model folder; whatever is wrong with it becomes the entry's reason."""
    name, version = folder.parent.name, folder.name
    manifest = None
    try:
        manifest = read_manifest(folder)
        if (manifest.name, manifest.version) != (name, version):
            raise ManifestError(
                f"{MANIFEST_FILE} says {manifest.name}@{manifest.version}, "
                f"and the folder is {name}/{version}"
            )
        model = Model(folder, provider, plan)
    except (ManifestError, GraphError, ProviderUnavailable) as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - a model folder is input, and harms no other
        reason = f"{type(error).__name__}: {error}"
    else:
        log.info("%s@%s is ready on %s", name, version, provider)
        return Entry(name, version, State.READY, manifest, model)
    log.error("%s@%s failed: %s", name, version, reason)
    return Entry(name, version, State.FAILED, manifest, reason=reason)


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Order versions as people do: 2 before 10, numbers before words."""
    parts = re.findall(r"\d+|[a-z]+", version)
    return tuple((0, int(p)) if p.isdigit() else (1, p) for p in parts)
