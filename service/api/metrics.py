"""Prometheus metrics, labelled by route template and model: never by what a client typed."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service import __version__
from service.api.request_context import Rejection
from service.api.routes import head_requests
from service.runtime.models.catalog import State
from service.runtime.scheduling.batches import Batch, BatchGroup, Rows
from service.runtime.scheduling.engine import Engine, EngineState
from service.runtime.scheduling.output_monitor import OutputMonitor
from service.settings import Settings

# The moment at which each series began would be a series more for each.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
# How much one difference between two pictures counts in the mean of them.
_WEIGHT = 0.05


class Cache(StrEnum):
    """What may make work unnecessary."""

    # The styles of a seed, kept from an earlier request.
    STYLES = "styles"
    # The picture that the client has, or a cache on the way to it: 304 in place of a new one.
    CLIENT = "client"


REQUESTS = Counter("ganymede_requests_total", "Requests answered.", ["route", "method", "status"])
REQUEST_SECONDS = Histogram(
    "ganymede_request_seconds", "From the first byte to the last.", ["route"], buckets=_SECONDS
)
REJECTIONS = Counter("ganymede_rejections_total", "Requests refused, by why.", ["reason"])
CACHE_HITS = Counter("ganymede_cache_hits_total", "What a cache had.", ["cache"])
CACHE_MISSES = Counter("ganymede_cache_misses_total", "What a cache did not have.", ["cache"])
QUEUE_PIXELS = Gauge("ganymede_queue_pixels", "Pixels accepted and not yet made.")
QUEUE_SECONDS = Histogram(
    "ganymede_queue_seconds",
    "From a job's submission to the start of its first batch.",
    ["model"],
    buckets=_SECONDS,
)
BATCH_ROWS = Histogram(
    "ganymede_batch_rows",
    "Rows of one run: pictures, or the styles that they are mixed of.",
    ["model"],
    buckets=_ROWS,
)
INFERENCE_SECONDS = Histogram(
    "ganymede_inference_seconds", "Time of one run.", ["model"], buckets=_SECONDS
)
ENCODE_SECONDS = Histogram(
    "ganymede_encode_seconds",
    "Time of what follows on a job's run: encoding its pictures, or mixing its styles.",
    ["model"],
    buckets=_SECONDS,
)
SAMPLED_ROWS = Counter("ganymede_sampled_rows_total", "Rows of outputs looked at.", ["model"])
NONFINITE_ROWS = Counter(
    "ganymede_nonfinite_rows_total",
    "Sampled rows of real numbers with a NaN or infinity.",
    ["model"],
)
FLAT_PICTURES = Counter(
    "ganymede_flat_pictures_total",
    "Sampled pictures of one value only, as NaN makes them.",
    ["model"],
)
SAMPLED_VALUES = Counter(
    "ganymede_sampled_values_total", "Values of pictures looked at.", ["model"]
)
SATURATED_VALUES = Counter(
    "ganymede_saturated_values_total", "Sampled values of pictures that are 0 or 255.", ["model"]
)
DIVERSITY = Gauge(
    "ganymede_output_diversity",
    "Mean absolute difference between sampled pictures of different latents, of 1.",
    ["model"],
)
# Every reason and cache is there from the start, so that a rate sees the first of them.
for _reason in Rejection:
    REJECTIONS.labels(_reason.value)
for _cache in Cache:
    CACHE_HITS.labels(_cache.value)
    CACHE_MISSES.labels(_cache.value)


def answered(
    route: str, method: str, status: int, seconds: float, rejection: Rejection | None
) -> None:
    """Count a request. `route` is a template of ours, and `method` one that it answers."""
    REQUESTS.labels(route, method, str(status)).inc()
    REQUEST_SECONDS.labels(route).observe(seconds)
    if rejection is not None:
        REJECTIONS.labels(rejection.value).inc()


def looked_up(cache: Cache, *, hits: int, of: int) -> None:
    """Count `of` look-ups in a cache, so many of which were `hits`."""
    CACHE_HITS.labels(cache.value).inc(hits)
    CACHE_MISSES.labels(cache.value).inc(of - hits)


class _ModelMetrics:
    """The series of one model, found once: that costs more than to add to them."""

    def __init__(self, model: str) -> None:
        self.queue_seconds = QUEUE_SECONDS.labels(model)
        self.batch_rows = BATCH_ROWS.labels(model)
        self.inference_seconds = INFERENCE_SECONDS.labels(model)
        self.encode_seconds = ENCODE_SECONDS.labels(model)
        self.sampled_rows = SAMPLED_ROWS.labels(model)
        self.nonfinite_rows = NONFINITE_ROWS.labels(model)
        self.flat_pictures = FLAT_PICTURES.labels(model)
        self.sampled_values = SAMPLED_VALUES.labels(model)
        self.saturated_values = SATURATED_VALUES.labels(model)


class SchedulerMetrics:
    """What the scheduler has to say, in Prometheus' words."""

    def __init__(self, samples: OutputMonitor | None = None) -> None:
        self._samples = samples or OutputMonitor()
        self._models: dict[str, _ModelMetrics] = {}
        self._diversity: dict[str, float] = {}

    def queued(self, pixels: int) -> None:
        """Note the depth of the queue."""
        QUEUE_PIXELS.set(pixels)

    def waited(self, lane: BatchGroup, seconds: float) -> None:
        """Count a job that begins."""
        self._of(lane).queue_seconds.observe(seconds)

    def ran(self, lane: BatchGroup, rows: int, seconds: float) -> None:
        """Count a batch."""
        model = self._of(lane)
        model.batch_rows.observe(rows)
        model.inference_seconds.observe(seconds)

    def made(self, batch: Batch, outputs: Rows) -> None:
        """Look at what some of the batches gave."""
        if (look := self._samples.look(batch, outputs)) is None:
            return
        model = self._of(batch.lane)
        model.sampled_rows.inc(look.rows)
        model.nonfinite_rows.inc(look.nonfinite)
        model.flat_pictures.inc(look.flat)
        model.sampled_values.inc(look.values)
        model.saturated_values.inc(look.saturated)
        name = batch.lane.label
        for difference in look.differences:
            mean = self._diversity.get(name, difference)
            self._diversity[name] = mean + _WEIGHT * (difference - mean)
            # Not there before the first: 0 would say that all pictures are alike.
            DIVERSITY.labels(name).set(self._diversity[name])

    def encoded(self, lane: BatchGroup, seconds: float) -> None:
        """Count an encoding."""
        self._of(lane).encode_seconds.observe(seconds)

    def _of(self, lane: BatchGroup) -> _ModelMetrics:
        model = self._models.get(lane.label)
        if model is None:
            # Two threads may both come here: they find the same series.
            model = self._models[lane.label] = _ModelMetrics(lane.label)
        return model


