"""Changes a model folder that exists: its additions, never the model itself.

A changed folder takes the place of the old one as a whole, and only if a server would load it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from service.runtime.errors import UserError, first_line
from service.runtime.files import CannotWrite
from service.runtime.latent.directions import load_directions
from service.runtime.models.golden import check_golden
from service.runtime.models.manifest import MANIFEST_FILE, Manifest, file_sha256, read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.additions import DIRECTIONS_FILE, TRAINABLE_FILE
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.export.additions.card import CARD_FILE, with_additions

_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=1)
_ADDITIONS = ("directions", "encoder", "discriminator", "trainable")
# From linux/fs.h and sys/fcntl.h: renameat2 exchanges two paths.
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


class AdditionError(UserError):
    """A change of a model folder would leave a model that is broken or not the same."""

    exit_code: ClassVar[int] = 1


def update_model_folder(folder: Path, change: Callable[[Path, Manifest], Manifest]) -> Manifest:
    """Change the additions of the model in `folder`, and return its new manifest.

    `change` is called with a copy of the folder, in which it writes files, and with the manifest of
    the copy, and returns the new manifest. It should only write what was computed before, because
    other updates of the folder wait for it. The manifest and the additions in the model card are
    written afterwards. Files of additions that the new manifest no longer names are deleted.

    The folder is replaced atomically, and remains unchanged if anything fails. Raises AdditionError
    if something other than the additions changed, or if the result cannot be loaded or does not
    reproduce its golden images; ManifestError if `folder` has no valid manifest; CannotWrite; and
    the errors of `change`.
    """
    with _locked(folder) as place:
        before = read_manifest(place)
        try:
            part = Path(tempfile.mkdtemp(prefix=".updating-", dir=place.parent))
            try:
                # Copies, not links: a file of an addition that is opened for writing in place must
                # not change in the original.
                shutil.copytree(place, part, symlinks=False, dirs_exist_ok=True)
                after = change(part, before)
                _check_same_model(place, part, before, after)
                (part / MANIFEST_FILE).write_text(after.to_json())
                _write_card(part, after)
                for name in _files(before) - _files(after):
                    (part / name).unlink(missing_ok=True)
                _check_loads(part)
                shutil.copystat(place, part)
                _exchange(part, place)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        except OSError as error:
            raise CannotWrite(folder, error) from error
    return after


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Context manager that yields the real path of `folder`, while no other update changes it."""
    place = folder.resolve()
    while True:
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            # The error for users is that of the missing manifest.
            read_manifest(folder)
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another update may have put a new folder in this place meanwhile.
            if os.path.samestat(os.fstat(descriptor), place.stat()):
                yield place
                return
        finally:
            os.close(descriptor)


def _check_same_model(place: Path, part: Path, before: Manifest, after: Manifest) -> None:
    """Raise AdditionError unless only additions differ, in the manifests and in the files."""
    changed = [
        name
        for name in Manifest.model_fields
        if name not in (*_ADDITIONS, "graphs") and getattr(before, name) != getattr(after, name)
    ]
    if changed or before.digest != after.digest:
        names = ", ".join(changed) or "the graphs"
        raise AdditionError(f"an update of {place} must not change {names} of the model")
    changeable = {MANIFEST_FILE, CARD_FILE} | _files(before) | _files(after)
    for path in (path for path in place.rglob("*") if path.is_file()):
        name = str(path.relative_to(place))
        if name in changeable:
            continue
        if not (part / name).is_file() or file_sha256(part / name) != file_sha256(path):
            raise AdditionError(f"an update of {place} must not change {name}")


def _files(manifest: Manifest) -> set[str]:
    """Return the names of the files of all additions."""
    names = {file for role in manifest.added_roles for file, _ in manifest.graphs[role].files}
    if manifest.directions is not None:
        names.add(DIRECTIONS_FILE)
        names |= {item.strip for item in manifest.directions.items if item.strip}
    if manifest.trainable is not None:
        names.add(TRAINABLE_FILE)
    return names


def _check_loads(folder: Path) -> None:
    """Raise AdditionError unless the model loads with all additions and has the same images."""
    try:
        # What is served is what the file says, after validation.
        manifest = read_manifest(folder)
        model = Model(folder, Provider.CPU, _PLAN)
        check_golden(model, folder)
        load_directions(folder, manifest)
    except Exception as error:
        raise AdditionError(f"the updated model cannot be used: {first_line(error)}") from error
    for name in sorted(_files(manifest)):
        if not (folder / name).is_file():
            raise AdditionError(f"the manifest names {name}, which was not written")
    trainable = manifest.trainable
    if trainable is not None and file_sha256(folder / TRAINABLE_FILE) != trainable.sha256:
        raise AdditionError(f"{TRAINABLE_FILE} differs from the manifest")


def _write_card(folder: Path, manifest: Manifest) -> None:
    """Write the additions into the card of a model, if it has one."""
    card = folder / CARD_FILE
    if card.is_file():
        card.write_text(with_additions(card.read_text(), manifest))


def _exchange(new: Path, place: Path) -> None:
    """Exchange two folders. Afterwards `new` is the old folder. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is not None:
        names = os.fsencode(new), os.fsencode(place)
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    # Not every file system and kernel can exchange folders. The old one is then missing for the
    # time of one system call.
    old = Path(tempfile.mkdtemp(prefix=".updating-", dir=place.parent))
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise
    old.rename(new)
