"""Compare ONNX Runtime with PyTorch on a CUDA device; skipped with a message if there is none.

Networks of well-known sizes with initial weights. ONNX Runtime: as the service runs it; with inputs
and outputs that stay on the device (IO binding); captured as a CUDA graph; and in float16. PyTorch:
eager, compiled, and float16 in channels_last. Batch sizes are fixed, like the buckets of a plan.
With `--train` also the training throughput of StyleGAN2, next to NVIDIA's published figures for one
A100.

Example: python -m benchmarks.gpu --network dcgan64 --batch 1 --batch 64
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import typer
from rich.table import Table

from benchmarks.export import rows_of
from benchmarks.measure import Spread, in_turns, machine, ratios, report, seconds
from benchmarks.training import Case, Ours, images_per_second, write_noise_images
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session, cuda_unavailable_reason
from training.export.folding import settle_spectral_norms, without_parametrizations
from training.export.graphs import GraphSpec, generator_graph_specs
from training.export.onnx_export import export_graph
from training.networks.layers.shapes import ImageShape
from training.networks.noise.biggan import BigGANGeneratorOptions
from training.networks.noise.dcgan import DCGANGeneratorOptions
from training.networks.noise.stylegan2 import StyleGAN2GeneratorOptions

try:
    from onnxconverter_common import float16
except ModuleNotFoundError:
    float16 = None

BATCHES = (1, 8, 64)
# Image size and network options, with the widths of the papers' code.
NETWORKS: Mapping[str, tuple[int, Any]] = {
    "dcgan64": (64, DCGANGeneratorOptions(network="dcgan", z_dim=128, width=64)),
    "stylegan256": (256, StyleGAN2GeneratorOptions(network="stylegan2", width=64, most=512)),
    "stylegan1024": (1024, StyleGAN2GeneratorOptions(network="stylegan2", width=32, most=512)),
    "biggan128": (128, BigGANGeneratorOptions(network="biggan", width=96)),
}
# Training images per second of one A100 by image size, from stylegan2-ada-pytorch.
PUBLISHED = {128: 147.0, 256: 80.0, 1024: 11.0}
_SHAPES = {128: (128, 32), 256: (64, 32), 1024: (32, 8)}


def piece_of(network: str) -> GraphSpec:
    """Return the most expensive graph of a network."""
    side, options = NETWORKS[network]
    torch.manual_seed(0)
    # Few classes and rows: the check and the standing statistics run on the CPU.
    classes = 10 if network.startswith("biggan") else 0
    generator = options.build(ImageShape(3, side, side), classes).eval()
    settle_spectral_norms(generator)
    return generator_graph_specs(generator, options.z_dim, classes, rows=2)[-1]


def bound(
    path: Path, feeds: Mapping[str, np.ndarray], side: int, *, captured: bool
) -> Callable[[], object]:
    """Return a function that runs a batch with inputs and outputs on the device."""
    options = {"cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": str(int(captured))}
    session = ort.InferenceSession(
        str(path), providers=[("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    )
    binding = session.io_binding()
    batch = len(next(iter(feeds.values())))
    inputs = {name: ort.OrtValue.ortvalue_from_numpy(a, "cuda", 0) for name, a in feeds.items()}
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    pixels = ort.OrtValue.ortvalue_from_shape_and_type((batch, side, side, 3), np.uint8, "cuda", 0)
    binding.bind_ortvalue_output("pixels", pixels)

    def run() -> object:
        session.run_with_iobinding(binding)
        # The service needs the pixels in host memory.
        return binding.copy_outputs_to_cpu()

    return run


def in_float16(path: Path) -> Path | None:
    """Return the graph in float16, or None if onnxconverter-common is not installed."""
    if float16 is None:
        return None
    half = float16.convert_float_to_float16(onnx.load(path), keep_io_types=True)
    written = path.with_suffix(".half.onnx")
    onnx.save(half, written)
    return written


def in_torch(
    module: torch.nn.Module, feeds: Mapping[str, np.ndarray], precision: torch.dtype
) -> Callable[[], object]:
    """Return a function that runs a batch in PyTorch, up to pixels in host memory."""
    placed = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}

    def run() -> object:
        enabled = precision is not torch.float32
        with torch.inference_mode(), torch.autocast("cuda", precision, enabled=enabled):
            return module(**placed)[0].cpu()

    return run


def measure(network: str, batches: list[int], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Return one row per batch size and variant."""
    side, piece = NETWORKS[network][0], piece_of(network)
    path = folder / f"{network}.onnx"
    export_graph(piece, path)
    half = in_float16(path)
    eager = without_parametrizations(piece.module).cuda()
    last = without_parametrizations(piece.module).cuda().to(memory_format=torch.channels_last)
    rows = []
    for batch in batches:
        feeds = {name: rows.numpy() for name, rows in rows_of(piece, batch).items()}
        served = Session(path, Provider.CUDA, ExecutionPlan(1, 1, batch, (batch,)))
        torch._dynamo.reset()
        variants: dict[str, Callable[[], Callable[[], object]]] = {
            "served": lambda served=served, feeds=feeds: lambda: served.run(feeds),
            "bound": lambda feeds=feeds: bound(path, feeds, side, captured=False),
            "captured": lambda feeds=feeds: bound(path, feeds, side, captured=True),
            "torch": lambda feeds=feeds: in_torch(eager, feeds, torch.float32),
            "torch compiled": lambda feeds=feeds: in_torch(
                torch.compile(eager), feeds, torch.float32
            ),
            "torch float16 channels_last": lambda feeds=feeds: in_torch(last, feeds, torch.float16),
        }
        if half is not None:
            variants["captured float16"] = lambda feeds=feeds: bound(
                half, feeds, side, captured=True
            )
        runs: dict[str, Callable[[], object]] = {}
        for name, make in variants.items():
            try:
                runs[name] = make()
                seconds(runs[name], 0.5, min_runs=3)
            except Exception as error:  # noqa: BLE001 - e.g. a graph that cannot be captured
                runs.pop(name, None)
                why = str(error).splitlines()[0]
                rows.append({"network": network, "batch": batch, "how": name, "failed": why})
        spent = in_turns(
            {name: lambda run=run: seconds(run, 0.3, min_runs=3) for name, run in runs.items()},
            rounds,
        )
        pytorch = [name for name in spent if name.startswith("torch")]
        best = [min(each) for each in zip(*(spent[name] for name in pytorch), strict=True)]
        rows += [
            {
                "network": network,
                "batch": batch,
                "how": name,
                "images_per_second": Spread.of([batch / s for s in each]).as_json(),
                "of_best_torch": ratios(best, each).as_json(),
            }
            for name, each in spent.items()
        ]
    return rows


