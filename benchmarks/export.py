"""Compare ONNX Runtime on exported graphs with the same networks in PyTorch, eager and compiled.

Each included architecture is built by its recipe with initial weights, exported like `ganymede
export`, and run on the CPU with the same number of threads: one batch from NumPy arrays to pixels.
`torch.compile` compiles each batch size separately, which is its fastest mode. "Parallel" is the
throughput of one batch per thread at the same time, as the service runs graphs on a CPU. If
ONNX Runtime is less than `--wanted` times as fast as the better PyTorch variant, its profile shows
the operators that take the time.

Example: python -m benchmarks.export --recipe dcgan-fashion --batch 1 --batch 8
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime as ort
import torch
import typer
from rich.table import Table
from torch import Tensor

from benchmarks.measure import CONVOLUTIONAL, Spread, in_turns, machine, ratios, report, seconds
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from training.export.folding import settle_spectral_norms, without_parametrizations
from training.export.graphs import GraphSpec
from training.export.onnx_export import export_graph
from training.recipe.loading import load_recipe

# One recipe per included architecture; the others differ only in width and size.
RECIPES = ("gan-mnist", *CONVOLUTIONAL)
BATCHES = (1, 8, 32)
_SHOWN_OPERATORS = 4


def largest_piece(recipe: str) -> GraphSpec:
    """Return the most expensive graph of a recipe's generator, in evaluation mode."""
    torch.manual_seed(0)
    loaded = load_recipe(recipe)
    generator = loaded.build_generator().eval()
    settle_spectral_norms(generator)
    # The last graph is the synthesis of a style model, or one direction of a CycleGAN.
    return loaded.game.graph_specs(loaded, generator)[-1]


def rows_of(piece: GraphSpec, batch: int) -> dict[str, Tensor]:
    """Return inputs with `batch` rows."""
    feeds = {}
    for name, rows in piece.feeds.items():
        repeats = [-(-batch // len(rows)), *[1] * (rows.dim() - 1)]
        feeds[name] = rows.repeat(repeats)[:batch].contiguous()
    return feeds


def in_torch(module: torch.nn.Module, feeds: dict[str, Tensor]) -> Callable[[], object]:
    """Return a function that runs a batch in PyTorch, up to pixels in NumPy."""

    def run() -> object:
        with torch.inference_mode():
            return module(**feeds)[0].numpy()

    return run


def in_parallel(run: Callable[[], object], workers: int) -> Callable[[], float]:
    """Return a function that measures seconds per batch with `workers` parallel runs."""

    def measured() -> float:
        with ThreadPoolExecutor(workers) as pool:
            return max(pool.map(lambda _: seconds(run, 0.2), range(workers))) / workers

    return measured


def operators(path: Path, feeds: dict[str, Tensor], threads: int) -> list[tuple[str, float]]:
    """Return the operators with the largest shares of ONNX Runtime's time, in order."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(5):
        session.run(None, {name: rows.numpy() for name, rows in feeds.items()})
    events = json.loads(Path(session.end_profiling()).read_text())
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    total = sum(spent.values())
    return [(name, time / total) for name, time in spent.most_common(_SHOWN_OPERATORS)]


def measure(
    recipe: str, batches: list[int], rounds: int, wanted: float, folder: Path, *, compiled: bool
) -> list[dict[str, object]]:
    """Return one row per batch size."""
    threads = usable_cpus()
    piece = largest_piece(recipe)
    path = folder / f"{recipe}.onnx"
    export_graph(piece, path)
    session = Session(path, Provider.CPU, ExecutionPlan(1, threads, max(batches)))
    single_threaded = Session(path, Provider.CPU, ExecutionPlan(threads, 1, max(batches)))
    eager = without_parametrizations(piece.module)
    rows = []
    for batch in batches:
        feeds = rows_of(piece, batch)
        arrays = {name: rows.numpy() for name, rows in feeds.items()}
        variants = {
            "onnxruntime": lambda arrays=arrays: session.run(arrays)["pixels"],
            "eager": in_torch(eager, feeds),
        }
        if compiled:
            torch._dynamo.reset()
            variants["compiled"] = in_torch(torch.compile(eager, dynamic=False), feeds)
        parallel = in_parallel(lambda arrays=arrays: single_threaded.run(arrays), threads)
        images = {name: np.asarray(run()).astype(int) for name, run in variants.items()}
        difference = max(
            int(np.abs(images["onnxruntime"] - other).max()) for other in images.values()
        )
        alone = {name: lambda run=run: seconds(run, 0.2) for name, run in variants.items()}
        spent = in_turns({**alone, "parallel": parallel}, rounds)
        pytorch = [spent[name] for name in ("eager", "compiled") if name in spent]
        best = [min(each) for each in zip(*pytorch, strict=True)]
        faster = ratios(best, spent["onnxruntime"])
        row: dict[str, object] = {
            "recipe": recipe,
            "graph": piece.role,
            "batch": batch,
            "faster": faster.as_json(),
            "faster_in_parallel": ratios(best, spent["parallel"]).as_json(),
            "ms": {n: Spread.of([1000 * s for s in each]).as_json() for n, each in spent.items()},
            "max_difference": difference,
        }
        if faster.median < wanted:
            row["operators"] = operators(path, feeds, threads)
        rows.append(row)
    return rows


def main(
    recipe: Annotated[list[str], typer.Option(help="May be repeated.")] = list(RECIPES),  # noqa: B006
    batch: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = list(BATCHES),  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    wanted: Annotated[
        float, typer.Option(help="Profile graphs with a lower relative speed.")
    ] = 1.3,
    compiled: Annotated[bool, typer.Option(help="Also compare with torch.compile.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Measure and print."""
    torch.set_num_threads(usable_cpus())
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        rows = [
            row
            for each in recipe
            for row in measure(each, batch, rounds, wanted, Path(name), compiled=compiled)
        ]
    table = Table("recipe", "batch", "relative speed", "parallel", "ms", "operators")
    for row in rows:
        ms = ", ".join(f"{n} {each['median']:.2f}" for n, each in row["ms"].items())
        spent = ", ".join(f"{n} {share:.0%}" for n, share in row.get("operators", []))
        faster = [f"{Spread(**row[key]):.2f}" for key in ("faster", "faster_in_parallel")]
        table.add_row(row["recipe"], str(row["batch"]), *faster, ms, spent)
    packages = ("onnxruntime-gpu", "onnxruntime", "torch")
    result = {"rows": rows, "threads": usable_cpus(), "machine": machine(packages)}
    report(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
