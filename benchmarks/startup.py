"""Seconds from `ganymede serve` to ready, and the memory of what then runs.

One model and many, copies of one that ships; a first start measures how each model is best run and
keeps it, and later ones know it. Memory is that which the processes have to themselves, of all the
processes of a service. `--environment` tells the size of an installed one.

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

from benchmarks.measure import Spread, in_turns, machine, tell
from service.runtime.models.manifest import MANIFEST_FILE

_LOOK_S = 0.01
_PATIENCE_S = 300.0


def repository(folder: Path, model: Path, count: int) -> Path:
    """Write `count` models that are copies of one, each with a name of its own."""
    for number in range(count):
        name = f"{model.parent.name}-{number}"
        copy = shutil.copytree(model, folder / name / "1")
        manifest = json.loads((copy / MANIFEST_FILE).read_text())
        (copy / MANIFEST_FILE).write_text(json.dumps(manifest | {"name": name, "version": "1"}))
    return folder


class Start:
    """One start of a service, ended when it was ready."""

    def __init__(self, models: Path, cache: Path, *flags: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(Path(sys.executable).parent / "ganymede"), "serve", "--models", str(models)]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--port", str(port), "--jobs", str(cache / "jobs"), *flags],
            env={**os.environ, "GANYMEDE_CACHE": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/readyz", process)
            self.seconds = time.perf_counter() - began
            processes = [root := psutil.Process(process.pid), *root.children(recursive=True)]
            self.mib = sum(each.memory_full_info().uss for each in processes) / 2**20
            times = [each.cpu_times() for each in processes]
            self.cpu_seconds = sum(each.user + each.system for each in times)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.perf_counter() + _PATIENCE_S
    while time.perf_counter() < until:
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(_LOOK_S)
    raise SystemExit(f"not ready after {_PATIENCE_S:.0f} s")


def size_of(environment: Path) -> float:
    """Return the MiB of an environment's files, each counted once."""
    sizes = {}
    for path in environment.rglob("*"):
        stat = path.lstat()
        sizes[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return sum(sizes.values()) / 2**20


def main(
    model: Annotated[Path, typer.Option(help="The model that is copied.")] = Path(
        "models/dcgan-fashion/1"
    ),
    many: Annotated[int, typer.Option(min=2)] = 20,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    environment: Annotated[
        Path | None, typer.Option(help="An environment whose size is told.")
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

        def begin(case: str, count: int, cache: Path, *flags: str) -> float:
            starts.setdefault(case, []).append(Start(repositories[count], cache, *flags))
            return starts[case][-1].seconds

        def first() -> float:
            return begin("1 model, the first time", 1, Path(tempfile.mkdtemp(dir=folder)))

        known = folder / "cache"
        for models in repositories.values():
            Start(models, known)
        small = ("--memory-budget", str(3 * 4 * (model / "generator.onnx").stat().st_size))
        in_turns(
            {
                "first": first,
                "one": lambda: begin("1 model", 1, known),
                "many": lambda: begin(f"{many} models", many, known),
                "budget": lambda: begin(f"{many} models, room for 3", many, known, *small),
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
    table.add_row("each model more", "", "", f"{result['mib_per_model']:.1f}")
    if environment:
        table.add_row("the environment, on disk", "", "", f"{result['environment_mib']:.0f}")
    tell(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
