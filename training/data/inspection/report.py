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
from training.data.inspection.scan import Failures, Scan, ScannedFile, ScannedImage
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
        return summary_line(self.location, "image", count, self.class_names, self.counts)

    def properties(self) -> list[tuple[str, str]]:
        """Return what is the case for how many images: sizes, modes, formats, frames."""
        images = self.scan.images
        sizes = Counter((image.width, image.height) for image in images)
        rows = [("size", shares(sizes, lambda size: f"{size[0]}×{size[1]}"))]
        if len(sizes) > 1:
            low = min(images, key=lambda image: min(image.width, image.height))
            high = max(images, key=lambda image: image.width * image.height)
            extremes = [f"{each.width}×{each.height} ({image_name(each)})" for each in (low, high)]
            rows.append(("smallest, largest", ", ".join(extremes)))
        rows.append(("mode", shares(Counter(image.mode for image in images))))
        formats = Counter(image.format for image in images if image.format)
        if formats:
            rows.append(("format", shares(formats)))
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
                f"{first_of(frames)} {have(frames)} several frames or pages, and only the first "
                "one is read"
            )
        lines += scaled_lines([image_name(image) for image in images if image.scaled])
        uniform = [image for image in images if image.appearance.hash is None]
        if uniform:
            lines.append(f"{first_of(uniform)} {have(uniform)} almost a single color")
        lines += group_lines("exact duplicates", self.exact)
        lines += group_lines("near duplicates", self.near)
        across = [group for group in (*self.exact, *self.near) if splits_in(group) > 1]
        lines += group_lines("the same image in several splits", across)
        contradicting = [group for group in self.exact if labels_in(group) > 1]
        lines += group_lines("the same image in several classes", contradicting)
        failed = self.scan.failed
        lines += skipped_lines([f"{file_name(*key)}: {why}" for key, why in failed.items()])
        return [*lines, *ignored_lines(self.ignored)]

    def to_json(self) -> dict[str, Any]:
        """Return the whole report, with every name."""
        images = self.scan.images
        across = [group for group in (*self.exact, *self.near) if splits_in(group) > 1]
        contradicting = [group for group in self.exact if labels_in(group) > 1]
        return {
            "path": self.location,
            "images": len(images),
            "classes": list(self.class_names),
            "splits": splits_json("images", self.class_names, self.counts),
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
            "exact_duplicates": group_names(self.exact),
            "near_duplicates": group_names(self.near),
            "duplicates_across_splits": group_names(across),
            "duplicates_across_classes": group_names(contradicting),
            "corrupt": {file_name(*key): reason for key, reason in self.scan.corrupt.items()},
            "unreadable": {file_name(*key): reason for key, reason in self.scan.unreadable.items()},
            "ignored": dict(self.ignored),
            "notes": list(self.notes),
            "warnings": self.warnings(),
        }


def report_on(location: str, sources: Mapping[str, ImageSource], scan: Scan) -> DataReport:
    """Build the report on the splits `sources` and their scanned images.

    Raises DataError if no image can be read.
    """
    class_names = classes_of(sources)
    numbers = {name: number for number, name in enumerate(class_names)}
    images = [
        image
        if image.label is None
        else replace(image, label=numbers[sources[image.split].class_names[image.label]])
        for image in scan.images
    ]
    check_readable(location, "images", images, scan)
    ignored, notes = findings_of(sources)
    appearances = [image.appearance for image in images]
    return DataReport(
        location=location,
        class_names=class_names,
        counts=counts_of(sources, images, class_names),
        scan=Scan(scan.corrupt, scan.unreadable, images),
        exact=[[images[i] for i in group] for group in exact_groups(appearances)],
        near=[[images[i] for i in group] for group in near_groups(appearances)],
        ignored=ignored,
        notes=notes,
    )


def classes_of(sources: Mapping[str, ImageSource]) -> list[str]:
    """Return the classes of all splits, which may have others than the training split."""
    labeled = [source for source in sources.values() if source.labels is not None]
    return list(dict.fromkeys(name for source in labeled for name in source.class_names))


