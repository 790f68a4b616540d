"""Measure batch sampling to disk relative to the inference throughput of the machine.

The reference is a DCGAN for 64×64 RGB (z 128, ngf 64) with initial weights, written as WebDataset.
There are three parts, which can be selected separately:

- speed: ONNX Runtime alone, one single-threaded run per CPU with the same batches and without using
  the images, alternating with `ganymede sample` from its first to its last shard;
- memory: peak resident memory of jobs of 1,000, 10,000 and 100,000 images, and a linear
  extrapolation to a million;
- ray: a local cluster with one node of one CPU, and with two, each pinned to its own core; for the
  whole job, and for the time between its first and last shard.

Example: python -m benchmarks.offline --part speed --rounds 3
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from PIL import Image
from rich.table import Table

from benchmarks.measure import Spread, in_turns, machine, ratios, report
from service.runtime.models.model import Model
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider

RECIPE = [
    "data.resolution=64",
    "data.channels=3",
    "generator.z_dim=128",
    "generator.width=64",
    "train.images=64",
    "train.batch=16",
]
ROWS = 8
BARE_S = 4.0


def ganymede(*arguments) -> list[str]:
    return [str(Path(sys.executable).parent / "ganymede"), *map(str, arguments)]


def reference_model(folder: Path) -> Path:
    """Export the reference generator after a minimal training run."""
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    for i in range(64):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "data" / f"{i}.png")
    overrides = [*RECIPE, f"data.path={folder / 'data'}"]
    run = folder / "run"
    subprocess.run(
        ganymede("train", "dcgan-fashion", *overrides, "--out", run),
        check=True,
        capture_output=True,
    )
    export = ganymede("export", run, "--name", "dcgan64", "--models", folder / "models")
    subprocess.run(export, check=True, capture_output=True)
    return folder / "models" / "dcgan64" / "1"


def bare(model: Path) -> float:
    """Return images per second of ONNX Runtime alone, on all CPUs."""
    plan = ExecutionPlan(workers=usable_cpus(), threads=1, max_rows=ROWS)
    # All threads share one session, so that its weights are cached once.
    shared = Model(model, Provider.CPU, plan)
    counts = [0] * plan.workers
    deadline = time.perf_counter() + BARE_S

    def work(number: int) -> None:
        feeds = shared.feeds(range(ROWS))
        while time.perf_counter() < deadline:
            shared.run("generator", feeds)
            counts[number] += ROWS

    threads = [threading.Thread(target=work, args=(i,)) for i in range(plan.workers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def sampled(model: Path, count: int, out: Path, *flags: str) -> tuple[float, float]:
    """Return images per second of the command and its peak resident memory in MiB."""
    models = model.parents[1]
    command = ganymede("sample", "dcgan64", "--models", models, "--out", out, "--count", count)
    environment = {**os.environ, "GANYMEDE_PLAN": "default", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--format", "webdataset", *flags],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    watched, peak = psutil.Process(process.pid), 0.0
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss / 2**20)
        except psutil.Error:
            break
        time.sleep(0.05)
    if process.wait():
        raise SystemExit(process.stderr.read().decode())
    summary = json.loads((out / "summary.json").read_text())
    return summary["images"] / summary["seconds"], peak


class Part(StrEnum):
    """A part of the benchmark."""

    SPEED = "speed"
    MEMORY = "memory"
    RAY = "ray"


def speed(model: Path, count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Compare with ONNX Runtime alone."""
    out = iter(range(10**6))
    rates = in_turns(
        {
            "before": lambda: bare(model),
            "sampled": lambda: sampled(model, count, folder / f"speed-{next(out)}")[0],
            "after": lambda: bare(model),
        },
        rounds,
    )
    ceiling = [(a + b) / 2 for a, b in zip(rates["before"], rates["after"], strict=True)]
    return {
        "ratio": ratios(rates["sampled"], ceiling).as_json(),
        "bare": Spread.of(ceiling).as_json(),
        "sampled": Spread.of(rates["sampled"]).as_json(),
    }


