"""Exports a graph to ONNX and checks it against PyTorch."""

from __future__ import annotations

import gc
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from service.runtime.latent.seeds import Distribution
from service.runtime.models.parts.graphs import Graph
from service.runtime.onnx.sessions import Array, ExecutionPlan, Provider, Session
from training.export.errors import ExportError
from training.export.folding import fold_batch_norm, without_parametrizations
from training.export.graphs import GraphSpec, generator_graph_specs
from training.export.onnx_files import graph_entry, save

OPSET = 20
CHECKED_BATCHES = (1, 2, 7, 32)
# PyTorch and ONNX Runtime sum in different orders. Relative to the largest value if it exceeds 1.
TOLERANCE = 1e-4
_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)


def export_generator(
    generator: nn.Module,
    z_dim: int,
    folder: Path,
    classes: int = 0,
    distribution: Distribution = "normal",
) -> dict[str, Graph]:
    """Write the graphs of a noise generator in eval mode. Raises ExportError."""
    return export_graphs(generator_graph_specs(generator, z_dim, classes, distribution), folder)


def export_graphs(specs: Sequence[GraphSpec], folder: Path) -> dict[str, Graph]:
    """Write graphs into `folder` and return their manifest entries by role. Raises ExportError."""
    return {spec.role: export_graph(spec, folder / f"{spec.role}.onnx") for spec in specs}


def export_graph(spec: GraphSpec, path: Path) -> Graph:
    """Write a module as an ONNX file with a dynamic batch axis, and compare it with PyTorch.

    Spectral and batch normalization are folded into the weights first. Raises ExportError if the
    outputs differ or the rows of a batch depend on each other.
    """
    folded = fold_batch_norm(without_parametrizations(spec.module)).eval()
    batch = torch.export.Dim("N")
    # torch.export would treat a dynamic axis with a single size as constant.
    traced = spec.extra_feeds[0] if spec.extra_feeds else spec.feeds
    # The exporter warns about missing operators of torchvision, which no network here uses.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), _no_garbage_collection():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            folded,
            (),
            kwargs={name: feed[:2] for name, feed in traced.items()},
            input_names=list(spec.feeds),
            output_names=[*spec.outputs, *spec.checked_outputs],
            dynamic_shapes={
                name: {0: batch, **spec.dynamic_axes.get(name, {})} for name in spec.feeds
            },
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx returned no graph")
    graph = _without_source_metadata(program.model_proto)
    if any(node.op_type == "BatchNormalization" for node in graph.graph.node):
        raise ExportError(
            "the graph still has BatchNormalization: only a batch normalization directly after a "
            "convolution or linear layer of a Sequential can be folded"
        )
    with tempfile.TemporaryDirectory(prefix=".checking-", dir=path.parent) as temporary:
        checked = Path(temporary) / path.name
        # If the weights are too large for one file, `graph` does not contain them afterwards.
        save(graph, checked)
        references = _check(checked, spec, folded)
        del graph.graph.output[len(spec.outputs) :]
        save(graph, checked)
        for written in Path(temporary).iterdir():
            written.replace(path.with_name(written.name))
    session = Session(path, Provider.CPU, _PLAN)
    for feeds, expected in zip((spec.feeds, *spec.extra_feeds), references, strict=True):
        for size in _batch_sizes(feeds):
            outputs = _run_in_batches(session, feeds, size)
            if any(not _equal(outputs[name], expected[name], spec) for name in spec.outputs):
                raise ExportError(
                    f"{path.name} returns different values after its additional outputs are removed"
                )
    return graph_entry(path, session)


def _without_source_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the source paths and line numbers that the exporter records, in place.

    With them, the digest of a model would depend on where the project is installed.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for weight in graph.initializer:
        weight.ClearField("metadata_props")
        weight.ClearField("doc_string")
    model.ClearField("functions")
    return model


