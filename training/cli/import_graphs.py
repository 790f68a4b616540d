"""What `ganymede import` does with graphs: ONNX, and networks of ncnn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from training.importers.import_model import ImportTarget, Pixels
    from training.importers.onnx.ports import GraphOptions
    from training.importers.options import UserOptions


def import_as_graph(
    file: Path,
    graph_flags: Mapping[str, Any],
    other_flags: Mapping[str, object],
    options: UserOptions,
    target: ImportTarget,
    preview_images: list[Pixels],
    *,
    explain: bool,
) -> bool:
    """Import a file if it is an ONNX graph or a network of ncnn; return false if it is neither.

    `graph_flags` are the flags for ONNX graphs only, and `other_flags` those for checkpoints only.
    Raises ImportOptionError for flags that have no effect on the file, and ModelImportError.
    """
    from training.importers.ncnn.param import find_network
    from training.importers.onnx.ports import parse_graph_options
    from training.importers.reading.onnx_files import is_onnx_file

    network = find_network(file)
    if network is not None:
        _refuse_flags(file, {**graph_flags, **other_flags})
        _import_ncnn(network, options, target, preview_images, explain=explain)
    elif is_onnx_file(file):
        _refuse_flags(file, other_flags)
        graph_options = parse_graph_options(
            graph_flags["--map"] or (),
            options.range,
            options.input_range,
            graph_flags["--layout"],
            graph_flags["--task"],
            graph_flags["--z-dim"],
            options,
        )
        _import_onnx(file, graph_options, target, preview_images, explain=explain)
    else:
        _refuse_flags(file, graph_flags)
        return False
    return True


def _refuse_flags(file: Path, flags: Mapping[str, object]) -> None:
    """Raise ImportOptionError if a flag is set that has no effect on the file."""
    from training.importers.errors import ImportOptionError

    used = [flag for flag, value in flags.items() if value]
    if used:
        kinds = {
            ".onnx": "an ONNX graph",
            ".param": "a network of ncnn",
            ".bin": "a network of ncnn",
        }
        kind = kinds.get(file.suffix, "a checkpoint")
        raise ImportOptionError(f"{file}: {', '.join(used)} has no effect on {kind}")


def _import_onnx(
    file: Path,
    options: GraphOptions,
    target: ImportTarget,
    preview_images: list[Pixels],
    *,
    explain: bool,
) -> None:
    """Import an ONNX graph, or print what it contains. Raises ModelImportError."""
    from training.cli.import_output import print_summary
    from training.importers.import_model import import_model
    from training.importers.onnx.conversion import OnnxFormat, convert_graph, describe_graph
    from training.importers.options import flag

    if explain:
        for line in describe_graph(file):
            typer.echo(line)
        return
    converted = convert_graph(file, options)
    ranges = {"range", "input_range"}
    ignored = [flag(each).rstrip("=") for each in options.choices.ignored if each not in ranges]
    _refuse_flags(file, dict.fromkeys(ignored, True))
    print_summary("the graph", OnnxFormat.title, converted)
    folder = import_model(file, OnnxFormat(), converted, target, preview_images, typer.echo)
    typer.echo(f"wrote {folder}; next: ganymede serve --models {target.models}")


def _import_ncnn(
    file: Path,
    options: UserOptions,
    target: ImportTarget,
    preview_images: list[Pixels],
    *,
    explain: bool,
) -> None:
    """Import the network of a `.param` file, or print its layers. Raises ModelImportError."""
    from training.cli.import_output import print_summary
    from training.importers.import_model import import_model
    from training.importers.ncnn.conversion import (
        NcnnFormat,
        convert_network,
        describe_network,
        weights_file,
    )

    if explain:
        for line in describe_network(file):
            typer.echo(line)
        return
    converted = convert_network(file, options)
    print_summary("the network", NcnnFormat.title, converted)
    source = weights_file(file)
    folder = import_model(source, NcnnFormat(), converted, target, preview_images, typer.echo)
    typer.echo(f"wrote {folder}; next: ganymede serve --models {target.models}")
