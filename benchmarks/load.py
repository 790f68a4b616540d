"""Load generation with wrk, a separate process written in C."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
# Longer than any response takes: late responses appear in the percentiles, not as errors.
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Load:
    """The result of a load run. Latencies are in milliseconds.

    `errors` counts responses other than 2xx and 3xx, and failed connections.
    """

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Successful responses per second."""
        return max(self.requests - self.errors, 0) / self.seconds


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
    so that no response can come from a cache.
    """
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
