#!/usr/bin/env python3
"""How near batch sampling to disk comes to what the machine can infer: ratios, in one run.

    python -m benchmarks.offline [--count 4000] [--rounds 3] [--out result.json]

The reference is a DCGAN for 64×64 RGB (z 128, ngf 64) with the weights that it begins with. Each
round measures, in turn:

- bare: ONNX Runtime alone, as many sessions side by side as there are CPUs, one thread each, the
  same batches, nothing done with the pictures;
- sampled: `ganymede sample --format webdataset`, from its first shard to its last, and the largest
  resident memory of its process.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil
from PIL import Image

from service.runtime.machine import cpu_model, usable_cpus
from service.runtime.model import Model
from service.runtime.sessions import ExecutionPlan, Provider

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
    """Export the reference generator; nothing of its training matters but that it was one."""
    (folder / "data").mkdir()
    values = np.random.default_rng(0)
    for i in range(64):
        pixels = values.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "data" / f"{i}.png")
    said = [*RECIPE, f"data.path={folder / 'data'}"]
    run = folder / "run"
    subprocess.run(
        ganymede("train", "dcgan-fashion", *said, "--out", run), check=True, capture_output=True
    )
    export = ganymede("export", run, "--name", "dcgan64", "--models", folder / "models")
    subprocess.run(export, check=True, capture_output=True)
    return folder / "models" / "dcgan64" / "1"


def bare(model: Path) -> float:
    """Pictures a second of ONNX Runtime alone on all CPUs."""
    plan = ExecutionPlan(workers=usable_cpus(), threads=1, max_rows=ROWS)
    models = [Model(model, Provider.CPU, plan) for _ in range(plan.workers)]
    counts = [0] * plan.workers
    until = time.perf_counter() + BARE_S

    def work(number: int) -> None:
        feeds = models[number].feeds(range(ROWS))
        while time.perf_counter() < until:
            models[number].run("generator", feeds)
            counts[number] += ROWS

    threads = [threading.Thread(target=work, args=(i,)) for i in range(plan.workers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def sampled(model: Path, count: int, out: Path, *flags: str) -> tuple[float, float]:
    """Pictures a second of the command, and its peak of resident memory in MiB."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    said = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = reference_model(folder)
        for i in range(said.rounds):
            before = bare(model)
            rate, peak = sampled(model, said.count, folder / f"{i}")
            ceiling = (before + bare(model)) / 2
            rounds.append({"bare": ceiling, "sampled": rate, "ratio": rate / ceiling, "mib": peak})
            print(
                f"bare {ceiling:,.0f}/s  sampled {rate:,.0f}/s  ratio {rate / ceiling:.3f}  "
                f"peak {peak:.0f} MiB",
                flush=True,
            )
        _, small = sampled(model, 1000, folder / "small")
        _, large = sampled(model, 5 * said.count, folder / "large")
    result = {
        "ratio": statistics.median(each["ratio"] for each in rounds),
        "peak_mib": {"1000": small, str(5 * said.count): large},
        "rounds": rounds,
        "machine": f"{cpu_model()}, {usable_cpus()} CPUs",
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
    }
    print(json.dumps({key: result[key] for key in ("ratio", "peak_mib", "machine")}, indent=2))
    if said.out:
        said.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
