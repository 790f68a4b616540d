"""Sampling jobs. Every image is determined by the job and the number of the image.

A job is divided into shards, each of which is generated, written and recorded as a whole. Any
process on any machine can therefore generate any shard, even repeatedly, with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from service.offline.inputs import JobInputs
from service.runtime import latent_requests, requests
from service.runtime.audio.formats import AudioFormat
from service.runtime.errors import UserError
from service.runtime.files import folder_names
from service.runtime.images.encoding import ImageFormat
from service.runtime.latent.editing import Edit, Editing
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource, draw_class
from service.runtime.latent.style_mixing import StyleMixing
from service.runtime.models.manifest import Manifest
from service.runtime.outputs import FileFormat
from service.runtime.ranking import CandidateGroup, Selection, candidate_groups
from service.runtime.request_fields import InvalidRequest
from service.runtime.text.records import TextFormat
from service.runtime.text.requests import check_prompt, job_text
from service.runtime.text.sampling import TextSource
from service.runtime.text.vocabulary import Vocabulary

# Images per shard. The minimum leaves small jobs with enough shards for many workers.
_MAX_SHARD_SIZE, _MIN_SHARD_SIZE = 1000, 100
_SHARDS_OF_A_SMALL_JOB = 16
# Separates the seed of the second source from other values derived from the same seed.
_PARTNER = 2


class JobError(UserError):
    """The job cannot be started; nothing was written."""


class JobFailed(UserError):
    """A job that had started could not continue."""

    exit_code = 1


class Layout(StrEnum):
    """How the images, sounds or texts are arranged in the output."""

    FOLDER = "folder"
    WEBDATASET = "webdataset"
    PARQUET = "parquet"
    # The only layout of texts, and only theirs.
    JSONL = "jsonl"


class SamplingJob(BaseModel):
    """The parameters of a job. They determine its output completely."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: str
    digest: str
    layout: Layout
    # The format of the files, also of sounds and texts.
    image: FileFormat = ImageFormat.PNG
    first_seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    count: Annotated[int, Field(ge=1)]
    shard_size: Annotated[int, Field(ge=1)]
    # Classes to cycle through, or weights to draw from. If both are None, the class is the seed
    # modulo the number of classes.
    classes: tuple[int, ...] | None = None
    class_weights: dict[int, float] | None = None
    truncation: float | None = None
    # The layers that take the styles of a second source, with their weights.
    mix: dict[int, float] | None = None
    # Width and height.
    resize: tuple[int, int] | None = None
    # For an image-to-image model: the URL of the inputs and a fingerprint of their names and sizes,
    # the masks or the boxes to fill, and the direction. `first_seed` is 0.
    input: str | None = None
    input_fingerprint: str | None = None
    mask: str | None = None
    boxes: tuple[tuple[int, int, int, int], ...] | None = None
    direction: str | None = None
    # How far each latent is moved along directions, and the SHA-256 of the directions.
    directions: dict[str, float] | None = None
    directions_sha256: str | None = None
    # Images are selected by their score among the candidates of their shard.
    rank: Selection | None = None
    # For a text-to-image model: image i has prompt i modulo their number.
    prompts: tuple[str, ...] | None = None
    # For a model of texts.
    temperature: float | None = None
    prefix: str | None = None
    max_length: int | None = None
    # Whether images carry the mark of generated images: false for jobs of versions without it,
    # which end as they were started.
    marked: bool = False

    @property
    def edit(self) -> Edit | None:
        """The edit of every image."""
        return None if self.directions is None else Edit(self.directions)

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.count // self.shard_size)

    def numbers(self, shard: int) -> range:
        """Return the numbers of the images of a shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.count))

    @property
    def candidates(self) -> int:
        """The seeds from the first candidate to the last; without a selection, the images."""
        return self.count * (self.rank.candidates_per_image if self.rank else 1)

    def first_candidate(self, shard: int) -> int:
        """Return the seed of the first candidate of a shard.

        It does not depend on the classes of other shards, so that any shard can be built first.
        """
        return self.first_seed + shard * self.shard_size * (self.candidates // self.count)

    def pixels_per_image(self, generated: int) -> int:
        """Return the pixels that are made for each image, if the model makes `generated` for one.

        The images that are kept of the candidates are generated a second time.
        """
        generated *= self.candidates // self.count + (self.rank is not None)
        return generated + (self.resize[0] * self.resize[1] if self.resize is not None else 0)

    def text_source(self, seed: int, vocabulary: Vocabulary) -> TextSource:
        """Return the source of a text of this job. Raises ValueError if it has no texts."""
        if self.temperature is None or self.prefix is None or self.max_length is None:
            raise ValueError(f"{self.model} generates no texts")
        tokens = vocabulary.read(self.prefix)
        return TextSource(seed, self.max_length, self.temperature, tokens)

    def _json(self) -> str:
        # Added later: jobs without them keep their fingerprint.
        added = {"prompts", "temperature", "prefix", "max_length"}
        return self.model_dump_json(exclude={name for name in added if getattr(self, name) is None})

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all fields: equal for jobs with the same output."""
        return hashlib.sha256(self._json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class JobItem:
    """One image of a job.

    Attributes:
        column: the source whose styles are mixed into the styles of `row`; None without mixing.
        parameters: the JSON object from which the image can be reproduced.
        stem: the path of its file without extension, with a folder per class as in ImageFolder.
        input_file: the name of the input image, for an image-to-image model.
    """

    number: int
    seed: int
    row: LatentSource
    column: LatentSource | None
    class_index: int | None
    class_name: str | None
    parameters: Mapping[str, Any]
    stem: str
    input_file: str | None = None


class JobItems:
    """The images of a job for one model.

    With a selection, the seed of an image is known once its shard has been scored: `selected`
    returns the images of known seeds.
    """

    def __init__(
        self, job: SamplingJob, manifest: Manifest, inputs: JobInputs | None = None
    ) -> None:
        """Use `inputs`; default: those at the URLs of the job. Raises InputError."""
        self._job = job
        self._manifest = manifest
        self._folders = folder_names(manifest.classes)
        self._digits = len(str(job.first_seed + job.candidates - 1))
        self.inputs = inputs
        self._stems: list[str] | None = None
        if job.input is not None:
            self.inputs = inputs or JobInputs.open(job.input, job.mask)
            self._stems = self.inputs.images.stems()

    def __call__(self, number: int) -> JobItem:
        """Return image `number`."""
        if self.inputs is not None and self._stems is not None:
            # The parameters are complete only after the input has been read.
            name, stem = self.inputs.images.names[number], self._stems[number]
            return JobItem(number, number, LatentSource(number), None, None, None, {}, stem, name)
        return self._item(number, self._source(self._job.first_seed + number, number))

    def candidates(self, numbers: Sequence[int]) -> list[CandidateGroup]:
        """Return the candidates for the images `numbers` of one shard."""
        assert self._job.rank is not None  # noqa: S101 - checked by the caller
        sources = [self._source(self._job.first_seed + number, number) for number in numbers]
        first = self._job.first_candidate(numbers[0] // self._job.shard_size)
        return candidate_groups(sources, first, self._job.rank)

    def selected(self, number: int, seed: int) -> JobItem:
        """Return image `number`, for which the candidate `seed` is kept."""
        row = self._source(self._job.first_seed + number, number)
        return self._item(number, replace(row, seed=seed))

    def _item(self, number: int, row: LatentSource) -> JobItem:
        job, manifest, seed = self._job, self._manifest, row.seed
        assert seed is not None  # noqa: S101 - every image of a job has one
        column = None
        parameters = row.parameters(manifest)
        if manifest.text is not None:
            names = ("temperature", "prefix", "max_length")
            parameters |= {name: getattr(job, name) for name in names}
        if job.mix is not None:
            column = self._source(partner_of(seed), number)
            parameters = StyleMixing((row,), (column,), job.mix).parameters(manifest)
        if job.edit is not None and job.directions_sha256 is not None:
            editing = Editing((row,), job.edit.amounts, job.directions_sha256)
            parameters = editing.parameters(row, job.edit, manifest)
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
        prompt = None if job.prompts is None else job.prompts[number % len(job.prompts)]
        return LatentSource(seed, classes=classes, truncation=job.truncation, prompt=prompt)


def partner_of(seed: int) -> int:
    """Return the seed of the source whose styles are mixed into the styles of `seed`."""
    return int(np.random.default_rng((seed, _PARTNER)).integers(MAX_SEED + 1))


def make_job(
    manifest: Manifest,
    *,
    count: int | None = None,
    seeds: tuple[int, int] | None = None,
    seed: int | None = None,
    classes: Sequence[str | int] | Mapping[str, float] | None = None,
    truncation: float | None = None,
    mix: Sequence[str] | None = None,
    resize: tuple[int, int] | None = None,
    layout: Layout | None = None,
    default_layout: Layout = Layout.FOLDER,
    image: ImageFormat = ImageFormat.PNG,
    audio: AudioFormat | None = None,
    shard_size: int | None = None,
    input_: str | None = None,
    mask: str | None = None,
    boxes: Sequence[tuple[int, int, int, int]] | None = None,
    direction: str | None = None,
    prompts: Sequence[str] | None = None,
    temperature: float | None = None,
    prefix: str | None = None,
    max_length: int | None = None,
    vocabulary: Vocabulary | None = None,
    rank: Selection | None = None,
    directions: Mapping[str, float] | None = None,
    open_inputs: Callable[[str, str | None], JobInputs] = JobInputs.open,
) -> SamplingJob:
    """Validate the options of a job, and return the job.

    The job has `count` images with consecutive seeds, starting at `seed`, or one image for each
    seed of the range `seeds`, first to last inclusive. For an image-to-image model it has one image
    for each input at the URL `input_`, which `open_inputs` opens, together with the masks.
    `classes` is `balanced`, a list of classes to cycle through, or weights to draw from. With
    `rank`, the images are selected from more candidates, with consecutive seeds from `seed`, and
    have their seeds. `directions` moves every image. Files have the format `image`, or `audio` for
    a model that returns audio; default: WAV. `vocabulary` is that of a model of texts, which are
    written as JSON Lines; `default_layout` is for all other models.

    Raises InvalidRequest, and InputError for inputs that cannot be listed.
    """
    if layout is None:
        layout = default_layout if manifest.text is None else Layout.JSONL
    file_format = _file_format(manifest, layout, image, audio, resize)
    _check_prompts(manifest, prompts)
    texts = job_text(manifest, vocabulary, temperature, prefix, max_length)
    if prompts is not None and seeds is None and count is None:
        count = len(prompts)
    inputs: dict[str, Any] = {}
    if manifest.input is not None:
        source_options = {
            "seeds": seeds,
            "seed": seed,
            "classes": classes,
            "truncation": truncation,
            "mix": mix,
            "rank": rank,
            "directions": directions,
        }
        for name, value in source_options.items():
            if value is not None:
                raise InvalidRequest(name, f"{manifest.name} is an image-to-image model")
        inputs, available = _inputs(manifest, input_, mask, boxes, direction, open_inputs)
        if count is not None and not 1 <= count <= available:
            raise InvalidRequest(
                "count", f"expected 1 to {available:,}, the number of images in {input_}"
            )
        first, count = 0, count or available
    else:
        input_options = {"input": input_, "mask": mask, "boxes": boxes}
        for name, option in input_options.items():
            if option is not None:
                plural = manifest.output.kind
                raise InvalidRequest(name, f"{manifest.name} generates {plural} from seeds")
        requests.direction_name(manifest, direction)
        first, count = requests.job_seeds(count=count, seeds=seeds, seed=seed)
    rank = requests.image_selection(manifest, rank, mix=mix, seeds=seeds, directions=directions)
    directions = latent_requests.job_directions(manifest, directions, mix=mix)
    class_list, class_weights = requests.job_classes(manifest, classes)
    if shard_size is not None and shard_size < 1:
        raise InvalidRequest("shard_size", f"expected at least 1, got {shard_size}")
    shard_size = shard_size or _shard_size(count, rank.candidates_per_image if rank else 1)
    job = SamplingJob(
        model=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
        layout=layout,
        image=file_format,
        first_seed=first,
        count=count,
        shard_size=shard_size,
        classes=class_list,
        class_weights=class_weights,
        truncation=requests.truncation_value(manifest, truncation),
        mix=requests.job_layers(manifest, mix),
        resize=requests.job_size(resize, image),
        rank=rank,
        directions=directions,
        directions_sha256=manifest.directions.sha256
        if directions and manifest.directions
        else None,
        prompts=None if prompts is None else tuple(prompts),
        marked=True,
        **inputs,
        **texts,
    )
    last = first + job.candidates - 1
    if last > MAX_SEED:
        raise InvalidRequest(
            "rank", f"the last candidate would have the seed {last:,}, beyond {MAX_SEED:,}"
        )
    return job


def _file_format(
    manifest: Manifest,
    layout: Layout,
    image: ImageFormat,
    audio: AudioFormat | None,
    resize: tuple[int, int] | None,
) -> FileFormat:
    """Return the format of the files. Raises InvalidRequest if the model cannot have it."""
    if manifest.task == "text-encoder":
        message = f"{manifest.name} encodes the prompts of other models"
        raise InvalidRequest("model", message)
    returned = f"{manifest.name} returns {manifest.output.kind}"
    if manifest.audio is None and audio is not None:
        raise InvalidRequest("audio", returned)
    if (layout is Layout.JSONL) != (manifest.text is not None):
        expected = "jsonl" if manifest.text is not None else "folder, webdataset or parquet"
        raise InvalidRequest("format", f"{returned}; expected {expected}")
    if manifest.image is not None:
        return image
    if image is not ImageFormat.PNG:
        raise InvalidRequest("image", returned)
    if resize is not None:
        raise InvalidRequest("resize", returned)
    if manifest.text is not None:
        return TextFormat.JSONL
    if layout is Layout.PARQUET:
        raise InvalidRequest("format", f"{returned}; expected folder or webdataset")
    return audio or AudioFormat.WAV


def _check_prompts(manifest: Manifest, prompts: Sequence[str] | None) -> None:
    """Raise InvalidRequest unless the model has the prompts that it needs."""
    if prompts is None:
        if manifest.text_input is not None:
            raise InvalidRequest("prompts", f"missing: {manifest.name} is a text-to-image model")
        return
    if manifest.text_input is None:
        raise InvalidRequest("prompts", f"{manifest.name} takes no prompts")
    if not prompts:
        raise InvalidRequest("prompts", "expected at least one prompt")
    for i, prompt in enumerate(prompts):
        check_prompt(prompt, f"prompts.{i}")


def _inputs(
    manifest: Manifest,
    url: str | None,
    mask: str | None,
    boxes: Sequence[tuple[int, int, int, int]] | None,
    direction: str | None,
    open_inputs: Callable[[str, str | None], JobInputs],
) -> tuple[dict[str, Any], int]:
    """Return the fields of a job that describe its inputs, and the number of inputs."""
    assert manifest.input is not None  # noqa: S101 - checked by the caller
    if url is None:
        raise InvalidRequest("input", f"missing: {manifest.name} is an image-to-image model")
    direction = requests.direction_name(manifest, direction)
    if mask is not None and boxes is not None:
        raise InvalidRequest("boxes", "give a mask or boxes, not both")
    if manifest.input.masked and mask is None and boxes is None:
        raise InvalidRequest("mask", f"missing: {manifest.name} needs a mask or boxes")
    if not manifest.input.masked and (mask is not None or boxes is not None):
        raise InvalidRequest(
            "mask" if boxes is None else "boxes", f"{manifest.name} takes no mask and no boxes"
        )
    inputs = open_inputs(url, mask)
    if mask is not None and (missing := inputs.without_mask()):
        raise InvalidRequest(
            "mask",
            f"{mask} has no mask for {missing[0]}"
            + (f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""),
        )
    fields = {
        "input": url,
        "input_fingerprint": inputs.fingerprint,
        "mask": mask,
        "boxes": None if boxes is None else tuple(boxes),
        "direction": direction,
    }
    return fields, len(inputs.images)


def _shard_size(count: int, candidates: int) -> int:
    """Return the images per shard of a job of `count` images, each with so many candidates."""
    wanted = -(-count * candidates // _SHARDS_OF_A_SMALL_JOB)
    size = max(_MIN_SHARD_SIZE, min(_MAX_SHARD_SIZE, wanted))
    return min(count, max(size // candidates, 1))


def as_text(job: SamplingJob) -> str:
    """Return a job as JSON, the content of its file."""
    return json.dumps(job.model_dump(mode="json"), indent=2) + "\n"
