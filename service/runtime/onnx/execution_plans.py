"""Execution plans: for each model, how its runs keep the machine busiest.

A plan is picked when a model is loaded: set by the operator, found in the cache, or measured, in
this order. Measuring takes two seconds at most, and what it found is kept for the model's digest on
this machine.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.runtime.files import CannotWrite, replacing
from service.runtime.models.manifest import GENERATOR
from service.runtime.models.model import Model
from service.runtime.onnx.machine import cpu_model, usable_cpus
from service.runtime.onnx.sessions import BUCKETS, ExecutionPlan, OutOfMemory, Provider, plan_for

log = logging.getLogger("ganymede.plans")

# A batch is to take no longer than this, unless one row alone does: who comes next waits for it. A
# CPU gains little by larger ones, and where one takes all that waits, the next worker has nothing.
BATCH_S = 0.05
CPU_BATCH_S = 0.03
MOST_ROWS = 64
# The time that measuring one model may take, and that a plan may run in each round.
BUDGET_S = 2.0
_ROUND_S = 0.15
_ROUND_BATCHES = 6
_ROUNDS = 3
# A row that takes longer gets all CPUs: there are too few of them to wait for.
_LONG_ROW_S = 0.5
# Runs side by side win unless they make this much less: a batch that is alone may have more threads
# all the same, and where the machine is busy with something else they depend on it less.
_AS_GOOD = 0.9
# A batch that has the machine to itself gets more threads, and the memory for them, where it then
# takes so much less time.
_MUCH_SOONER = 0.8
_CACHED_PLANS = 500


@dataclass(frozen=True)
class PlanOptions:
    """What the operator has set; 0 is left to be measured, or to the default without `measure`."""

    workers: int = 0
    threads: int = 0
    max_rows: int = 0
    measure: bool = True


def slots(provider: Provider, wish: PlanOptions) -> int:
    """Return how many runs there may be at a time, over all models: the threads that run them."""
    if wish.workers:
        return wish.workers
    return usable_cpus() if provider is Provider.CPU else plan_for(provider).workers


class Planner:
    """Loads models, each with the plan that is best for it."""

    def __init__(
        self, provider: Provider, wish: PlanOptions | None = None, cache: Path | None = None
    ) -> None:
        """Keep what is measured in the file `cache`, if one is given."""
        self.provider = provider
        self._wish = wish or PlanOptions()
        self._cache = cache and PlanCache(cache)

    def load(self, folder: Path, digest: str) -> Model:
        """Load the model in `folder`, whose digest is `digest`. Raises what Model raises."""
        wish = self._wish
        if not wish.measure or (wish.workers and wish.threads and wish.max_rows):
            model = Model(folder, self.provider, self._default())
            return _warmed(model)
        key = self._key(digest)
        if self._cache and (plan := self._cache.get(key)):
            return _warmed(Model(folder, self.provider, plan))
        model = self._measured(folder)
        if self._cache:
            self._cache.put(key, model.plan)
        return model

    def plan_without_loading(self, digest: str) -> ExecutionPlan:
        """Return the plan that was found earlier, else the one without measuring."""
        known = self._cache and self._wish.measure and self._cache.get(self._key(digest))
        return known or self._default()

    def _measured(self, folder: Path) -> Model:
        began = time.perf_counter()
        if self.provider is Provider.CUDA:
            model = Model(folder, self.provider, self._default())
            model.plan = replace(largest_bucket(model, self._wish.max_rows), source="measured")
        else:
            model = self._fastest(folder, began + BUDGET_S)
        plan = model.plan
        log.info(
            "%s: %d workers of %d threads (%d alone), at most %d rows; measured in %.1f s",
            model.manifest.name,
            plan.workers,
            plan.threads,
            plan.alone or plan.threads,
            plan.max_rows,
            time.perf_counter() - began,
        )
        return model

    def _fastest(self, folder: Path, deadline: float) -> Model:
        """Load the model once for each number of threads in question, and keep the best."""
        shapes = self._shapes()
        first = Model(folder, self.provider, _shaped(self._default(), shapes[0]))
        row_s = seconds_of(first, 1)
        rows = self._wish.max_rows or rows_in(CPU_BATCH_S, row_s)
        models = [first]
        # The last shape has the most threads.
        for shape in shapes[1:] if row_s < _LONG_ROW_S else shapes[-1:]:
            if time.perf_counter() > deadline:
                break
            models.append(Model(folder, self.provider, _shaped(first.plan, shape)))
        if row_s < _LONG_ROW_S and len(models) > 1:
            rates = images_per_second(models, rows, row_s * rows, deadline)
            good = max(rates) * _AS_GOOD
            best = min(i for i, rate in enumerate(rates) if rate >= good)
        else:
            best = len(models) - 1
        model = models[best]
        if not self._wish.max_rows:
            row_s = seconds_of(model, rows) / rows
            rows = rows_in(CPU_BATCH_S, row_s)
        model.plan = replace(model.plan, max_rows=rows, source="measured")
        if models[-1] is not model and _is_better_alone(models[-1], model):
            models[-1].lend(model)
        return model

    def _shapes(self) -> list[tuple[int, int]]:
        """Return the workers and threads to compare, from few threads a run to many."""
        cpus, wish = usable_cpus(), self._wish
        if wish.workers or wish.threads:
            plan = self._default()
            return [(plan.workers, plan.threads)]
        threads = sorted({1, min(4, cpus) if cpus >= 8 else 1, cpus})
        return [(cpus // each, each) for each in threads]

    def _default(self) -> ExecutionPlan:
        """Return the plan without measuring: the provider's, but for what the operator has set."""
        plan, wish = plan_for(self.provider), self._wish
        if not (wish.workers or wish.threads or wish.max_rows):
            return plan
        cpus = usable_cpus()
        workers = wish.workers or (max(cpus // wish.threads, 1) if wish.threads else plan.workers)
        threads = wish.threads or (max(cpus // wish.workers, 1) if wish.workers else plan.threads)
        rows = wish.max_rows or plan.max_rows
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
        wish = {"workers": self._wish.workers, "threads": self._wish.threads}
        wish |= {"max_rows": self._wish.max_rows}
        parts += [f"{name}={value}" for name, value in wish.items() if value]
        return " | ".join(parts)


class PlanCache:
    """Measured plans in a JSON file. A file that cannot be read or written is no error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def get(self, key: str) -> ExecutionPlan | None:
        """Return the plan of `key`, if there is one that makes sense."""
        found = self._read().get(key)
        if not isinstance(found, Mapping):
            return None
        numbers = [found.get(name) for name in ("workers", "threads", "max_rows")]
        buckets, alone = found.get("buckets", []), found.get("alone", 0)
        if not isinstance(buckets, list):
            return None
        if not all(isinstance(n, int) and 0 < n <= 4096 for n in [*numbers, *buckets, alone or 1]):
            return None
        if buckets and (buckets != sorted(set(buckets)) or buckets[-1] != numbers[2]):
            return None
        workers, threads, rows = (int(n or 0) for n in numbers)
        return ExecutionPlan(workers, threads, rows, tuple(buckets), alone or 0, source="cached")

    def put(self, key: str, plan: ExecutionPlan) -> None:
        """Keep a plan, and of the others the latest."""
        with self._lock:
            plans = self._read()
            plans.pop(key, None)
            plans[key] = {
                "workers": plan.workers,
                "threads": plan.threads,
                "max_rows": plan.max_rows,
                "buckets": list(plan.buckets),
                "alone": plan.alone,
            }
            kept = dict(list(plans.items())[-_CACHED_PLANS:])
            try:
                with replacing(self._path) as temporary:
                    temporary.write_text(json.dumps(kept, indent=1) + "\n")
            except CannotWrite as error:
                log.info("plans are not kept: %s", error)

    def _read(self) -> dict[str, Any]:
        try:
            plans = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return plans if isinstance(plans, dict) else {}


def cache_file() -> Path:
    """Return where plans are kept: in ``$GANYMEDE_CACHE``, else below the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get("GANYMEDE_CACHE") or Path(home) / "ganymede"
    try:
        return (Path(folder) / "plans.json").expanduser()
    except RuntimeError:  # A user without a home.
        return Path(folder) / "plans.json"


def rows_in(seconds: float, row_seconds: float) -> int:
    """Return the largest power of two of rows that take no more than `seconds`, at least one."""
    rows = 1
    while rows < MOST_ROWS and 2 * rows * row_seconds <= seconds:
        rows *= 2
    return rows


def seconds_of(model: Model, rows: int) -> float:
    """Return how long one batch of `rows` takes, the better of two."""
    feeds = model.feeds(range(rows))
    times = []
    for _ in range(2):
        began = time.perf_counter()
        model.run(GENERATOR, feeds)
        times.append(time.perf_counter() - began)
    return min(times)


def _is_better_alone(model: Model, other: Model) -> bool:
    """Whether `model` runs one row much sooner than `other`, to the same bytes."""
    feeds = model.feeds(range(2))
    ours, theirs = (each.run(GENERATOR, feeds)["pixels"] for each in (model, other))
    if not np.array_equal(ours, theirs):
        return False
    times = [(seconds_of(model, 1), seconds_of(other, 1)) for _ in range(2)]
    return min(t for t, _ in times) < _MUCH_SOONER * min(t for _, t in times)


def images_per_second(
    models: Sequence[Model], rows: int, batch_s: float, deadline: float
) -> list[float]:
    """Return what each model makes by its plan's workers and threads, the best of a few rounds.

    In turns, so that what else the machine does meets all of them. A batch takes about `batch_s`.
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
    began = time.perf_counter()
    end = began + seconds
    made = [0] * model.plan.workers

    def work(worker: int) -> None:
        while not made[worker] or time.perf_counter() < end:
            model.run(GENERATOR, feeds)
            made[worker] += rows

    threads = [threading.Thread(target=work, args=(i,)) for i in range(model.plan.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(made) / (time.perf_counter() - began)


def largest_bucket(model: Model, most: int = 0) -> ExecutionPlan:
    """Run every bucket of the model's plan once, and return the plan with those that do.

    What is too large for the memory is left out, and so is what takes longer than a batch may; the
    first run of a size also searches for kernels, and is not the one that counts.
    """
    good: list[int] = []
    for size in model.plan.buckets or BUCKETS:
        try:
            seconds = seconds_of(model, size)
        except OutOfMemory:
            break
        if good and seconds > BATCH_S and not most:
            break
        good.append(size)
    if not good:
        raise OutOfMemory(f"{model.manifest.name} does not fit into the memory, not even one row")
    return replace(model.plan, max_rows=good[-1], buckets=tuple(good))


def _shaped(plan: ExecutionPlan, shape: tuple[int, int]) -> ExecutionPlan:
    workers, threads = shape
    return replace(plan, workers=workers, threads=threads)


def _warmed(model: Model) -> Model:
    """Run every bucket once, so that no request waits for a search for kernels."""
    for size in model.plan.buckets:
        model.generate(range(size))
    return model
