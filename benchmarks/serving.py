"""How fast Ganymede answers, beside what people would use instead, and beside the hardware's limit.

    python -m benchmarks.serving --workload dcgan64-1-png --connections 8 --seconds 3 --rounds 3

All contenders of a workload are up at the same time and are measured in turns, round by round, so
that what else the machine does meets all of them; ratios are between medians of one run. Load is
wrk's. With `--into FILE` a run is added to those in FILE; `--table FILE` prints what it holds.
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

from benchmarks.contenders import Contender, Workload, ask, contenders, plan_of, started
from benchmarks.load import assert_there, load
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
    """The graph alone, all CPUs, nothing done with the pictures: the best of several plans."""

    def __init__(self, folder: Path, rows: Sequence[int] = (1, 8, 16)) -> None:
        cpus = usable_cpus()
        lanes = {(1, cpus), (cpus, 1)}
        shapes = [(*each, count) for each in sorted(lanes) for count in rows]
        self._models = [Model(folder, Provider.CPU, ExecutionPlan(*shape)) for shape in shapes]

    def rates(self, seconds: float) -> dict[str, float]:
        """Return pictures a second by plan, as ``lanes×threads×rows``."""
        return {
            f"{m.plan.workers}×{m.plan.threads}×{m.plan.max_rows}": _rate(m, seconds)
            for m in self._models
        }


def _rate(model: Model, seconds: float) -> float:
    feeds = model.feeds(range(model.plan.max_rows))
    counts = [0] * model.plan.workers
    began = time.perf_counter()

    def work(lane: int) -> None:
        while time.perf_counter() < began + seconds:
            model.run(GENERATOR, feeds)
            counts[lane] += model.plan.max_rows

    threads = [threading.Thread(target=work, args=(i,)) for i in range(model.plan.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def encoded_a_second(pictures: np.ndarray, seconds: float = 0.5) -> float:
    """PNG files a second, by one thread."""
    began, made = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        encode(pictures[made % len(pictures)], ImageFormat.PNG, {"seed": made})
        made += 1
    return made / (time.perf_counter() - began)


def measure(
    work: Workload,
    connections: Sequence[int],
    those: Sequence[Contender],
    seconds: float,
    rounds: int,
    results: list[Result],
) -> None:
    """Measure all contenders in turns; print each figure and add it to `results` as it comes."""
    folder = exported(work.model)
    bare = Bare(folder)
    pictures = _expected(folder, work.n)

    def note(who: str, count: int, number: int, **figures: Any) -> None:
        results.append(
            {"workload": work.name, "connections": count, "contender": who, "round": number}
            | figures
        )
        shown = "  ".join(f"{k} {v:,.1f}" for k, v in figures.items() if isinstance(v, float))
        print(f"{work.name}  c={count}  {who:14} {shown}", flush=True)

    with contextlib.ExitStack() as stack:
        up = [stack.enter_context(started(each, folder, work)) for each in those]
        for server in up:
            each = server.contender
            if not np.array_equal(ask(each, server.address, work, 7), pictures):
                raise SystemExit(f"{each.name} gives other pictures")
            if plan := plan_of(each, server.address):
                print(f"{each.label}: {plan}", flush=True)
                results.append({"workload": work.name, "contender": each.label, "plan": plan})
        for number in range(rounds):
            plans = bare.rates(seconds / 2)
            best = max(plans, key=lambda plan: plans[plan])
            note(BARE, 0, number, images_s=plans[best], plan=best, plans=plans)
            if work.form != "npy":
                note(ENCODER, 0, number, images_s=encoded_a_second(pictures))
            for count in connections:
                # Whoever comes first finds the caches as the one before left them.
                for server in random.sample(up, len(up)):
                    path, body = server.contender.request(work)
                    url, used = server.address + path, server.cpu_seconds()
                    got = load(url, body, count, seconds, random.randrange(2**30))
                    used = server.cpu_seconds() - used
                    server.settle()
                    note(
                        server.contender.label,
                        count,
                        number,
                        images_s=got.rate * work.n,
                        cpu_ms=1000 * used / max(got.requests * work.n, 1),
                        p50_ms=got.p50_ms,
                        p99_ms=got.p99_ms,
                        errors=got.errors,
                        requests=got.requests,
                    )


def exported(name: str) -> Path:
    """Return the folder of a reference model, which is exported where it is not there."""
    folder = MODELS / name / "1"
    if not folder.exists():
        # In a process of its own: PyTorch is not to be here while others are measured.
        command = [sys.executable, "-m", "benchmarks.reference", name, str(MODELS)]
        subprocess.run(command, check=True)
    return folder


def _expected(folder: Path, count: int) -> np.ndarray:
    model = Model(folder, Provider.CPU, ExecutionPlan(1, 1, count))
    return model.generate(range(7, 7 + count))


def machine() -> dict[str, str]:
    """Return what the figures hang on."""
    return {
        "machine": f"{cpu_model()}, {usable_cpus()} CPUs",
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "ganymede": __version__,
    }


def table(results: Sequence[Result]) -> str:
    """Return a table in Markdown: medians, with least and most, what they are of the bare
    session's best of the same workload, and the CPU time that a picture took; the last line of each
    part compares with the best peer.
    """
    lines: list[str] = []
    results = [r for r in results if "images_s" in r]
    for workload in dict.fromkeys(r["workload"] for r in results):
        of = [r for r in results if r["workload"] == workload]
        top = statistics.median(r["images_s"] for r in of if r["contender"] == BARE)
        lines += ["", f"### {workload}", "", f"Bare session: {top:,.1f} images/s.", ""]
        lines += ["| connections | | images/s | of bare | CPU ms | p50 ms | p99 ms | errors |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for count in sorted({r["connections"] for r in of} - {0}):
            at = [r for r in of if r["connections"] == count]
            found: dict[str, tuple[float, float]] = {}
            for who in dict.fromkeys(r["contender"] for r in sorted(at, key=_order)):
                runs = [r for r in at if r["contender"] == who]
                rates = [r["images_s"] for r in runs]
                middle, late = statistics.median(rates), _median(runs, "p99_ms")
                found[who] = (middle, late)
                lines.append(
                    f"| {count} | {who} | {middle:,.1f} ({min(rates):,.1f} to {max(rates):,.1f}) "
                    f"| {middle / top:.2f} | {_median(runs, 'cpu_ms'):,.1f} "
                    f"| {_median(runs, 'p50_ms'):,.1f} | {late:,.1f} "
                    f"| {sum(r['errors'] for r in runs)} |"
                )
            peers = {who: of for who, of in found.items() if who != "ganymede"}
            if "ganymede" in found and peers:
                ours = found["ganymede"]
                best = max(peers, key=lambda who: peers[who][0])
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
    parser.add_argument("--workload", choices=names, action="append", help="all when not said")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", nargs="+", help="contenders, such as ganymede fastapi")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--into", type=Path, help="a file of results to add to")
    parser.add_argument("--table", type=Path, help="print the results of a file, and measure none")
    parser.add_argument(
        "--before", type=Path, nargs="+", default=[], help="other checkouts, beside it"
    )
    parser.add_argument("--tune", action="store_true", help="each peer with all its settings")
    said = parser.parse_args()
    if said.table:
        print(table([r for run in json.loads(said.table.read_text()) for r in run["results"]]))
        return
    assert_there()
    those = contenders(said.only or (), tune=said.tune, before=said.before)
    for each in [each for each in those if not each.is_installed]:
        print(f"{each.name} is not installed: make bench-peers")
        those.remove(each)
    results: list[Result] = []
    try:
        for work in WORKLOADS:
            if not said.workload or work.name in said.workload:
                measure(work, said.connections, those, said.seconds, said.rounds, results)
        print(table(results))
    finally:
        # Also of a run that is stopped: its whole rounds are as good as any.
        if said.into:
            runs = json.loads(said.into.read_text()) if said.into.exists() else []
            now = datetime.now(UTC).isoformat(timespec="seconds")
            runs.append({"time": now, **machine(), "results": results})
            said.into.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
