"""The stages of `benchmarks.gpu_check`, each a process of its own that writes its result as JSON.

    python -m benchmarks.gpu_stages STAGE --folder FOLDER --seconds SECONDS [--dry-run]

A stage writes FOLDER/STAGE.json whenever it has a new row, so that an interrupted stage leaves what
it measured. It exits with 1 if a check failed. With --dry-run it runs on the CPU in tiny sizes.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Training images per second of one A100 by image size, from stylegan2-ada-pytorch.
PUBLISHED_A100 = {128: 147.0, 256: 80.0}
Row = dict[str, Any]


class CheckFailed(Exception):
    """A check of a stage did not hold; the message says which."""


@dataclass(frozen=True)
class Context:
    """What a stage may use: a folder that all stages share, and its time.

    `until` is the end of its time, of time.monotonic.
    """

    folder: Path
    until: float
    dry_run: bool

    @property
    def device(self) -> str:
        """``cuda``, or ``cpu`` in a dry run: the name of the provider and of PyTorch's device."""
        return "cpu" if self.dry_run else "cuda"

    @property
    def left_s(self) -> float:
        """Seconds until the end of the stage's time."""
        return self.until - time.monotonic()


def machine(context: Context) -> Iterator[Row]:
    """The devices, drivers and versions. Checks that both libraries can use CUDA."""
    import torch

    from benchmarks.measure import machine as machine_row
    from service.runtime.onnx.sessions import cuda_unavailable_reason

    packages = ("onnxruntime-gpu", "onnxruntime", "torch", "numpy", "bentoml")
    row: Row = machine_row(packages)
    both = [name for name in ("onnxruntime-gpu", "onnxruntime") if row[name]]
    row["onnxruntime_cuda"] = cuda_unavailable_reason() or "available"
    row["torch_cuda"] = torch.cuda.is_available()
    if torch.cuda.is_available():
        row["devices"] = [
            {
                "name": p.name,
                "gib": round(p.total_memory / 2**30, 1),
                "capability": [p.major, p.minor],
            }
            for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ]
        row["cuda"], row["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
        row["driver"] = _driver()
    yield row
    if len(both) != 1:
        raise CheckFailed(
            f"expected one of onnxruntime-gpu and onnxruntime, found {both or 'none'}"
        )
    if not context.dry_run and row["onnxruntime_cuda"] != "available":
        raise CheckFailed(f"ONNX Runtime cannot use CUDA: {row['onnxruntime_cuda']}")
    if not context.dry_run and not row["torch_cuda"]:
        raise CheckFailed("PyTorch finds no CUDA device")


def _driver() -> int:
    version = ctypes.c_int(0)
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def tests(context: Context) -> Iterator[Row]:
    """Run the tests with the mark `cuda`. In a dry run they are collected and skipped."""
    marked = re.compile(r"pytest\.mark\.cuda\b")
    files = [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if marked.search(p.read_text())]
    if not files:
        raise CheckFailed("no test has the mark cuda")
    report = context.folder / "tests.log"
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", "-rA", "-p", "no:cacheprovider"]
    with report.open("wb") as out:
        done = subprocess.run(
            [*command, *map(str, files)],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=context.left_s,
            check=False,
        )
    text = report.read_text(errors="replace")
    counts = {
        outcome: int(number)
        for number, outcome in re.findall(r"(\d+) (passed|failed|skipped|errors?)", text[-400:])
    }
    yield {"files": [str(p.relative_to(ROOT)) for p in files], "outcomes": counts}
    if done.returncode:
        raise CheckFailed(f"pytest exited with {done.returncode}; see {report}")
    if not context.dry_run and (counts.get("skipped") or not counts.get("passed")):
        raise CheckFailed(f"tests were skipped on a machine with CUDA: {counts}")


def graphs(context: Context) -> Iterator[Row]:
    """Export the networks of the next stages, and the models to serve, on the CPU."""
    from benchmarks import gpu
    from benchmarks.serving import exported

    networks = gpu.TINY if context.dry_run else gpu.NETWORKS
    for name in networks:
        started = time.monotonic()
        network = gpu.exported(name, context.folder, networks)
        yield {
            "graph": name,
            "bytes": network.path.stat().st_size,
            "seconds": time.monotonic() - started,
        }
    for name in _served(context):
        started = time.monotonic()
        yield {"model": str(exported(name)), "seconds": time.monotonic() - started}


def _served(context: Context) -> tuple[str, ...]:
    return ("gan-mnist",) if context.dry_run else ("dcgan64", "stylegan256")


def same_bytes(context: Context) -> Iterator[Row]:
    """Check that a row has the same bytes in a bucket, whatever the other rows are.

    A row runs alone, padded to the bucket; between other rows, at each end of the bucket; and a
    second time. Between buckets the last bits may differ; the largest difference is reported.
    """
    import numpy as np

    from benchmarks import gpu
    from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session

    provider = Provider(context.device)
    networks = gpu.TINY if context.dry_run else gpu.NETWORKS
    buckets = (1, 2, 4) if context.dry_run else (1, 8, 32)
    broken = []
    for name in networks:
        network = gpu.exported(name, context.folder, networks)
        used = buckets if network.side < 512 else buckets[:2]
        by_bucket = {}
        for bucket in used:
            session = Session(network.path, provider, ExecutionPlan(1, 1, bucket, (bucket,)))
            feeds = network.feeds(bucket)
            full = session.run(feeds)["pixels"]
            again = session.run(feeds)["pixels"]
            reversed_ = session.run({k: rows[::-1].copy() for k, rows in feeds.items()})["pixels"]
            first = session.run({k: rows[:1] for k, rows in feeds.items()})["pixels"]
            same = {
                "again": np.array_equal(full, again),
                "reversed": np.array_equal(full, reversed_[::-1]),
                "padded": np.array_equal(full[:1], first),
            }
            by_bucket[bucket] = first.astype(int)
            yield {"network": name, "bucket": bucket, **same}
            broken += [f"{name} in a bucket of {bucket}: {k}" for k, ok in same.items() if not ok]
        base = next(iter(by_bucket.values()))
        levels = max(int(np.abs(base - other).max()) for other in by_bucket.values())
        yield {"network": name, "largest_difference_between_buckets": levels}
    if broken:
        raise CheckFailed("other bytes within a bucket: " + "; ".join(broken))


def inference(context: Context) -> Iterator[Row]:
    """Compare ONNX Runtime's ways to run each network with PyTorch's; see `benchmarks.gpu`."""
    from benchmarks import gpu
    from service.runtime.onnx.sessions import Provider

    networks = gpu.TINY if context.dry_run else gpu.NETWORKS
    # The ends of the range first: they matter most if there is no time for all.
    batches = (1, 4) if context.dry_run else (1, 64, 8, 32)
    rounds, each_s = (1, 0.01) if context.dry_run else (3, 0.2)
    failed = []
    for left, name in zip(range(len(networks), 0, -1), networks, strict=True):
        # Each network has an equal part of the remaining time.
        until = time.monotonic() + context.left_s / left
        for row in gpu.measure(
            gpu.exported(name, context.folder, networks),
            batches,
            rounds,
            Provider(context.device),
            seconds_each=each_s,
            compiler="eager" if context.dry_run else "inductor",
            until=until,
        ):
            yield row
            if "failed" in row:
                failed.append(f"{name}, batch {row['batch']}, {row['how']}")
    if failed:
        raise CheckFailed("variants failed: " + "; ".join(failed))


def serving(context: Context) -> Iterator[Row]:
    """Serve over HTTP with several numbers of processes, one PNG per request."""
    from benchmarks.contenders import Workload, started, with_processes
    from benchmarks.load import load
    from benchmarks.serving import exported

    numbers = (1, 2) if context.dry_run else (1, 4, 8)
    loads = (4,) if context.dry_run else (8, 64, 256)
    seconds = 1.0 if context.dry_run else 3.0
    broken = []
    for processes, name in itertools.product(numbers, _served(context)):
        work = Workload(name, 1, "png")
        contender = with_processes(str(processes), "--provider", context.device)
        row: Row = {"model": name, "processes": processes}
        if context.left_s < seconds * (1 + len(loads)):
            yield row | {"skipped": "no time left"}
            continue
        before = _device_mib(context)
        try:
            with started(contender, exported(name), work) as server:
                path, body = contender.request(work)
                load(server.address + path, body, loads[0], 1, 10**9)
                row["device_mib"] = _device_mib(context) - before
                row |= asdict(server.memory())
                row["processes"] = processes
                for connections in loads:
                    seed = 10**6 * connections
                    result = load(server.address + path, body, connections, seconds, seed)
                    yield row | {"connections": connections, **asdict(result), "rate": result.rate}
                    if result.errors:
                        broken.append(f"{result.errors} errors with {processes} processes, {name}")
        except SystemExit as error:
            reason = str(error).strip().splitlines()
            yield row | {"failed": reason[-1] if reason else "it did not start"}
            broken.append(f"{processes} processes did not start with {name}")
    if broken:
        raise CheckFailed("; ".join(broken))


def _device_mib(context: Context) -> float:
    """Return the memory in use on the first device, by all processes."""
    if context.dry_run:
        return 0.0
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used) / 2**20


