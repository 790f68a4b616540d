"""Model folders that are fetched ready to serve: verified, and added to a model repository."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from service.runtime.errors import UserError
from service.runtime.files import CannotWrite
from service.runtime.models.folders import new_folder, new_version_folder, versions_of
from service.runtime.models.golden import check_golden
from service.runtime.models.manifest import MANIFEST_FILE, read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for


@dataclass(frozen=True)
class Installed:
    """A model in a repository; `is_new` is false if it was there before."""

    folder: Path
    is_new: bool


def contains_models(names: list[str]) -> bool:
    """Return whether these files of an archive are model folders."""
    return any(PurePosixPath(name).name == MANIFEST_FILE for name in names)


def find_models(root: Path) -> Iterator[Path]:
    """Yield the model folders in an extracted archive."""
    for manifest in sorted(root.rglob(MANIFEST_FILE)):
        yield manifest.parent


def install(
    source: Path, models: Path, name: str | None = None, version: str | None = None
) -> Installed:
    """Copy a model folder to ``models/name/version`` after loading it as the service does.

    The default name is the one of the manifest, and the default version the next free number. A
    model that is there already, with the same digest, is not copied again. Raises ManifestError,
    ModelFolderError, CannotWrite, and UserError if the model cannot be served.
    """
    manifest = read_manifest(source)
    name = name or manifest.name
    if version is None:
        for existing in versions_of(models, name):
            try:
                same = read_manifest(existing).digest == manifest.digest
            except UserError:  # A damaged model must not prevent the installation of another.
                continue
            if same:
                return Installed(existing, is_new=False)
    folder = new_version_folder(models, name, version)
    with new_folder(folder) as part:
        for file in sorted(source.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                shutil.copyfile(file, part / file.name)
        renamed = manifest.model_copy(update={"name": name, "version": folder.name})
        (part / MANIFEST_FILE).write_text(renamed.to_json())
        _assert_servable(part, source)
    return Installed(folder, is_new=True)


def _assert_servable(folder: Path, source: Path) -> None:
    """Load a model and compare it with its golden images. Raises UserError."""
    try:
        check_golden(Model(folder, Provider.CPU, plan_for(Provider.CPU)), folder)
    except (UserError, CannotWrite):
        raise
    except Exception as error:
        # ONNX Runtime raises many kinds of errors for graphs that it cannot load.
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{source.name}: the model cannot be served: {reason}") from error
