"""Splits and classes of image files, from their paths alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from training.data.sources.source import DataError, MissingSplit

# Folder names of each split. `test` falls back to the validation images.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
    "val": ("val", "valid", "validation"),
}
SPLIT_NAMES = frozenset(name for names in SPLIT_FOLDERS.values() for name in names)


def is_split_name(name: str) -> bool:
    """Return whether a folder of this name can be a split; case does not matter."""
    return name.casefold() in SPLIT_NAMES


def split_of_file(name: str) -> str | None:
    """Return the split that the name of a data file begins with, such as ``train-00000.tar``."""
    word = re.match(r"[^\W\d_]+", PurePosixPath(name).name)
    return word[0] if word is not None and is_split_name(word[0]) else None


def splits_of_files(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the split of each data file by its name, and notes; no splits if one has none."""
    splits = [split_of_file(name) for name in names]
    found = [split for split in splits if split is not None]
    if len(found) == len(splits):
        return found, []
    if not found:
        return [], []
    named = names[next(i for i, split in enumerate(splits) if split is not None)]
    other = names[splits.index(None)]
    return [], [
        f"{named} is read together with {other}, because not all files have the name of a split"
    ]


def find_split(split: str | None, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is the split `split`, or None. The default is "train"."""
    split = split or "train"
    # The exact name first, then the other names of the split; case does not matter.
    available = sorted(names)
    if split in available:
        return split
    by_name = {name.casefold(): name for name in available}
    wanted = (split.casefold(), *SPLIT_FOLDERS.get(split.casefold(), ()))
    return next((by_name[name] for name in wanted if name in by_name), None)


@dataclass(frozen=True)
class Layout:
    """The selected paths, in order, and the class of each.

    Attributes:
        rows: indices of the selected paths among all paths.
        class_names: names of the class folders; empty without classes.
        labels: index into `class_names` of each selected path; None without classes.
        splits: number of images in each split folder; empty without splits.
        ignored: paths that the options exclude, with the reason.
        notes: what was decided, and may surprise.
    """

    rows: Sequence[int]
    class_names: Sequence[str] = ()
    labels: Sequence[int] | None = None
    splits: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def layout_of(
    location: str,
    paths: Sequence[str],
    split: str | None,
    classes: Sequence[str] | None = None,
) -> Layout:
    """Find the splits and the class folders in the paths of images, and select a split.

    Top folders are splits if every one of them is the name of a split; otherwise they are classes,
    also those named `train` or `test`. A single folder is a split only if no image lies beside it.
    The options decide explicitly: `split` is the folder of a split, whatever lies beside it, and
    `classes` are the class folders (an empty sequence for none). With `split` None the training
    split is selected. Raises MissingSplit if there are splits, but not this one.
    """
    parts = [PurePosixPath(path).parts for path in paths]
    depth = _root_depth(parts)
    tops = {part[depth] for part in parts if len(part) > depth + 1}
    are_classes = bool(tops) and tops <= set(classes or ())
    named = find_split(split, tops)
    are_splits = _are_splits(parts, depth, tops) or (split is not None and named is not None)
    splits: dict[str, int] = {}
    ignored: dict[str, str] = {}
    notes: list[str] = []
    rows = list(range(len(paths)))
    if are_splits and not are_classes:
        names = {name for name in tops if is_split_name(name) or name == named}
        for part in parts:
            if len(part) > depth + 1 and part[depth] in names:
                splits[part[depth]] = splits.get(part[depth], 0) + 1
        if named is None:
            raise MissingSplit(location, split, splits)
        rows = [
            row for row, part in enumerate(parts) if len(part) > depth + 1 and part[depth] == named
        ]
        ignored = {
            path: "lies beside the split folders"
            for path, part in zip(paths, parts, strict=True)
            if len(part) <= depth + 1 or part[depth] not in names
        }
    elif named is not None and not are_classes:
        others = listed(sorted(tops - {named}))
        reason = (
            f"because of the other folders: {others}"
            if others
            else "because of the images beside it"
        )
        notes.append(
            f"the folder {named} is a class, {reason}; set data.split={named} if it is a split"
        )
    if splits:
        depth += 1
    elif inner := {part[depth + 1] for part in parts if len(part) > depth + 2}:
        nested = all(len(part) > depth + 2 for part in parts) and all(map(is_split_name, inner))
        if nested and len(tops) > 1:
            notes.append(
                f"the folders {listed(sorted(inner))} in the class folders are no splits and are "
                "read together; put the class folders into them to make them splits"
            )
    # The classes of the training split come first, so that a class has the same number in all.
    training = find_split("train", splits)
    common = {
        part[depth] for part in parts if len(part) > depth + 1 and part[depth - 1] == training
    }
    layout = _with_classes(location, paths, parts, rows, depth, classes, splits, notes, common)
    return replace(layout, ignored={**ignored, **layout.ignored})


def _with_classes(
    location: str,
    paths: Sequence[str],
    parts: Sequence[tuple[str, ...]],
    rows: list[int],
    depth: int,
    classes: Sequence[str] | None,
    splits: Mapping[str, int],
    notes: list[str],
    common: set[str],
) -> Layout:
    folder = {row: parts[row][depth] if len(parts[row]) > depth + 1 else None for row in rows}
    selected = {name for name in folder.values() if name is not None}
    found = [*sorted(common), *sorted(selected - common)]
    if classes is not None and not classes:
        return Layout(rows, splits=splits, notes=notes)
    if classes:
        if missing := [name for name in classes if name not in found]:
            raise DataError(
                f"data.classes: {location} has no class folder {missing[0]!r}; "
                f"available: {', '.join(found) or 'none'}"
            )
        ignored = {paths[row]: "is in none of data.classes" for row in rows}
        rows = [row for row in rows if folder[row] in classes]
        for row in rows:
            del ignored[paths[row]]
        index = {name: i for i, name in enumerate(classes)}
        labels = [index[str(folder[row])] for row in rows]
        return Layout(rows, list(classes), labels, splits, ignored, notes)
    if not found:
        return Layout(rows, splits=splits, notes=notes)
    stray = [paths[row] for row in rows if folder[row] is None]
    if stray:
        more = f" and {len(stray) - 1} more" if len(stray) > 1 else ""
        notes.append(
            f"no classes, because {stray[0]}{more} lies beside the folders "
            f"{listed(found)}; move it, or set data.classes"
        )
        return Layout(rows, splits=splits, notes=notes)
    index = {name: i for i, name in enumerate(found)}
    return Layout(rows, found, [index[str(folder[row])] for row in rows], splits, {}, notes)


def _root_depth(parts: Sequence[tuple[str, ...]]) -> int:
    """Return the number of leading folders that contain everything, such as an archive's root.

    A folder that contains images directly is a class, and a folder that is named like a split is a
    split; neither is skipped.
    """
    depth = 0
    while parts and all(len(part) > depth + 2 for part in parts):
        names = {part[depth] for part in parts}
        if len(names) > 1 or any(map(is_split_name, names)):
            break
        depth += 1
    return depth


def _are_splits(parts: Sequence[tuple[str, ...]], depth: int, tops: set[str]) -> bool:
    # Of images beside a single folder, this folder is rather a part of them than a split.
    in_folders = all(len(part) > depth + 1 for part in parts)
    return all(map(is_split_name, tops)) and (len(tops) > 1 or (bool(tops) and in_folders))


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first names in a line, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
