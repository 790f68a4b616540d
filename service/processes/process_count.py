"""How many processes pay: as many as the Python code around the inference needs.

One process is bound by the interpreter's lock: it spends `FRONT_S` of Python for each request, one
after another, while inference runs in parallel. With c CPUs, f seconds of Python and i CPU seconds
of inference per image, c / (f + i) images per second are possible, which keep the Python code of
c f / (f + i) processes busy. A process whose lock is held for more than `_USEFUL_SHARE` of the time
lets inference wait for it, so more processes pay before it is reached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from service.runtime.models.model import Model
from service.runtime.onnx.execution_plans import seconds_of
from service.runtime.onnx.machine import machine_cpus
from service.runtime.onnx.sessions import Provider
from service.runtime.scheduling.engine import Engine

# Seconds of Python for a request of one small image, measured with `benchmarks/overhead.py`.
FRONT_S = 1.0e-3
_USEFUL_SHARE = 0.6
# Models that are measured: those whose batches have the most images per thread.
_MEASURED = 3
# Processes that share a GPU at most. Each needs a CUDA context and the models in its memory.
MAX_GPU_PROCESSES = 4


@dataclass(frozen=True)
class ProcessCount:
    """A number of processes, and the reason for it in words."""

    count: int
    reason: str


def worthwhile_processes(engine: Engine) -> ProcessCount:
    """Return the number of processes that pay for the models that `engine` has loaded.

    Runs the fastest models to measure them.
    """
    cpus = machine_cpus()
    models = [entry.model for entry in engine.catalog.entries] if engine.catalog else []
    loaded = [model for model in models if model is not None]
    if cpus == 1:
        return ProcessCount(1, "there is one CPU")
    if not loaded:
        return ProcessCount(1, "no model is loaded")
    if engine.provider is Provider.CUDA:
        count = min(cpus, MAX_GPU_PROCESSES)
        reason = f"the GPU is faster than one process; at most {MAX_GPU_PROCESSES} share it"
        return ProcessCount(count, reason)
    if not engine.measures_plans:
        return ProcessCount(1, "nothing is measured with default plans")
    # The plan has a batch that takes about as long for every model.
    fastest = sorted(loaded, key=lambda model: model.plan.threads / model.plan.max_rows)
    measured = [
        (_cpu_seconds_of_image(model), model.manifest.name) for model in fastest[:_MEASURED]
    ]
    seconds, name = min(measured)
    reason = (
        f"the fastest model, {name}, generates {cpus / seconds:,.0f} images per second on "
        f"{cpus} CPUs, and one process handles {1 / FRONT_S:,.0f} requests per second around it"
    )
    return ProcessCount(count_for(seconds, cpus), reason)


def count_for(seconds: float, cpus: int) -> int:
    """Return the number of processes for a model with `seconds` of CPU time per image."""
    busy = cpus * FRONT_S / (FRONT_S + seconds)
    return max(1, min(cpus, math.ceil(busy / _USEFUL_SHARE)))


def _cpu_seconds_of_image(model: Model) -> float:
    plan = model.plan
    return seconds_of(model, plan.max_rows) * plan.threads / plan.max_rows
