"""Compare the serving throughput and latency of Ganymede with other servers and the bare session.

    python -m benchmarks.serving --workload dcgan64-1-png --connections 8 --seconds 3 --rounds 3

All servers of a workload run at the same time and are measured in turns, round by round, so that
other load on the machine affects all of them; ratios compare medians of one run. wrk generates the
load. `--processes 1 2` measures Ganymede once with each number of processes. `--overload` also
measures in an open loop at twice the throughput that a server had with the most connections.
`--into FILE` adds a run to those in FILE; `--table FILE` prints its content.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.contenders import (
    Contender,
    Server,
    Workload,
    contenders,
    plan_of,
    request_images,
    started,
)
from benchmarks.load import Load, assert_installed, load, offer
from benchmarks.measure import Spread, ratios
from service import __version__
from service.runtime.images.encoding import ImageFormat, encode
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.onnx.machine import cpu_model, usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider

MODELS = Path(__file__).parent / ".models"
INCLUDED = Path(__file__).parents[1] / "models"
BARE = "bare session"
ENCODER = "encoder alone"
# Included models whose inference is cheap, so that everything around it decides.
SMALL = ("gan-mnist", "dcgan-fashion")
NAMES = ("dcgan64", "stylegan256")
WORKLOADS = [Workload(model, 1, "png") for model in SMALL] + [
    Workload(model, n, form)
    for model in NAMES
    for n, form in ((1, "png"), (16, "npy"), (16, "zip"))
]
OVERLOAD = "2 × capacity"
Result = dict[str, Any]


class Bare:
    """ONNX Runtime alone on all CPUs with several plans; the images are discarded."""

    def __init__(self, folder: Path, rows: Sequence[int] = (1, 8, 16)) -> None:
        cpus = usable_cpus()
        layouts = {(1, cpus), (cpus, 1)}
        shapes = [(*each, count) for each in sorted(layouts) for count in rows]
        self._models = [Model(folder, Provider.CPU, ExecutionPlan(*shape)) for shape in shapes]

    def rates(self, seconds: float) -> dict[str, float]:
        """Return images per second by plan, named ``workers×threads×rows``."""
        return {
            f"{m.plan.workers}×{m.plan.threads}×{m.plan.max_rows}": _rate(m, seconds)
            for m in self._models
        }


def _rate(model: Model, seconds: float) -> float:
    feeds = model.feeds(range(model.plan.max_rows))
    counts = [0] * model.plan.workers
    started = time.perf_counter()

    def work(worker: int) -> None:
        while time.perf_counter() < started + seconds:
            model.run(GENERATOR, feeds)
            counts[worker] += model.plan.max_rows

    threads = [threading.Thread(target=work, args=(i,)) for i in range(model.plan.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def encoded_per_second(images: np.ndarray, seconds: float = 0.5) -> float:
    """Return PNG files per second of one thread."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        encode(images[count % len(images)], ImageFormat.PNG, {"seed": count})
        count += 1
    return count / (time.perf_counter() - started)


