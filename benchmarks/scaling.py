"""Measure how the service scales with its processes: throughput, memory, start-up, contention.

    python -m benchmarks.scaling --processes 1 --processes 2 --processes 4

Two series: several numbers of processes on all CPUs of this machine, and as many processes as CPUs,
with the server confined to 1, 2, 4, … CPUs. The load generator uses a part of the same CPUs. More
processes than CPUs are measured and marked. The second series is the basis of a model of the
contention, which estimates the throughput with more CPUs than this machine has:

    X(N) = λ N / (1 + σ (N - 1) + κ N (N - 1))

This is the Universal Scalability Law (Gunther, Guerrilla Capacity Planning, 2007, eq. 4.31); λ is
the throughput of one process, σ the share of serial work (contention) and κ the cost of coherence.
With κ = 0 it is Amdahl's law, which is fitted if the CPUs allow only two numbers of processes. An
estimate is a model, not a measurement.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from scipy.optimize import nnls

from benchmarks.contenders import Contender, Server, Workload, started, with_processes
from benchmarks.load import assert_installed, load
from benchmarks.measure import Spread, in_turns, machine, ratios, report
from benchmarks.serving import exported
from benchmarks.startup import Start, repository
from service.runtime.onnx.machine import usable_cpus

PROCESSES = (1, 2, 4, 8, 16)
# What the model of the contention is evaluated at.
ESTIMATED = (1, 2, 4, 8, 16, 32)
MANY_MODELS = 20


@dataclass(frozen=True)
class Contention:
    """The Universal Scalability Law: throughput of one process, contention, coherence."""

    one: float
    contention: float
    coherence: float

    @classmethod
    def fitted(cls, points: Sequence[tuple[int, float]]) -> Contention:
        """Return the law that fits ``(processes, throughput)``, by least squares of N / X(N).

        ``N / X`` is linear in 1/λ, σ/λ and κ/λ, none of which is negative. κ is 0 with fewer than
        three numbers of processes. Raises ValueError with fewer than two.
        """
        counts = len({processes for processes, _ in points})
        if counts < 2:
            raise ValueError("a model of the contention needs at least two numbers of processes")
        n, rate = np.array(points, float).T
        columns = [np.ones_like(n), n - 1, n * (n - 1)][:counts]
        (inverse, *terms), _ = nnls(np.stack(columns, axis=1), n / rate)
        contention, coherence, *_ = (*terms, 0.0)
        return cls(float(1 / inverse), float(contention / inverse), float(coherence / inverse))

    def throughput(self, processes: int) -> float:
        """Return X(N)."""
        n = processes
        return self.one * n / (1 + self.contention * (n - 1) + self.coherence * n * (n - 1))


class Case:
    """A number of processes on the first `cpus` CPUs, with its figures of each round."""

    def __init__(self, processes: int, cpus: int) -> None:
        self.processes, self.cpus = processes, cpus
        self.figures: dict[str, list[float]] = {}
        self.memory: dict[str, float] = {}
        self.errors = 0

    @property
    def contender(self) -> Contender:
        """The server to start."""
        return with_processes(str(self.processes))

    def measure(self, server: Server, work: Workload, connections: int, seconds: float) -> float:
        """Load the server; record the figures and return images per second."""
        path, body = server.contender.request(work)
        seed = 10**6 * (1 + len(self.figures.get("images_s", ())))
        used = server.cpu_seconds()
        result = load(server.address + path, body, connections, seconds, seed)
        used = server.cpu_seconds() - used
        server.wait_until_idle()
        self.memory = asdict(server.memory())
        self.errors += result.errors
        figures = {
            "images_s": result.rate * work.n,
            "cpu_ms": 1000 * used / max(result.requests * work.n, 1),
            "cpus_used": used / result.seconds,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
        }
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)
        _say(
            f"{work.model}: {self.processes} processes on {self.cpus} CPUs: "
            f"{figures['images_s']:.0f} images/s"
        )
        return figures["images_s"]

    def row(self, work: Workload, one: Sequence[float]) -> dict[str, Any]:
        """Return the results; `one` are the images per second of one process, by round."""
        return {
            "model": work.model,
            "processes": self.processes,
            "cpus": self.cpus,
            "more_than_cpus": self.processes > self.cpus,
            **{name: Spread.of(values).as_json() for name, values in self.figures.items()},
            "relative": ratios(self.figures["images_s"], one).as_json(),
            "memory": self.memory,
            "errors": self.errors,
        }


def cases(processes: Sequence[int], cpus: int) -> list[Case]:
    """Return the cases of both series, each number of processes and CPUs once."""
    confined = [each for each in processes if each < cpus]
    pairs = [(each, cpus) for each in processes] + [(each, each) for each in confined]
    return [Case(*pair) for pair in dict.fromkeys(pairs)]


def measure(
    work: Workload, of_work: Sequence[Case], connections: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """Measure all cases in turns; return their rows and the fitted model of the contention."""
    folder = exported(work.model)
    usable = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        turns: dict[Case, Callable[[], float]] = {}
        for case in of_work:
            cpus = usable[: case.cpus] if case.cpus < len(usable) else ()
            server = stack.enter_context(started(case.contender, folder, work, cpus))
            path, body = case.contender.request(work)
            # Warm up, so that every process has answered before its memory is read.
            load(server.address + path, body, connections, 1, 10**9)
            turns[case] = lambda case=case, server=server: case.measure(
                server, work, connections, seconds
            )
        rates = in_turns(turns, rounds)
    base = min(of_work, key=lambda case: (case.processes, -case.cpus))
    rows = [case.row(work, rates[base]) for case in of_work]
    points = [
        (case.processes, rate)
        for case in of_work
        if case.processes == case.cpus
        for rate in rates[case]
    ]
    return {"rows": rows, "model": _model(work.model, points)}


def _model(name: str, points: Sequence[tuple[int, float]]) -> dict[str, Any] | None:
    try:
        law = Contention.fitted(points)
    except ValueError:
        return None
    measured = max(processes for processes, _ in points)
    return {
        "model": name,
        **asdict(law),
        "fitted_to": sorted({processes for processes, _ in points}),
        "images_s": {
            each: {"value": law.throughput(each), "measured": each <= measured}
            for each in ESTIMATED
        },
    }


def start_up(model: Path, processes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Return seconds to ready and memory with one and with many models, with a warm cache."""
    starts: dict[tuple[int, int], list[Start]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        repositories = {
            count: repository(folder / f"models-{count}", model, count)
            for count in (1, MANY_MODELS)
        }

        def start(each: int, count: int) -> float:
            flags = ("--processes", str(each))
            starts.setdefault((each, count), []).append(Start(repositories[count], cache, *flags))
            _say(f"{each} processes, {count} models: {starts[each, count][-1].seconds:.2f} s")
            return starts[each, count][-1].seconds

        for models in repositories.values():
            Start(models, cache)
        turns = {
            (each, count): lambda each=each, count=count: start(each, count)
            for each in processes
            for count in repositories
        }
        in_turns(turns, rounds)
    return [
        {
            "processes": each,
            "models": count,
            "seconds": Spread.of([s.seconds for s in of_case]).as_json(),
            "cpu_seconds": Spread.of([s.cpu_seconds for s in of_case]).as_json(),
            "pss_mib": Spread.of([s.pss_mib for s in of_case]).as_json(),
        }
        for (each, count), of_case in starts.items()
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(
    model: Annotated[list[str], typer.Option(help="May be repeated.")] = ["gan-mnist"],  # noqa: B006
    processes: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = list(PROCESSES),  # noqa: B006
    connections: Annotated[int, typer.Option(min=1)] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="Per case and round.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    starts: Annotated[bool, typer.Option(help="Also measure start-up.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Measure and print."""
    assert_installed()
    cpus = usable_cpus()
    measured = [
        measure(Workload(each, 1, "png"), cases(processes, cpus), connections, seconds, rounds)
        for each in model
    ]
    few = [each for each in processes if each <= cpus] or processes[:1]
    result = {
        "rows": [row for each in measured for row in each["rows"]],
        "contention": [each["model"] for each in measured if each["model"]],
        "start_up": start_up(exported(model[0]), few, rounds) if starts else [],
        "connections": connections,
        "machine": machine(("onnxruntime-gpu", "onnxruntime", "bentoml", "uvicorn")),
    }
    report(result, _tables(result), as_json=as_json)


def _tables(result: Mapping[str, Any]) -> list[Table]:
    rates = Table(
        "model", "processes", "CPUs", "images/s", "relative", "CPUs used", "CPU ms", "p50, p99 ms",
        "PSS MiB", "RSS MiB", "errors", caption="* more processes than CPUs",
    )  # fmt: skip
    for row in result["rows"]:
        mark = " *" if row["more_than_cpus"] else ""
        memory = row["memory"]
        rates.add_row(
            row["model"],
            f"{row['processes']}{mark}",
            str(row["cpus"]),
            f"{Spread(**row['images_s']):.0f}",
            f"{Spread(**row['relative']):.2f}",
            f"{row['cpus_used']['median']:.2f}",
            f"{row['cpu_ms']['median']:.2f}",
            f"{row['p50_ms']['median']:.0f}, {row['p99_ms']['median']:.0f}",
            f"{memory['pss_mib']:.0f}",
            f"{memory['rss_mib']:.0f}",
            str(row["errors"]),
        )
    tables = [rates]
    if result["contention"]:
        laws = Table(
            "model", "λ", "σ", "κ", "fitted to", *map(str, ESTIMATED),
            title="images/s by the model of the contention (~ not measured)",
        )  # fmt: skip
        for law in result["contention"]:
            laws.add_row(
                law["model"],
                f"{law['one']:.0f}",
                f"{law['contention']:.3f}",
                f"{law['coherence']:.4f}",
                ", ".join(map(str, law["fitted_to"])),
                *(
                    f"{'' if each['measured'] else '~'}{each['value']:.0f}"
                    for each in law["images_s"].values()
                ),
            )
        tables.append(laws)
    if result["start_up"]:
        ready = Table("processes", "models", "seconds to ready", "CPU seconds", "PSS MiB")
        for row in result["start_up"]:
            ready.add_row(
                str(row["processes"]),
                str(row["models"]),
                f"{Spread(**row['seconds']):.2f}",
                f"{Spread(**row['cpu_seconds']):.2f}",
                f"{Spread(**row['pss_mib']):.0f}",
            )
        tables.append(ready)
    return tables


if __name__ == "__main__":
    typer.run(main)