def train(side: int, rounds: int) -> dict[str, Any]:
    """Return training images per second, and the published figure."""
    width, batch = _SHAPES[side]
    player = {"network": "stylegan2", "width": width, "most": 512}
    game = {"r1": 10.0, "penalty_every": 16, "path_length": 2.0, "path_length_every": 4}
    case = Case(
        side, batch, 16, {"game": game, "generator": player, "discriminator": player}, lambda _: int
    )
    with tempfile.TemporaryDirectory() as name:
        write_noise_images(Path(name) / "images", side)
        ours = Ours(case, Path(name) / "images")

        def turn() -> None:
            ours.turn()
            torch.cuda.synchronize()

        rates = [images_per_second(turn, case) for _ in range(rounds + 1)][1:]
    return {
        "side": side,
        "batch": batch,
        "precision": ours.precision,
        "images_per_second": Spread.of(rates).as_json(),
        "published_a100": PUBLISHED[side],
    }


def main(
    network: Annotated[list[str], typer.Option(help="May be repeated.")] = list(NETWORKS),  # noqa: B006
    batch: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = list(BATCHES),  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    training: Annotated[bool, typer.Option("--train", help="Also measure training.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Measure and print."""
    packages = ("onnxruntime-gpu", "torch")
    why = cuda_unavailable_reason() or (
        None if torch.cuda.is_available() else "PyTorch finds no CUDA device"
    )
    if why is not None:
        skipped = Table("skipped")
        skipped.add_row(why)
        report({"skipped": why, "machine": machine(packages)}, [skipped], as_json=as_json)
        return
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        rows = [row for each in network for row in measure(each, batch, rounds, Path(name))]
    trained = [train(side, rounds) for side in PUBLISHED] if training else []
    table = Table("network", "batch", "variant", "images/s", "relative to PyTorch's best")
    for row in rows:
        if "failed" in row:
            table.add_row(row["network"], str(row["batch"]), row["how"], "", row["failed"])
            continue
        rate = f"{row['images_per_second']['median']:.0f}"
        share = f"{Spread(**row['of_best_torch']):.2f}"
        table.add_row(row["network"], str(row["batch"]), row["how"], rate, share)
    turns = Table("StyleGAN2", "batch", "images/s", "one A100 (published)")
    for row in trained:
        rate = f"{row['images_per_second']['median']:.1f}"
        turns.add_row(str(row["side"]), str(row["batch"]), rate, str(row["published_a100"]))
    result = {
        "rows": rows,
        "training": trained,
        "gpu": torch.cuda.get_device_name(),
        "machine": machine(packages),
    }
    report(result, [table, turns] if trained else [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
