"""Find the execution plan with the highest throughput on this machine.

Runs each graph of a models folder with several plans (workers × threads × rows) over several
rotating rounds and prints the median images per second relative to one worker with one thread and
one row. The defaults in `service.runtime.onnx.sessions.plan_for` are based on this.

Example: python -m benchmarks.plan --models models --seconds 1
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmarks.measure import in_turns, machine, ratios, report
from service.runtime.models.catalog import model_folders
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider

BASE = ExecutionPlan(workers=1, threads=1, max_rows=1)


def plans() -> list[ExecutionPlan]:
    """Return the plans to compare: one run on all cores, or parallel runs with one core each."""
    cpus = usable_cpus()
    shapes = {(1, 1), (1, cpus), (cpus, 1)}
    return [ExecutionPlan(w, t, rows) for w, t in sorted(shapes) for rows in (1, 8, 32)]


def images_per_second(model: Model, seconds: float) -> float:
    """Run the model with its plan's workers and rows for `seconds`; return its throughput."""
    feeds = model.feeds(range(model.plan.max_rows))
    end = time.perf_counter() + seconds
    counts = [0] * model.plan.workers

    def work(worker: int) -> None:
        while time.perf_counter() < end:
            model.run(GENERATOR, feeds)
            counts[worker] += model.plan.max_rows

    started = time.perf_counter()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(model.plan.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def main(
    models: Annotated[Path, typer.Option(help="The model repository.")] = Path("models"),
    seconds: Annotated[float, typer.Option(help="Per plan and round.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Measure and print."""
    rows, tables = [], []
    for folder in model_folders(models):
        name = f"{folder.parent.name}@{folder.name}"
        loaded = {plan: Model(folder, Provider.CPU, plan) for plan in plans()}
        rates = in_turns(
            {
                plan: lambda model=model: images_per_second(model, seconds)
                for plan, model in loaded.items()
            },
            rounds,
        )
        table = Table("workers", "threads", "rows", "ratio (spread)", title=name)
        for plan, figures in rates.items():
            ratio = ratios(figures, rates[BASE])
            shape = {"workers": plan.workers, "threads": plan.threads, "rows": plan.max_rows}
            rows.append({"model": name, **shape, "ratio": ratio.as_json()})
            table.add_row(*map(str, shape.values()), f"{ratio:.2f}")
        tables.append(table)
    report(
        {"rows": rows, "machine": machine(("onnxruntime-gpu", "onnxruntime"))},
        tables,
        as_json=as_json,
    )


if __name__ == "__main__":
    typer.run(main)
