"""The parts of a worker process: engine, application and job queue."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service import logs, tracing
from service.announcement import log_ready
from service.api.app import create_app
from service.api.metrics import SchedulerMetrics
from service.api.problems import not_ready
from service.api.state import SharedState, create_deliverer, create_queue
from service.host.shutdown import CHECK_S, GracefulShutdown
from service.host.uvicorn_accept import Listener
from service.processes.choice_cache import ChoiceCache
from service.processes.hung_workers import HungWorkers
from service.processes.model_updates import SharedModelUpdates
from service.processes.process_count import ProcessCount, worthwhile_processes
from service.processes.server_folder import ServerFolder
from service.processes.shared_metrics import SharedMetrics
from service.processes.shared_pixels import SharedPixels
from service.processes.token_table import TokenTable
from service.processes.worker_table import WorkerTable
from service.runtime.models.memory_budget import resident_bytes
from service.runtime.onnx.execution_plans import PlanOptions, cache_file
from service.runtime.onnx.machine import freeze_garbage_collection, share_cpus
from service.runtime.scheduling.engine import Engine, EngineState
from service.runtime.scheduling.pixel_bounds import PixelBound
from service.settings import Settings

if TYPE_CHECKING:
    from service.api.grpc.server import GrpcServer

log = logging.getLogger("ganymede.worker")

# Seconds between updates of this process's row in the table of workers.
_REPORT_S = 0.05
# Seconds in which the server listens, at the latest, once the models are loaded.
_LISTEN_S = 10.0


class ServiceWorker:
    """Engine, application and job queue of one process; `application` serves its requests."""

    def __init__(self, settings: Settings, folder: ServerFolder, table: WorkerTable) -> None:
        """Create the parts of the process that has joined `table` in `folder`."""
        self.table = table
        self._settings = settings
        if logs.on_terminal():
            _log_less(first=table.index == 0)
        self._choices = ChoiceCache(settings.models, settings.run_options)
        self._processes = settings.processes
        self._decides = not folder.wanted
        self.listener = Listener(table, self._is_ready, folder)
        share_cpus(table.size)
        shared, queue_bound = _shared_state(table, settings)
        self._engine = engine = Engine(
            settings.models,
            provider=settings.provider,
            queue_pixels=queue_bound,
            observer=SchedulerMetrics(),
            plan=PlanOptions(
                settings.concurrent_batches,
                settings.threads,
                settings.max_rows,
                measure=settings.plan == "measure",
            ),
            plan_cache=cache_file(),
            # Without a cache, only one process measures, too.
            second_plan_cache=table.folder / "plans.json" if table.size > 1 else None,
            watch_s=settings.watch_s,
            memory_budget=_memory_share(settings.memory_budget, table.size),
        )
        if table.size > 1:
            engine.share_updates(SharedModelUpdates(table, engine))
        self._queue = create_queue(engine, settings, server=str(table.folder))
        self._webhooks = create_deliverer(self._queue, settings)
        self._grpc: GrpcServer | None = None
        self.application = GracefulShutdown(
            engine,
            create_app(engine, settings, self._queue, shared),
            self.listener,
            drain_s=settings.drain_s,
            hang_s=settings.hang_s,
            check=HungWorkers(table, math.ceil(settings.hang_s / CHECK_S)).check,
        )

    def start(self) -> None:
        """Start serving. Models load in a thread, while the process already responds to probes."""
        # A scheduler thread that returns from a run needs the GIL for a few microseconds to hand
        # its rows back and take the next. The default would let a busy event loop keep it for 5 ms.
        sys.setswitchinterval(0.0005)
        self.application.start()
        tracing.start()
        self._queue.start()
        if self._webhooks is not None:
            self._webhooks.start()
        threading.Thread(target=self._load, name="ganymede-start", daemon=True).start()
        loop = asyncio.get_running_loop()
        self._reporting = loop.create_task(self._report())
        if (port := self._settings.grpc_port) is not None:
            self._starting_grpc = loop.create_task(self._start_grpc(port))

    async def _report(self) -> None:
        """Keep the row of this process up to date."""
        row = self.table.own
        while True:
            row["ready"] = self._is_ready()
            row["beat"] = time.monotonic()
            self.application.close_next = self.listener.excess()
            await asyncio.sleep(_REPORT_S)

    async def _start_grpc(self, port: int) -> None:
        """Listen for gRPC once the models are loaded, on the address of HTTP.

        A process that is still loading gets no connections, because others may be ready.
        """
        while not (self._is_ready() or self._engine.state is EngineState.FAILED):
            await asyncio.sleep(_REPORT_S)
        while (address := self.listener.address) is None:
            await asyncio.sleep(_REPORT_S)
        trusted = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")  # As uvicorn reads it.
        app = cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", self.application), trusted))
        try:
            from service.api.grpc.server import GrpcServer  # noqa: PLC0415 - its libraries are optional

            server = GrpcServer(
                app,
                self._is_ready,
                max_message_bytes=self._settings.max_body_bytes,
                max_metadata_bytes=self._settings.max_header_bytes,
            )
            await server.start(address, port)
        except Exception as error:
            # A service without the port that it should have must not look healthy.
            log.exception("gRPC cannot be served")
            self.application.end(f"gRPC cannot be served: {error}")
        else:
            self._grpc = server

    def _load(self) -> None:
        self._engine.start()
        freeze_garbage_collection()
        if self._decides:
            self._decide()
        elif self.table.index == 0 and self._is_ready():
            why = "measured earlier" if self._processes == "auto" else "as set"
            log.info("processes: %d, each with %s: %s", self.table.size, _resident_mib(), why)
        if self.table.index == 0 and self._is_ready():
            self._announce()

    def _announce(self) -> None:
        """Log once for each server that it is ready, and where."""
        try:
            (self.table.folder / "announced").touch(exist_ok=False)
        except OSError:
            return  # This process has replaced another one.
        end = time.monotonic() + _LISTEN_S
        while self.listener.url is None and time.monotonic() < end:
            time.sleep(0.05)
        if (url := self.listener.url) is not None:
            log_ready(url, self._engine, self._settings, self.table.size)

    def _decide(self) -> None:
        """Decide how many processes the server has; if several, the supervisor starts them.

        This process ends then, because its plans and limits are those of a server with one.
        """
        try:
            choice = worthwhile_processes(self._engine)
        except Exception:
            # This runs in its own thread: an error would leave the process starting forever.
            log.exception("cannot measure how many processes pay")
            choice = ProcessCount(1, "measuring failed")
        else:
            # Without a model, nothing was measured: the next start may load them.
            if self._engine.state is EngineState.READY:
                self._choices.put(choice.count)
        log.info("processes: %d, each with %s: %s", choice.count, _resident_mib(), choice.reason)
        with self.table.locked():
            self.table.server["wanted"] = choice.count
        if choice.count > 1:
            self.application.end(f"{choice.count} processes start in its place")
        else:
            self._decides = False

    def assert_alive(self) -> None:
        """Raise HTTPException (503) if a run hangs."""
        if self.application.hang_reason is not None:
            raise _unavailable(self.application.hang_reason)

    def assert_ready(self) -> None:
        """Raise HTTPException (503) while no process of this server accepts work.

        While another process does, it gets all new connections.
        """
        if not self._is_ready() and not self.table.connections_of_others(even_paused=True):
            deciding = "the number of processes is being decided"
            raise _unavailable(self._engine.reason or deciding)

    def _is_ready(self) -> bool:
        return self._engine.state is EngineState.READY and not self._decides

    async def stop(self) -> None:
        """Close the gRPC port, and export the remaining spans: all accepted work has ended."""
        if self._grpc is not None:
            await self._grpc.stop()
        if (tracer := tracing.current()) is not None:
            await asyncio.to_thread(tracer.shutdown)


def _log_less(*, first: bool) -> None:
    """Log what concerns someone who watches a terminal.

    The first process speaks for all, except about requests and trouble. What it has chosen for each
    model, and what it states when it is ready, would only repeat itself.
    """
    quiet = ("ganymede.plans", "ganymede.engine", "ganymede.catalog.golden")
    for name in quiet if first else ("ganymede",):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ganymede.access").setLevel(logging.INFO)


def _resident_mib() -> str:
    size = resident_bytes()
    return f"{size / 2**20:,.0f} MiB of memory" if size else "an unknown amount of memory"


def _memory_share(budget: int | None, processes: int) -> int | None:
    """Return the part of the memory budget for the models of one process."""
    if budget is None or processes == 1:
        return budget
    log.info("memory budget: %d bytes for each of %d processes", budget // processes, processes)
    return budget // processes


def _shared_state(table: WorkerTable, settings: Settings) -> tuple[SharedState, int | PixelBound]:
    """Return the state that the application shares with other processes, and the queue's bound."""
    if table.size == 1:
        return SharedState(), settings.queue_pixels
    metrics = CollectorRegistry()
    metrics.register(SharedMetrics(table))
    shared = SharedState(
        TokenTable(table.folder / "limits"),
        SharedPixels(table, "upload_pixels", settings.queue_pixels),
        metrics,
        table.count,
    )
    return shared, SharedPixels(table, "queue_pixels", settings.queue_pixels)


def _unavailable(reason: str) -> HTTPException:
    problem = not_ready(reason)
    return HTTPException(problem.status, problem.body(), problem.headers())
