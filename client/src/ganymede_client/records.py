"""The service's models, jobs and state, as its responses describe them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

Record = TypeVar("Record")


def record(record_type: type[Record], document: Mapping[str, Any]) -> Record:
    """Return a record from a JSON object. Fields that the record does not have are ignored, so that
    a newer service can be used.

    Raises TypeError if a field is missing that has no default.
    """
    names = {each.name for each in dataclasses.fields(record_type)}  # type: ignore[arg-type]
    return record_type(**{name: value for name, value in document.items() if name in names})


@dataclass(frozen=True)
class Model:
    """A model of the service.

    Attributes:
        id: the name; `version` is the version that a request without one uses.
        state: ``ready`` or ``failed``, the latter with a `reason`.
        task: ``generate``, ``translate``, ``upscale``, ``inpaint``, ``colorize``,
            ``audio``, ``text``, ``text-to-image`` or ``text-encoder``.
        truncation: `default`, `minimum` and `maximum`; None if the model does not support it.
        styles: `layers` and `dimension`; None if the model does not support style mixing.
        transform: True if images can be translated, rotated and scaled.
        discriminator: if not None, `rank` selects images, and `figures` has the quality of those
            that are kept.
        image: `height`, `width` and `channels`; None if the model returns no images.
        audio: `sample_rate` in Hz and `samples`, for a model that returns audio.
        text, text_encoder, text_input: what a model of text, a text encoder, or a model that takes
            prompts states about its text.
        directions: the directions for `Client.edit`, each with `name`, `space`, `method`,
            `description`, `layers`, the URL of a `strip` and measured `figures`.
        encoder: `passes` and measured `figures`; None if images cannot be inverted.
        plan: how the model is executed.
        golden: whether the model reproduces the image of its export exactly or nearly.
        loaded, memory_bytes: with a memory budget, whether the model is loaded, and its size.
        versions: `version`, `state` and `reason` of each version.
        manifest: the complete manifest; only from `Client.model`.
    """

    id: str
    name: str
    version: str
    state: str
    created: int = 0
    object: str = "model"
    owned_by: str = ""
    reason: str | None = None
    provider: str | None = None
    plan: Mapping[str, Any] | None = None
    golden: str | None = None
    loaded: bool | None = None
    memory_bytes: int | None = None
    digest: str | None = None
    task: str | None = None
    summary: str | None = None
    classes: list[str] = field(default_factory=list)
    truncation: Mapping[str, float] | None = None
    styles: Mapping[str, Any] | None = None
    transform: bool = False
    discriminator: Mapping[str, Any] | None = None
    image: Mapping[str, int] | None = None
    audio: Mapping[str, int] | None = None
    text: Mapping[str, Any] | None = None
    text_encoder: Mapping[str, Any] | None = None
    text_input: Mapping[str, Any] | None = None
    directions: list[Mapping[str, Any]] | None = None
    encoder: Mapping[str, Any] | None = None
    versions: list[Mapping[str, str | None]] = field(default_factory=list)
    manifest: Mapping[str, Any] | None = None

    @property
    def is_ready(self) -> bool:
        """True if the model accepts requests."""
        return self.state == "ready"


@dataclass(frozen=True)
class JobFile:
    """A complete file of a job; `url` is its path at the service."""

    name: str
    bytes: int
    url: str


@dataclass(frozen=True)
class JobWebhook:
    """The notification about the end of a job. Times are in seconds since the epoch.

    Attributes:
        id: the ``webhook-id``, the same for all attempts.
        state: ``pending``, ``delivered`` or ``failed``.
        next_attempt: when it is sent again.
        error: why the last attempt failed.
    """

    id: str
    url: str
    state: str
    attempts: int
    next_attempt: float | None = None
    delivered: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Job:
    """A sampling job. Times are in seconds since the epoch.

    Attributes:
        state: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.
        count, images, failed: the images of the job, those that are generated, and those that could
            not be generated.
        bytes: the size of the files.
        error: why the job failed, or why it waits before it is tried again.
        attempts: how often it was started without finishing a part of it since.
        expires: when the job and its files will be deleted.
        webhook: the notification about its end, if one was requested.
        input: where the input images are, or ``upload:`` and the name of the uploaded file.
        output: the URL of the folder with the results; None if the service keeps them.
        files: the complete files; empty in lists of jobs, and for a job with an `output`.
    """

    id: str
    state: str
    model: str
    count: int
    images: int
    failed: int
    bytes: int
    created: float
    started: float | None = None
    ended: float | None = None
    images_per_second: float | None = None
    eta_s: float | None = None
    error: str | None = None
    attempts: int = 0
    expires: float | None = None
    webhook: JobWebhook | None = None
    input: str | None = None
    output: str | None = None
    files: list[JobFile] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        """True if the state is final."""
        return self.state not in ("queued", "running")

    def __str__(self) -> str:
        """Return one line about the progress: ``running: 120 of 200 images, 40.0 images/s``."""
        parts = [f"{self.state}: {self.images:,} of {self.count:,} images"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.images_per_second:
            parts.append(f"{self.images_per_second:,.1f} images/s")
        if self.eta_s is not None:
            parts.append(f"{self.eta_s:,.0f} s left")
        if self.error:
            parts.append(self.error)
        return ", ".join(parts)


def job(document: Mapping[str, Any]) -> Job:
    """Return a job from its JSON object."""
    files = [record(JobFile, file) for file in document.get("files", [])]
    webhook = document.get("webhook")
    webhook = None if webhook is None else record(JobWebhook, webhook)
    return record(Job, {**document, "files": files, "webhook": webhook})


@dataclass(frozen=True)
class JobEvent:
    """Something new about a job.

    Attributes:
        kind: ``state``, ``progress`` or ``end``.
        id: for `last_event_id` of `job_events`.
        job: its state at this time, without its files.
    """

    kind: str
    id: str
    job: Job

    def __str__(self) -> str:
        """Return one line about the progress."""
        return str(self.job)


@dataclass(frozen=True)
class Text:
    """A generated text, with the parameters that reproduce it.

    Attributes:
        text: with the `prefix`.
        tokens: the number of tokens after the prefix.
        finish_reason: ``end``, or ``length`` for a text with `max_length` tokens.
    """

    seed: int
    text: str
    temperature: float = 1.0
    prefix: str = ""
    max_length: int | None = None
    tokens: int | None = None
    finish_reason: str | None = None

    def __str__(self) -> str:
        """Return the text."""
        return self.text


@dataclass(frozen=True)
class TextEvent:
    """A part of a text, or a complete one.

    Attributes:
        kind: ``token`` for the next part of a text, ``text`` for a complete one.
        index: the position of the text in the request, from 0.
        text: the part that follows the previous ones, or the complete text.
        complete: the complete text with its parameters; None for a part.
    """

    kind: str
    index: int
    text: str
    complete: Text | None = None


@dataclass(frozen=True)
class JobPage:
    """Some of the jobs, newest first. `after` is the position of the next page, if there is one."""

    jobs: list[Job]
    after: str | None = None


@dataclass(frozen=True)
class ReloadedModel:
    """One version of a model after a reload."""

    id: str
    digest: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Reloaded:
    """Models by outcome. A model that failed keeps serving its previous files, if any."""

    loaded: list[ReloadedModel]
    kept: list[ReloadedModel]
    failed: list[ReloadedModel]
    removed: list[ReloadedModel]


@dataclass(frozen=True)
class Readiness:
    """Whether the service accepts requests, and the reason if it does not."""

    ready: bool
    reason: str | None = None

    def __bool__(self) -> bool:
        """Return whether the service is ready."""
        return self.ready
