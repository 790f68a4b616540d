"""Measure the CPU time around inference, relative to a server that does nothing.

    python -m benchmarks.overhead

Clients request one PNG at a time of `gan-mnist`, whose inference takes little. In each round, three
things are measured in turns, at each number of connections:

- Ganymede: CPU time per request, latency, and the mean rows per batch, by its own metrics.
- A bare Starlette route on uvicorn (uvloop, httptools) that sends the same bytes: CPU time per
  request.
- The bare ONNX Runtime session, one thread, in batches of as many rows as Ganymede formed in this
  round: CPU time per image. Between two whole batch sizes it is interpolated.

The result is (Ganymede's CPU time per request - the session's per image) / the echo's per request.
CPU time is that of all processes of a server. It is less sensitive to other work on the machine
than requests per second, but not insensitive: caches and cores are shared.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from benchmarks.contenders import (
    Contender,
    Server,
    Workload,
    free_port,
    started,
    with_processes,
)
from benchmarks.load import Load, assert_installed, load
from benchmarks.measure import Spread, machine, ratios, report
from service.runtime.models.manifest import read_manifest
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.onnx.sessions import Provider, Session, plan_for

WORK = Workload("gan-mnist", 1, "png")
MODEL = Path(__file__).parents[1] / "models" / "gan-mnist" / "1"
_START_S = 30.0
# Seconds of each measurement of the session.
_SESSION_S = 0.3


@dataclass(frozen=True)
class Round:
    """What was measured in one round at one number of connections. CPU times are milliseconds."""

    ganymede_ms: float
    echo_ms: float
    session_ms: float
    rows: float
    load: Load

    @property
    def around_ms(self) -> float:
        """Ganymede's CPU time around inference."""
        return self.ganymede_ms - self.session_ms


class BareSession:
    """The model's graph in an ONNX Runtime session with one thread."""

    def __init__(self) -> None:
        manifest = read_manifest(MODEL)
        path = MODEL / manifest.graphs[GENERATOR].file
        self._session = Session(path, Provider.CPU, plan_for(Provider.CPU))
        assert manifest.latent is not None
        self._z = np.random.RandomState(0).randn(64, manifest.latent.dimension).astype(np.float32)

    def cpu_ms(self, rows: float) -> float:
        """Return the CPU milliseconds per image in batches of `rows` on average."""
        below, above = math.floor(rows), math.ceil(rows)
        smaller = self._run_ms(below)
        larger = smaller if above == below else self._run_ms(above)
        return (smaller + (larger - smaller) * (rows - below)) / rows

    def _run_ms(self, rows: int) -> float:
        z, runs = self._z[:rows], 0
        self._session.run({"z": z})
        begun, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - begun < _SESSION_S:
            self._session.run({"z": z})
            runs += 1
        return 1000 * (time.process_time() - cpu) / runs


@contextlib.contextmanager
def echo_server(content: bytes) -> Iterator[Server]:
    """Start the server that sends `content`, wait until it responds, and stop it at the end."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.echo_server:app", "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    command += ["--log-level", "warning"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        file.write_bytes(content)
        environment = os.environ | {"ECHO_FILE": str(file)}
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, process)
            yield Server(Contender("echo"), address, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            _post(address, "{}")
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the echo server does not respond")


def _post(address: str, body: str) -> bytes:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/generate", body.encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        content: bytes = response.read()
        return content


def _batches(server: Server) -> tuple[float, float]:
    """Return the rows and batches that Ganymede has run so far."""
    with urllib.request.urlopen(f"{server.address}/metrics", timeout=60) as response:
        text = response.read().decode()
    pattern = r'ganymede_batch_rows_{}{{model="gan-mnist"}} (\S+)'
    rows, count = (float(re.findall(pattern.format(name), text)[0]) for name in ("sum", "count"))
    return rows, count


def _loaded(server: Server, connections: int, seconds: float, seed: int) -> tuple[Load, float]:
    """Return the result of a load, and the server's CPU milliseconds per request."""
    _, body = Contender("ganymede").request(WORK)
    server.wait_until_idle()
    cpu = server.cpu_seconds()
    result = load(f"{server.address}/v1/generate", body, connections, seconds, seed)
    cpu = server.cpu_seconds() - cpu
    if result.errors:
        raise SystemExit(f"{result.errors} of {result.requests} requests failed")
    return result, 1000 * cpu / result.requests


