"""Which images of a data set are kept, and in which split."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.data.inspection.report import DataReport, image_name
from training.data.inspection.scan import ScannedImage
from training.data.preparation.options import PreparationError, PreparationOptions


@dataclass(frozen=True)
class Selection:
    """The images by split, in order, and the names of those left out, with the reason."""

    by_split: Mapping[str, Sequence[ScannedImage]]
    dropped: Mapping[str, str]

    @property
    def count(self) -> int:
        return sum(map(len, self.by_split.values()))


def select(report: DataReport, options: PreparationOptions) -> Selection:
    """Leave out duplicates and surplus images, and split the rest. Raises PreparationError."""
    dropped: dict[str, str] = {}
    images = report.scan.images
    groups: Sequence[Sequence[ScannedImage]] = {
        "none": (),
        "exact": report.exact,
        "near": _merged(report),
    }[options.deduplicate]
    out: set[int] = set()
    for group in groups:
        for image in group[1:]:
            kind = "an exact" if _same(image, group[0]) else "a near"
            dropped[image_name(image)] = f"is {kind} duplicate of {image_name(group[0])}"
            out.add(id(image))
    kept = [image for image in images if id(image) not in out]
    if options.max_images is not None and len(kept) > options.max_images:
        chosen = random.Random(options.seed).sample(range(len(kept)), options.max_images)  # noqa: S311
        rows = set(chosen)
        for row, image in enumerate(kept):
            if row not in rows:
                dropped[image_name(image)] = f"was not among the {options.max_images:,} of --max"
        kept = [kept[row] for row in sorted(rows)]
    if options.fractions is None:
        by_split: dict[str, list[ScannedImage]] = {split: [] for split in report.counts}
        for image in kept:
            by_split[image.split].append(image)
    else:
        by_split = _assigned(kept, _merged(report), options.fractions, options.seed)
    for split, members in by_split.items():
        if not members:
            raise PreparationError(
                f"the split {split} would be empty: {len(kept):,} images are too few"
            )
        members.sort(key=lambda image: -1 if image.label is None else image.label)
    return Selection(by_split, dropped)


def _merged(report: DataReport) -> list[list[ScannedImage]]:
    """Return the groups of near duplicates, with the exact duplicates of their members."""
    exact = {id(group[0]): group for group in report.exact}
    groups = [
        [image for member in group for image in exact.pop(id(member), [member])]
        for group in report.near
    ]
    return [*map(list, exact.values()), *groups]


def _same(image: ScannedImage, other: ScannedImage) -> bool:
    return image.appearance.digest == other.appearance.digest


def _assigned(
    images: Sequence[ScannedImage],
    groups: Sequence[Sequence[ScannedImage]],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, list[ScannedImage]]:
    """Distribute the images of each class over the splits; duplicates stay in the same split."""
    leader = {id(image): id(group[0]) for group in groups for image in group}
    units: dict[int, list[int]] = {}
    for number, image in enumerate(images):
        units.setdefault(leader.get(id(image), id(image)), []).append(number)
    by_class: dict[int | None, list[list[int]]] = {}
    for unit in units.values():
        by_class.setdefault(images[unit[0]].label, []).append(unit)
    split_of: dict[int, str] = {}
    for label, members in sorted(
        by_class.items(), key=lambda item: -1 if item[0] is None else item[0]
    ):
        random.Random(f"{seed}/{label}").shuffle(members)  # noqa: S311
        open_places = _places(sum(map(len, members)), fractions)
        # Large groups first, which fit into fewer splits.
        for unit in sorted(members, key=len, reverse=True):
            split = max(open_places, key=lambda name: open_places[name])
            open_places[split] -= len(unit)
            split_of |= dict.fromkeys(unit, split)
    by_split: dict[str, list[ScannedImage]] = {split: [] for split in fractions}
    for number, image in enumerate(images):
        by_split[split_of[number]].append(image)
    return by_split


def _places(count: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Return the number of images of each split, which add up to `count`.

    Rounds by the largest remainder. Every split gets at least one image if there are enough.
    """
    exact = {split: count * fraction for split, fraction in fractions.items()}
    places = {split: int(value) for split, value in exact.items()}
    order = sorted(exact, key=lambda split: places[split] - exact[split])
    for split in order[: count - sum(places.values())]:
        places[split] += 1
    for split in [name for name, count in places.items() if not count]:
        largest = max(places, key=lambda name: places[name])
        if places[largest] > 1:
            places[split] += 1
            places[largest] -= 1
    return places