def measure(
    work: Workload,
    connections: Sequence[int],
    servers: Sequence[Contender],
    seconds: float,
    rounds: int,
    results: list[Result],
    *,
    overload: bool = False,
) -> None:
    """Measure all servers in turns; print each value and append it to `results`."""
    folder = exported(work.model)
    bare = Bare(folder)
    expected = _expected(folder, work.n)

    def record(name: str, count: int | str, number: int, **figures: Any) -> None:
        results.append(
            {"workload": work.name, "connections": count, "contender": name, "round": number}
            | figures
        )
        values = "  ".join(f"{k} {v:,.1f}" for k, v in figures.items() if isinstance(v, float))
        print(f"{work.name}  c={count}  {name:14} {values}", file=sys.stderr, flush=True)

    def loaded(
        server: Server, count: int | str, number: int, send: Callable[[str, str], Load]
    ) -> Load:
        path, body = server.contender.request(work)
        used = server.cpu_seconds()
        result = send(server.address + path, body)
        used = server.cpu_seconds() - used
        server.wait_until_idle()
        record(
            server.contender.label,
            count,
            number,
            images_s=result.rate * work.n,
            cpu_ms=1000 * used / max(result.requests * work.n, 1),
            p50_ms=result.p50_ms,
            p99_ms=result.p99_ms,
            errors=result.errors,
            refused=result.refused,
            late=result.late,
            requests=result.requests,
        )
        return result

    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(started(each, folder, work)) for each in servers]
        for server in running:
            each = server.contender
            images = request_images(each, server.address, work, 7)
            # Decoded gray images have no axis of channels.
            if images.size != expected.size or (images.ravel() != expected.ravel()).any():
                raise SystemExit(f"{each.name} returns different images")
            if plan := plan_of(each, server.address):
                print(f"{each.label}: {plan}", file=sys.stderr, flush=True)
                results.append({"workload": work.name, "contender": each.label, "plan": plan})
        capacity: dict[str, float] = {}
        for number in range(rounds):
            plans = bare.rates(seconds / 2)
            best = max(plans, key=lambda plan: plans[plan])
            record(BARE, 0, number, images_s=plans[best], plan=best, plans=plans)
            if work.format != "npy":
                record(ENCODER, 0, number, images_s=encoded_per_second(expected))
            for count in connections:
                # Random order, because the previous server affects the CPU caches.
                for server in random.sample(running, len(running)):
                    seed = random.randrange(2**30)
                    capacity[server.contender.label] = loaded(
                        server, count, number, lambda *at, c=count, s=seed: load(*at, c, seconds, s)
                    ).rate
            for server in random.sample(running, len(running)) if overload else ():
                rate, seed = 2 * capacity[server.contender.label], random.randrange(2**30)
                loaded(
                    server, OVERLOAD, number, lambda *at, r=rate, s=seed: offer(*at, r, seconds, s)
                )


def exported(name: str) -> Path:
    """Return the folder of an included or a reference model; export the latter if missing."""
    included = INCLUDED / name / "1"
    if included.exists():
        return included
    folder = MODELS / name / "1"
    if not folder.exists():
        # In a separate process, so that PyTorch is not loaded while servers are measured.
        command = [sys.executable, "-m", "benchmarks.reference", name, str(MODELS)]
        subprocess.run(command, check=True)
    return folder


def _expected(folder: Path, count: int) -> np.ndarray:
    model = Model(folder, Provider.CPU, ExecutionPlan(1, 1, count))
    return model.generate(range(7, 7 + count))


