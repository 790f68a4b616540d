"""The report on a data set: what is in it, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.data.findings import (
    class_counts,
    empty_class_lines,
    ignored_lines,
    scaled_lines,
    skipped_lines,
)
from training.data.inspection.duplicates import exact_groups, near_groups
from training.data.inspection.scan import Scan, ScannedImage
from training.data.sources.source import DataError, ImageSource

# Groups of duplicates, and sizes, that are shown; further ones are counted.
_MAX_SHOWN = 5


@dataclass(frozen=True)
class DataReport:
    """What `ganymede data` says about a data set.

    Attributes:
        location: the path as the user gave it.
        class_names: the classes; empty without classes.
        counts: number of readable images by split and class. The split is "" in data without
            splits; the class is "" in data without classes.
        exact, near: groups of duplicates. Near duplicates do not include exact ones.
        ignored: files that were not read, with the reason.
        notes: what was decided about splits and classes.
    """

    location: str
    class_names: Sequence[str]
    counts: Mapping[str, Mapping[str, int]]
    scan: Scan
    exact: Sequence[Sequence[ScannedImage]]
    near: Sequence[Sequence[ScannedImage]]
    ignored: Mapping[str, str]
    notes: Sequence[str]

    @property
    def has_splits(self) -> bool:
        return "" not in self.counts

    def summary(self) -> str:
        """Return the numbers of images, classes and splits in one line."""
        count = len(self.scan.images)
        text = f"{self.location}: {count:,} image{'s' * (count != 1)}"
        if self.class_names:
            text += f" in {len(self.class_names):,} class{'es' * (len(self.class_names) != 1)}"
        if self.has_splits:
            text += f", {len(self.counts)} split{'s' * (len(self.counts) != 1)}"
        return text

    def properties(self) -> list[tuple[str, str]]:
        """Return what is the case for how many images: sizes, modes, formats, frames."""
        images = self.scan.images
        sizes = Counter((image.width, image.height) for image in images)
        rows = [("size", _shares(sizes, lambda size: f"{size[0]}×{size[1]}"))]
        if len(sizes) > 1:
            low = min(images, key=lambda image: min(image.width, image.height))
            high = max(images, key=lambda image: image.width * image.height)
            extremes = [f"{each.width}×{each.height} ({image_name(each)})" for each in (low, high)]
            rows.append(("smallest, largest", ", ".join(extremes)))
        rows.append(("mode", _shares(Counter(image.mode for image in images))))
        formats = Counter(image.format for image in images if image.format)
        if formats:
            rows.append(("format", _shares(formats)))
        return rows

    def warnings(self) -> list[str]:
        """Return what is wrong or was left out, one line each."""
        images = self.scan.images
        lines = list(self.notes)
        if self.class_names:
            for split, counts in self.counts.items():
                lines += empty_class_lines(counts, split)
        frames = [image for image in images if image.frames > 1]
        if frames:
            lines.append(
                f"{_first(frames)} {_has(frames)} several frames or pages, and only the first one "
                "is read"
            )
        lines += scaled_lines([image_name(image) for image in images if image.scaled])
        uniform = [image for image in images if image.appearance.hash is None]
        if uniform:
            lines.append(f"{_first(uniform)} {_has(uniform)} almost a single color")
        lines += _group_lines("exact duplicates", self.exact)
        lines += _group_lines("near duplicates", self.near)
        across = [group for group in (*self.exact, *self.near) if _splits(group) > 1]
        lines += _group_lines("the same image in several splits", across)
        contradicting = [group for group in self.exact if _labels(group) > 1]
        lines += _group_lines("the same image in several classes", contradicting)
        failed = {**self.scan.corrupt, **self.scan.unreadable}
        lines += skipped_lines([f"{_named(*key)}: {reason}" for key, reason in failed.items()])
        return [*lines, *ignored_lines(self.ignored)]

    def to_json(self) -> dict[str, Any]:
        """Return the whole report, with every name."""
        images = self.scan.images
        across = [group for group in (*self.exact, *self.near) if _splits(group) > 1]
        contradicting = [group for group in self.exact if _labels(group) > 1]
        return {
            "path": self.location,
            "images": len(images),
            "classes": list(self.class_names),
            "splits": {
                split or "all": {
                    "images": sum(counts.values()),
                    "by_class": dict(counts) if self.class_names else {},
                }
                for split, counts in self.counts.items()
            },
            "has_splits": self.has_splits,
            "sizes": [
                {"width": width, "height": height, "images": count}
                for (width, height), count in Counter(
                    (image.width, image.height) for image in images
                ).most_common()
            ],
            "modes": dict(Counter(image.mode for image in images).most_common()),
            "formats": dict(
                Counter(image.format for image in images if image.format).most_common()
            ),
            "several_frames": [image_name(image) for image in images if image.frames > 1],
            "scaled": [image_name(image) for image in images if image.scaled],
            "single_color": [
                image_name(image) for image in images if image.appearance.hash is None
            ],
            "exact_duplicates": _names(self.exact),
            "near_duplicates": _names(self.near),
            "duplicates_across_splits": _names(across),
            "duplicates_across_classes": _names(contradicting),
            "corrupt": {_named(*key): reason for key, reason in self.scan.corrupt.items()},
            "unreadable": {_named(*key): reason for key, reason in self.scan.unreadable.items()},
            "ignored": dict(self.ignored),
            "notes": list(self.notes),
            "warnings": self.warnings(),
        }


def report_on(location: str, sources: Mapping[str, ImageSource], scan: Scan) -> DataReport:
    """Build the report on the splits `sources` and their scanned images.

    Raises DataError if no image can be read.
    """
    labeled = [source for source in sources.values() if source.labels is not None]
    # The splits may have different classes beside those of the training split.
    class_names = list(dict.fromkeys(name for source in labeled for name in source.class_names))
    numbers = {name: number for number, name in enumerate(class_names)}
    images = [
        image
        if image.label is None
        else replace(image, label=numbers[sources[image.split].class_names[image.label]])
        for image in scan.images
    ]
    if not images:
        (split, name), why = next(iter({**scan.corrupt, **scan.unreadable}.items()))
        failed = len(scan.corrupt) + len(scan.unreadable)
        raise DataError(
            f"none of {failed:,} images of {location} can be read; first: "
            f"{_named(split, name)}: {why}"
        )
    counts: dict[str, Mapping[str, int]] = {}
    for split, source in sources.items():
        labels = [image.label for image in images if image.split == split]
        if source.labels is None:
            counts[split] = {"": len(labels)}
        else:
            counts[split] = class_counts(
                class_names, [label for label in labels if label is not None]
            )
    ignored: dict[str, str] = {}
    notes: dict[str, None] = {}
    for source in sources.values():
        ignored |= source.ignored
        notes |= dict.fromkeys(source.notes)
    appearances = [image.appearance for image in images]
    return DataReport(
        location=location,
        class_names=class_names,
        counts=counts,
        scan=Scan(images, scan.corrupt, scan.unreadable),
        exact=[[images[i] for i in group] for group in exact_groups(appearances)],
        near=[[images[i] for i in group] for group in near_groups(appearances)],
        ignored=ignored,
        notes=list(notes),
    )


def _group_lines(title: str, groups: Sequence[Sequence[ScannedImage]]) -> list[str]:
    """Return one line that counts groups of duplicates and names the first ones."""
    if not groups:
        return []
    surplus = sum(len(group) - 1 for group in groups)
    shown = "; ".join(" = ".join(map(image_name, group[:3])) for group in groups[:_MAX_SHOWN])
    more = f" and {len(groups) - _MAX_SHOWN:,} more groups" if len(groups) > _MAX_SHOWN else ""
    return [f"{title}: {surplus:,}, {shown}{more}"]


def _splits(group: Sequence[ScannedImage]) -> int:
    return len({image.split for image in group})


def _labels(group: Sequence[ScannedImage]) -> int:
    return len({image.label for image in group})


def _shares(counts: Counter[Any], text: Any = str) -> str:
    shown = [f"{text(value)} {count:,}" for value, count in counts.most_common(_MAX_SHOWN)]
    rest = list(counts.most_common())[_MAX_SHOWN:]
    if rest:
        shown.append(f"{len(rest):,} others {sum(count for _, count in rest):,}")
    return ", ".join(shown)


def _first(images: Sequence[ScannedImage]) -> str:
    more = len(images) - 1
    return image_name(images[0]) + (f" and {more:,} more" if more else "")


def _has(images: Sequence[ScannedImage]) -> str:
    return "have" if len(images) > 1 else "has"


def image_name(image: ScannedImage) -> str:
    """Return the name of an image, which is different from that of all others."""
    return _named(image.split, image.name)


def _named(split: str, name: str) -> str:
    """Return the name of an image, with its split where the name does not begin with it."""
    return name if not split or name.startswith(split) else f"{split}: {name}"


def _names(groups: Iterable[Sequence[ScannedImage]]) -> list[list[str]]:
    return [[image_name(image) for image in group] for group in groups]
