"""What `ganymede pull` does with the files of a model: it imports them, or adds model folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import typer

from service.runtime.errors import UserError

if TYPE_CHECKING:
    from service.pull.cache import Fetching, LocalFile, RemoteFile
    from service.pull.catalog import CatalogModel
    from service.pull.locations import Location


@dataclass
class PullRequest:
    """What to do with the files of a model."""

    models: Path
    name: str | None
    version: str | None
    license: str | None
    # The checkpoint in an archive.
    member: str | None
    # Options of `ganymede import`: those of the user, and those of the catalog.
    import_options: tuple[str, ...]
    fetching: Fetching
    catalog_options: tuple[str, ...] = ()

    def pull_entry(self, entry: CatalogModel) -> list[Path]:
        """Fetch and import a model of the catalog, and return its folder."""
        from service.pull.cache import fetch

        self.name = self.name or entry.name
        self._assert_target()
        self.license = self.license or entry.license.name
        self.catalog_options = entry.import_options
        files = [file.remote() for file in entry.files]
        self._assert_importable(files[0])
        return self._add(fetch(files, self.fetching))

    def pull_address(self, location: Location) -> list[Path]:
        """Fetch and import a file or a folder, and return the model folders."""
        from service.pull.cache import RemoteFile, fetch

        self._assert_target()
        if _is_folder(location):
            return self._add_folder(location)
        self._assert_importable(RemoteFile(location))
        files = [RemoteFile(location)]
        if location.filename.endswith(".param"):  # ncnn keeps the weights in a second file.
            files.append(RemoteFile(location.sibling(".bin")))
        local = fetch(files, self.fetching)
        if location.checksum is None:
            typer.echo(f"not verified, because the address has no #sha256={local[0].sha256}")
        for each in local[1:]:
            # Its address, and therefore a checksum, cannot be given.
            typer.echo(f"{each.path.name} is not verified; its sha256 is {each.sha256}")
        return self._add(local)

    def _add(self, files: list[LocalFile]) -> list[Path]:
        """Add the models in files of the cache to the repository."""
        from service.pull.archives import member_names
        from service.pull.model_folders import contains_models
        from service.runtime.formatting import format_size

        file = files[0].path
        size = format_size(sum(each.size for each in files))
        state = "in the cache" if all(each.was_cached for each in files) else "downloaded"
        typer.echo(f"{file.name}: {size}, {state}, sha256 {files[0].sha256}")
        names = member_names(file)
        if contains_models(names):
            return self._install(lambda folder: self._extract(file, folder))
        if names and not any(PurePosixPath(each).name == "data.pkl" for each in names):
            return self._import_member(file, names)
        return [self._import(file, {each.path.name: each.sha256 for each in files})]

    def _add_folder(self, location: Location) -> list[Path]:
        from service.pull.repositories import copy_folder

        return self._install(lambda folder: copy_folder(location, folder, self.fetching))

    def _extract(self, file: Path, folder: Path) -> None:
        from service.pull.archives import extract

        extract(file, folder, self.fetching.max_bytes)

    def _install(self, unpack: Callable[[Path], None]) -> list[Path]:
        """Add model folders as they are."""
        import tempfile

        from service.pull.model_folders import find_models, install

        with tempfile.TemporaryDirectory(prefix="ganymede-") as temporary:
            unpack(Path(temporary))
            sources = list(find_models(Path(temporary)))
            if not sources:
                raise UserError("there are no model folders (no model.json)")
            if len(sources) > 1 and (self.name or self.version):
                raise UserError(
                    f"--name and --version are for one model, and there are {len(sources)} model "
                    "folders"
                )
            folders = []
            for source in sources:
                with self._adding():
                    installed = install(source, self.models, self.name, self.version)
                typer.echo(
                    f"wrote {installed.folder}"
                    if installed.is_new
                    else f"{installed.folder} is the same model already"
                )
                folders.append(installed.folder)
        typer.echo(f"next: ganymede serve --models {self.models}")
        return folders

    def _import_member(self, archive: Path, names: list[str]) -> list[Path]:
        """Import the checkpoint of an archive."""
        import tempfile

        from service.pull.locations import MODEL_SUFFIXES
        from service.runtime.models.manifest import file_sha256

        found = [name for name in names if name.endswith(MODEL_SUFFIXES)]
        chosen = [self.member] if self.member in names else found
        if len(chosen) != 1 or (self.member and self.member not in names):
            listed = ", ".join(found[:20]) or "none that looks like a checkpoint"
            raise UserError(f"{archive.name}: expected --member with one of its files: {listed}")
        self.name = self.name or _slug_of(chosen[0])
        with tempfile.TemporaryDirectory(prefix="ganymede-") as temporary:
            self._extract(archive, Path(temporary))
            file = Path(temporary) / chosen[0]
            return [self._import(file, {file.name: file_sha256(file)})]

    def _import(self, file: Path, digests: dict[str, str]) -> Path:
        """Import a checkpoint with the importer of `ganymede import`."""
        with self._adding():
            return self._import_as(self.name or _slug_of(file.name), file, digests)

    def _import_as(self, name: str, file: Path, digests: dict[str, str]) -> Path:
        from typer.main import get_command

        from service.cli.main import app
        from service.runtime.models.folders import new_version_folder

        if self.version is None and not self.import_options:
            existing = _imported_from(self.models, name, digests)
            if existing is not None:
                typer.echo(
                    f"{existing} was imported from the same file already; next: ganymede serve "
                    f"--models {self.models}"
                )
                return existing
        folder = new_version_folder(self.models, name, self.version)
        options = ["--name", name, "--models", str(self.models), "--version", folder.name]
        if self.license is not None:
            options += ["--license", self.license]
        get_command(app).main(
            ["import", str(file), *options, *self.catalog_options, *self.import_options],
            prog_name="ganymede",
            standalone_mode=False,
        )
        return folder

    def _adding(self) -> AbstractContextManager[None]:
        """Exclude other pulls to the same repository, which could choose the same version."""
        from service.pull.cache import locked
        from service.runtime.files import cache_folder

        key = hashlib.sha256(os.fsencode(self.models.absolute())).hexdigest()[:16]
        return locked(
            cache_folder("downloads") / f"{key}.models.lock",
            self.fetching.report,
            f"adds a model to {self.models}",
        )

    def _assert_target(self) -> None:
        """Raise ModelFolderError before the download if the name or the version cannot be used."""
        from service.runtime.models.folders import new_version_folder

        new_version_folder(self.models, self.name or "model", self.version)

    def _assert_importable(self, file: RemoteFile) -> None:
        """Raise UserError before the download if the importer is not installed."""
        from service.pull.locations import ARCHIVES

        if file.path.endswith(ARCHIVES) or find_spec("torch") is not None:
            return
        raise UserError(
            f"{file.path} is a checkpoint, whose import needs PyTorch: pip install "
            "'ganymede[train]'; archives of model folders need nothing more"
        )


def _imported_from(models: Path, name: str, digests: dict[str, str]) -> Path | None:
    """Return the version of a model that was imported from these files, or None.

    `digests` are the SHA-256 of the files by name. Networks of ncnn can have the same weights, so
    that the name must be the same if there are several files.
    """
    from service.runtime.models.folders import versions_of
    from service.runtime.models.manifest import ManifestError, read_manifest

    for folder in versions_of(models, name):
        try:
            provenance = read_manifest(folder).provenance
        except ManifestError:
            continue
        if provenance.kind != "import":
            continue
        if len(digests) == 1:
            same = provenance.source_sha256 in digests.values()
        else:
            same = digests.get(provenance.source_file) == provenance.source_sha256
        if same:
            return folder
    return None


def _slug_of(file: str) -> str:
    from service.runtime.models.folders import slug

    return slug(PurePosixPath(file).stem)


def _is_folder(location: Location) -> bool:
    """Return whether an address is a folder of a store: it does not end like a file."""
    from service.pull.locations import MODEL_SUFFIXES, OBJECT_STORES

    return location.scheme in ("hf", *OBJECT_STORES) and not location.address.endswith(
        MODEL_SUFFIXES
    )
