"""Whether the service still reaches of this machine what it did: ratios, in half a minute.

    python -m benchmarks.smoke

A 64×64 DCGAN of the size of PyTorch's example, with as many rounds of the bare session before and
after each as there are of the service. The bounds are less than half of what a calm machine gave.
The system shares CPUs out among sessions, and the service runs in one of its own: where others take
most of the machine the ratio falls too, so this is for a machine that has nothing else to do. Exits
with 1 when a bound is not kept, and says so when wrk, which makes the load, is missing.
"""

from __future__ import annotations

import shutil
import statistics
import sys

from benchmarks.contenders import Workload, contenders, started
from benchmarks.load import load
from benchmarks.serving import MODELS, Bare, exported

# The least share of the bare session's best, at so many connections.
BOUNDS = [(Workload("dcgan64", 1, "png"), 16, 0.2), (Workload("dcgan64", 16, "npy"), 4, 0.35)]
ROUNDS = 3
SECONDS = 1.5
BARE_S = 0.5


def share(work: Workload, connections: int) -> tuple[float, int]:
    """Return the median share of the bare session's best, and how many answers were errors."""
    (ours,) = contenders(only=["ganymede"])
    folder = exported(work.model)
    bare = Bare(folder, [work.n])
    shares, errors = [], 0
    with started(ours, folder, work) as server:
        path, body = ours.request(work)
        before = max(bare.rates(BARE_S).values())
        for number in range(ROUNDS):
            got = load(server.address + path, body, connections, SECONDS, 10**6 * number)
            after = max(bare.rates(BARE_S).values())
            shares.append(got.rate * work.n / statistics.mean([before, after]))
            errors += got.errors
            before = after
    return statistics.median(shares), errors


def main() -> None:
    """Measure, print and judge."""
    if shutil.which("wrk") is None:
        print("the smoke bench was skipped: wrk, which makes the load, is not installed")
        return
    MODELS.mkdir(exist_ok=True)
    failed = False
    for work, connections, least in BOUNDS:
        found, errors = share(work, connections)
        good = found >= least and not errors
        failed |= not good
        print(
            f"{'ok' if good else 'TOO LITTLE'}: {work.name} at {connections} connections is "
            f"{found:.2f} of the bare session, at least {least:.2f} is expected; {errors} errors"
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
