"""Measure the time from `ganymede serve` to ready, and the memory of the running service.

Starts with one model and with many copies of an included one. The first start measures how each
model runs best and caches the result; later starts use the cache. Memory is the unique set size
(USS) of all processes of the service. `--environment` reports the size of an installed environment.

Example: python -m benchmarks.startup --rounds 3
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.table import Table

from benchmarks.measure import Spread, in_turns, machine, report
from service.runtime.models.manifest import MANIFEST_FILE

_POLL_S = 0.01
_START_TIMEOUT_S = 300.0


def repository(folder: Path, model: Path, count: int) -> Path:
    """Write `count` copies of a model, each with its own name."""
    for number in range(count):
        name = f"{model.parent.name}-{number}"
        copy = shutil.copytree(model, folder / name / "1")
        manifest = json.loads((copy / MANIFEST_FILE).read_text())
        (copy / MANIFEST_FILE).write_text(json.dumps(manifest | {"name": name, "version": "1"}))
    return folder


class Start:
    """One start of a service, stopped as soon as it is ready."""

    def __init__(self, models: Path, cache: Path, *flags: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(Path(sys.executable).parent / "ganymede"), "serve", "--models", str(models)]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--port", str(port), "--jobs", str(cache / "jobs"), *flags],
            env={**os.environ, "GANYMEDE_CACHE": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/readyz", process)
            self.seconds = time.perf_counter() - started
            processes = [root := psutil.Process(process.pid), *root.children(recursive=True)]
            memory = [each.memory_full_info() for each in processes]
            self.mib = sum(each.uss for each in memory) / 2**20
            self.pss_mib = sum(each.pss for each in memory) / 2**20
            times = [each.cpu_times() for each in processes]
            self.cpu_seconds = sum(each.user + each.system for each in times)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + _START_TIMEOUT_S
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the service exited with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(_POLL_S)
    raise SystemExit(f"not ready after {_START_TIMEOUT_S:.0f} s")


def size_of(environment: Path) -> float:
    """Return the size of an environment's files in MiB, hard links counted once."""
    sizes = {}
    for path in environment.rglob("*"):
        stat = path.lstat()
        sizes[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return sum(sizes.values()) / 2**20


def main(
    model: Annotated[Path, typer.Option(help="The model to copy.")] = Path(
        "models/dcgan-fashion/1"
    ),
    many: Annotated[int, typer.Option(min=2)] = 20,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    environment: Annotated[
        Path | None, typer.Option(help="Report the size of this environment.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Measure and print."""
    starts: dict[str, list[Start]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repositories = {
            count: repository(folder / f"models-{count}", model, count) for count in (1, many)
        }

        def start(case: str, count: int, cache: Path, *flags: str) -> float:
            starts.setdefault(case, []).append(Start(repositories[count], cache, *flags))
            return starts[case][-1].seconds

        def first() -> float:
            return start("1 model, first start", 1, Path(tempfile.mkdtemp(dir=folder)))

        warm_cache = folder / "cache"
        for models in repositories.values():
            Start(models, warm_cache)
        small = ("--memory-budget", str(3 * 4 * (model / "generator.onnx").stat().st_size))
        in_turns(
            {
                "first": first,
                "one": lambda: start("1 model", 1, warm_cache),
                "many": lambda: start(f"{many} models", many, warm_cache),
                "budget": lambda: start(f"{many} models, room for 3", many, warm_cache, *small),
            },
            rounds,
        )
    rows = [
        {
            "case": case,
            "seconds": Spread.of([each.seconds for each in of_case]).as_json(),
            "cpu_seconds": Spread.of([each.cpu_seconds for each in of_case]).as_json(),
            "mib": Spread.of([each.mib for each in of_case]).as_json(),
        }
        for case, of_case in starts.items()
    ]
    mib = {row["case"]: row["mib"]["median"] for row in rows}
    result = {
        "rows": rows,
        "mib_per_model": (mib[f"{many} models"] - mib["1 model"]) / (many - 1),
        "environment_mib": size_of(environment) if environment else None,
        "machine": machine(("bentoml", "onnxruntime-gpu", "onnxruntime")),
    }
    table = Table("case", "seconds to ready", "CPU seconds", "MiB")
    for row in rows:
        cells = [f"{Spread(**row[each]):.2f}" for each in ("seconds", "cpu_seconds")]
        table.add_row(row["case"], *cells, f"{Spread(**row['mib']):.0f}")
    table.add_row("each further model", "", "", f"{result['mib_per_model']:.1f}")
    if environment:
        table.add_row("environment on disk", "", "", f"{result['environment_mib']:.0f}")
    report(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
