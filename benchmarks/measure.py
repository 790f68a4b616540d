"""Shared parts of the benchmarks: rotating rounds, medians with their range, and machine data.

Times vary on a shared machine. Variants are therefore measured in turns within every round, and
results are ratios of two variants within a round: the median, minimum and maximum over the
rounds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from service.runtime.onnx.machine import cpu_model, usable_cpus

Name = TypeVar("Name")

# One included model of each convolutional architecture; models are named after their recipes.
CONVOLUTIONAL = (
    "dcgan-fashion",
    "biggan-flowers",
    "stylegan2-flowers",
    "sketch2emoji",
    "esrgan-flowers",
    "inpaint-flowers",
    "cyclegan-emoji",
)


@dataclass(frozen=True)
class Spread:
    """The median and range of a value over several rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value per round."""
        return cls(statistics.median(values), min(values), max(values))

    def __format__(self, form: str) -> str:
        return f"{self.median:{form}} ({self.lowest:{form}} to {self.highest:{form}})"

    def as_json(self) -> dict[str, float]:
        """Return the three values by name."""
        return {"median": self.median, "lowest": self.lowest, "highest": self.highest}


def in_turns(variants: Mapping[Name, Callable[[], float]], rounds: int) -> dict[Name, list[float]]:
    """Measure every variant once per round; return the values of all rounds by variant.

    The order rotates from round to round, so that no variant always follows the same one.
    """
    figures: dict[Name, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds):
        at = number % len(names)
        for name in [*names[at:], *names[:at]]:
            figures[name].append(variants[name]())
    return figures


def ratios(figures: Sequence[float], base: Sequence[float]) -> Spread:
    """Return the spread of `figures / base`, round by round."""
    return Spread.of([one / other for one, other in zip(figures, base, strict=True)])


def seconds(work: Callable[[], object], at_least_s: float = 0.2, min_runs: int = 1) -> float:
    """Return the mean seconds of one run of `work`.

    `work` runs for at least `at_least_s` seconds and at least `min_runs` times.
    """
    started, runs = time.perf_counter(), 0
    while True:
        work()
        runs += 1
        elapsed = time.perf_counter() - started
        if runs >= min_runs and elapsed >= at_least_s:
            return elapsed / runs


def machine(packages: Iterable[str] = ()) -> dict[str, object]:
    """Return the machine and the package versions; packages that are not installed are None."""
    return {
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        **{name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def report(result: Mapping[str, object], tables: Iterable[Table], *, as_json: bool) -> None:
    """Print a result as JSON for scripts, or as tables."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    # In a file, a table is as wide as it needs to be.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    for table in tables:
        console.print(table)
    ran_on = result.get("machine")
    if isinstance(ran_on, Mapping):
        console.print(", ".join(f"{name} {value}" for name, value in ran_on.items()))
