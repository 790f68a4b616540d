"""Measure the longest response time of /livez while large bodies are processed.

    python -m benchmarks.liveness

Each body is sent to its route again and again for a few seconds, while a process of its own asks
for /livez every few milliseconds. The bodies are those that take longest within the limits of the
service, and those that took longest before there were limits. Prints the response time of /livez
without and with each body.

The figures are only meaningful on a machine that is otherwise idle.
"""

from __future__ import annotations

import base64
import http.client
import json
import multiprocessing
import random
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from benchmarks.measure import machine, report
from tests.support.servers import serving

MODELS = Path(__file__).parents[1] / "models"
_MIB = 2**20
_JSON = "application/json"
_FORM = "multipart/form-data; boundary=x"


def numbers(count: int) -> list[float]:
    """Return random numbers of full precision."""
    rng = random.Random(1)
    return [rng.random() for _ in range(count)]


def bodies() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """Return the route and the body of each attack, by name."""

    def document(**fields: Any) -> Callable[[], bytes]:
        return lambda: json.dumps(fields).encode()

    def keys(count: int, value: Any = 0, **fields: Any) -> Callable[[], bytes]:
        return document(**fields, **{f"k{i}": value for i in range(count)})

    many = 60_000
    attacks: dict[str, tuple[str, Callable[[], bytes]]] = {
        "generate, 1.2 million keys": ("/v1/generate", keys(1_200_000)),
        "generate, unknown keys": ("/v1/generate", keys(many)),
        "generate, a million numbers": (
            "/v1/generate",
            document(model="stylegan2-flowers", w=[[numbers(512)] * 9] * 170),
        ),
        "generate, wrong classes": (
            "/v1/generate",
            document(model="cgan-fashion", **{"class": [1.5] * _MIB}),
        ),
        "generate, escapes": ("/v1/generate", lambda: b'{"model":"' + b"\\n" * _MIB + b'"}'),
        "generate, text": ("/v1/generate", lambda: b'{"model":"' + b"a" * 15 * _MIB + b'"}'),
        "generate, lists": ("/v1/generate", lambda: b"[" + b"[]," * 260_000 + b"[]]"),
        "generate, strings": (
            "/v1/generate",
            lambda: b'{"model":[' + b'"",' * 1_000_000 + b'""]}',
        ),
        "jobs, wrong classes": (
            "/v1/jobs",
            document(model="cgan-fashion", count=1, classes={f"k{i}": -1 for i in range(many)}),
        ),
        "upscale, text in base64": (
            "/v1/upscale",
            document(model="esrgan-flowers", image=base64.b64encode(bytes(11 * _MIB)).decode()),
        ),
        "upscale, boxes": (
            "/v1/inpaint",
            document(model="inpaint-flowers", image="", boxes=[[0, 0, 0, -1]] * 200_000),
        ),
        "inpaint, boxes in a form": (
            "/v1/inpaint",
            lambda: (
                b'--x\r\nContent-Disposition: form-data; name="boxes"\r\n\r\n['
                + b"[0,0,0,-1]," * 90_000
                + b"0]\r\n--x--\r\n"
            ),
        ),
        "infer, two million numbers": (
            "/v2/models/gan-mnist/infer",
            lambda: (
                b'{"inputs":[{"name":"z","datatype":"FP32","shape":[1,64],"data":['
                + b"0," * (2 * _MIB - 100)
                + b"0]}]}"
            ),
        ),
    }
    for route in ("sample-classes", "mix-styles", "interpolate", "images/generations"):
        attacks[f"{route}, unknown keys"] = (f"/v1/{route}", keys(many))
        attacks[f"{route}, numbers"] = (
            f"/v1/{route}",
            document(model="m", rows=numbers(700_000), prompt=1),
        )
    return attacks


def probe(address: str, connection: Connection) -> None:
    """Ask for /livez until told to stop; sends the response times in ms."""
    host, port = address.removeprefix("http://").split(":")
    client = http.client.HTTPConnection(host, int(port), timeout=60)
    times = []
    while not connection.poll():
        started = time.perf_counter()
        client.request("GET", "/livez")
        client.getresponse().read()
        times.append(1000 * (time.perf_counter() - started))
        time.sleep(0.005)
    connection.send(times)


def livez_times(address: str, meanwhile: Callable[[], None]) -> list[float]:
    """Return the response times of /livez, in ms, while ``meanwhile()`` runs."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=probe, args=(address, theirs))
    process.start()
    time.sleep(1)  # Until the process asks.
    try:
        meanwhile()
    finally:
        ours.send("stop")
        times: list[float] = ours.recv()
        process.join()
    return sorted(times)


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each body.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Measure every body, and print the median and the longest response time of /livez."""
    rows = []
    with serving(MODELS, env={"GANYMEDE_PLAN": "default"}) as server:

        def measure(name: str, route: str, body: bytes) -> None:
            statuses = set()

            def send() -> None:
                end = time.monotonic() + seconds
                with httpx.Client(base_url=server.url, timeout=120) as client:
                    while time.monotonic() < end:
                        headers = {"content-type": _FORM if body[:2] == b"--" else _JSON}
                        response = client.post(route, content=body, headers=headers)
                        statuses.add(response.status_code)

            times = livez_times(server.url, send if body else lambda: time.sleep(seconds))
            rows.append(
                {
                    "body": name,
                    "mib": round(len(body) / _MIB, 1),
                    "statuses": sorted(statuses),
                    "median_ms": round(times[len(times) // 2], 1),
                    "p99_ms": round(times[int(len(times) * 0.99)], 1),
                    "longest_ms": round(times[-1], 1),
                }
            )

        measure("none", "/livez", b"")
        for name, (route, make) in bodies().items():
            measure(name, route, make())
    table = Table("body", "MiB", "status", "median ms", "99 % ms", "longest ms", box=None)
    for row in rows:
        table.add_row(
            *(", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in row.values())
        )
    packages = ("pydantic", "fastapi", "uvicorn", "bentoml")
    report({"rows": rows, "machine": machine(packages)}, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
