"""The directions in a model folder: adds, renames, reverses and removes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from service.runtime.latent.directions import load_directions, save_directions
from service.runtime.models.manifest import Manifest, file_sha256
from service.runtime.models.parts.additions import (
    DIRECTION_NAME,
    DIRECTIONS_FILE,
    Direction,
    Directions,
)
from training.export.additions import update_model_folder
from training.latent.directions.errors import DirectionsError
from training.latent.directions.latents import Floats
from training.latent.directions.strips import reversed_strip

MAX_DIRECTIONS = 1000


@dataclass(frozen=True)
class FoundDirection:
    """A direction that is not yet in a model folder; `strip` is a file that is copied into it."""

    entry: Direction
    vector: Floats
    strip: bytes


def strip_file(name: str) -> str:
    """Return the name of the strip of a direction in a model folder."""
    return f"direction-{name}.webp"


def check_name(name: str) -> None:
    """Raise DirectionsError if a direction cannot have this name."""
    if len(name) > 64 or not DIRECTION_NAME.fullmatch(name):
        raise DirectionsError(
            f"{name[:80]!r} cannot be the name of a direction: use a-z, 0-9, '.', '_' and '-', "
            "and not only digits"
        )


def add_directions(folder: Path, found: Sequence[FoundDirection]) -> Manifest:
    """Add directions to a model folder; those of the same name are replaced, others are kept.

    Raises DirectionsError if there are too many, and the errors of `update_model_folder`.
    """

    def change(part: Path, manifest: Manifest) -> Manifest:
        items, vectors = _stored(part, manifest)
        for each in found:
            items[each.entry.name] = each.entry
            vectors[each.entry.name] = each.vector
            if each.entry.strip is not None:
                (part / each.entry.strip).write_bytes(each.strip)
        return _with_directions(part, manifest, items, vectors)

    return update_model_folder(folder, change)


def edit_directions(
    folder: Path,
    rename: Mapping[str, str],
    reverse: Sequence[str],
    drop: Sequence[str],
) -> Manifest:
    """Rename, reverse and remove directions of a model folder, in this order.

    `rename` maps old to new names. Names in `drop` may be patterns with ``*`` and ``?``. The
    positive side of a reversed direction becomes the negative one. Raises DirectionsError if a
    direction does not exist or a new name is taken, and the errors of `update_model_folder`.
    """
    for name in rename.values():
        check_name(name)

    def change(part: Path, manifest: Manifest) -> Manifest:
        items, vectors = _stored(part, manifest)
        _check_known(rename, items)
        after = [rename.get(name, name) for name in items]
        if taken := {name for name in after if after.count(name) > 1}:
            raise DirectionsError(f"--rename: there would be two directions {min(taken)!r}")
        vectors = {rename.get(name, name): vector for name, vector in vectors.items()}
        # All strips are read before any is written: two directions may exchange their names.
        strips = {
            name: (part / item.strip).read_bytes()
            for name, item in items.items()
            if item.strip and name in rename
        }
        renamed: dict[str, Direction] = {}
        for name, item in items.items():
            new = rename.get(name, name)
            strip = item.strip
            if name in strips:
                strip = strip_file(new)
                (part / strip).write_bytes(strips[name])
            renamed[new] = item.model_copy(update={"name": new, "strip": strip})
        _check_known(reverse, renamed)
        for name in reverse:
            vectors[name] = -vectors[name]
            if (strip := renamed[name].strip) is not None:
                (part / strip).write_bytes(reversed_strip((part / strip).read_bytes()))
        for pattern in drop:
            names = [name for name in renamed if fnmatchcase(name, pattern)]
            if not names:
                _check_known([pattern], renamed)
            for name in names:
                del renamed[name], vectors[name]
        return _with_directions(part, manifest, renamed, vectors)

    return update_model_folder(folder, change)


def _stored(folder: Path, manifest: Manifest) -> tuple[dict[str, Direction], dict[str, Floats]]:
    """Return the directions in a folder, by name: their entries and their vectors."""
    items = manifest.directions.items if manifest.directions else ()
    return {item.name: item for item in items}, load_directions(folder, manifest)


def _with_directions(
    folder: Path,
    manifest: Manifest,
    items: Mapping[str, Direction],
    vectors: Mapping[str, Floats],
) -> Manifest:
    """Write the vectors and return the manifest with these directions."""
    if not items:
        return manifest.model_copy(update={"directions": None})
    if len(items) > MAX_DIRECTIONS:
        raise DirectionsError(f"a model can have {MAX_DIRECTIONS:,} directions, not {len(items):,}")
    path = folder / DIRECTIONS_FILE
    save_directions(path, {name: vectors[name] for name in items})
    directions = Directions(sha256=file_sha256(path), items=tuple(items.values()))
    return manifest.model_copy(update={"directions": directions})


def _check_known(names: Iterable[str], known: Collection[str]) -> None:
    """Raise DirectionsError if one of `names` is not the name of a direction."""
    for name in names:
        if name not in known:
            available = ", ".join(known) or "none"
            raise DirectionsError(f"no direction {name[:80]!r}; available: {available}")
