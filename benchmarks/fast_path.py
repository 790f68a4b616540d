"""Measure CPU time and throughput of small requests with and without the fast path.

    python -m benchmarks.fast_path

`service/api/middleware/fast_path.py` serves plain JSON requests past FastAPI's request handling.
With `Content-Type: application/json; charset=utf-8` FastAPI handles the same request, with the same
response, so one server is measured both ways, alternating within each round. CPU time per request
is measured for the processes of the server, and is comparable on a busy machine, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.contenders import Server, Workload, contenders, started
from benchmarks.load import assert_installed, load
from benchmarks.measure import Spread, machine, ratios, report

WORK = Workload("gan-mnist", 1, "png")
MODEL = Path(__file__).parents[1] / "models" / "gan-mnist" / "1"
CONTENT_TYPES = {
    "fast path": "application/json",
    "FastAPI": "application/json; charset=utf-8",
}


def measure(
    server: Server, content_type: str, connections: int, seconds: float, seed: int
) -> tuple[float, float]:
    """Return CPU milliseconds per request, and requests per second."""
    path, body = server.contender.request(WORK)
    cpu = server.cpu_seconds()
    result = load(server.address + path, body, connections, seconds, seed, content_type)
    cpu = server.cpu_seconds() - cpu
    if result.errors:
        raise SystemExit(f"{result.errors} of {result.requests} requests failed")
    return 1000 * cpu / result.requests, result.rate


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of each measurement.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Measure at 8 and 32 connections, and print ratios of the fast path to FastAPI."""
    assert_installed()
    (ours,) = contenders(only=["ganymede"])
    rows = []
    table = Table(
        "connections", "way", "CPU ms per request", "requests/s", "CPU ratio", "rate ratio"
    )
    with started(ours, MODEL, WORK) as server:
        for connections in (8, 32):
            cpu: dict[str, list[float]] = {name: [] for name in CONTENT_TYPES}
            rate: dict[str, list[float]] = {name: [] for name in CONTENT_TYPES}
            measure(server, CONTENT_TYPES["fast path"], connections, 1, 10**9)
            for number in range(rounds):
                # The order alternates, so that none of them always comes second.
                for name in sorted(CONTENT_TYPES, reverse=bool(number % 2)):
                    figures = measure(
                        server, CONTENT_TYPES[name], connections, seconds, 10**6 * number
                    )
                    cpu[name].append(figures[0])
                    rate[name].append(figures[1])
            for name in CONTENT_TYPES:
                spreads = {
                    "cpu_ms": Spread.of(cpu[name]),
                    "requests_s": Spread.of(rate[name]),
                    "cpu_ratio": ratios(cpu[name], cpu["FastAPI"]),
                    "rate_ratio": ratios(rate[name], rate["FastAPI"]),
                }
                rows.append(
                    {"connections": connections, "way": name}
                    | {key: spread.as_json() for key, spread in spreads.items()}
                )
                table.add_row(
                    str(connections),
                    name,
                    f"{spreads['cpu_ms']:.2f}",
                    f"{spreads['requests_s']:.0f}",
                    f"{spreads['cpu_ratio']:.2f}",
                    f"{spreads['rate_ratio']:.2f}",
                )
    packages = ("fastapi", "starlette", "uvicorn", "bentoml")
    report({"rows": rows, "machine": machine(packages)}, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
