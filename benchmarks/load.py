"""Load on a server by wrk, which is a process of its own and written in C."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
# Longer than any answer takes: what is late shows in the percentiles, and not as an error.
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Load:
    """What came of so many seconds of load: latencies are in milliseconds.

    `errors` are answers that are no 2xx or 3xx, and connections that failed.
    """

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return max(self.requests - self.errors, 0) / self.seconds


def assert_there() -> None:
    """Raise SystemExit where wrk is not installed."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk makes the load: apt-get install wrk")


def load(url: str, body: str, connections: int, seconds: float, first_seed: int) -> Load:
    """Send `body` over and over, from so many connections that each wait for their answer.

    ``@SEED@`` in it is a number that grows, and ``@SEEDS:n@`` a list of n such, so that no answer
    can be one that was given before.
    """
    environment = {**os.environ, "LOAD_BODY": body, "LOAD_SEED": str(first_seed)}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s"]
    command += [f"--timeout={_TIMEOUT_S}s", f"--script={SCRIPT}", url]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    line = next(line for line in said.stdout.splitlines() if line.startswith("RESULT "))
    return Load(**json.loads(line.removeprefix("RESULT ")))