def measure(
    ours: Server, echo: Server, session: BareSession, connections: int, seconds: float, number: int
) -> Round:
    """Measure one round. The order of the servers alternates with its `number`."""
    echo_first = bool(number % 2)
    if echo_first:
        _, echo_ms = _loaded(echo, connections, seconds, 0)
    before = _batches(ours)
    result, ganymede_ms = _loaded(ours, connections, seconds, 10**6 * (number + 1))
    after = _batches(ours)
    rows = (after[0] - before[0]) / (after[1] - before[1])
    session_ms = session.cpu_ms(rows)
    if not echo_first:
        _, echo_ms = _loaded(echo, connections, seconds, 0)
    return Round(ganymede_ms, echo_ms, session_ms, rows, result)


def _digits(value: float) -> int:
    return 3 if value < 1 else 2 if value < 10 else 0


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of each load.")] = 3.0,
    connections: Annotated[
        list[int] | None, typer.Option(min=1, help="May be repeated. Default: 8, 32, 128, 256.")
    ] = None,
    processes: Annotated[str, typer.Option(help="Processes of Ganymede: a number, or auto.")] = "1",
    log_requests: Annotated[
        bool, typer.Option(help="Ganymede writes its access log, as by default.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Measure, and print the CPU time around inference relative to the echo's."""
    assert_installed()
    counts = connections or [8, 32, 128, 256]
    ours = replace(with_processes(processes), log_requests=log_requests)
    session = BareSession()
    found: dict[int, list[Round]] = {count: [] for count in counts}
    with started(ours, MODEL, WORK) as server:
        image = _post(server.address, '{"model": "gan-mnist", "seed": 0, "format": "png"}')
        with echo_server(image) as echo:
            for each in (server, echo):
                _loaded(each, counts[0], 1, 10**9)
            for number in range(rounds):
                for count in counts:
                    found[count].append(measure(server, echo, session, count, seconds, number))
    rows = []
    cpu = Table("connections", "CPU ms", "rows per batch", "session ms", "echo ms", "around / echo")
    latency = Table("connections", "requests/s", "p50 ms", "p99 ms", "p99 / p50")
    for count, each in found.items():
        in_cpu = {
            "cpu_ms": Spread.of([r.ganymede_ms for r in each]),
            "rows_per_batch": Spread.of([r.rows for r in each]),
            "session_ms": Spread.of([r.session_ms for r in each]),
            "echo_ms": Spread.of([r.echo_ms for r in each]),
            "around_ratio": ratios([r.around_ms for r in each], [r.echo_ms for r in each]),
        }
        in_latency = {
            "requests_s": Spread.of([r.load.rate for r in each]),
            "p50_ms": Spread.of([r.load.p50_ms for r in each]),
            "p99_ms": Spread.of([r.load.p99_ms for r in each]),
            "p99_ratio": ratios([r.load.p99_ms for r in each], [r.load.p50_ms for r in each]),
        }
        for table, spreads in ((cpu, in_cpu), (latency, in_latency)):
            table.add_row(str(count), *(f"{s:.{_digits(s.median)}f}" for s in spreads.values()))
        spreads = in_cpu | in_latency
        rows.append({"connections": count} | {name: s.as_json() for name, s in spreads.items()})
    packages = ("starlette", "uvicorn", "uvloop", "bentoml", "onnxruntime-gpu")
    result = {
        "rows": rows,
        "processes": processes,
        "log_requests": log_requests,
        "machine": machine(packages),
    }
    report(result, [cpu, latency], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
