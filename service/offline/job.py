"""What a job makes: picture by picture, each a function of the job and its number alone.

A job is cut into shards, runs of pictures that are made, written and noted as done together. Since
nothing else goes into a picture, any process on any machine can make any shard, once more or for
the first time, and gets the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from service.offline.inputs import open_inputs
from service.runtime.errors import UserError
from service.runtime.images.encoding import ImageFormat
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource, draw_class
from service.runtime.latent.style_mixing import StyleMixing
from service.runtime.models.manifest import Manifest

# Pictures of one shard: many, but so few that a small job has a shard for each of many workers.
_LARGEST_SHARD, _SMALLEST_SHARD = 1000, 100
_SHARDS_OF_A_SMALL_JOB = 16
MAX_SIDE = 16_384
# What tells the seed of the second source from everything else that a seed begins.
_PARTNER = 2


class JobError(UserError):
    """The job cannot be done as asked; nothing was written."""


# `balanced`, classes in turn, or weights: as text, or as lists and mappings.
ClassesOption = str | Sequence[str | int] | Mapping[str, float] | None


class JobFailed(UserError):
    """A job that was begun could not go on."""

    exit_code = 1


class Layout(StrEnum):
    """How the pictures lie in the output."""

    FOLDER = "folder"
    WEBDATASET = "webdataset"
    PARQUET = "parquet"


class SamplingJob(BaseModel):
    """All that the output depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: str
    digest: str
    layout: Layout
    image: ImageFormat = ImageFormat.PNG
    first_seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    count: Annotated[int, Field(ge=1)]
    shard_size: Annotated[int, Field(ge=1)]
    # In turn, or drawn with weights; each seed's own (see Model.classes_of) where it is None.
    classes: tuple[int, ...] | None = None
    class_weights: dict[int, float] | None = None
    truncation: float | None = None
    # The layers, by their weights, that come from a second source.
    mix: dict[int, float] | None = None
    # Width and height.
    resize: tuple[int, int] | None = None
    # Of a model that makes pictures of pictures: where they are and which they were, with their
    # masks, those or the boxes to be filled, and the way through the model. `first_seed` is then 0.
    input: str | None = None
    input_fingerprint: str | None = None
    mask: str | None = None
    boxes: tuple[tuple[int, int, int, int], ...] | None = None
    direction: str | None = None

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.count // self.shard_size)

    def numbers(self, shard: int) -> range:
        """Return the numbers of the pictures of a shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.count))

    @cached_property
    def fingerprint(self) -> str:
        """Equal for two jobs that make the same."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class JobItem:
    """One picture of a job: `rows` of several sources are mixed, `parameters` say how, as JSON."""

    number: int
    seed: int
    row: LatentSource
    column: LatentSource | None
    class_index: int | None
    class_name: str | None
    parameters: Mapping[str, Any]
    # Its file, without extension: a folder for each class, as ImageFolder has it.
    stem: str
    # The name of the picture that it is made of.
    input_file: str | None = None


class JobItems:
    """The pictures of a job for one model."""

    def __init__(self, job: SamplingJob, manifest: Manifest) -> None:
        self._job = job
        self._manifest = manifest
        self._folders = folder_names(manifest.classes)
        self._digits = len(str(job.first_seed + job.count - 1))
        self._inputs = self._stems = None
        if job.input is not None:
            self._inputs = open_inputs(job.input)
            self._stems = self._inputs.stems()

    def __call__(self, number: int) -> JobItem:
        """Return picture `number`."""
        job, manifest = self._job, self._manifest
        if self._inputs is not None and self._stems is not None:
            # What its parameters are is known when it has been read.
            name, stem = self._inputs.names[number], self._stems[number]
            return JobItem(number, number, LatentSource(number), None, None, None, {}, stem, name)
        seed = job.first_seed + number
        row = self._source(seed, number)
        column = None
        parameters = row.parameters(manifest)
        if job.mix is not None:
            column = self._source(partner_of(seed), number)
            parameters = StyleMixing((row,), (column,), job.mix).parameters(manifest)
        if job.resize is not None:
            parameters = {**parameters, "resized": list(job.resize)}
        index = next(iter(row.classes)) if row.classes else None
        folder = "images" if index is None else self._folders[index]
        return JobItem(
            number,
            seed,
            row,
            column,
            index,
            None if index is None else manifest.classes[index],
            parameters,
            f"{folder}/seed-{seed:0{self._digits}}",
        )

    def of(self, shard: int) -> Iterator[JobItem]:
        """Yield the pictures of a shard."""
        return map(self, self._job.numbers(shard))

    def _source(self, seed: int, number: int) -> LatentSource:
        job, classes = self._job, None
        if self._manifest.classes:
            if job.class_weights is not None:
                index = draw_class(job.class_weights, seed)
            elif job.classes is not None:
                index = job.classes[number % len(job.classes)]
            else:
                index = seed % len(self._manifest.classes)
            classes = {index: 1.0}
        return LatentSource(seed, classes=classes, truncation=job.truncation)


