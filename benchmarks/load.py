"""Load generation: closed loops with wrk, and open loops with a generator of our own.

In a closed loop each connection waits for its response before it sends the next request, so that
the load never exceeds the capacity of the server. In an open loop requests arrive at a given rate,
whatever the server does. Both generators run in processes of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
# Longer than any response takes: late responses appear in the percentiles, not as errors.
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Load:
    """The result of a load run. Latencies are in milliseconds.

    `errors` counts responses other than 2xx and 3xx, and failed connections. In an open loop,
    `refused` counts 429 and 503, and `late` 504; both are no errors, and the latencies are those of
    the successful responses.
    """

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float
    refused: int = 0
    late: int = 0

    @property
    def rate(self) -> float:
        """Successful responses per second."""
        done = self.requests - self.errors - self.refused - self.late
        return max(done, 0) / self.seconds


def assert_installed() -> None:
    """Raise SystemExit if wrk is not installed."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk generates the load and is not installed: apt-get install wrk")


def load(
    url: str,
    body: str,
    connections: int,
    seconds: float,
    first_seed: int,
    content_type: str = "application/json",
) -> Load:
    """Send `body` repeatedly from `connections` connections, each waiting for its response.

    ``@SEED@`` in the body becomes an increasing number and ``@SEEDS:n@`` a list of n such numbers,
    so that no response can come from a cache. Without wrk, a slower generator takes its place,
    which needs a JSON body with ``@SEED@``; it is for machines on which nothing can be installed.
    """
    if shutil.which("wrk") is None:
        return _without_wrk("closed", url, body, connections, seconds, first_seed)
    environment = {
        **os.environ,
        "LOAD_BODY": body,
        "LOAD_SEED": str(first_seed),
        "LOAD_CONTENT_TYPE": content_type,
    }
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s"]
    command += [f"--timeout={_TIMEOUT_S}s", f"--script={SCRIPT}", url]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    line = next(line for line in result.stdout.splitlines() if line.startswith("RESULT "))
    return Load(**json.loads(line.removeprefix("RESULT ")))


def offer(url: str, body: str, per_second: float, seconds: float, first_seed: int) -> Load:
    """Send `per_second` requests a second for `seconds`, and wait for all responses.

    Latencies are measured from the time at which a request was due, so that a generator that is
    late does not hide them. The rate is that of the whole run, including the wait at its end.
    """
    return _without_wrk("open", url, body, per_second, seconds, first_seed)


def _without_wrk(kind: str, *arguments: str | float) -> Load:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.http_load", kind, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    return Load(**json.loads(result.stdout))
