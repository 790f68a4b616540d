"""Execution plans: the number of workers, threads and rows with the highest throughput per model.

A plan is chosen when a model is loaded: the operator's settings, a plan in the cache, or a measured
plan, in this order. Measuring takes at most two seconds. The result is cached by the model's digest
and this machine. Processes that share a cache measure one model at a time, and each model once.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.runtime.files import CannotWrite, replacing
from service.runtime.models.model import Model
from service.runtime.onnx.machine import cpu_model, usable_cpus
from service.runtime.onnx.sessions import BUCKETS, ExecutionPlan, OutOfMemory, Provider, plan_for

log = logging.getLogger("ganymede.plans")

# Maximum duration of a batch, because the next request waits for it. A single row may take longer.
# The limit is lower on a CPU: larger batches gain little there, and a batch that takes all waiting
# rows leaves other workers idle.
BATCH_S = 0.05
CPU_BATCH_S = 0.03
MAX_ROWS = 64
# Maximum time to measure one model, and to run one plan in each round.
BUDGET_S = 2.0
_ROUND_S = 0.15
_ROUND_BATCHES = 6
_ROUNDS = 3
# Models with slower rows use all CPUs for each row.
_LONG_ROW_S = 0.5
# Parallel runs are preferred unless their throughput is below this share of the best: a batch that
# is the only one running can still use more threads, and other load on the machine matters less.
_PREFERRED_SHARE = 0.9
# A batch that is the only one running gets more threads, which take more memory, if they reduce its
# duration below this share.
_WORTHWHILE_SHARE = 0.8
_CACHED_PLANS = 500


@dataclass(frozen=True)
class PlanOptions:
    """The operator's settings. 0 means a measured value, or without `measure` the default."""

    workers: int = 0
    threads: int = 0
    max_rows: int = 0
    measure: bool = True


def slots(provider: Provider, options: PlanOptions) -> int:
    """Return the maximum number of parallel runs over all models."""
    if options.workers:
        return options.workers
    return usable_cpus() if provider is Provider.CPU else plan_for(provider).workers


