"""The model repository: which models there are, which can be served, and why the others cannot.

Every folder ``models/<name>/<version>`` is an entry. An entry that fails says so and harms no
other; a name without a version means the newest version that is ready.

A catalog does not change: `reload` returns another one, so that whoever holds one sees either all
of a change or nothing of it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from service.runtime.errors import UserError
from service.runtime.models.golden import GOLDEN_FILE, Match, check_golden
from service.runtime.models.manifest import MANIFEST_FILE, Manifest, ManifestError, read_manifest
from service.runtime.models.memory_budget import MemoryBudget
from service.runtime.models.model import Model, ModelFailed, problem_of
from service.runtime.onnx.execution_plans import Planner
from service.runtime.onnx.sessions import ExecutionPlan, Provider

log = logging.getLogger("ganymede.catalog")

# What a folder looks like: equal as long as nothing in it that a model is made of has changed.
Fingerprint = tuple[tuple[str, object], ...]


class State(StrEnum):
    """What an entry can do."""

    READY = "ready"
    FAILED = "failed"


class ModelNotFound(Exception):
    """No model of that name or version."""


class ModelUnusable(UserError):
    """A model that a command was told to use is not there, or cannot be loaded."""


class RepositoryUnreadable(UserError):
    """The models folder is not there or cannot be listed."""


@dataclass(frozen=True)
class Entry:
    """One version of one model. `model` is there when it is ready, `reason` when it is not.

    A ready entry with a `reason` serves what it was before its folder changed, and says why not
    what the folder holds now.
    """

    name: str
    version: str
    state: State
    manifest: Manifest | None = None
    model: Model | None = None
    reason: str | None = None
    golden: Match | None = None
    fingerprint: Fingerprint = field(default=(), repr=False)

    @property
    def id(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Changes:
    """What a reload did: entries loaded now, kept as they were, failed, and gone."""

    loaded: tuple[Entry, ...] = ()
    kept: tuple[Entry, ...] = ()
    failed: tuple[Entry, ...] = ()
    removed: tuple[Entry, ...] = ()


class Catalog:
    """The entries of one models folder, loaded for one provider."""

    def __init__(
        self,
        folder: Path,
        provider: Provider,
        plan: ExecutionPlan | Planner,
        entries: tuple[Entry, ...] = (),
        budget: MemoryBudget | None = None,
    ) -> None:
        """Hold `entries`. What is loaded gets `plan`, or the one that a planner finds for it.

        With a `budget`, what does not fit into it is loaded when it is run.
        """
        self.folder = folder
        self.provider = provider
        self.plan = plan
        self.budget = budget
        self._hold(entries)

    def _hold(self, entries: tuple[Entry, ...]) -> None:
        self._entries = entries
        # The newest version of each name first: every request looks one up.
        newest = sorted(entries, key=lambda entry: version_key(entry.version), reverse=True)
        self._by_name: dict[str, list[Entry]] = {}
        for entry in newest:
            self._by_name.setdefault(entry.name, []).append(entry)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries, each as it is now: one that was to be loaded later may have failed then."""
        if self.budget is None:
            return self._entries
        return tuple(_now(entry) for entry in self._entries)

    def load(self) -> None:
        """Look at every folder and load what can be loaded."""
        self._hold(tuple(self._load(path) for path in model_folders(self.folder)))

    def _load(self, folder: Path) -> Entry:
        return load_entry(folder, self.provider, self.plan, self.budget)

    def reload(self, skip: Collection[Path] = ()) -> tuple[Catalog, Changes]:
        """Return the catalog of what the folder holds now, and what is other than in this one.

        What has not changed is not loaded again. A folder that fails leaves what it was before in
        its place. The folders in `skip` are not looked at. Raises RepositoryUnreadable, so that a
        volume that is gone for a moment takes no model with it.
        """
        if not self.folder.is_dir():
            raise RepositoryUnreadable(f"{self.folder} is not there")
        try:
            folders = list(model_folders(self.folder))
        except OSError as error:
            raise RepositoryUnreadable(f"{self.folder} cannot be read: {error.strerror}") from error
        old = {self.folder / entry.name / entry.version: entry for entry in self.entries}
        entries, loaded, kept, failed = [], [], [], []
        for path in [*folders, *self._unlisted(set(old) - set(folders))]:
            before = old.pop(path, None)
            if path in skip:
                if before:
                    entries.append(before)
                    kept.append(before)
                continue
            if before and before.model and before.fingerprint == fingerprint(path):
                # Whatever was wrong with the folder meanwhile is mended.
                entries.append(replace(before, reason=None))
                kept.append(entries[-1])
                continue
            now = self._load(path)
            if now.state is State.READY:
                loaded.append(now)
            else:
                failed.append(now)
                if before and before.model:
                    reason = f"serves what was here before; what is here now: {now.reason}"
                    now = replace(before, reason=reason)
            entries.append(now)
        removed = tuple(old.values())
        for entry in removed:
            log.info("%s is no longer there", entry.id)
        catalog = Catalog(self.folder, self.provider, self.plan, tuple(entries), self.budget)
        return catalog, Changes(tuple(loaded), tuple(kept), tuple(failed), removed)

    def _unlisted(self, missing: Collection[Path]) -> list[Path]:
        """Return those of `missing` that may be there, in a folder that cannot be listed."""
        return sorted(path for path in missing if not _listable(path.parent))

    def names(self) -> list[str]:
        """Return the names of the models, sorted."""
        return sorted(self._by_name)

    def versions(self, name: str) -> list[Entry]:
        """Return the entries of `name`, the newest first."""
        entries = self._by_name.get(name, [])
        return list(entries) if self.budget is None else [_now(entry) for entry in entries]

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


