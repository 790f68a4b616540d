"""Which execution plan keeps this machine busiest.

Runs each graph of a models folder with several plans (workers × threads × rows), interleaved over
several rounds, and prints the median images per second as a ratio to one worker with one thread
and one row. This is what `service.runtime.sessions.plan_for` rests on.

Example: python -m benchmarks.plan --models models --seconds 1
"""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.runtime.catalog import model_folders
from service.runtime.machine import usable_cpus
from service.runtime.manifest import GENERATOR
from service.runtime.model import Model
from service.runtime.sessions import ExecutionPlan, Provider

BASE = ExecutionPlan(workers=1, threads=1, max_rows=1)


def plans() -> list[ExecutionPlan]:
    """Return the plans to compare: all cores inside one run, or one core for each of many."""
    cpus = usable_cpus()
    shapes = {(1, 1), (1, cpus), (cpus, 1)}
    return [ExecutionPlan(w, t, rows) for w, t in sorted(shapes) for rows in (1, 8, 32)]


def images_per_second(model: Model, seconds: float) -> float:
    """Run the model with its plan's workers and rows for so long."""
    feeds = model.feeds(range(model.plan.max_rows))
    end = time.perf_counter() + seconds
    counts = [0] * model.plan.workers

    def work(worker: int) -> None:
        while time.perf_counter() < end:
            model.sessions[GENERATOR].run(feeds)
            counts[worker] += model.plan.max_rows

    began = time.perf_counter()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(model.plan.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def main(
    models: Annotated[Path, typer.Option(help="The model repository.")] = Path("models"),
    seconds: Annotated[float, typer.Option(help="For each plan in each round.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure and print."""
    console = Console()
    for folder in model_folders(models):
        loaded = [Model(folder, Provider.CPU, plan) for plan in plans()]
        rates: list[list[float]] = [[] for _ in loaded]
        for _ in range(rounds):
            for rate, model in zip(rates, loaded, strict=True):
                rate.append(images_per_second(model, seconds))
        base = statistics.median(rates[[model.plan for model in loaded].index(BASE)])
        table = Table(
            "workers",
            "threads",
            "rows",
            "ratio",
            "spread",
            title=f"{folder.parent.name}@{folder.name}",
        )
        for rate, model in zip(rates, loaded, strict=True):
            plan, ratios = model.plan, [r / base for r in rate]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            cells = [plan.workers, plan.threads, plan.max_rows, f"{statistics.median(ratios):.2f}"]
            table.add_row(*map(str, cells), spread)
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