class Planner:
    """Loads models, each with its best plan."""

    def __init__(
        self,
        provider: Provider,
        options: PlanOptions | None = None,
        cache: Path | None = None,
        second_cache: Path | None = None,
    ) -> None:
        """Cache measured plans in `cache`, or in `second_cache` if that cannot be written."""
        self.provider = provider
        self._options = options or PlanOptions()
        paths = [path for path in (cache, second_cache) if path is not None]
        self._cache = PlanCache(*paths) if paths else None

    def load(self, folder: Path, digest: str) -> Model:
        """Load the model in `folder` with the digest `digest`. Raises the errors of Model."""
        options = self._options
        if not options.measure or (options.workers and options.threads and options.max_rows):
            model = Model(folder, self.provider, self._default())
            return _warmed(model)
        if self._cache is None:
            return self._measured(folder)
        key = self._key(digest)
        plan = self._cache.get(key)
        if plan is None:
            with self._cache.measuring():
                # Another process may have measured it in the meantime.
                plan = self._cache.get(key)
                if plan is None:
                    model = self._measured(folder)
                    self._cache.put(key, model.plan)
                    return model
        return _warmed(Model(folder, self.provider, plan))

    def plan_without_loading(self, digest: str) -> ExecutionPlan:
        """Return the cached plan, or else the default."""
        cached = self._cache and self._options.measure and self._cache.get(self._key(digest))
        return cached or self._default()

    def _measured(self, folder: Path) -> Model:
        started = time.perf_counter()
        if self.provider is Provider.CUDA:
            model = Model(folder, self.provider, self._default())
            model.plan = replace(largest_bucket(model, self._options.max_rows), source="measured")
        else:
            model = self._fastest(folder, started + BUDGET_S)
        plan = model.plan
        log.info(
            "%s: %d workers with %d threads (%d when alone), at most %d rows; measured in %.1f s",
            model.manifest.name,
            plan.workers,
            plan.threads,
            plan.alone or plan.threads,
            plan.max_rows,
            time.perf_counter() - started,
        )
        return model

    def _fastest(self, folder: Path, deadline: float) -> Model:
        """Load the model with each candidate number of threads, and return the fastest."""
        shapes = self._shapes()
        first = Model(folder, self.provider, _shaped(self._default(), shapes[0]))
        row_s = seconds_of(first, 1)
        rows = self._options.max_rows or rows_in(CPU_BATCH_S, row_s)
        models = [first]
        # The last shape has the most threads.
        for shape in shapes[1:] if row_s < _LONG_ROW_S else shapes[-1:]:
            if time.perf_counter() > deadline:
                break
            models.append(Model(folder, self.provider, _shaped(first.plan, shape)))
        if row_s < _LONG_ROW_S and len(models) > 1:
            rates = images_per_second(models, rows, row_s * rows, deadline)
            acceptable = max(rates) * _PREFERRED_SHARE
            best = min(i for i, rate in enumerate(rates) if rate >= acceptable)
        else:
            best = len(models) - 1
        model = models[best]
        if not self._options.max_rows:
            row_s = seconds_of(model, rows) / rows
            rows = rows_in(CPU_BATCH_S, row_s)
        model.plan = replace(model.plan, max_rows=rows, source="measured")
        if models[-1] is not model and _is_better_alone(models[-1], model):
            models[-1].lend(model)
        return model

    def _shapes(self) -> list[tuple[int, int]]:
        """Return the (workers, threads) to compare, in the order of increasing threads."""
        cpus, options = usable_cpus(), self._options
        if options.workers or options.threads:
            plan = self._default()
            return [(plan.workers, plan.threads)]
        threads = sorted({1, min(4, cpus) if cpus >= 8 else 1, cpus})
        return [(cpus // each, each) for each in threads]

    def _default(self) -> ExecutionPlan:
        """Return the provider's default plan with the operator's settings applied."""
        plan, options = plan_for(self.provider), self._options
        if not (options.workers or options.threads or options.max_rows):
            return plan
        cpus = usable_cpus()
        workers = options.workers
        if not workers:
            workers = max(cpus // options.threads, 1) if options.threads else plan.workers
        threads = options.threads
        if not threads:
            threads = max(cpus // options.workers, 1) if options.workers else plan.threads
        rows = options.max_rows or plan.max_rows
        buckets = (*(size for size in plan.buckets if size < rows), rows)
        return ExecutionPlan(
            workers, threads, rows, buckets=buckets if plan.buckets else (), source="set"
        )

    def _key(self, digest: str) -> str:
        parts = [
            digest,
            self.provider,
            cpu_model(),
            f"{usable_cpus()} CPUs",
            f"onnxruntime {ort.__version__}",
        ]
        fixed = {"workers": self._options.workers, "threads": self._options.threads}
        fixed |= {"max_rows": self._options.max_rows}
        parts += [f"{name}={value}" for name, value in fixed.items() if value]
        return " | ".join(parts)


class PlanCache:
    """Measured plans in JSON files. It is not an error if they cannot be read or written."""

    def __init__(self, *paths: Path) -> None:
        """Read all files of `paths`, and write the first one that can be written."""
        self._paths = paths
        self._lock = threading.Lock()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Exclude other processes and threads that measure plans for the same files."""
        import fcntl  # noqa: PLC0415 - POSIX only

        with ExitStack() as stack:
            for path in self._paths:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context(path.with_name(f"{path.name}.lock").open("a"))
                    fcntl.flock(file, fcntl.LOCK_EX)
                    break
                except OSError:
                    continue
            yield

    def get(self, key: str) -> ExecutionPlan | None:
        """Return the plan of `key`, or None if it is missing or invalid."""
        entry = next((e for path in self._paths if (e := _read(path).get(key)) is not None), None)
        if not isinstance(entry, Mapping):
            return None
        numbers = [entry.get(name) for name in ("workers", "threads", "max_rows")]
        buckets, alone = entry.get("buckets", []), entry.get("alone", 0)
        if not isinstance(buckets, list):
            return None
        if not all(isinstance(n, int) and 0 < n <= 4096 for n in [*numbers, *buckets, alone or 1]):
            return None
        if buckets and (buckets != sorted(set(buckets)) or buckets[-1] != numbers[2]):
            return None
        workers, threads, rows = (int(n or 0) for n in numbers)
        return ExecutionPlan(workers, threads, rows, tuple(buckets), alone or 0, source="cached")

    def put(self, key: str, plan: ExecutionPlan) -> None:
        """Store a plan. If the cache is full, the oldest plans are removed."""
        entry = {
            "workers": plan.workers,
            "threads": plan.threads,
            "max_rows": plan.max_rows,
            "buckets": list(plan.buckets),
            "alone": plan.alone,
        }
        with self._lock:
            for path in self._paths:
                plans = _read(path)
                plans.pop(key, None)
                plans[key] = entry
                kept = dict(list(plans.items())[-_CACHED_PLANS:])
                try:
                    with replacing(path) as temporary:
                        temporary.write_text(json.dumps(kept, indent=1) + "\n")
                    return
                except CannotWrite as error:
                    log.info("execution plans cannot be cached: %s", error)


def _read(path: Path) -> dict[str, Any]:
    try:
        plans = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return plans if isinstance(plans, dict) else {}


def cache_file() -> Path:
    """Return the cache file: in ``$GANYMEDE_CACHE``, or else below the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get("GANYMEDE_CACHE") or Path(home) / "ganymede"
    try:
        return (Path(folder) / "plans.json").expanduser()
    except RuntimeError:  # The user has no home folder.
        return Path(folder) / "plans.json"


def rows_in(seconds: float, row_seconds: float) -> int:
    """Return the largest power of two of rows that takes at most `seconds`; at least 1."""
    rows = 1
    while rows < MAX_ROWS and 2 * rows * row_seconds <= seconds:
        rows *= 2
    return rows


def seconds_of(model: Model, rows: int) -> float:
    """Return the seconds of one batch of `rows`, the better of two runs."""
    feeds = model.feeds(range(rows))
    times = []
    for _ in range(2):
        started = time.perf_counter()
        model.run(model.manifest.main_role, feeds)
        times.append(time.perf_counter() - started)
    return min(times)


def _is_better_alone(model: Model, other: Model) -> bool:
    """Whether `model` runs one row considerably faster than `other`, with identical output."""
    feeds = model.feeds(range(2))
    role = model.manifest.main_role
    outputs, expected = (each.run(role, feeds) for each in (model, other))
    if not all(np.array_equal(outputs[name], expected[name]) for name in expected):
        return False
    times = [(seconds_of(model, 1), seconds_of(other, 1)) for _ in range(2)]
    return min(t for t, _ in times) < _WORTHWHILE_SHARE * min(t for _, t in times)


def images_per_second(
    models: Sequence[Model], rows: int, batch_s: float, deadline: float
) -> list[float]:
    """Return the throughput of each model with its plan; the best of a few rounds.

    Models take turns, so that other load on the machine affects all of them. A batch takes about
    `batch_s` seconds.
    """
    seconds = min(_ROUND_S, _ROUND_BATCHES * batch_s)
    rates = [0.0] * len(models)
    for turn in range(_ROUNDS):
        if turn and time.perf_counter() > deadline:
            break
        for i, model in enumerate(models):
            rates[i] = max(rates[i], _rate(model, rows, seconds))
    return rates


def _rate(model: Model, rows: int, seconds: float) -> float:
    feeds = model.feeds(range(rows))
    started = time.perf_counter()
    end = started + seconds
    counts = [0] * model.plan.workers

    def work(worker: int) -> None:
        while not counts[worker] or time.perf_counter() < end:
            model.run(model.manifest.main_role, feeds)
            counts[worker] += rows

    threads = [threading.Thread(target=work, args=(i,)) for i in range(model.plan.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def largest_bucket(model: Model, max_rows: int = 0) -> ExecutionPlan:
    """Run every bucket of the model's plan, and return the plan with the usable buckets.

    Omits buckets that exceed the memory or the maximum duration of a batch. The first run of each
    size is not timed, because it includes a kernel search.
    """
    usable: list[int] = []
    for size in model.plan.buckets or BUCKETS:
        try:
            seconds = seconds_of(model, size)
        except OutOfMemory:
            break
        if usable and seconds > BATCH_S and not max_rows:
            break
        usable.append(size)
    if not usable:
        raise OutOfMemory(f"{model.manifest.name} does not fit into memory, even with a single row")
    return replace(model.plan, max_rows=usable[-1], buckets=tuple(usable))


def _shaped(plan: ExecutionPlan, shape: tuple[int, int]) -> ExecutionPlan:
    workers, threads = shape
    return replace(plan, workers=workers, threads=threads)


def _warmed(model: Model) -> Model:
    """Run every bucket once, so that no request waits for a kernel search."""
    for size in model.plan.buckets:
        model.generate(range(size))
    return model
