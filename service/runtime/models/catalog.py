"""The model repository: the available models, and whether they can be served or the reason if not.

Every folder ``models/<name>/<version>`` is an entry. A failed entry reports its reason and does not
affect others. A name without a version refers to the newest ready version.

A catalog is immutable: `reload` returns a new catalog, so that users of a catalog never see a part
of a change.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from service.runtime.errors import UserError
from service.runtime.files import open_regular
from service.runtime.models.golden import GOLDEN_FILE, GOLDEN_SAMPLES_FILE, check_golden
from service.runtime.models.manifest import MANIFEST_FILE, Manifest, ManifestError, read_manifest
from service.runtime.models.memory_budget import MemoryBudget
from service.runtime.models.model import GoldenMatch, Model, ModelFailed, problem_of
from service.runtime.models.parts.inputs import TextInput
from service.runtime.models.parts.outputs import TOKENIZER_FILE, VOCABULARY_FILE
from service.runtime.onnx.execution_plans import Planner
from service.runtime.onnx.sessions import ExecutionPlan, Provider, plan_for
from service.runtime.text.prompts import read_tokenizer
from service.runtime.text.vocabulary import read_vocabulary

log = logging.getLogger("ganymede.catalog")
golden_log = log.getChild("golden")

# The state of a model folder. It stays equal as long as none of the files change.
Fingerprint = tuple[tuple[str, object], ...]


class State(StrEnum):
    """Whether an entry can be served."""

    READY = "ready"
    FAILED = "failed"


class ModelNotFound(Exception):
    """There is no model with this name or version."""


class ModelUnusable(UserError):
    """A model given to a command does not exist or cannot be loaded."""


class RepositoryUnreadable(UserError):
    """The models folder does not exist or cannot be listed."""


class ReloadFailed(UserError):
    """The processes of a server could not load the same models, and keep the previous ones."""


@dataclass(frozen=True)
class Entry:
    """One version of one model, with a `model` if it is ready and a `reason` if it is not.

    A ready entry with a `reason` serves the model as it was before its folder changed. The reason
    explains why the new content cannot be served.
    """

    name: str
    version: str
    state: State
    manifest: Manifest | None = None
    model: Model | None = None
    reason: str | None = None
    golden: GoldenMatch | None = None
    fingerprint: Fingerprint = field(default=(), repr=False)

    @property
    def id(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Changes:
    """The result of a reload: entries that were loaded, kept, failed and removed."""

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
        """Create a catalog with `entries`.

        `plan` is the plan of all models, or a `Planner` that chooses one for each model.

        With a `budget`, models that do not fit into it are loaded when they are run.
        """
        self.folder = folder
        self.provider = provider
        self.plan = plan
        self.budget = budget
        self._set_entries(entries)

    def _set_entries(self, entries: tuple[Entry, ...]) -> None:
        self._entries = entries
        # Sorted by version only once, because every request looks up a model.
        newest = sorted(entries, key=lambda entry: version_key(entry.version), reverse=True)
        self._by_name: dict[str, list[Entry]] = {}
        for entry in newest:
            self._by_name.setdefault(entry.name, []).append(entry)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries in their current state.

        With a memory budget, models are loaded on demand, so an entry can fail after the catalog
        was built.
        """
        if self.budget is None:
            return self._entries
        return tuple(_current(entry) for entry in self._entries)

    def load(self, progress: Callable[[int, int], object] = lambda *_: None) -> None:
        """Load all model folders. `progress` is called with the number of loaded ones, and all."""
        folders = list(model_folders(self.folder))
        entries: list[Entry] = []
        for path in folders:
            progress(len(entries), len(folders))
            entries.append(self._load(path))
        self._set_entries(with_encoders(entries))
        progress(len(entries), len(folders))

    def _load(self, folder: Path) -> Entry:
        return load_entry(folder, self.provider, self.plan, self.budget)

    def reload(self, skip: Collection[Path] = ()) -> tuple[Catalog, Changes]:
        """Return a catalog of the folder's current content, and the changes.

        Unchanged models are not loaded again. If a changed folder fails to load, the previous model
        stays. The folders in `skip` are ignored. Raises RepositoryUnreadable, so that a temporarily
        unmounted volume does not remove all models.
        """
        if not self.folder.is_dir():
            raise RepositoryUnreadable(f"{self.folder} does not exist")
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
                # An earlier problem with the folder is resolved.
                entries.append(replace(before, reason=None))
                kept.append(entries[-1])
                continue
            entry = self._load(path)
            if entry.state is State.READY:
                loaded.append(entry)
            else:
                failed.append(entry)
                if before and before.model:
                    reason = f"still serves the previous version of the folder: {entry.reason}"
                    entry = replace(before, reason=reason)
            entries.append(entry)
        checked = with_encoders(entries)
        failed += [new for new, entry in zip(checked, entries, strict=True) if new is not entry]
        loaded = [entry for entry in loaded if entry in checked]
        kept = [entry for entry in kept if entry in checked]
        removed = tuple(old.values())
        for entry in removed:
            log.info("%s was removed", entry.id)
        catalog = Catalog(self.folder, self.provider, self.plan, checked, self.budget)
        return catalog, Changes(tuple(loaded), tuple(kept), tuple(failed), removed)

    def _unlisted(self, missing: Collection[Path]) -> list[Path]:
        """Return the entries of `missing` whose folders cannot be listed, and may still exist."""
        return sorted(path for path in missing if not _listable(path.parent))

    def names(self) -> list[str]:
        """Return the names of the models, sorted."""
        return sorted(self._by_name)

    def versions(self, name: str) -> list[Entry]:
        """Return the entries of `name`, the newest first."""
        entries = self._by_name.get(name, [])
        return list(entries) if self.budget is None else [_current(entry) for entry in entries]

    def default(self, name: str) -> Entry:
        """Return the newest ready version, or else the newest version. Raises ModelNotFound."""
        versions = self.versions(name)
        if not versions:
            raise ModelNotFound(
                f"no model {name[:100]!r}; available: {', '.join(self.names()) or 'none'}"
            )
        return next((entry for entry in versions if entry.state is State.READY), versions[0])

    def entry(self, model_id: str) -> Entry:
        """Return the entry of ``name`` or ``name@version``. Raises ModelNotFound."""
        name, at, version = model_id.partition("@")
        if not at:
            return self.default(name)
        default = self.default(name)
        for entry in self.versions(name):
            if entry.version == version:
                return entry
        available = ", ".join(entry.version for entry in self.versions(name))
        raise ModelNotFound(
            f"no version {version[:100]!r} of {default.name!r}; available: {available}"
        )

    def get(self, model_id: str) -> Model:
        """Return the loaded model of ``name`` or ``name@version``.

        Raises ModelNotFound, or ModelFailed if it cannot be served.
        """
        entry = self.entry(model_id)
        if entry.model is None:
            raise ModelFailed(f"{entry.id} cannot be served: {entry.reason}")
        return entry.model

    def encoder_of(self, manifest: Manifest) -> Model:
        """Return the text encoder of a model. Raises ModelFailed, and ValueError without a text
        input.
        """
        spec = manifest.text_input
        if spec is None:
            raise ValueError(f"{manifest.name} takes no text")
        for entry in self.versions(spec.encoder):
            if entry.model is not None and entry.model.digest == spec.encoder_digest:
                return entry.model
        reason = _encoder_problem(spec, self.versions(spec.encoder))
        raise ModelFailed(f"{manifest.name} cannot be served: {reason}")


