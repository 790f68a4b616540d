"""Whether the service still makes of this machine what it did: ratios, in half a minute.

    python -m benchmarks.smoke

A 64×64 DCGAN of the size of PyTorch's example, under load. Two things are judged, and neither says
less where others use the machine too:

- the CPU time that a picture takes the bare session, of what it takes the service with all that it
  does for it, on the same machine in turns;
- how much of the machine is idle while more requests wait than it has CPUs.

The bounds are wide: about half of what a calm machine gave, and twice its idle share. Exits with 1
when one is not kept, and says so when wrk, which makes the load, is missing.
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
from service.runtime.models.manifest import GENERATOR
from service.runtime.models.model import Model
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider

# The least share of the CPU time that is inference, and the most of the machine that may be idle.
BOUNDS = [
    (Workload("dcgan64", 1, "png"), 16, 0.45, 0.4),
    (Workload("dcgan64", 16, "npy"), 4, 0.6, 0.4),
]
ROUNDS = 3
SECONDS = 2.0
BARE_S = 0.5
_BARE_ROWS = 8


@dataclass(frozen=True)
class Found:
    """Medians of the rounds; `errors` are answers that were no pictures, over all of them."""

    inference: float
    idle: float
    images_s: float
    errors: int


def measure(work: Workload, connections: int) -> Found:
    """Load the service, in turns with the bare session."""
    (ours,) = contenders(only=["ganymede"])
    folder = exported(work.model)
    bare = Model(folder, Provider.CPU, ExecutionPlan(1, 1, _BARE_ROWS))
    inference, idle, images, errors = [], [], [], 0
    with started(ours, folder, work) as server:
        path, body = ours.request(work)
        # The first requests find everything cold.
        load(server.address + path, body, connections, 1, 10**9)
        for number in range(ROUNDS):
            least = _cpu_seconds_of(bare)
            used, idled = server.cpu_seconds(), psutil.cpu_times().idle
            got = load(server.address + path, body, connections, SECONDS, 10**6 * number)
            used = server.cpu_seconds() - used
            idled = psutil.cpu_times().idle - idled
            made = (got.requests - got.errors) * work.n
            inference.append(least * made / used if made else 0.0)
            idle.append(idled / (got.seconds * usable_cpus()))
            images.append(got.rate * work.n)
            errors += got.errors
    middle = statistics.median
    return Found(middle(inference), middle(idle), middle(images), errors)


def _cpu_seconds_of(model: Model) -> float:
    """Return the CPU time of a picture without a service, in one thread."""
    feeds = model.feeds(range(_BARE_ROWS))
    began, used, rows = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < began + BARE_S:
        model.run(GENERATOR, feeds)
        rows += _BARE_ROWS
    return (time.process_time() - used) / rows


def main() -> None:
    """Measure, print and judge."""
    if shutil.which("wrk") is None:
        print("the smoke bench was skipped: wrk, which makes the load, is not installed")
        return
    MODELS.mkdir(exist_ok=True)
    failed = False
    for work, connections, least, most_idle in BOUNDS:
        found = measure(work, connections)
        good = found.inference >= least and found.idle <= most_idle and not found.errors
        failed |= not good
        print(
            f"{'ok' if good else 'TOO LITTLE'}: {work.name} at {connections} connections: "
            f"{found.inference:.2f} of the CPU time is inference (at least {least:.2f}), "
            f"{found.idle:.2f} of the machine is idle (at most {most_idle:.2f}), "
            f"{found.errors} errors; {found.images_s:.0f} images/s"
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
