"""Compare ONNX Runtime with PyTorch on a CUDA device; skipped with a message if there is none.

Networks of well-known sizes with initial weights. ONNX Runtime: as the service runs it; with inputs
and outputs that stay on the device (IO binding); captured as a CUDA graph; in fp16; and with NHWC
convolutions. PyTorch: eager, compiled, and in fp16 with channels_last. Batch sizes are fixed, like
the buckets of a plan. `benchmarks.gpu_check` measures the same as one of its stages.

Example: python -m benchmarks.gpu --network dcgan64 --batch 1 --batch 64
"""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import typer
from onnxruntime.transformers import float16
from rich.table import Table

from benchmarks.export import rows_of
from benchmarks.measure import Spread, in_turns, machine, ratios, report, seconds
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session, cuda_unavailable_reason
from training.export.folding import settle_spectral_norms, without_parametrizations
from training.export.graphs import GraphSpec, generator_graph_specs
from training.export.onnx_export import export_graph
from training.networks.layers.shapes import ImageShape
from training.networks.noise.biggan import BigGANGeneratorOptions
from training.networks.noise.dcgan import DCGANGeneratorOptions
from training.networks.noise.stylegan2 import StyleGAN2GeneratorOptions

BATCHES = (1, 8, 64)
SERVED = "served"
# Image size and network options, with the widths of the papers' code.
NETWORKS: Mapping[str, tuple[int, Any]] = {
    "dcgan64": (64, DCGANGeneratorOptions(network="dcgan", z_dim=128, width=64)),
    "stylegan256": (256, StyleGAN2GeneratorOptions(network="stylegan2", width=64, most=512)),
    "biggan128": (128, BigGANGeneratorOptions(network="biggan", width=96)),
    "stylegan1024": (1024, StyleGAN2GeneratorOptions(network="stylegan2", width=32, most=512)),
}
# The same kinds of networks in sizes that a CPU runs in milliseconds.
TINY: Mapping[str, tuple[int, Any]] = {
    "dcgan64": (64, DCGANGeneratorOptions(network="dcgan", z_dim=16, width=4)),
    "stylegan256": (
        16,
        StyleGAN2GeneratorOptions(
            network="stylegan2", z_dim=16, w_dim=16, mapping_layers=2, width=8, most=16
        ),
    ),
}


@dataclass(frozen=True)
class Exported:
    """A network as a PyTorch module and as an ONNX file."""

    network: str
    side: int
    piece: GraphSpec
    path: Path

    def feeds(self, batch: int) -> dict[str, np.ndarray]:
        """Return inputs of `batch` different rows."""
        rng = np.random.default_rng(0)
        feeds = {name: rows.numpy() for name, rows in rows_of(self.piece, batch).items()}
        # Rows are repeated beyond those of the check; continuous inputs are made different.
        return {
            name: rng.permuted(rows, axis=-1)
            if rows.dtype == np.float32 and rows.ndim > 1
            else rows
            for name, rows in feeds.items()
        }


def piece_of(network: str, networks: Mapping[str, tuple[int, Any]] = NETWORKS) -> GraphSpec:
    """Return the most expensive graph of a network."""
    side, options = networks[network]
    torch.manual_seed(0)
    # Few classes and rows: the check and the standing statistics run on the CPU.
    classes = 10 if network.startswith("biggan") else 0
    generator = options.build(ImageShape(3, side, side), classes).eval()
    settle_spectral_norms(generator)
    piece = generator_graph_specs(generator, options.z_dim, classes, rows=2)[-1]
    return replace(piece, module=without_parametrizations(piece.module))


def exported(
    network: str, folder: Path, networks: Mapping[str, tuple[int, Any]] = NETWORKS
) -> Exported:
    """Return a network; write it into `folder`, as PyTorch module and graph, if it is not there."""
    path, module = folder / f"{network}.onnx", folder / f"{network}.pt"
    if module.exists():
        # Our own file: batch statistics take a while to estimate.
        piece = torch.load(module, weights_only=False)
    else:
        piece = piece_of(network, networks)
        part = folder / f"{network}.part.onnx"
        export_graph(piece, part)
        part.rename(path)
        torch.save(piece, part)
        part.rename(module)
    return Exported(network, networks[network][0], piece, path)