def memory(model: Path, most: int, folder: Path) -> dict[str, Any]:
    """Return the peak resident memory in MiB by job size."""
    peaks = {
        count: sampled(model, count, folder / f"memory-{count}")[1]
        for count in (1_000, most // 10, most)
    }
    slope, start = np.polyfit(list(peaks), list(peaks.values()), 1)
    return {
        "peak_mib": {str(count): peak for count, peak in peaks.items()},
        "extrapolated_to_a_million": float(start + slope * 1_000_000),
    }


@contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """Run a Ray cluster of single-CPU nodes, each pinned to its own core; yield its address."""
    from ray.cluster_utils import Cluster

    cores = sorted(os.sched_getaffinity(0))
    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for core in cores[:nodes]:
            # Processes inherit the CPU affinity of the process that starts them.
            os.sched_setaffinity(0, {core})
            ray_cluster.add_node(num_cpus=1)
        os.sched_setaffinity(0, cores)
        ray_cluster.wait_for_nodes()
        yield ray_cluster.address
    finally:
        os.sched_setaffinity(0, cores)
        ray_cluster.shutdown()


def on_ray(model: Path, count: int, out: Path, nodes: int) -> tuple[float, float]:
    """Return images per second on `nodes` nodes: of the whole job, and between shards."""
    with cluster(nodes) as address:
        command = ganymede("sample", "dcgan64", "--models", model.parents[1], "--out", out)
        flags = ["--count", count, "--format", "webdataset", "--engine", "ray", "--json"]
        flags += ["--address", address, "--shard-size", 250]
        with subprocess.Popen(
            [*command, *map(str, flags)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "GANYMEDE_PLAN": "default"},
        ) as process:
            assert process.stdout is not None
            progress = [
                (time.perf_counter(), event["images"])
                for line in process.stdout
                if (event := json.loads(line))["event"] == "progress" and event["images"]
            ]
        if process.returncode:
            raise SystemExit(f"ganymede sample exited with {process.returncode}")
    summary = json.loads((out / "summary.json").read_text())
    (first_at, first), (last_at, last) = progress[0], progress[-1]
    return count / summary["seconds"], (last - first) / (last_at - first_at)


def ray(model: Path, count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Compare the throughput of two nodes with twice the throughput of one node."""
    out = iter(range(10**6))
    runs: dict[int, list[tuple[float, float]]] = {1: [], 2: []}

    def run(nodes: int) -> float:
        # Twice the images on twice the nodes, so that both take equally long to start.
        runs[nodes].append(on_ray(model, count * nodes, folder / f"ray-{next(out)}", nodes))
        return runs[nodes][-1][0]

    in_turns({str(nodes): lambda nodes=nodes: run(nodes) for nodes in runs}, rounds)
    figures: dict[str, Any] = {}
    for at, name in enumerate(("whole_job", "between_shards")):
        one, two = ([each[at] for each in runs[nodes]] for nodes in runs)
        figures[name] = {
            "of_twice_one_node": ratios(two, [2 * rate for rate in one]).as_json(),
            "one_node": Spread.of(one).as_json(),
            "two_nodes": Spread.of(two).as_json(),
        }
    return figures


def main(
    part: Annotated[list[Part], typer.Option(help="May be repeated.")] = list(Part),  # noqa: B006
    count: Annotated[int, typer.Option(min=1000, help="Images per job.")] = 4000,
    most: Annotated[
        int, typer.Option(min=20_000, help="Images of the largest job of the memory part.")
    ] = 100_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Measure and print."""
    result: dict[str, Any] = {}
    table = Table("measurement", "value")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = reference_model(folder)
        if Part.SPEED in part:
            result["speed"] = speed(model, count, rounds, folder)
            ratio = f"{Spread(**result['speed']['ratio']):.3f}"
            table.add_row("images on disk, relative to ONNX Runtime alone", ratio)
        if Part.MEMORY in part:
            result["memory"] = memory(model, most, folder)
            for size, peak in result["memory"]["peak_mib"].items():
                table.add_row(f"MiB for {int(size):,} images", f"{peak:.0f}")
            line = f"{result['memory']['extrapolated_to_a_million']:.0f}"
            table.add_row("MiB for 1,000,000 images, extrapolated", line)
        if Part.RAY in part:
            result["ray"] = ray(model, count, rounds, folder)
            for what, figures in result["ray"].items():
                ratio = f"{Spread(**figures['of_twice_one_node']):.3f}"
                table.add_row(
                    f"two Ray nodes, relative to twice one: {what.replace('_', ' ')}", ratio
                )
    result["machine"] = machine(("onnxruntime-gpu", "onnxruntime", "ray", "fpng"))
    report(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
