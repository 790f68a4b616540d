"""Check in half a minute that the service uses the machine efficiently.

    python -m benchmarks.smoke

Serves a 64×64 DCGAN of the same size as PyTorch's example. Checks two ratios that hardly depend on
other load on the machine:

- inference share: CPU time per image of the bare session divided by the CPU time per image of the
  service, measured alternately on the same machine;
- idle share: the part of the machine that is idle while more requests wait than it has CPUs.

The bounds are wide: about half the inference share and twice the idle share of a quiet machine.
Exits with 1 if a bound is violated. Reports that it was skipped if wrk is not installed.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from dataclasses import dataclass

import psutil

from benchmarks.contenders import Workload, contenders, started
from benchmarks.load import load
from benchmarks.serving import MODELS, exported
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider

# Workload, connections, minimum inference share of the CPU time, maximum idle share.
BOUNDS = [
    (Workload("dcgan64", 1, "png"), 16, 0.45, 0.4),
    (Workload("dcgan64", 16, "npy"), 4, 0.6, 0.4),
]
ROUNDS = 3
SECONDS = 2.0
BARE_S = 0.5
_BARE_ROWS = 8


@dataclass(frozen=True)
class Result:
    """Medians over the rounds; `errors` is the sum over all rounds."""

    inference: float
    idle: float
    images_s: float
    errors: int


def measure(work: Workload, connections: int) -> Result:
    """Measure the service under load, alternating with the bare session."""
    (ours,) = contenders(only=["ganymede"])
    folder = exported(work.model)
    bare = Model(folder, Provider.CPU, ExecutionPlan(1, 1, _BARE_ROWS))
    inference, idle, images, errors = [], [], [], 0
    with started(ours, folder, work) as server:
        path, body = ours.request(work)
        # Warm up.
        load(server.address + path, body, connections, 1, 10**9)
        for number in range(ROUNDS):
            bare_s = _cpu_seconds_of(bare)
            used_s, idle_s = server.cpu_seconds(), psutil.cpu_times().idle
            result = load(server.address + path, body, connections, SECONDS, 10**6 * number)
            used_s = server.cpu_seconds() - used_s
            idle_s = psutil.cpu_times().idle - idle_s
            count = (result.requests - result.errors) * work.n
            inference.append(bare_s * count / used_s if count else 0.0)
            idle.append(idle_s / (result.seconds * usable_cpus()))
            images.append(result.rate * work.n)
            errors += result.errors
    median = statistics.median
    return Result(median(inference), median(idle), median(images), errors)


def _cpu_seconds_of(model: Model) -> float:
    """Return the CPU time per image without a service, in one thread."""
    feeds = model.feeds(range(_BARE_ROWS))
    end, used, rows = time.perf_counter() + BARE_S, time.process_time(), 0
    while time.perf_counter() < end:
        model.run(GENERATOR, feeds)
        rows += _BARE_ROWS
    return (time.process_time() - used) / rows


def main() -> None:
    """Measure, print, and exit with 1 if a bound is violated."""
    if shutil.which("wrk") is None:
        print("the smoke benchmark was skipped: wrk is not installed")
        return
    MODELS.mkdir(exist_ok=True)
    failed = False
    for work, connections, min_inference, max_idle in BOUNDS:
        result = measure(work, connections)
        passed = result.inference >= min_inference and result.idle <= max_idle and not result.errors
        failed |= not passed
        print(
            f"{'ok' if passed else 'FAILED'}: {work.name} at {connections} connections: "
            f"{result.inference:.2f} of the CPU time is inference (at least {min_inference:.2f}), "
            f"{result.idle:.2f} of the machine is idle (at most {max_idle:.2f}), "
            f"{result.errors} errors; {result.images_s:.0f} images/s"
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
