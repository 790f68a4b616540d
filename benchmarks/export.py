"""ONNX Runtime on an exported graph, against the same network in PyTorch, eager and compiled.

Each shipped architecture is built by its recipe with the weights that it begins with, exported as
`ganymede export` does, and run on the CPU with the same number of threads everywhere: what is
compared is one batch from NumPy's arrays to pixels. `torch.compile` is given each batch size on its
own, as it is fastest. "Side by side" is how the service runs graphs on a CPU: a batch for each
thread, all at a time; what counts there is how many come out, not when. Where ONNX Runtime is less
than `--wanted` times as fast as the better of PyTorch's two, its profile says which operators take
the time.

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

from benchmarks.measure import CONVOLUTIONAL, Spread, in_turns, machine, ratios, seconds, tell
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from training.export.exporter import export_graph, recipe_graph_specs
from training.export.folding import settle_spectral_norms, without_parametrizations
from training.export.graphs import GraphSpec
from training.recipe.schema import load_recipe

# One of each architecture that ships: others are of other widths and sides.
RECIPES = ("gan-mnist", *CONVOLUTIONAL)
BATCHES = (1, 8, 32)
_SHOWN_OPERATORS = 4


def largest_piece(recipe: str) -> GraphSpec:
    """Return the graph of a recipe's generator that does the work, in evaluation."""
    torch.manual_seed(0)
    loaded = load_recipe(recipe)
    generator = loaded.build_generator().eval()
    settle_spectral_norms(generator)
    # The last one: of a style model the synthesis, of several directions either.
    return recipe_graph_specs(loaded, generator)[-1]


def rows_of(piece: GraphSpec, batch: int) -> dict[str, Tensor]:
    """Return inputs of so many rows."""
    feeds = {}
    for name, rows in piece.feeds.items():
        repeats = [-(-batch // len(rows)), *[1] * (rows.dim() - 1)]
        feeds[name] = rows.repeat(repeats)[:batch].contiguous()
    return feeds


def in_torch(module: torch.nn.Module, feeds: dict[str, Tensor]) -> Callable[[], object]:
    """Return what runs a batch in PyTorch, up to pixels in NumPy."""

    def run() -> object:
        with torch.inference_mode():
            return module(**feeds)[0].numpy()

    return run


def side_by_side(run: Callable[[], object], lanes: int) -> Callable[[], float]:
    """Return what tells the seconds of a batch when so many are run at a time, a thread each."""

    def measured() -> float:
        with ThreadPoolExecutor(lanes) as pool:
            return max(pool.map(lambda _: seconds(run, 0.2), range(lanes))) / lanes

    return measured


def operators(path: Path, feeds: dict[str, Tensor], threads: int) -> list[tuple[str, float]]:
    """Return which operators take ONNX Runtime's time: their kinds and shares, largest first."""
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
    """Return a row for each batch."""
    threads = usable_cpus()
    piece = largest_piece(recipe)
    path = folder / f"{recipe}.onnx"
    export_graph(piece, path)
    session = Session(path, Provider.CPU, ExecutionPlan(1, threads, max(batches)))
    lane = Session(path, Provider.CPU, ExecutionPlan(threads, 1, max(batches)))
    eager = without_parametrizations(piece.module)
    rows = []
    for batch in batches:
        feeds = rows_of(piece, batch)
        arrays = {name: rows.numpy() for name, rows in feeds.items()}
        subjects = {
            "onnxruntime": lambda arrays=arrays: session.run(arrays)["pixels"],
            "eager": in_torch(eager, feeds),
        }
        if compiled:
            torch._dynamo.reset()
            subjects["compiled"] = in_torch(torch.compile(eager, dynamic=False), feeds)
        lanes = side_by_side(lambda arrays=arrays: lane.run(arrays), threads)
        made = {name: np.asarray(run()).astype(int) for name, run in subjects.items()}
        apart = max(int(np.abs(made["onnxruntime"] - other).max()) for other in made.values())
        alone = {name: lambda run=run: seconds(run, 0.2) for name, run in subjects.items()}
        spent = in_turns({**alone, "side by side": lanes}, rounds)
        theirs = [spent[name] for name in ("eager", "compiled") if name in spent]
        best = [min(each) for each in zip(*theirs, strict=True)]
        faster = ratios(best, spent["onnxruntime"])
        row: dict[str, object] = {
            "recipe": recipe,
            "graph": piece.role,
            "batch": batch,
            "faster": faster.as_json(),
            "faster_side_by_side": ratios(best, spent["side by side"]).as_json(),
            "ms": {n: Spread.of([1000 * s for s in each]).as_json() for n, each in spent.items()},
            "steps_apart": apart,
        }
        if faster.median < wanted:
            row["operators"] = operators(path, feeds, threads)
        rows.append(row)
    return rows


def main(
    recipe: Annotated[list[str], typer.Option(help="May be repeated.")] = list(RECIPES),  # noqa: B006
    batch: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = list(BATCHES),  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    wanted: Annotated[float, typer.Option(help="Profile what is slower than that.")] = 1.3,
    compiled: Annotated[bool, typer.Option(help="Compare with torch.compile too.")] = True,
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
    table = Table("recipe", "batch", "times as fast", "side by side", "ms here", "what takes time")
    for row in rows:
        ms = ", ".join(f"{n} {each['median']:.2f}" for n, each in row["ms"].items())
        spent = ", ".join(f"{n} {share:.0%}" for n, share in row.get("operators", []))
        faster = [f"{Spread(**row[key]):.2f}" for key in ("faster", "faster_side_by_side")]
        table.add_row(row["recipe"], str(row["batch"]), *faster, ms, spent)
    packages = ("onnxruntime-gpu", "onnxruntime", "torch")
    result = {"rows": rows, "threads": usable_cpus(), "machine": machine(packages)}
    tell(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
