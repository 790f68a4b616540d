"""Prometheus metrics. Labels are route templates and model names, never client input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import lru_cache

from prometheus_client import (
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service import __version__
from service.api.request_context import Rejection
from service.offline.queue.webhook_deliverer import DeliveryOutcome
from service.runtime.models.catalog import State
from service.runtime.scheduling.batches import Batch, BatchGroup, Priority, Rows
from service.runtime.scheduling.engine import Engine, EngineState
from service.runtime.scheduling.output_monitor import OutputMonitor
from service.settings import Settings

# Creation timestamps would double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
# Weight of a new difference in the exponential moving average of output diversity.
_DIVERSITY_WEIGHT = 0.05


# Returns the numbers of processes that are alive and that are ready.
CountProcesses = Callable[[], tuple[int, int]]


class Cache(StrEnum):
    """The caches whose hits are counted."""

    # Styles of latents that were mapped for an earlier request.
    STYLES = "styles"
    # An image in the client's own cache, or a proxy's: a conditional request answered with 304.
    CLIENT = "client"


REQUESTS = Counter("ganymede_requests_total", "Requests answered.", ["route", "method", "status"])
REQUEST_SECONDS = Histogram(
    "ganymede_request_seconds",
    "Seconds from the first byte of the request to the last of the response.",
    ["route"],
    buckets=_SECONDS,
)
REJECTIONS = Counter("ganymede_rejections_total", "Requests refused, by reason.", ["reason"])
CACHE_HITS = Counter("ganymede_cache_hits_total", "Cache hits.", ["cache"])
CACHE_MISSES = Counter("ganymede_cache_misses_total", "Cache misses.", ["cache"])
QUEUE_PIXELS = Gauge(
    "ganymede_queue_pixels",
    "Pixels accepted and not yet generated.",
    multiprocess_mode="livesum",
)
QUEUE_SECONDS = Histogram(
    "ganymede_queue_seconds",
    "Seconds from the submission of a job to the start of its first batch.",
    ["model"],
    buckets=_SECONDS,
)
PRIORITY_QUEUE_SECONDS = Histogram(
    "ganymede_priority_queue_seconds",
    "Seconds from the submission of a job to the start of its first batch, by priority.",
    ["priority"],
    buckets=_SECONDS,
)
BATCH_ROWS = Histogram(
    "ganymede_batch_rows",
    "Rows in one batch: images, or styles that are mixed later.",
    ["model"],
    buckets=_ROWS,
)
INFERENCE_SECONDS = Histogram(
    "ganymede_inference_seconds", "Seconds of inference for one batch.", ["model"], buckets=_SECONDS
)
ENCODE_SECONDS = Histogram(
    "ganymede_encode_seconds",
    "Seconds of work on the outputs of a job: encoding images, or mixing styles.",
    ["model"],
    buckets=_SECONDS,
)
SAMPLED_ROWS = Counter("ganymede_sampled_rows_total", "Output rows that were sampled.", ["model"])
NONFINITE_ROWS = Counter(
    "ganymede_nonfinite_rows_total",
    "Sampled floating-point rows that contain NaN or infinity.",
    ["model"],
)
FLAT_IMAGES = Counter(
    "ganymede_flat_pictures_total",
    "Sampled images in which all values are equal, a symptom of NaN in a graph.",
    ["model"],
)
SAMPLED_VALUES = Counter(
    "ganymede_sampled_values_total", "Image values that were sampled.", ["model"]
)
SATURATED_VALUES = Counter(
    "ganymede_saturated_values_total", "Sampled image values that are 0 or 255.", ["model"]
)
DIVERSITY = Gauge(
    "ganymede_output_diversity",
    "Mean absolute difference between sampled images of different latents, 0 to 1.",
    ["model"],
    # The processes run the same models, so each value stands for all.
    multiprocess_mode="livemostrecent",
)
WEBHOOKS = Counter(
    "ganymede_webhooks_total", "Attempts to deliver webhooks of jobs, by outcome.", ["outcome"]
)
EVENT_STREAMS = Gauge(
    "ganymede_event_streams", "Open event streams of jobs.", multiprocess_mode="livesum"
)
_priority_queue_seconds = {
    priority: PRIORITY_QUEUE_SECONDS.labels(priority.name.lower()) for priority in Priority
}
# Every reason and cache starts at 0, so that a rate includes the first event.
for _reason in Rejection:
    REJECTIONS.labels(_reason.value)
for _cache in Cache:
    CACHE_HITS.labels(_cache.value)
    CACHE_MISSES.labels(_cache.value)
for _outcome in DeliveryOutcome:
    WEBHOOKS.labels(_outcome.value)


def record_request(
    route: str, method: str, status: int, seconds: float, rejection: Rejection | None
) -> None:
    """Count a request. `route` is a route template, and `method` one that the route accepts."""
    _requests(route, method, status).inc()
    _request_seconds(route).observe(seconds)
    if rejection is not None:
        REJECTIONS.labels(rejection.value).inc()


# A lookup by label costs more than an update.
@lru_cache(maxsize=1000)
def _requests(route: str, method: str, status: int) -> Counter:
    return REQUESTS.labels(route, method, str(status))


@lru_cache(maxsize=1000)
def _request_seconds(route: str) -> Histogram:
    return REQUEST_SECONDS.labels(route)


def record_webhook(outcome: DeliveryOutcome) -> None:
    """Count an attempt to deliver a webhook."""
    WEBHOOKS.labels(outcome.value).inc()


def record_cache_lookups(cache: Cache, *, hits: int, lookups: int) -> None:
    """Count `lookups` in a cache, `hits` of them successful."""
    CACHE_HITS.labels(cache.value).inc(hits)
    CACHE_MISSES.labels(cache.value).inc(lookups - hits)


class _ModelMetrics:
    """The series of one model, kept because a lookup by label costs more than an update."""

    def __init__(self, model: str) -> None:
        self.queue_seconds = QUEUE_SECONDS.labels(model)
        self.batch_rows = BATCH_ROWS.labels(model)
        self.inference_seconds = INFERENCE_SECONDS.labels(model)
        self.encode_seconds = ENCODE_SECONDS.labels(model)
        self.sampled_rows = SAMPLED_ROWS.labels(model)
        self.nonfinite_rows = NONFINITE_ROWS.labels(model)
        self.flat_images = FLAT_IMAGES.labels(model)
        self.sampled_values = SAMPLED_VALUES.labels(model)
        self.saturated_values = SATURATED_VALUES.labels(model)


class SchedulerMetrics:
    """Observes the scheduler and updates the metrics."""

    def __init__(self, output_monitor: OutputMonitor | None = None) -> None:
        self._output_monitor = output_monitor or OutputMonitor()
        self._models: dict[str, _ModelMetrics] = {}
        self._diversity: dict[str, float] = {}

    def queued(self, pixels: int) -> None:
        """Record the number of pixels in the queue."""
        QUEUE_PIXELS.set(pixels)

    def waited(self, group: BatchGroup, seconds: float, priority: Priority) -> None:
        """Record how long a job waited for its first batch."""
        self._of(group).queue_seconds.observe(seconds)
        _priority_queue_seconds[priority].observe(seconds)

    def ran(self, group: BatchGroup, rows: int, seconds: float) -> None:
        """Record a batch."""
        model = self._of(group)
        model.batch_rows.observe(rows)
        model.inference_seconds.observe(seconds)

    def produced(self, batch: Batch, outputs: Rows) -> None:
        """Sample the outputs of a batch."""
        if (sample := self._output_monitor.sample(batch, outputs)) is None:
            return
        model = self._of(batch.group)
        model.sampled_rows.inc(sample.rows)
        model.nonfinite_rows.inc(sample.nonfinite)
        model.flat_images.inc(sample.flat)
        model.sampled_values.inc(sample.values)
        model.saturated_values.inc(sample.saturated)
        name = batch.group.label
        for difference in sample.differences:
            mean = self._diversity.get(name, difference)
            self._diversity[name] = mean + _DIVERSITY_WEIGHT * (difference - mean)
            # Not exported before the first sample: 0 would mean that all images are equal.
            DIVERSITY.labels(name).set(self._diversity[name])

    def encoded(self, group: BatchGroup, seconds: float) -> None:
        """Record the time spent on the outputs of a job."""
        self._of(group).encode_seconds.observe(seconds)

    def _of(self, group: BatchGroup) -> _ModelMetrics:
        model = self._models.get(group.label)
        if model is None:
            # If two threads get here at once, both get the same series.
            model = self._models[group.label] = _ModelMetrics(group.label)
        return model


class EngineMetrics(Collector):
    """Exports the state of the engine at the time of the scrape."""

    def __init__(
        self, engine: Engine, settings: Settings, count_processes: CountProcesses | None = None
    ) -> None:
        """`count_processes` counts those of the server; default: this process is the only one."""
        self._engine = engine
        self._settings = settings
        self._count_processes = count_processes or self._count_this_process

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the gauges."""
        processes = GaugeMetricFamily(
            "ganymede_processes",
            "Processes of the server: all that are alive, and those that accept requests.",
            labels=["state"],
        )
        for name, count in zip(("alive", "ready"), self._count_processes(), strict=True):
            processes.add_metric([name], count)
        yield processes
        build = GaugeMetricFamily("ganymede_build_info", "Ganymede's version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        state = GaugeMetricFamily(
            "ganymede_state",
            "1 for the current state of the service, 0 for the others.",
            labels=["state"],
        )
        for each in EngineState:
            state.add_metric([each.value], float(each is self._engine.state))
        yield state
        yield GaugeMetricFamily(
            "ganymede_queue_bound_pixels",
            "Maximum number of pixels in the queue.",
            value=self._settings.queue_pixels,
        )
        states = GaugeMetricFamily(
            "ganymede_model_state",
            "1 for the current state of a model, 0 for the others.",
            labels=["model", "version", "state"],
        )
        info = GaugeMetricFamily(
            "ganymede_model_info",
            "Provider and digest of a ready model.",
            labels=["model", "version", "provider", "digest"],
        )
        catalog = self._engine.catalog
        for entry in catalog.entries if catalog else ():
            for each_state in State:
                labels = [entry.name, entry.version, each_state.value]
                states.add_metric(labels, float(entry.state is each_state))
            if entry.model is not None:
                model = entry.model
                info.add_metric([entry.name, entry.version, model.provider, model.digest], 1)
        yield states
        yield info

    def _count_this_process(self) -> tuple[int, int]:
        return 1, int(self._engine.state is EngineState.READY)
