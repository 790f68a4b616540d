"""Compare the serving throughput and latency of Ganymede with other servers and the bare session.

    python -m benchmarks.serving --workload dcgan64-1-png --connections 8 --seconds 3 --rounds 3

All servers of a workload run at the same time and are measured in turns, round by round, so that
other load on the machine affects all of them; ratios compare medians of one run. wrk generates the
load. `--into FILE` adds a run to those in FILE; `--table FILE` prints its content.
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
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.contenders import Contender, Workload, contenders, plan_of, request_images, started
from benchmarks.load import assert_installed, load
from service import __version__
from service.runtime.images.encoding import ImageFormat, encode
from service.runtime.models.manifest import GENERATOR
from service.runtime.models.model import Model
from service.runtime.onnx.machine import cpu_model, usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider

MODELS = Path(__file__).parent / ".models"
BARE = "bare session"
ENCODER = "encoder alone"
NAMES = ("dcgan64", "stylegan256")
WORKLOADS = [
    Workload(model, n, form)
    for model in NAMES
    for n, form in ((1, "png"), (16, "npy"), (16, "zip"))
]
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
) -> None:
    """Measure all servers in turns; print each value and append it to `results`."""
    folder = exported(work.model)
    bare = Bare(folder)
    expected = _expected(folder, work.n)

    def record(name: str, count: int, number: int, **figures: Any) -> None:
        results.append(
            {"workload": work.name, "connections": count, "contender": name, "round": number}
            | figures
        )
        values = "  ".join(f"{k} {v:,.1f}" for k, v in figures.items() if isinstance(v, float))
        print(f"{work.name}  c={count}  {name:14} {values}", flush=True)

    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(started(each, folder, work)) for each in servers]
        for server in running:
            each = server.contender
            if not np.array_equal(request_images(each, server.address, work, 7), expected):
                raise SystemExit(f"{each.name} returns different images")
            if plan := plan_of(each, server.address):
                print(f"{each.label}: {plan}", flush=True)
                results.append({"workload": work.name, "contender": each.label, "plan": plan})
        for number in range(rounds):
            plans = bare.rates(seconds / 2)
            best = max(plans, key=lambda plan: plans[plan])
            record(BARE, 0, number, images_s=plans[best], plan=best, plans=plans)
            if work.form != "npy":
                record(ENCODER, 0, number, images_s=encoded_per_second(expected))
            for count in connections:
                # Random order, because the previous server affects the CPU caches.
                for server in random.sample(running, len(running)):
                    path, body = server.contender.request(work)
                    url, used = server.address + path, server.cpu_seconds()
                    result = load(url, body, count, seconds, random.randrange(2**30))
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
                        requests=result.requests,
                    )


def exported(name: str) -> Path:
    """Return the folder of a reference model; export the model if it is missing."""
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


def table(results: Sequence[Result]) -> str:
    """Return the results as Markdown tables.

    They contain medians with ranges, the ratio to the best bare session of the same workload, and
    the CPU time per image. The last line of each part is the ratio to the best peer.
    """
    lines: list[str] = []
    results = [r for r in results if "images_s" in r]
    for workload in dict.fromkeys(r["workload"] for r in results):
        entries = [r for r in results if r["workload"] == workload]
        bare = statistics.median(r["images_s"] for r in entries if r["contender"] == BARE)
        lines += ["", f"### {workload}", "", f"Bare session: {bare:,.1f} images/s.", ""]
        lines += ["| connections | | images/s | of bare | CPU ms | p50 ms | p99 ms | errors |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for count in sorted({r["connections"] for r in entries} - {0}):
            at = [r for r in entries if r["connections"] == count]
            medians: dict[str, tuple[float, float]] = {}
            for name in dict.fromkeys(r["contender"] for r in sorted(at, key=_order)):
                runs = [r for r in at if r["contender"] == name]
                rates = [r["images_s"] for r in runs]
                median, p99 = statistics.median(rates), _median(runs, "p99_ms")
                medians[name] = (median, p99)
                lines.append(
                    f"| {count} | {name} | {median:,.1f} ({min(rates):,.1f} to {max(rates):,.1f}) "
                    f"| {median / bare:.2f} | {_median(runs, 'cpu_ms'):,.1f} "
                    f"| {_median(runs, 'p50_ms'):,.1f} | {p99:,.1f} "
                    f"| {sum(r['errors'] for r in runs)} |"
                )
            peers = {name: entries for name, entries in medians.items() if name != "ganymede"}
            if "ganymede" in medians and peers:
                ours = medians["ganymede"]
                best = max(peers, key=lambda name: peers[name][0])
                lines.append(
                    f"| {count} | **ours / {best}** | **{ours[0] / peers[best][0]:.2f}** | | | "
                    f"| {ours[1] / peers[best][1]:.2f} | |"
                )
    return "\n".join(lines)


def _order(result: Result) -> tuple[bool, str]:
    return (result["contender"] != "ganymede", result["contender"])


def _median(runs: Sequence[Result], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [work.name for work in WORKLOADS]
    parser.add_argument("--workload", choices=names, action="append", help="default: all")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", nargs="+", help="server names, such as ganymede fastapi")
    parser.add_argument("--seconds", type=float, default=3.0, help="per server and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--into", type=Path, help="a file of results to add to")
    parser.add_argument("--table", type=Path, help="print the results of a file without measuring")
    parser.add_argument(
        "--before", type=Path, nargs="+", default=[], help="other checkouts to compare with"
    )
    parser.add_argument("--tune", action="store_true", help="each peer with all its settings")
    options = parser.parse_args()
    if options.table:
        print(table([r for run in json.loads(options.table.read_text()) for r in run["results"]]))
        return
    assert_installed()
    servers = contenders(options.only or (), tune=options.tune, before=options.before)
    for each in [each for each in servers if not each.is_installed]:
        print(f"{each.name} is not installed: make bench-peers")
        servers.remove(each)
    results: list[Result] = []
    try:
        for work in WORKLOADS:
            if not options.workload or work.name in options.workload:
                measure(
                    work, options.connections, servers, options.seconds, options.rounds, results
                )
        print(table(results))
    finally:
        # Also for an interrupted run: its finished rounds are valid.
        if options.into:
            runs = json.loads(options.into.read_text()) if options.into.exists() else []
            now = datetime.now(UTC).isoformat(timespec="seconds")
            runs.append({"time": now, **machine(), "results": results})
            options.into.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