def bound(
    path: Path,
    feeds: Mapping[str, np.ndarray],
    side: int,
    provider: Provider,
    *,
    captured: bool = False,
    nhwc: bool = False,
) -> Callable[[], np.ndarray]:
    """Return a function that runs a batch with inputs and outputs that are bound to the device.

    captured: replay the run as a CUDA graph.
    nhwc: run convolutions in NHWC layout.
    """
    providers: list[Any] = ["CPUExecutionProvider"]
    if provider is Provider.CUDA:
        options = {
            "cudnn_conv_algo_search": "HEURISTIC",
            "enable_cuda_graph": str(int(captured)),
            "prefer_nhwc": str(int(nhwc)),
        }
        providers.insert(0, ("CUDAExecutionProvider", options))
    session = ort.InferenceSession(str(path), providers=providers)
    actual = session.get_providers()[0]
    if provider is Provider.CUDA and actual != "CUDAExecutionProvider":
        raise RuntimeError(f"runs on {actual} instead of CUDA")
    binding = session.io_binding()
    batch = len(next(iter(feeds.values())))
    device = provider.value
    inputs = {name: ort.OrtValue.ortvalue_from_numpy(a, device, 0) for name, a in feeds.items()}
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    shape = (batch, side, side, 3)
    pixels = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, device, 0)
    binding.bind_ortvalue_output("pixels", pixels)

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        # The service needs the pixels in host memory.
        return pixels.numpy()

    return run


def in_float16(path: Path) -> Path:
    """Return the graph with weights and computation in fp16; its inputs and outputs stay."""
    written = path.with_suffix(".fp16.onnx")
    if not written.exists():
        model = float16.convert_float_to_float16(onnx.load(path), keep_io_types=True)
        _remove_repeated(model.graph)
        onnx.save(model, written)
    return written


def _remove_repeated(graph: onnx.GraphProto) -> None:
    """Remove repeated nodes, and make names unique.

    The converter inserts the same cast once for each of several uses, which ONNX Runtime refuses.
    """
    seen = set()
    nodes = []
    for number, node in enumerate(graph.node):
        outputs = tuple(node.output)
        if outputs not in seen:
            node.name = f"{node.op_type}-{number}"
            nodes.append(node)
        seen.add(outputs)
    del graph.node[:]
    graph.node.extend(nodes)


def in_torch(
    module: torch.nn.Module, feeds: Mapping[str, np.ndarray], precision: torch.dtype, device: str
) -> Callable[[], np.ndarray]:
    """Return a function that runs a batch in PyTorch, up to pixels in host memory."""
    placed = {name: torch.from_numpy(array).to(device) for name, array in feeds.items()}

    def run() -> np.ndarray:
        enabled = precision is not torch.float32
        with torch.inference_mode(), torch.autocast(device, precision, enabled=enabled):
            pixels: np.ndarray = module(**placed)[0].cpu().numpy()
            return pixels

    return run


Make = Callable[[], Callable[[], np.ndarray]]