def partner_of(seed: int) -> int:
    """Return the seed whose styles are mixed into those of `seed`."""
    return int(np.random.default_rng((seed, _PARTNER)).integers(MAX_SEED + 1))


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return a folder's name for each class, whatever it is called; no two are the same."""
    names: list[str] = []
    for i, name in enumerate(classes):
        folder = re.sub(r"[^\w.-]+", "-", name).strip(".-") or f"class-{i}"
        taken = {each.casefold() for each in names}
        names.append(f"{folder}-{i}" if folder.casefold() in taken else folder)
    return names


def make_job(
    manifest: Manifest,
    *,
    count: int | None = None,
    seeds: str | None = None,
    seed: int | None = None,
    classes: ClassesOption = None,
    truncation: float | None = None,
    mix: str | None = None,
    resize: str | None = None,
    layout: Layout = Layout.FOLDER,
    image: ImageFormat = ImageFormat.PNG,
    shard_size: int | None = None,
    input_: str | None = None,
    mask: str | None = None,
    boxes: str | None = None,
    direction: str | None = None,
) -> SamplingJob:
    """Read a job as a command's flags say it. Raises JobError, naming the flag, and InputError."""
    pictures: dict[str, Any] = {}
    if manifest.input is not None:
        given: dict[str, object] = {"seeds": seeds, "seed": seed, "classes": classes}
        given |= {"truncation": truncation, "mix": mix}
        pictures, most = _pictures(manifest, input_, mask, boxes, direction, given)
        if count is not None and not 1 <= count <= most:
            raise JobError(f"--count: expected 1 to {most:,}, the pictures in {input_}")
        first, count = 0, count or most
    else:
        for name, value in {"input": input_, "mask": mask, "boxes": boxes}.items():
            if value is not None:
                raise JobError(f"--{name}: {manifest.name} makes its pictures of seeds")
        if direction is not None:
            raise JobError(f"--direction: {manifest.name} has none")
        first, count = _seeds(count, seeds, seed)
    listed, weights = _classes(classes, manifest)
    if shard_size is not None and shard_size < 1:
        raise JobError(f"--shard-size: expected at least 1, got {shard_size}")
    return SamplingJob(
        model=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
        layout=layout,
        image=image,
        first_seed=first,
        count=count,
        shard_size=shard_size or _shard_size(count),
        classes=listed,
        class_weights=weights,
        truncation=_truncation(truncation, manifest),
        mix=_mix(mix, manifest),
        resize=_resize(resize, image),
        **pictures,
    )


def _pictures(
    manifest: Manifest,
    url: str | None,
    mask: str | None,
    boxes: str | None,
    direction: str | None,
    others: Mapping[str, object],
) -> tuple[dict[str, Any], int]:
    """Return what a job says of the pictures that go in, and how many there are."""
    assert manifest.input is not None  # noqa: S101 - the caller has looked
    for name, value in others.items():
        if value is not None:
            raise JobError(f"--{name}: {manifest.name} makes its pictures of pictures")
    if url is None:
        raise JobError(f"--input: {manifest.name} makes its pictures of others: say where they are")
    there = manifest.input.directions
    if direction is not None and direction not in there:
        known = f"there are: {', '.join(there)}" if there else f"{manifest.name} has none"
        raise JobError(f"--direction: no {direction!r}; {known}")
    if (mask is not None and boxes is not None) or (
        manifest.input.masked != (mask is not None or boxes is not None)
    ):
        wanted = "give --mask or --boxes" if manifest.input.masked else "takes neither"
        raise JobError(f"--mask, --boxes: {manifest.name}: {wanted}")
    inputs = open_inputs(url)
    fingerprint = inputs.fingerprint
    if mask is not None:
        masks = open_inputs(mask)
        fingerprint += f"-{masks.fingerprint}"
        missing = [name for name in inputs.names if masks.number_of(name) is None]
        if missing:
            raise JobError(
                f"--mask: {mask} has none for {missing[0]}"
                + (f" and {len(missing) - 1:,} more" if len(missing) > 1 else "")
            )
    said = {
        "input": url,
        "input_fingerprint": fingerprint,
        "mask": mask,
        "boxes": _boxes(boxes),
        "direction": direction or (there[0] if there else None),
    }
    return said, len(inputs)


def _boxes(text: str | None) -> tuple[tuple[int, ...], ...] | None:
    if text is None:
        return None
    boxes = []
    for part in text.split(";"):
        numbers = [each.strip() for each in part.split(",")]
        if len(numbers) != 4 or not all(re.fullmatch(r"\d{1,6}", each) for each in numbers):
            raise JobError(f"--boxes: expected X,Y,WIDTH,HEIGHT with ; between, got {part!r}")
        boxes.append(tuple(int(each) for each in numbers))
    return tuple(boxes)