def with_encoders(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return `entries`, in which a model whose text encoder is not ready has failed."""
    checked = []
    for entry in entries:
        spec = entry.model.manifest.text_input if entry.model else None
        encoders = [each for each in entries if spec is not None and each.name == spec.encoder]
        reason = None if spec is None else _encoder_problem(spec, encoders)
        if reason is None:
            checked.append(entry)
        else:
            log.error("%s failed: %s", entry.id, reason)
            checked.append(replace(entry, state=State.FAILED, model=None, reason=reason))
    return tuple(checked)


def _encoder_problem(spec: TextInput, encoders: Sequence[Entry]) -> str | None:
    """Return why none of the entries `encoders` is the text encoder of a model; None if one is."""
    ready = [each.model for each in encoders if each.model is not None]
    if any(model.digest == spec.encoder_digest for model in ready):
        return None
    expected = f"its text encoder {spec.encoder} with the digest {spec.encoder_digest[:19]}…"
    if ready:
        found = ", ".join(f"{model.digest[:19]}…" for model in ready)
        return f"{expected} is not in the models folder: the one there has {found}"
    if encoders:
        return f"{expected} has failed: {encoders[0].reason}"
    return f"{expected} is missing: add its folder to the models folder"


def model_folders(folder: Path) -> Iterator[Path]:
    """Yield every ``<name>/<version>`` below `folder`, except for names with a leading dot.

    Folders that are being written have such names.
    """
    for name in sorted(folder.iterdir() if folder.is_dir() else []):
        if not name.is_dir() or name.name.startswith("."):
            continue
        try:
            versions = list(name.iterdir())
        except OSError as error:  # For example lost+found of a mounted volume.
            log.warning("%s is ignored: %s", name, error.strerror)
            continue
        for version in sorted(versions, key=lambda path: version_key(path.name)):
            if version.is_dir() and not version.name.startswith("."):
                yield version


def fingerprint(folder: Path) -> Fingerprint:
    """Return the state of a model folder: the manifest's content and the other files' stat."""
    try:
        with open_regular(folder / MANIFEST_FILE) as file:
            text = file.read()
        marks: list[tuple[str, object]] = [(MANIFEST_FILE, hashlib.sha256(text).digest())]
        graphs = [path for kind in ("*.onnx", "*.onnx.data") for path in folder.glob(kind)]
        others = (GOLDEN_FILE, GOLDEN_SAMPLES_FILE, VOCABULARY_FILE, TOKENIZER_FILE)
        for path in sorted([*graphs, *(folder / name for name in others)]):
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
    """Load one model folder. Any error becomes the reason of the entry.

    A model that does not fit into the `budget` is loaded when it is run.
    """
    name, version = folder.parent.name, folder.name
    manifest = None
    # Taken before loading, so that a change during loading is detected by the next reload.
    state = fingerprint(folder)
    try:
        manifest = read_manifest(folder)
        if (manifest.name, manifest.version) != (name, version):
            raise ManifestError(
                f"{MANIFEST_FILE} names {manifest.name}@{manifest.version}, "
                f"but the folder is {name}/{version}"
            )
        _check_token_files(folder, manifest)
        if budget is None:
            model = _load(folder, manifest, provider, plan)
            _assert_golden(model)
        else:
            model = _load_within(budget, folder, manifest, provider, plan)
    except Exception as error:  # noqa: BLE001 - a broken model folder must not affect other models
        reason = problem_of(error)
    else:
        where = f"is ready on {provider}" if model.loaded else "will be loaded on demand"
        log.info("%s@%s %s", name, version, where)
        return Entry(name, version, State.READY, manifest, model, None, model.golden, state)
    log.error("%s@%s failed: %s", name, version, reason)
    return Entry(name, version, State.FAILED, manifest, reason=reason, fingerprint=state)


def _check_token_files(folder: Path, manifest: Manifest) -> None:
    """Read the vocabulary or the tokenizer of a model. Raises ManifestError."""
    if manifest.text is not None:
        read_vocabulary(folder, manifest.text)
    if manifest.text_encoder is not None:
        read_tokenizer(folder, manifest.text_encoder)


def _load(
    folder: Path, manifest: Manifest, provider: Provider, plan: ExecutionPlan | Planner
) -> Model:
    if isinstance(plan, Planner):
        return plan.load(folder, manifest.digest)
    return Model(folder, provider, plan)


def _load_within(
    budget: MemoryBudget,
    folder: Path,
    manifest: Manifest,
    provider: Provider,
    plan: ExecutionPlan | Planner,
) -> Model:
    """Return a model that the budget may unload. It is loaded only if it fits now."""
    initial_plan = plan.plan_without_loading(manifest.digest) if isinstance(plan, Planner) else plan
    model = Model(folder, provider, initial_plan, budget, _assert_golden)
    if budget.has_room_for(model):
        with budget.loading(model):
            loaded = _load(folder, manifest, provider, plan)
            _assert_golden(loaded)
            model.take_over(loaded)
            del loaded
    return model


def _assert_golden(model: Model) -> None:
    """Compare with the golden images. Raises GoldenMismatch."""
    model.golden = check_golden(model, model.folder)
    if model.golden is GoldenMatch.NEAR:
        golden_log.info(
            "%s: its images are close to the golden images, but not equal", model.manifest.name
        )


def _current(entry: Entry) -> Entry:
    model = entry.model
    if model is None or (model.problem is None and model.golden is entry.golden):
        return entry
    if model.problem is None:
        return replace(entry, golden=model.golden)
    return replace(entry, state=State.FAILED, model=None, reason=model.problem)


def _listable(folder: Path) -> bool:
    """Return whether a folder can be listed; a missing folder counts as empty."""
    try:
        list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return True


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key for versions: 2 before 10, numbers before words."""
    parts = re.findall(r"\d+|[a-z]+", version)
    return tuple((0, int(p)) if p.isdigit() else (1, p) for p in parts)


def find_model(models: Path, model_id: str, planner: Planner) -> Model:
    """Load ``name@version``, or the newest loadable version of ``name``. Raises ModelUnusable."""
    model = _find_loadable(models, model_id, planner)
    if (spec := model.manifest.text_input) is not None:
        # Reported before the work begins.
        find_encoder(models, spec, planner.provider)
    return model


def find_encoder(models: Path, spec: TextInput, provider: Provider) -> Model:
    """Load the text encoder that a model needs. Raises ModelUnusable."""
    named = [path for path in model_folders(models) if path.parent.name == spec.encoder]
    entries = [load_entry(path, provider, plan_for(provider)) for path in named]
    if (reason := _encoder_problem(spec, entries)) is not None:
        raise ModelUnusable(f"the model cannot be used: {reason}")
    return next(
        entry.model
        for entry in entries
        if entry.model is not None and entry.model.digest == spec.encoder_digest
    )


def _find_loadable(models: Path, model_id: str, planner: Planner) -> Model:
    name, _, version = model_id.partition("@")
    if not models.is_dir():
        raise ModelUnusable(f"--models: no such folder: {models}")
    folders = list(model_folders(models))
    named = [path for path in folders if path.parent.name == name]
    if not named:
        available = ", ".join(sorted({path.parent.name for path in folders})) or "none"
        raise ModelUnusable(f"no model {name!r} in {models}; available: {available}")
    candidates = [path for path in named if version in ("", path.name)]
    if not candidates:
        available = ", ".join(path.name for path in named)
        raise ModelUnusable(f"no version {version!r} of {name!r}; available: {available}")
    reason = None
    for path in sorted(candidates, key=lambda path: version_key(path.name), reverse=True):
        entry = load_entry(path, planner.provider, planner)
        if entry.model is not None:
            return entry.model
        reason = reason or entry.reason
    raise ModelUnusable(f"{model_id} cannot be used: {reason}")