def variants(
    network: Exported, feeds: Mapping[str, np.ndarray], provider: Provider, compiler: str
) -> dict[str, Make]:
    """Return functions that set up each way to run a batch; CUDA graphs only on CUDA.

    `compiler` is the backend of torch.compile.
    """
    path, side, device = network.path, network.side, provider.value
    batch = len(next(iter(feeds.values())))
    plan = ExecutionPlan(1, 1, batch, (batch,))

    def served() -> Callable[[], np.ndarray]:
        session = Session(path, provider, plan)
        return lambda: session.run(feeds)["pixels"]

    def ort_variant(*, half: bool = False, **options: bool) -> Make:
        return lambda: bound(in_float16(path) if half else path, feeds, side, provider, **options)

    def torch_variant(*, half: bool = False, compiled: bool = False) -> Make:
        def make() -> Callable[[], np.ndarray]:
            module = copy.deepcopy(network.piece.module).to(device)
            if half:
                module = module.to(memory_format=torch.channels_last)
            if compiled:
                torch._dynamo.reset()
                module = torch.compile(module, backend=compiler, dynamic=False)  # type: ignore[assignment]
            return in_torch(module, feeds, torch.float16 if half else torch.float32, device)

        return make

    on_cuda = {
        "CUDA graph": ort_variant(captured=True),
        "CUDA graph, NHWC": ort_variant(captured=True, nhwc=True),
        "CUDA graph, fp16": ort_variant(captured=True, half=True),
        "CUDA graph, fp16, NHWC": ort_variant(captured=True, half=True, nhwc=True),
    }
    return {
        SERVED: served,
        "IO binding": ort_variant(),
        "IO binding, fp16": ort_variant(half=True),
        **(on_cuda if provider is Provider.CUDA else {}),
        "torch": torch_variant(),
        "torch, fp16, channels_last": torch_variant(half=True),
        "torch, compiled": torch_variant(compiled=True),
        "torch, compiled, fp16, channels_last": torch_variant(half=True, compiled=True),
    }


def measure(
    network: Exported,
    batches: Sequence[int],
    rounds: int,
    provider: Provider,
    *,
    seconds_each: float = 0.3,
    compiler: str = "inductor",
    until: float = float("inf"),
) -> Iterator[dict[str, Any]]:
    """Yield a row per batch size and variant.

    A variant that fails or, after the time `until` (of time.monotonic), is not set up any more,
    has a row with the reason. `of_best_torch` is the ratio to the fastest PyTorch variant of the
    same round, `max_difference` the difference to the images as served, in levels.
    """
    for batch in batches:
        feeds = network.feeds(batch)
        row = {"network": network.network, "batch": batch}
        runs: dict[str, Callable[[], object]] = {}
        images: dict[str, np.ndarray] = {}
        for name, make in variants(network, feeds, provider, compiler).items():
            if time.monotonic() > until:
                yield row | {"how": name, "skipped": "no time left"}
                continue
            try:
                run = make()
                # A copy, because bound outputs are overwritten.
                images[name] = run().astype(int)
                seconds(run, seconds_each, min_runs=3)
            except Exception as error:  # noqa: BLE001 - e.g. a graph that cannot be captured
                yield row | {"how": name, "failed": (str(error).splitlines() or [repr(error)])[0]}
            else:
                runs[name] = run
        if not runs:
            continue
        turns = {
            name: lambda run=run: seconds(run, seconds_each, min_runs=3)
            for name, run in runs.items()
        }
        spent = in_turns(turns, rounds)
        pytorch = [times for name, times in spent.items() if name.startswith("torch")]
        best = [min(times) for times in zip(*pytorch, strict=True)]
        for name, times in spent.items():
            yield row | {
                "how": name,
                "images_per_second": Spread.of([batch / s for s in times]).as_json(),
                "of_best_torch": ratios(best, times).as_json() if best else None,
                "max_difference": int(np.abs(images[name] - images[SERVED]).max())
                if SERVED in images
                else None,
            }


def main(
    network: Annotated[list[str], typer.Option(help="May be repeated.")] = list(NETWORKS),  # noqa: B006
    batch: Annotated[list[int], typer.Option(min=1, help="May be repeated.")] = list(BATCHES),  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1)] = 5,
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
        rows = [
            row
            for each in network
            for row in measure(exported(each, Path(name)), batch, rounds, Provider.CUDA)
        ]
    table = Table("network", "batch", "variant", "images/s", "relative to PyTorch's best")
    for row in rows:
        cells = row["network"], str(row["batch"]), row["how"]
        if "images_per_second" not in row:
            table.add_row(*cells, "", row.get("failed") or row["skipped"])
            continue
        share = f"{Spread(**row['of_best_torch']):.2f}" if row["of_best_torch"] else ""
        table.add_row(*cells, f"{row['images_per_second']['median']:.0f}", share)
    result = {"rows": rows, "gpu": torch.cuda.get_device_name(), "machine": machine(packages)}
    report(result, [table], as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
