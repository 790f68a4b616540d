"""What benchmarks share: rounds in turns, medians with their spread, and what they ran on.

Seconds on a machine that others use too say little. So whatever is compared takes turns within
every round, and what is told is the ratio of two within a round: its median over the rounds, and
the lowest and highest.
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

# One shipped model, called as its recipe, of each architecture with convolutions.
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
    """A figure of several rounds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of the values of the rounds."""
        return cls(statistics.median(values), min(values), max(values))

    def __format__(self, form: str) -> str:
        return f"{self.median:{form}} ({self.lowest:{form}} to {self.highest:{form}})"

    def as_json(self) -> dict[str, float]:
        """Return the three figures by name."""
        return {"median": self.median, "lowest": self.lowest, "highest": self.highest}


def in_turns(subjects: Mapping[Name, Callable[[], float]], rounds: int) -> dict[Name, list[float]]:
    """Measure every subject once in each round; return their figures, a list of rounds each.

    Who begins moves on from round to round, so that none always comes after the same other.
    """
    figures: dict[Name, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    for number in range(rounds):
        at = number % len(names)
        for name in [*names[at:], *names[:at]]:
            figures[name].append(subjects[name]())
    return figures


def ratios(figures: Sequence[float], base: Sequence[float]) -> Spread:
    """Return the spread of figures over those of the same rounds of another."""
    return Spread.of([one / other for one, other in zip(figures, base, strict=True)])


def seconds(work: Callable[[], object], at_least_s: float = 0.2, least: int = 1) -> float:
    """Return the mean seconds of one run of `work`, run for so long and so often at least."""
    began, runs = time.perf_counter(), 0
    while True:
        work()
        runs += 1
        passed = time.perf_counter() - began
        if runs >= least and passed >= at_least_s:
            return passed / runs


def machine(packages: Iterable[str] = ()) -> dict[str, object]:
    """Return what a benchmark ran on; `packages` that are not installed are None."""
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


def tell(result: Mapping[str, object], tables: Iterable[Table], *, as_json: bool) -> None:
    """Print a result: all of it for scripts, or what people look at."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    console = Console()
    for table in tables:
        console.print(table)
    ran_on = result.get("machine")
    if isinstance(ran_on, Mapping):
        console.print(", ".join(f"{name} {value}" for name, value in ran_on.items()))