def _check(path: Path, spec: GraphSpec, folded: nn.Module) -> list[Mapping[str, Array]]:
    """Compare ONNX Runtime with PyTorch, and batches with the same rows one by one.

    Returns the outputs for `spec.feeds` and for each of `spec.extra_feeds`. Raises ExportError.
    """
    session = Session(path, Provider.CPU, _PLAN)
    return [_check_feeds(session, spec, folded, feeds) for feeds in (spec.feeds, *spec.extra_feeds)]


def _check_feeds(
    session: Session, spec: GraphSpec, folded: nn.Module, feeds: Mapping[str, Tensor]
) -> Mapping[str, Array]:
    names = [*spec.outputs, *spec.checked_outputs]
    with torch.no_grad(), _one_thread():
        # Floats are compared with the unfolded network. Pixels are compared with the folded one:
        # folding may move a value across the boundary between two levels.
        original = dict(zip(names, spec.module(**feeds), strict=True))
        rounded = dict(zip(names, folded(**feeds), strict=True))
    single_rows = _run_in_batches(session, feeds, 1)
    for size in _batch_sizes(feeds):
        outputs = single_rows if size == 1 else _run_in_batches(session, feeds, size)
        for name in names:
            if (most := _most_levels(outputs[name].dtype)) is not None:
                levels = np.abs(outputs[name].astype(int) - rounded[name].numpy().astype(int)).max()
                if levels > most:
                    raise ExportError(
                        f"at batch size {size} the output {name} differs from PyTorch's by "
                        f"{levels} levels of {np.iinfo(outputs[name].dtype).max}; at most {most} "
                        "is allowed"
                    )
            else:
                expected = original[name].numpy()
                tolerance = TOLERANCE * max(1.0, float(np.abs(expected).max()))
                error = float(np.abs(outputs[name] - expected).max())
                if not error <= tolerance:
                    raise ExportError(
                        f"at batch size {size} ONNX Runtime and PyTorch differ by {error:.1e} in "
                        f"the output {name}; at most {tolerance:.0e} is allowed"
                    )
            if name in spec.outputs and not _equal(outputs[name], single_rows[name], spec):
                raise ExportError(
                    f"a batch of {size} rows differs from the same rows one by one: the rows of "
                    "a batch must not depend on each other"
                )
    return single_rows


def _most_levels(dtype: np.dtype[Any]) -> int | None:
    """Return by how many levels rounded outputs may differ, or None for outputs without levels.

    They are 1 for the pixels of images, and the levels of the tolerance more for audio samples.
    """
    if dtype not in (np.uint8, np.int16):
        return None
    return 1 + int(TOLERANCE * np.iinfo(dtype).max)


def _equal(outputs: Array, expected: Array, spec: GraphSpec) -> bool:
    """Return whether outputs are equal, up to the tolerance between batch sizes."""
    if not spec.row_tolerance:
        return np.array_equal(outputs, expected)
    tolerance = spec.row_tolerance * max(1.0, float(np.abs(expected).max()))
    return bool((np.abs(outputs - expected) <= tolerance).all())


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Context manager that suspends the garbage collector.

    The exporter creates millions of objects and keeps them: collections would take an eighth of its
    time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Context manager for small runs: threads of PyTorch that wait for work keep a CPU busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _batch_sizes(feeds: Mapping[str, Tensor]) -> list[int]:
    """Return the batch sizes to check, at most the number of rows in `feeds`."""
    count = len(next(iter(feeds.values())))
    return list(dict.fromkeys(min(size, count) for size in CHECKED_BATCHES))


def _run_in_batches(
    session: Session, feeds: Mapping[str, Tensor], size: int
) -> Mapping[str, Array]:
    batches = zip(*(torch.split(feed, size) for feed in feeds.values()), strict=True)
    parts = [
        session.run({name: rows.numpy() for name, rows in zip(feeds, batch, strict=True)})
        for batch in batches
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