def training(context: Context) -> Iterator[Row]:
    """Train StyleGAN2 for a minute at each size. Checks that the metrics stay finite."""
    import torch

    from benchmarks.training import Case, Ours, images_per_second, recipe_of, write_noise_images

    sizes = {32: (4, 8)} if context.dry_run else {128: (32, 128), 256: (32, 64)}
    game = {"r1": 10.0, "penalty_every": 16, "path_length": 2.0, "path_length_every": 4}
    for left, (side, (batch, width)) in zip(range(len(sizes), 0, -1), sizes.items(), strict=True):
        seconds = min(context.left_s / left - 10, 60.0)
        if context.dry_run:
            seconds = min(seconds, 1.0)
        player = {"network": "stylegan2", "width": width, "most": 8 if context.dry_run else 512}
        device = {"device": {"device": context.device}}
        recipe = {"game": game, "generator": player, "discriminator": player, **device}
        case = Case(side, batch, 16, recipe, lambda _: int)
        with tempfile.TemporaryDirectory() as name:
            write_noise_images(Path(name) / "images", side)
            ours = Ours(recipe_of(case, Path(name) / "images"))

            def turn(ours: Ours = ours) -> None:
                ours.turn()
                if not context.dry_run:
                    torch.cuda.synchronize()

            # Warm up: kernels are chosen, and caches filled.
            images_per_second(turn, case)
            end, rates = time.monotonic() + seconds, []
            while not rates or time.monotonic() < end:
                rates.append(images_per_second(turn, case))
            row = {
                "side": side,
                "batch": batch,
                "precision": ours.precision,
                "images_per_second": statistics.median(rates),
                "lowest": min(rates),
                "highest": max(rates),
                "images": len(rates) * case.turns * batch,
                "published_a100": PUBLISHED_A100.get(side),
            }
            if not context.dry_run:
                row["peak_device_mib"] = torch.cuda.max_memory_allocated() / 2**20
                torch.cuda.reset_peak_memory_stats()
            # Raises TrainingDiverged.
            yield row | {"metrics": ours.take_metrics()}


STAGES: dict[str, Callable[[Context], Iterator[Row]]] = {
    "machine": machine,
    "tests": tests,
    "graphs": graphs,
    "bytes": same_bytes,
    "inference": inference,
    "serving": serving,
    "training": training,
}


def write_json(path: Path, content: object) -> None:
    """Write a file that is complete whenever it exists."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def run_stage(name: str, context: Context) -> str | None:
    """Run a stage and write its result; return the reason if it failed."""
    rows: list[Row] = []
    path, reason = context.folder / f"{name}.json", None

    def save() -> None:
        write_json(path, {"rows": rows, "reason": reason})

    save()
    try:
        for row in STAGES[name](context):
            rows.append(row)
            save()
    except CheckFailed as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise
    finally:
        save()
    return reason


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="the stage's time")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    # So that servers that were started are stopped as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped: its time is over"))
    context = Context(options.folder, time.monotonic() + options.seconds, options.dry_run)
    reason = run_stage(options.stage, context)
    if reason is not None:
        sys.exit(reason)


if __name__ == "__main__":
    main()
