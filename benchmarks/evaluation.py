"""Measure `ganymede evaluate` with an empty cache and with a full one, against another checkout.

The steps of a round share a cache folder of their own for each checkout: few samples with an empty
cache, more samples, the same again, and as many other samples, as of another checkpoint. The last
step gives both checkouts the same inputs by `--reference`, and compares every figure. The checkouts
take turns at each step.

The data of the model must be found, as for training: in GANYMEDE_DATA, for example.

Example: python -m benchmarks.evaluation --before ../ganymede-before
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmarks.measure import Spread, machine, ratios, report

_REFERENCE = 10_000
# The figures of one checkout are compared with those of the other by these fields.
_VALUES = ("value", "low", "high", "real")


@dataclass(frozen=True)
class Run:
    """The time of one command in seconds, and its figures."""

    wall_s: float
    cpu_s: float
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Checkout:
    """A checkout of Ganymede with its environment."""

    command: Path
    folder: Path

    def evaluate(self, model: Path, cache: Path, *options: str) -> Run:
        """Run `ganymede evaluate MODEL OPTIONS`. Exits with its output if it fails."""
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [self.command, "evaluate", str(model), "--json", *options],
            cwd=self.folder,
            env={**os.environ, "GANYMEDE_CACHE": str(cache)},
            capture_output=True,
            text=True,
            check=False,
        )
        wall_s = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{self.command} exited with {done.returncode}: {done.stderr}")
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Run(wall_s, cpu_s, json.loads(done.stdout))


def steps(samples: int, more: int) -> dict[str, tuple[str, ...]]:
    """Return the options of `ganymede evaluate` for each step of a round, by its title."""
    return {
        f"{samples:,} samples, empty cache": ("--samples", str(samples)),
        f"then {more:,} samples": ("--samples", str(more)),
        "the same again": ("--samples", str(more)),
        f"{more:,} other samples": ("--samples", str(more), "--seed", str(10 * more)),
        f"{samples:,} samples, reference {_REFERENCE:,}": (
            "--samples",
            str(samples),
            "--reference",
            str(_REFERENCE),
        ),
    }


def measure(
    checkouts: Mapping[str, Checkout], model: Path, samples: int, more: int, rounds: int
) -> dict[str, dict[str, list[Run]]]:
    """Return the runs of every step by its title and by the name of the checkout."""
    runs: dict[str, dict[str, list[Run]]] = {
        title: {name: [] for name in checkouts} for title in steps(samples, more)
    }
    names = list(checkouts)
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as temporary:
            for turn, (title, options) in enumerate(steps(samples, more).items()):
                at = (number + turn) % len(names)
                for name in [*names[at:], *names[:at]]:
                    cache = Path(temporary) / name
                    runs[title][name].append(checkouts[name].evaluate(model, cache, *options))
    return runs


def largest_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Return the largest relative difference between the figures of two evaluations.

    Raises SystemExit if they do not have the same figures.
    """
    figures = [{each["metric"]: each for each in result["figures"]} for result in (a, b)]
    if figures[0].keys() != figures[1].keys():
        raise SystemExit(f"the figures differ: {sorted(figures[0].keys() ^ figures[1].keys())}")
    differences = [0.0]
    for metric, figure in figures[0].items():
        for field in _VALUES:
            one, other = figure.get(field), figures[1][metric].get(field)
            if (one is None) != (other is None):
                raise SystemExit(f"{metric} has {field} in one of the results only")
            if one != other:
                differences.append(abs(one - other) / max(abs(one), abs(other)))
    return max(differences)


def main(
    before: Annotated[
        Path | None,
        typer.Option(help="Another checkout with its environment in .venv, to compare with."),
    ] = None,
    model: Annotated[Path, typer.Option(help="The folder of a model.")] = Path(
        "models/gan-mnist/1"
    ),
    samples: Annotated[int, typer.Option(help="Samples of the first step.")] = 300,
    more: Annotated[int, typer.Option(help="Samples of the next steps.")] = 1_000,
    rounds: Annotated[int, typer.Option(help="Number of rounds.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the time of evaluations, and compare it and the figures with another checkout."""
    this = Path(__file__).resolve().parents[1]
    checkouts = {"this": Checkout(Path(sys.executable).parent / "ganymede", this)}
    if before is not None:
        folder = before.resolve()
        checkouts["before"] = Checkout(folder / ".venv" / "bin" / "ganymede", folder)
    ran_on = machine(["onnxruntime", "numpy"])
    runs = measure(checkouts, model.resolve(), samples, more, rounds)
    table = Table(title=f"ganymede evaluate {model}")
    for title in ("step", "seconds", "CPU seconds", "times faster", "times less CPU time"):
        table.add_column(title)
    result: dict[str, object] = {"machine": ran_on, "model": str(model), "steps": {}}
    rows: dict[str, object] = {}
    for title, by_name in runs.items():
        wall = {name: [run.wall_s for run in each] for name, each in by_name.items()}
        cpu = {name: [run.cpu_s for run in each] for name, each in by_name.items()}
        row: dict[str, object] = {
            "seconds": {name: Spread.of(each).as_json() for name, each in wall.items()},
            "cpu_seconds": {name: Spread.of(each).as_json() for name, each in cpu.items()},
        }
        cells = [title, f"{Spread.of(wall['this']):.1f}", f"{Spread.of(cpu['this']):.1f}"]
        if before is not None:
            faster = ratios(wall["before"], wall["this"])
            less_cpu = ratios(cpu["before"], cpu["this"])
            row |= {"faster": faster.as_json(), "less_cpu": less_cpu.as_json()}
            cells += [f"{faster:.1f}", f"{less_cpu:.1f}"]
        rows[title] = row
        table.add_row(*cells)
    result["steps"] = rows
    if before is not None:
        last = list(runs.values())[-1]
        difference = max(
            largest_difference(one.result, other.result)
            for one, other in zip(last["before"], last["this"], strict=True)
        )
        result["largest_relative_difference"] = difference
        table.caption = f"equal inputs: the figures differ by at most {difference:.1e} (relative)"
    report(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