def machine() -> dict[str, str]:
    """Return the machine and the versions."""
    return {
        "machine": f"{cpu_model()}, {usable_cpus()} CPUs",
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "ganymede": __version__,
    }


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one row per workload, load and server.

    Every value has its spread over the rounds. `ours_relative` is the ratio of our throughput to
    that of the row's server in the same round; "ours" is the Ganymede with the most processes.
    `cpu_of_ours` is the ratio of the server's CPU time per image to ours, which other load on the
    machine affects less.
    """
    measured = [r for r in results if "p99_ms" in r]
    rows = []
    for workload, count in dict.fromkeys((r["workload"], r["connections"]) for r in measured):
        at = [r for r in measured if (r["workload"], r["connections"]) == (workload, count)]
        runs: dict[str, list[Result]] = {}
        for result in sorted(at, key=_order):
            runs.setdefault(result["contender"], []).append(result)
        rates = {name: [r["images_s"] for r in of_name] for name, of_name in runs.items()}
        bare = [
            r["images_s"] for r in results if (r["workload"], r["contender"]) == (workload, BARE)
        ]
        ours = next(iter(runs))
        for name, of_name in runs.items():
            row = {
                "workload": workload,
                "connections": count,
                "contender": name,
                **{
                    key: Spread.of([r[key] for r in of_name]).as_json()
                    for key in ("images_s", "cpu_ms", "p50_ms", "p99_ms")
                },
                "of_bare": statistics.median(rates[name]) / statistics.median(bare),
                "p99_of_p50": Spread.of([_tail(r) for r in of_name]).as_json(),
                "ours_relative": ratios(rates[ours], rates[name]).as_json(),
                "cpu_of_ours": ratios(
                    [r["cpu_ms"] for r in of_name], [r["cpu_ms"] for r in runs[ours]]
                ).as_json(),
            }
            for key in ("errors", "refused", "late"):
                row[key] = sum(r.get(key, 0) for r in of_name)
            rows.append(row)
    return rows


def table(results: Sequence[Result]) -> str:
    """Return the results as Markdown tables: medians, with ranges where they matter."""
    lines: list[str] = []
    rows = summary(results)
    for workload in dict.fromkeys(row["workload"] for row in rows):
        of_workload = [row for row in rows if row["workload"] == workload]
        bare = statistics.median(
            r["images_s"]
            for r in results
            if (r["workload"], r["contender"]) == (workload, BARE) and "images_s" in r
        )
        ours = of_workload[0]["contender"]
        lines += ["", f"### {workload}", "", f"Bare session: {bare:,.1f} images/s.", ""]
        lines += [f"| connections | | images/s | {ours} relative to it | its CPU time / {ours} "]
        lines[-1] += "| of bare | CPU ms | p50 ms | p99 ms | p99 / p50 | refused, late | errors |"
        lines += ["|---|---|---|---|---|---|---|---|---|---|---|---|"]
        for row in of_workload:
            cpu, p50, p99 = (row[key]["median"] for key in ("cpu_ms", "p50_ms", "p99_ms"))
            lines.append(
                f"| {row['connections']} | {row['contender']} | {Spread(**row['images_s']):,.1f} "
                f"| {Spread(**row['ours_relative']):.2f} | {Spread(**row['cpu_of_ours']):.2f} "
                f"| {row['of_bare']:.2f} | {cpu:,.2f} "
                f"| {p50:,.1f} | {p99:,.1f} | {Spread(**row['p99_of_p50']):.1f} "
                f"| {row['refused']}, {row['late']} | {row['errors']} |"
            )
    return "\n".join(lines)


def _order(result: Result) -> tuple[bool, int, str]:
    """Sort Ganymede with the most processes first, then its other forms, then the peers."""
    name, _, processes = result["contender"].partition(" ×")
    is_peer = name != "ganymede"
    return is_peer, -int(processes) if processes.isdigit() else 0, result["contender"]


def _tail(result: Result) -> float:
    return result["p99_ms"] / result["p50_ms"] if result["p50_ms"] else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [work.name for work in WORKLOADS]
    parser.add_argument("--workload", choices=names, action="append", help="default: all")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--only", nargs="+", help="server names, such as ganymede fastapi")
    parser.add_argument("--seconds", type=float, default=3.0, help="per server and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--into", type=Path, help="a file of results to add to")
    parser.add_argument("--table", type=Path, help="print the results of a file without measuring")
    parser.add_argument(
        "--before", type=Path, nargs="+", default=[], help="other checkouts to compare with"
    )
    parser.add_argument(
        "--processes", nargs="+", default=[], help="Ganymede with these numbers, or auto"
    )
    parser.add_argument("--overload", action="store_true", help="also at twice the capacity")
    parser.add_argument("--json", action="store_true", help="print the summary for scripts")
    parser.add_argument("--tune", action="store_true", help="each peer with all its settings")
    options = parser.parse_args()
    if options.table:
        runs = json.loads(options.table.read_text())
        _print([r for run in runs for r in run["results"]], as_json=options.json)
        return
    assert_installed()
    servers = contenders(
        options.only or (), processes=options.processes, tune=options.tune, before=options.before
    )
    for each in [each for each in servers if not each.is_installed]:
        print(f"{each.name} is not installed: make bench-peers", file=sys.stderr)
        servers.remove(each)
    results: list[Result] = []
    try:
        for work in WORKLOADS:
            if not options.workload or work.name in options.workload:
                measure(
                    work,
                    options.connections,
                    servers,
                    options.seconds,
                    options.rounds,
                    results,
                    overload=options.overload,
                )
        _print(results, as_json=options.json)
    finally:
        # Also for an interrupted run: its finished rounds are valid.
        if options.into:
            runs = json.loads(options.into.read_text()) if options.into.exists() else []
            now = datetime.now(UTC).isoformat(timespec="seconds")
            runs.append({"time": now, **machine(), "results": results})
            options.into.write_text(json.dumps(runs, indent=1) + "\n")


def _print(results: Sequence[Result], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"rows": summary(results), "machine": machine()}, indent=2))
    else:
        print(table(results))


if __name__ == "__main__":
    main()
