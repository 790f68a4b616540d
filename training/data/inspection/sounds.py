"""The report on a data set of sounds: what is in it, and what is wrong with it."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.formatting import counted, duration
from training.data.findings import empty_class_lines, ignored_lines, skipped_lines
from training.data.inspection.report import (
    check_readable,
    classes_of,
    counts_of,
    file_name,
    findings_of,
    first_of,
    group_lines,
    group_names,
    have,
    image_name,
    labels_in,
    shares,
    splits_in,
    splits_json,
    summary_line,
)
from training.data.inspection.scan import Failures, Progress, scanned
from training.data.sounds.decoding import FULL_SCALE, Sound, decode_sound
from training.data.sources.source import ImageSource

# Sounds without a louder sample are silent: 60 dB below full scale.
_SILENCE = 10 ** (-60 / 20)
# Consecutive samples at full scale that a sound has if it was clipped.
_CLIPPED_RUN = 3


@dataclass(frozen=True)
class ScannedSound:
    """One readable sound. `split` is "" in data without splits, `label` None without classes.

    `peak` is the largest sample; 1 is full scale. `digest` is that of all samples and the rate.
    """

    split: str
    row: int
    name: str
    label: int | None
    rate: int
    channels: int
    format: str
    encoding: str
    seconds: float
    peak: float
    clipped: bool
    digest: bytes

    @property
    def silent(self) -> bool:
        """Whether the sound has no audible sample."""
        return self.peak < _SILENCE


@dataclass
class SoundScan(Failures):
    """The sounds of all splits, in order, and those that cannot be read."""

    sounds: list[ScannedSound] = field(default_factory=list)


def scan_sounds(sources: Mapping[str, ImageSource], progress: Progress | None = None) -> SoundScan:
    """Decode the sounds of all splits, which are `sources` by name, in several threads."""
    result = SoundScan()
    for split, name, outcome in scanned(sources, _scan_sound, progress):
        if isinstance(outcome, ScannedSound):
            result.sounds.append(outcome)
        else:
            result.add_failure(split, name, outcome)
    return result


def _scan_sound(split: str, source: ImageSource, row: int) -> ScannedSound:
    sound = decode_sound(source.file(row) or b"")
    digest = hashlib.blake2b(f"{sound.rate} {sound.samples.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(sound.samples).data)
    return ScannedSound(
        split=split,
        row=row,
        name=source.names[row],
        label=None if source.labels is None else source.labels[row],
        rate=sound.rate,
        channels=sound.channels,
        format=sound.format,
        encoding=sound.encoding,
        seconds=sound.seconds,
        peak=float(np.abs(sound.samples).max()),
        clipped=_is_clipped(sound),
        digest=digest.digest(),
    )


def _is_clipped(sound: Sound) -> bool:
    """Return whether a channel has a run of samples at full scale of the same sign."""
    top = 1 - 1.5 / FULL_SCALE
    return any(_longest_run(sign * sound.samples >= top) >= _CLIPPED_RUN for sign in (1, -1))


def _longest_run(mask: NDArray[np.bool_]) -> int:
    """Return the length of the longest run of True along the first axis of ``[T, channels]``."""
    if not mask.any():
        return 0
    edges = np.diff(np.pad(mask, ((1, 1), (0, 0))).astype(np.int8).T.reshape(-1))
    return int((np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)).max())


@dataclass(frozen=True)
class SoundReport:
    """What `ganymede data` says about a data set of sounds. The fields are those of `DataReport`.

    `duplicates` are groups of sounds with equal samples.
    """

    location: str
    class_names: Sequence[str]
    counts: Mapping[str, Mapping[str, int]]
    scan: SoundScan
    duplicates: Sequence[Sequence[ScannedSound]]
    ignored: Mapping[str, str]
    notes: Sequence[str]

    @property
    def has_splits(self) -> bool:
        return "" not in self.counts

    def summary(self) -> str:
        """Return the numbers of sounds, classes and splits in one line."""
        count = len(self.scan.sounds)
        return summary_line(self.location, "sound", count, self.class_names, self.counts)

    def properties(self) -> list[tuple[str, str]]:
        """Return what is the case for how many sounds: lengths, rates, channels, formats."""
        sounds = self.scan.sounds
        seconds = [each.seconds for each in sounds]
        shortest = min(sounds, key=lambda each: each.seconds)
        longest = max(sounds, key=lambda each: each.seconds)
        extremes = [f"{each.seconds:.3g} s ({image_name(each)})" for each in (shortest, longest)]
        median, most = np.quantile(seconds, (0.5, 0.95))
        total = duration(sum(seconds))
        rates = Counter(each.rate for each in sounds)
        (rate, _), *_ = rates.most_common(1)
        return [
            ("length", f"median {median:.3g} s, 95 % up to {most:.3g} s, {total} in total"),
            ("shortest, longest", ", ".join(extremes)),
            ("rate", shares(rates, lambda hertz: f"{hertz:,} Hz")),
            ("channels", shares(Counter(each.channels for each in sounds), _channels)),
            ("format", shares(Counter(f"{each.format} {each.encoding}" for each in sounds))),
            ("to train", _advice(rate, seconds)),
        ]

    def warnings(self) -> list[str]:
        """Return what is wrong or was left out, one line each."""
        sounds = self.scan.sounds
        lines = list(self.notes)
        if self.class_names:
            for split, counts in self.counts.items():
                lines += empty_class_lines(counts, split, "sound")
        if silent := [each for each in sounds if each.silent]:
            lines.append(f"{first_of(silent)} {'are' if len(silent) > 1 else 'is'} silent")
        if clipped := [each for each in sounds if each.clipped]:
            lines.append(f"{first_of(clipped)} {have(clipped)} samples clipped at full scale")
        lines += group_lines("exact duplicates", self.duplicates)
        lines += group_lines("the same sound in several splits", self._across)
        lines += group_lines("the same sound in several classes", self._contradicting)
        failed = self.scan.failed
        lines += skipped_lines([f"{file_name(*key)}: {why}" for key, why in failed.items()])
        return [*lines, *ignored_lines(self.ignored)]

    @property
    def _across(self) -> list[Sequence[ScannedSound]]:
        return [group for group in self.duplicates if splits_in(group) > 1]

    @property
    def _contradicting(self) -> list[Sequence[ScannedSound]]:
        return [group for group in self.duplicates if labels_in(group) > 1]

    def to_json(self) -> dict[str, Any]:
        """Return the whole report, with every name."""
        sounds = self.scan.sounds
        seconds = [each.seconds for each in sounds]
        return {
            "path": self.location,
            "sounds": len(sounds),
            "classes": list(self.class_names),
            "splits": splits_json("sounds", self.class_names, self.counts),
            "has_splits": self.has_splits,
            "seconds": {
                "total": sum(seconds),
                "shortest": min(seconds),
                "median": float(np.median(seconds)),
                "longest": max(seconds),
            },
            "rates": dict(Counter(each.rate for each in sounds).most_common()),
            "channels": dict(Counter(each.channels for each in sounds).most_common()),
            "formats": dict(
                Counter(f"{each.format} {each.encoding}" for each in sounds).most_common()
            ),
            "silent": [image_name(each) for each in sounds if each.silent],
            "clipped": [image_name(each) for each in sounds if each.clipped],
            "exact_duplicates": group_names(self.duplicates),
            "duplicates_across_splits": group_names(self._across),
            "duplicates_across_classes": group_names(self._contradicting),
            "corrupt": {file_name(*key): why for key, why in self.scan.corrupt.items()},
            "unreadable": {file_name(*key): why for key, why in self.scan.unreadable.items()},
            "ignored": dict(self.ignored),
            "notes": list(self.notes),
            "warnings": self.warnings(),
        }


def _channels(count: int) -> str:
    return counted(count, "channel")


def _advice(rate: int, seconds: Sequence[float]) -> str:
    """Return a length for `data.sound` that WaveGAN has, and that 95 % of the sounds fit into."""
    wanted = float(np.quantile(seconds, 0.95)) * rate
    samples = max(2 ** math.ceil(math.log2(wanted)), 32)
    cropped = sum(round(each * rate) > samples for each in seconds)
    return (
        f"data.sound={{rate: {rate}, samples: {samples}}} is {samples / rate:.3g} s; "
        f"{cropped:,} of the sounds are longer and would be cropped"
    )


def report_on_sounds(
    location: str, sources: Mapping[str, ImageSource], scan: SoundScan
) -> SoundReport:
    """Build the report on the splits `sources` and their scanned sounds.

    Raises DataError if no sound can be read.
    """
    class_names = classes_of(sources)
    numbers = {name: number for number, name in enumerate(class_names)}
    sounds = [
        each
        if each.label is None
        else replace(each, label=numbers[sources[each.split].class_names[each.label]])
        for each in scan.sounds
    ]
    check_readable(location, "sounds", sounds, scan)
    ignored, notes = findings_of(sources)
    groups: dict[bytes, list[ScannedSound]] = {}
    for each in sounds:
        groups.setdefault(each.digest, []).append(each)
    return SoundReport(
        location=location,
        class_names=class_names,
        counts=counts_of(sources, sounds, class_names),
        scan=SoundScan(scan.corrupt, scan.unreadable, sounds),
        duplicates=[group for group in groups.values() if len(group) > 1],
        ignored=ignored,
        notes=notes,
    )
