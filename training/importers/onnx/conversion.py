"""Converts a generator from an ONNX file.

The graph is run to determine its shapes. It is then wrapped, and the wrapped graph is compared with
the original.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from onnx import ModelProto, TensorProto

from service.runtime.models.parts.graphs import CLASS_INDEX, CLASS_WEIGHTS, GENERATOR, Graph
from service.runtime.models.parts.inputs import ImageInput
from service.runtime.models.parts.latent import LatentSpace, Truncation
from service.runtime.models.parts.tasks import Task
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from training.export.graphs import side_to_check
from training.export.onnx_files import graph_entry, save
from training.importers.errors import FormatMismatchError, ImportOptionError, ModelImportError
from training.importers.formats.base import (
    ConvertedModel,
    FormatInfo,
    class_names,
    image_spec,
    latent_distribution,
)
from training.importers.onnx.checks import wrap_and_check
from training.importers.onnx.opsets import with_wrappable_opset
from training.importers.onnx.ports import (
    PIXELS,
    GraphOptions,
    Port,
    Range,
    channels_first,
    class_count,
    inputs,
    map_ports,
    output_range,
    outputs,
    z_dim,
)
from training.importers.onnx.probes import Probe
from training.importers.onnx.reference import OriginalGraph, to_levels
from training.importers.onnx.sizes import (
    free_or_tile,
    measure_sizes,
    with_factor,
    with_image_layout,
)
from training.importers.onnx.wrapping import GraphInterface
from training.importers.reading.onnx_files import disable_dropout, read_onnx

_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)
_UINT8_RANGE: Range = (0.0, 255.0)
# The default side of input images in pixels.
_DEFAULT_SIDE = 256


class OnnxFormat(FormatInfo):
    """Any graph that maps latents or images to images."""

    name = "onnx"
    title = "ONNX"
    origin = "the exporter of the graph"


@dataclass(frozen=True)
class WrappedGraph:
    """A wrapped graph that has passed its checks."""

    model: ModelProto

    def write(self, folder: Path) -> dict[str, Graph]:
        """Write the graph into a model folder and return its manifest entry by role."""
        path = folder / f"{GENERATOR}.onnx"
        save(self.model, path)
        return {GENERATOR: graph_entry(path, Session(path, Provider.CPU, _PLAN))}


def describe_graph(path: Path) -> list[str]:
    """Return a description of a graph in lines. Raises ModelImportError."""
    model = read_onnx(path)
    operators = sorted({node.op_type for node in model.graph.node})
    lines = [
        f"{path}: an ONNX graph of {len(model.graph.node)} nodes with the operators "
        f"{', '.join(operators)}",
        *(f"  input {port.signature}" for port in inputs(model)),
        *(f"  output {port.signature}" for port in outputs(model)),
    ]
    try:
        ports = map_ports(model, GraphOptions())
    except ImportOptionError as error:
        return [*lines, f"  {error}"]
    return [*lines, *(f"  {port.name} is used as {name}" for name, port in ports.items())]


def convert_graph(path: Path, options: GraphOptions) -> ConvertedModel:
    """Read a graph and wrap it to have the inputs and outputs that the service uses.

    Raises ModelImportError.
    """
    model = read_onnx(path)
    try:
        return _convert(model, options)
    except FormatMismatchError as error:
        raise ModelImportError(f"{path}: {error}") from error
    except ModelImportError as error:
        raise type(error)(f"{path}: {error}") from error


def _convert(model: ModelProto, options: GraphOptions) -> ConvertedModel:
    has_dropout = disable_dropout(model)
    ports = map_ports(model, options)
    classes = class_count(ports, options)
    value_range, range_source = output_range(model, ports[PIXELS], options)
    interface = _interface(ports, options, classes, value_range)
    image_input = _image_input(interface)
    distribution = "normal" if "image" in ports else latent_distribution(options.choices)
    probe = Probe(interface, distribution)

    original = OriginalGraph(model)
    model, opset_notes = with_wrappable_opset(model)
    size_details: list[tuple[str, str]] = []
    if image_input is None or image_input.fixed:
        size = image_input.size if image_input else (0, 0)
        values = original.run(interface, probe.feeds(interface.batch or 1, *size))
        interface = with_image_layout(interface, values, options)
        if image_input is not None:
            shape = to_levels(interface, values).shape
            image_input = with_factor(image_input, *shape[1:3])
            if _task(image_input, options) == "upscale":
                sized = free_or_tile(model, original, interface, image_input, options, probe)
                model, interface, image_input = sized.model, sized.interface, sized.image_input
                original = OriginalGraph(model)
                size_details = [("size", sized.description)]
            size = image_input.size
    else:
        interface, image_input = measure_sizes(original, interface, image_input, probe, options)
        size = image_input.size
    pixels = to_levels(interface, original.values(interface, probe.feeds(1, *size)))
    height, width, channels = pixels.shape[1:]
    image = image_spec(height, width, channels)
    any_size = image_input is not None and not image_input.fixed
    output_sides = (None, None) if any_size else (height, width)
    rows = dict(interface.rows) | {PIXELS: (*output_sides, channels)}
    interface = replace(interface, rows=rows)

    count = 32 if image.pixels <= 128**2 else 8 if image.pixels <= 256**2 else 3
    if image_input is None or not any_size:
        feeds = [probe.feeds(count, *size)]
    else:
        step = image_input.multiple
        weights = sum(math.prod(weight.dims) for weight in model.graph.initializer)
        side = side_to_check(weights, image_input.side, step, step)
        count = min(count, 8 if side == image_input.side else 3)
        feeds = [
            probe.feeds(count, side, side),
            probe.feeds(2, side + step, max(side - step, step)),
        ]
    wrapped, notes = wrap_and_check(original, model, interface, feeds)
    black, white = value_range
    return ConvertedModel(
        summary="Imported graph",
        task=_task(image_input, options),
        graph_specs=(),
        image=image,
        details=[
            *((name, port.signature) for name, port in ports.items()),
            ("images", f"{width}×{height}×{channels}"),
            ("black and white", f"{black:g} and {white:g}, {range_source}"),
            *size_details,
            *_color_details(image_input, channels, options),
        ],
        notes=[*notes, *opset_notes, *(["Dropout is off."] if has_dropout else [])],
        latent=None
        if image_input is not None
        else LatentSpace(
            dimension=interface.rows["z"][0] or 1,
            distribution=distribution,
            truncation=Truncation() if "truncation" in ports else None,
        ),
        input=image_input,
        classes=class_names(classes, options.choices) if classes else (),
        onnx_graphs=WrappedGraph(wrapped),
        assumptions=options.choices.assumptions,
    )


def _interface(
    ports: Mapping[str, Port], options: GraphOptions, classes: int, value_range: Range
) -> GraphInterface:
    """Return the properties of the interface that need no run. Raises ImportOptionError."""
    image = ports.get("image")
    input_range = options.input_range or options.range or value_range
    if image is not None and image.type == TensorProto.UINT8:
        input_range = _UINT8_RANGE
    first = False
    rows: dict[str, tuple[int | None, ...]] = {
        CLASS_INDEX: (),
        CLASS_WEIGHTS: (classes,),
        "truncation": (),
    }
    if image is None:
        rows["z"] = (z_dim(ports["z"], options),)
    else:
        if len(image.shape) == 4:
            first = channels_first(image.shape, options.layout, "image")
        elif len(image.shape) != 3:
            raise ImportOptionError(
                f"{image.signature} cannot be image: an image has 3 or 4 axes with its batch"
            )
        sides, channels = _sides(image, first=first)
        channels = channels or options.choices.channels
        if channels is None:
            raise ImportOptionError(
                f"{image.signature} does not determine the number of channels: specify --channels"
            )
        rows |= {"image": (*sides, channels), "mask": sides}
    batches = [port.shape[0] for name, port in ports.items() if name != PIXELS and port.shape]
    return GraphInterface(
        ports,
        rows,
        input_range,
        value_range,
        first,
        output_channels_first=False,
        unit_latent=options.common.given("latent") == "unit",
        # A graph without a batch axis takes one row.
        batch=batches[0] if batches else 1,
    )


def _sides(port: Port, *, first: bool) -> tuple[tuple[int | None, int | None], int | None]:
    """Return height and width, and the channels, of the input images."""
    if len(port.shape) == 3:
        return (port.shape[1], port.shape[2]), 1
    if first:
        return (port.shape[2], port.shape[3]), port.shape[1]
    return (port.shape[1], port.shape[2]), port.shape[3]


def _image_input(interface: GraphInterface) -> ImageInput | None:
    """Return the known properties of input images, or None if there are no input images.

    Raises ModelImportError for unsupported channels or shapes.
    """
    if "image" not in interface.ports:
        return None
    height, width, channels = interface.rows["image"]
    if channels not in (1, 3, 4):
        raise FormatMismatchError(f"its images have {channels} channels; 1, 3 or 4 are supported")
    masked = "mask" in interface.ports
    if height is None and width is None:
        return ImageInput(channels=channels, side=_DEFAULT_SIDE, masked=masked)
    # A single dynamic axis gets the length of the other one.
    height, width = height or width or 1, width or height or 1
    image_spec(height, width, channels)
    other_width = None if width == height else width
    return ImageInput(channels=channels, side=height, width=other_width, fixed=True, masked=masked)


def _color_details(
    image_input: ImageInput | None, channels: int, options: GraphOptions
) -> list[tuple[str, str]]:
    if image_input is None or (image_input.channels, channels) != (1, 1):
        return []
    if _task(image_input, options) != "upscale":
        return []
    return [("color", "the luma is upscaled by the graph, the chroma by bicubic interpolation")]


def _task(image_input: ImageInput | None, options: GraphOptions) -> Task:
    """Return the task of the graph. Raises ImportOptionError if `--task` does not fit the ports."""
    if image_input is None:
        possible: tuple[Task, ...] = ("generate",)
    elif image_input.masked:
        possible = ("inpaint",)
    elif image_input.factor > 1:
        possible = ("upscale", "translate", "colorize")
    else:
        possible = ("translate", "colorize", "upscale")
    task = options.task or possible[0]
    if task not in possible:
        raise ImportOptionError(
            f"--task {task}: with its inputs and outputs the graph can be {' or '.join(possible)}"
        )
    return task