def _shard_size(count: int) -> int:
    wanted = -(-count // _SHARDS_OF_A_SMALL_JOB)
    return min(count, max(_SMALLEST_SHARD, min(_LARGEST_SHARD, wanted)))


def _seeds(count: int | None, seeds: str | None, seed: int | None) -> tuple[int, int]:
    if seeds is not None:
        if count is not None or seed is not None:
            raise JobError("--seeds: says how many and from where; leave out --count and --seed")
        found = re.fullmatch(r"(\d{1,12})-(\d{1,12})", seeds)
        first, last = (int(found[1]), int(found[2])) if found else (1, 0)
        if last < first:
            raise JobError(f"--seeds: expected A-B with B at least A, such as 0-999, got {seeds!r}")
        count = last - first + 1
    else:
        if count is None:
            raise JobError("--count N or --seeds A-B has to say how many pictures")
        first = seed or 0
    if count < 1:
        raise JobError(f"--count: expected at least 1, got {count}")
    if first < 0 or first + count - 1 > MAX_SEED:
        raise JobError(f"seeds go from 0 to {MAX_SEED:,}, and these from {first} on are {count:,}")
    return first, count


def _classes(
    wish: ClassesOption, manifest: Manifest
) -> tuple[tuple[int, ...] | None, dict[int, float] | None]:
    if wish is None:
        return None, None
    if not manifest.classes:
        raise JobError(f"--classes: {manifest.name} is not class-conditional")
    if isinstance(wish, str):
        if wish == "balanced" and wish not in manifest.classes:
            return tuple(range(len(manifest.classes))), None
        wish = _from_text(wish, manifest)
    if not isinstance(wish, Mapping):
        if not wish:
            raise JobError("--classes: expected at least one")
        return tuple(_class(each, manifest) for each in wish), None
    weights: dict[int, float] = {}
    for name, weight in wish.items():
        if not 0 <= weight < float("inf"):
            raise JobError(f"--classes: expected weights from 0 on, got {name}={weight}")
        index = _class(name, manifest)
        if index in weights:
            raise JobError(f"--classes: {manifest.classes[index]} is there twice")
        if weight > 0:
            weights[index] = weight
    if not weights:
        raise JobError("--classes: one of the weights has to be more than 0")
    return None, weights


def _from_text(text: str, manifest: Manifest) -> list[str] | dict[str, float]:
    """Read NAME,NAME or NAME=WEIGHT,NAME=WEIGHT."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if all(part in manifest.classes or "=" not in part for part in parts):
        return parts
    weights: dict[str, float] = {}
    for part in parts:
        name, equals, number = part.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise JobError(f"--classes: expected NAME=WEIGHT for each, got {part!r}")
        if name in weights:
            raise JobError(f"--classes: {name} is there twice")
        weights[name] = weight
    return weights


def _class(name: str | int, manifest: Manifest) -> int:
    names, name = manifest.classes, str(name)
    if name in names:
        return names.index(name)
    if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(names):
        return int(name)
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    raise JobError(f"--classes: {manifest.name} has no class {name!r}; there are: {shown}")


def _truncation(wish: float | None, manifest: Manifest) -> float | None:
    truncation = manifest.latent.truncation if manifest.latent else None
    if wish is None:
        return truncation.default if truncation else None
    if truncation is None:
        raise JobError(f"--truncation: {manifest.name} does not truncate")
    if not truncation.minimum <= wish <= truncation.maximum:
        raise JobError(
            f"--truncation: expected {truncation.minimum:g} to {truncation.maximum:g}, got {wish:g}"
        )
    return wish


def _mix(wish: str | None, manifest: Manifest) -> dict[int, float] | None:
    if wish is None:
        return None
    if (space := manifest.styles) is None:
        raise JobError(f"--mix: {manifest.name} has no styles to mix")
    groups = {str(group): at for group, at in space.groups.items()}
    layers: set[int] = set()
    for part in (part.strip() for part in wish.split(",")):
        if part in groups:
            layers |= set(groups[part])
        elif part.isascii() and part.isdigit() and int(part) < len(space.layers):
            layers.add(int(part))
        else:
            raise JobError(
                f"--mix: {manifest.name} has no layers {part!r}; there are: "
                f"{', '.join(groups)}, and 0 to {len(space.layers) - 1}"
            )
    return dict.fromkeys(sorted(layers), 1.0)


def _resize(wish: str | None, image: ImageFormat) -> tuple[int, int] | None:
    if wish is None:
        return None
    found = re.fullmatch(r"(\d{1,6})(?:[x×](\d{1,6}))?", wish)
    if found is None:
        raise JobError(f"--resize: expected SIDE or WIDTHxHEIGHT in pixels, got {wish!r}")
    width = int(found[1])
    height = int(found[2] or width)
    most = min(MAX_SIDE, image.longest_side)
    if not (1 <= width <= most and 1 <= height <= most):
        raise JobError(f"--resize: expected sides of 1 to {most:,} pixels, got {wish}")
    return width, height


def as_text(job: SamplingJob) -> str:
    """Return a job as its file has it."""
    return json.dumps(job.model_dump(mode="json"), indent=2) + "\n"
