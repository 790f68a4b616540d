"""State that the handlers of one application share: engine, settings, job queue, upload budget."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
from fastapi import FastAPI, Request
from prometheus_client import REGISTRY
from prometheus_client.registry import Collector

from service.api.metrics import CountProcesses, record_webhook
from service.api.problems import Problem, invalid
from service.api.rate_limits import Buckets
from service.api.request_context import Rejection, note_model, note_rejection
from service.offline.queue.job_watcher import JobWatcher
from service.offline.queue.locations import LocationRules
from service.offline.queue.runner import JobQueue, QueueLimits
from service.offline.queue.webhook_deliverer import WebhookDeliverer
from service.offline.untrusted.limits import InputLimits
from service.runtime.credentials.signing import Signer, create_signer
from service.runtime.latent.neighbors import SampleCache
from service.runtime.models.catalog import Catalog
from service.runtime.models.model import Model
from service.runtime.models.parts.tasks import Task
from service.runtime.onnx.machine import usable_cpus
from service.runtime.scheduling.engine import Engine, EngineState, NotReady
from service.runtime.scheduling.errors import QueueFull
from service.runtime.scheduling.pixel_bounds import LocalPixelBound, PixelBound
from service.settings import Settings
from service.webhooks.signing import SecretsError, SigningSecrets
from service.webhooks.targets import PermittedTargets


class UploadTooLarge(Exception):
    """One image needs more pixels than the budget holds; waiting would not help."""


class PixelBudget:
    """Bounds the pixels of decoded uploads that are in memory, over all requests."""

    def __init__(self, bound: PixelBound) -> None:
        self._bound = bound

    @property
    def limit(self) -> int:
        """The number of pixels that can be in memory."""
        return self._bound.limit

    def acquire(self, pixels: int) -> None:
        """Reserve `pixels`. Raises QueueFull, or UploadTooLarge if they can never fit."""
        if pixels > self.limit:
            raise UploadTooLarge
        if self._bound.reserve(pixels):
            raise QueueFull(1.0)

    def release(self, pixels: int) -> None:
        """Return `pixels` to the budget."""
        self._bound.free(pixels)


@dataclass(frozen=True)
class SharedState:
    """What the application shares with the other processes of its server.

    None stands for state of this process alone.
    """

    buckets: Buckets | None = None
    upload_pixels: PixelBound | None = None
    # The metrics of all processes; default: those of this process.
    metrics: Collector = REGISTRY
    count_processes: CountProcesses | None = None


@dataclass(frozen=True)
class ServiceState:
    """The state of one application, shared by all of its requests."""

    engine: Engine
    settings: Settings
    queue: JobQueue
    watcher: JobWatcher
    upload_pixels: PixelBudget
    # The metrics that are not read from the engine.
    metrics: Collector = REGISTRY
    count_processes: CountProcesses | None = None
    # Signs images that are requested with Content Credentials; None if none is configured.
    signer: Signer | None = None
    # One decoder per CPU at a time, because each may take much memory.
    decoders: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(usable_cpus())
    )
    # Samples of models without an encoder, among which an image's nearest is found.
    samples: SampleCache = field(default_factory=SampleCache)

    def ready_catalog(self) -> Catalog:
        """Return the models that are served. Raises NotReady."""
        engine = self.engine
        if engine.state is not EngineState.READY or engine.catalog is None:
            if engine.state in (EngineState.DRAINING, EngineState.STOPPED):
                note_rejection(Rejection.DRAINING)
            raise NotReady(engine.reason or engine.state)
        return engine.catalog

    def find_any_model(self, name: str) -> Model:
        """Return the model `name` or `name@version`. Raises NotReady and ModelNotFound."""
        model = self.ready_catalog().get(name)
        note_model(model.manifest.name)
        return model

    def find_model(self, name: str, *tasks: Task) -> Model:
        """Return a model for one of `tasks`, by default `generate`.

        Raises NotReady, ModelNotFound and Problem (422).
        """
        model = self.find_any_model(name)
        task = model.manifest.task
        if task not in (tasks or ("generate",)):
            if task == "text-encoder":
                message = f"{model.manifest.name} encodes the prompts of other models"
                raise invalid("model", message)
            raise invalid("model", f"{model.manifest.name} is for /v1/{task}")
        return model

    def find_encoder(self, model: Model) -> Model:
        """Return the text encoder of a model that takes prompts. Raises NotReady, ModelFailed."""
        return self.ready_catalog().encoder_of(model.manifest)

    def signer_or_refuse(self) -> Signer:
        """Return what signs Content Credentials. Raises Problem (422) if none is configured."""
        if self.signer is not None:
            return self.signer
        message = (
            "this server has no certificate to sign Content Credentials; its operator can set "
            "--c2pa-certificate and --c2pa-key"
        )
        raise Problem(
            422,
            "no-certificate",
            "The server cannot sign images",
            message,
            errors=[{"field": "c2pa", "message": message}],
        )


def create_queue(engine: Engine, settings: Settings, server: str | None = None) -> JobQueue:
    """Return the job queue of a service, with the configured limits. It is not started.

    All processes of one `server` share the queue; default: this process is the only one.
    """
    limits = QueueLimits(
        waiting_per_owner=settings.max_jobs_per_key,
        bytes_per_owner=settings.jobs_quota,
        keep_s=settings.jobs_keep,
    )
    rules = LocationRules(
        settings.jobs_outputs,
        settings.jobs_inputs,
        settings.max_upload_pixels,
        InputLimits(files=min(InputLimits().files, settings.max_job_images)),
    )
    return JobQueue(settings.jobs, engine, limits, server, rules)


def create_deliverer(queue: JobQueue, settings: Settings) -> WebhookDeliverer | None:
    """Return what sends the webhooks of the jobs in `queue`, not started; None without webhooks.

    Raises SecretsError.
    """
    if not settings.webhook_hosts:
        return None
    if settings.webhook_secrets is None:
        raise SecretsError("webhook_hosts requires webhook_secrets, a file of signing secrets")
    permitted = PermittedTargets(settings.webhook_hosts)
    secrets = SigningSecrets(settings.webhook_secrets)
    return WebhookDeliverer(queue, permitted, secrets, count=record_webhook)


def install(
    app: FastAPI, engine: Engine, settings: Settings, queue: JobQueue, shared: SharedState
) -> ServiceState:
    """Attach the state to `app`, where `state_of` finds it."""
    uploads = shared.upload_pixels or LocalPixelBound(settings.queue_pixels)
    budget = PixelBudget(uploads)
    watcher = JobWatcher(
        queue.table, lambda: engine.state in (EngineState.DRAINING, EngineState.STOPPED)
    )
    state = ServiceState(
        engine,
        settings,
        queue,
        watcher,
        budget,
        shared.metrics,
        shared.count_processes,
        create_signer(settings.c2pa_certificate, settings.c2pa_key, required=settings.c2pa_default),
    )
    app.state.service = state
    return state


def state_of(request: Request) -> ServiceState:
    """Return the state of the application that handles `request`."""
    state: ServiceState = request.app.state.service
    return state