class EngineMetrics(Collector):
    """What the engine is at the moment of the scrape."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the gauges."""
        build = GaugeMetricFamily("ganymede_build_info", "Ganymede's version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        state = GaugeMetricFamily(
            "ganymede_state", "1 for the state that the service is in.", labels=["state"]
        )
        for each in EngineState:
            state.add_metric([each.value], float(each is self._engine.state))
        yield state
        yield GaugeMetricFamily(
            "ganymede_queue_bound_pixels",
            "Pixels accepted at most.",
            value=self._settings.queue_pixels,
        )
        states = GaugeMetricFamily(
            "ganymede_model_state",
            "1 for the state that a model is in.",
            labels=["model", "version", "state"],
        )
        info = GaugeMetricFamily(
            "ganymede_model_info",
            "What a ready model is and runs on.",
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


def router(engine: Engine, settings: Settings) -> APIRouter:
    """Return the route that Prometheus scrapes."""
    routes = APIRouter(tags=["operations"])
    # An engine's own: a process may hold several, each behind an application.
    registry = CollectorRegistry()
    registry.register(EngineMetrics(engine, settings))

    @head_requests.get(routes, "/metrics", summary="Prometheus metrics", response_class=Response)
    def metrics() -> Response:
        text = generate_latest(registry) + generate_latest(REGISTRY)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return routes