def check_readable(
    location: str, noun: str, files: Sequence[ScannedFile], failures: Failures
) -> None:
    """Raise DataError if no file can be read."""
    if not files:
        (split, name), why = next(iter(failures.failed.items()))
        raise DataError(
            f"none of {len(failures.failed):,} {noun} of {location} can be read; first: "
            f"{file_name(split, name)}: {why}"
        )


def counts_of(
    sources: Mapping[str, ImageSource], files: Sequence[ScannedFile], class_names: Sequence[str]
) -> dict[str, Mapping[str, int]]:
    """Return the number of files by split and class, whose labels index `class_names`."""
    counts: dict[str, Mapping[str, int]] = {}
    for split, source in sources.items():
        labels = [file.label for file in files if file.split == split]
        if source.labels is None:
            counts[split] = {"": len(labels)}
        else:
            known = [label for label in labels if label is not None]
            counts[split] = class_counts(class_names, known)
    return counts


def findings_of(sources: Mapping[str, ImageSource]) -> tuple[dict[str, str], list[str]]:
    """Return what was left out of all splits, with the reason, and the notes, each once."""
    ignored: dict[str, str] = {}
    notes: dict[str, None] = {}
    for source in sources.values():
        ignored |= source.ignored
        notes |= dict.fromkeys(source.notes)
    return ignored, list(notes)


def summary_line(
    location: str,
    noun: str,
    count: int,
    class_names: Sequence[str],
    counts: Mapping[str, object],
) -> str:
    """Return the numbers of files, classes and splits in one line."""
    text = f"{location}: {count:,} {noun}{'s' * (count != 1)}"
    if class_names:
        text += f" in {len(class_names):,} class{'es' * (len(class_names) != 1)}"
    if "" not in counts:
        text += f", {len(counts)} split{'s' * (len(counts) != 1)}"
    return text


def splits_json(
    noun: str, class_names: Sequence[str], counts: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """Return the numbers of files by split and class as a JSON object."""
    return {
        split or "all": {
            noun: sum(by_class.values()),
            "by_class": dict(by_class) if class_names else {},
        }
        for split, by_class in counts.items()
    }


def group_lines(title: str, groups: Sequence[Sequence[ScannedFile]]) -> list[str]:
    """Return one line that counts groups of duplicates and names the first ones."""
    if not groups:
        return []
    surplus = sum(len(group) - 1 for group in groups)
    shown = "; ".join(" = ".join(map(image_name, group[:3])) for group in groups[:_MAX_SHOWN])
    more = f" and {len(groups) - _MAX_SHOWN:,} more groups" if len(groups) > _MAX_SHOWN else ""
    return [f"{title}: {surplus:,}, {shown}{more}"]


def splits_in(group: Sequence[ScannedFile]) -> int:
    return len({image.split for image in group})


def labels_in(group: Sequence[ScannedFile]) -> int:
    return len({image.label for image in group})


def shares(counts: Counter[Any], text: Any = str) -> str:
    shown = [f"{text(value)} {count:,}" for value, count in counts.most_common(_MAX_SHOWN)]
    rest = list(counts.most_common())[_MAX_SHOWN:]
    if rest:
        shown.append(f"{len(rest):,} others {sum(count for _, count in rest):,}")
    return ", ".join(shown)


def first_of(images: Sequence[ScannedFile]) -> str:
    more = len(images) - 1
    return image_name(images[0]) + (f" and {more:,} more" if more else "")


def have(images: Sequence[ScannedFile]) -> str:
    return "have" if len(images) > 1 else "has"


def image_name(image: ScannedFile) -> str:
    """Return the name of an image, which is different from that of all others."""
    return file_name(image.split, image.name)


def file_name(split: str, name: str) -> str:
    """Return the name of an image, with its split where the name does not begin with it."""
    return name if not split or name.startswith(split) else f"{split}: {name}"


def group_names(groups: Iterable[Sequence[ScannedFile]]) -> list[list[str]]:
    return [[image_name(image) for image in group] for group in groups]