def fingerprint(folder: Path) -> Fingerprint:
    """Return what a model folder looks like: the manifest's bytes, and its other files' stat."""
    try:
        text = (folder / MANIFEST_FILE).read_bytes()
        marks: list[tuple[str, object]] = [(MANIFEST_FILE, hashlib.sha256(text).digest())]
        graphs = [path for kind in ("*.onnx", "*.onnx.data") for path in folder.glob(kind)]
        for path in sorted([*graphs, folder / GOLDEN_FILE]):
            if path.exists():
                stat = path.stat()
                marks.append((path.name, (stat.st_size, stat.st_mtime_ns, stat.st_ino)))
    except OSError as error:
        return (("unreadable", error.errno),)
    return tuple(marks)


def load_entry(
    folder: Path,
    provider: Provider,
    plan: ExecutionPlan | Planner,
    budget: MemoryBudget | None = None,
) -> Entry:
    """Load one model folder; whatever is wrong with it becomes the entry's reason.

    With a `budget` that has no room for it, a model is loaded when it is run.
    """
    name, version = folder.parent.name, folder.name
    manifest = None
    # Before anything is read, so that a change while it is loaded is a change afterwards too.
    marks = fingerprint(folder)
    try:
        manifest = read_manifest(folder)
        if (manifest.name, manifest.version) != (name, version):
            raise ManifestError(
                f"{MANIFEST_FILE} says {manifest.name}@{manifest.version}, "
                f"and the folder is {name}/{version}"
            )
        if budget is None:
            model = _load(folder, manifest, provider, plan)
            _assert_golden(model)
        else:
            model = _within(budget, folder, manifest, provider, plan)
    except Exception as error:  # noqa: BLE001 - a model folder is input, and harms no other
        reason = problem_of(error)
    else:
        where = f"is ready on {provider}" if model.loaded else "will be loaded when it is asked for"
        log.info("%s@%s %s", name, version, where)
        return Entry(name, version, State.READY, manifest, model, None, model.golden, marks)
    log.error("%s@%s failed: %s", name, version, reason)
    return Entry(name, version, State.FAILED, manifest, reason=reason, fingerprint=marks)


def _load(
    folder: Path, manifest: Manifest, provider: Provider, plan: ExecutionPlan | Planner
) -> Model:
    if isinstance(plan, Planner):
        return plan.load(folder, manifest.digest)
    return Model(folder, provider, plan)


def _within(
    budget: MemoryBudget,
    folder: Path,
    manifest: Manifest,
    provider: Provider,
    plan: ExecutionPlan | Planner,
) -> Model:
    """Return a model that the budget may give back, loaded if it has room for it."""
    known = plan.plan_without_loading(manifest.digest) if isinstance(plan, Planner) else plan
    model = Model(folder, provider, known, budget, _assert_golden)
    if budget.has_room_for(model):
        with budget.loading(model):
            loaded = _load(folder, manifest, provider, plan)
            _assert_golden(loaded)
            model.take_over(loaded)
            del loaded
    return model


def _assert_golden(model: Model) -> None:
    """Compare with the golden pictures. Raises GoldenMismatch."""
    model.golden = check_golden(model, model.folder)
    if model.golden is Match.NEAR:
        log.info("%s: its pictures are near the golden ones, not equal", model.manifest.name)


def _now(entry: Entry) -> Entry:
    model = entry.model
    if model is None or (model.problem is None and model.golden is entry.golden):
        return entry
    if model.problem is None:
        return replace(entry, golden=model.golden)
    return replace(entry, state=State.FAILED, model=None, reason=model.problem)


def _listable(folder: Path) -> bool:
    """Tell whether a folder can be listed; one that is not there can, and holds nothing."""
    try:
        list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return True


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Order versions as people do: 2 before 10, numbers before words."""
    parts = re.findall(r"\d+|[a-z]+", version)
    return tuple((0, int(p)) if p.isdigit() else (1, p) for p in parts)


def find_model(models: Path, wanted: str, planner: Planner) -> Model:
    """Load ``name`` or ``name@version``, the newest that can be loaded. Raises ModelUnusable."""
    name, _, version = wanted.partition("@")
    if not models.is_dir():
        raise ModelUnusable(f"--models: no such folder: {models}")
    folders = list(model_folders(models))
    named = [path for path in folders if path.parent.name == name]
    if not named:
        there = ", ".join(sorted({path.parent.name for path in folders})) or "none"
        raise ModelUnusable(f"no model {name!r} in {models}; there are: {there}")
    wished = [path for path in named if version in ("", path.name)]
    if not wished:
        have = ", ".join(path.name for path in named)
        raise ModelUnusable(f"no version {version!r} of {name!r}; there are: {have}")
    reason = None
    for path in sorted(wished, key=lambda path: version_key(path.name), reverse=True):
        entry = load_entry(path, planner.provider, planner)
        if entry.model is not None:
            return entry.model
        reason = reason or entry.reason
    raise ModelUnusable(f"{wanted} cannot be used: {reason}")
