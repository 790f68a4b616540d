"""Converts a generator from an ONNX file.

The graph is run to determine its shapes. It is then wrapped, and the wrapped graph is compared with
the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from service.runtime.latent import seeds as latents
from service.runtime.latent.seeds import Distribution
from service.runtime.models.manifest import (
    CLASS_INDEX,
    CLASS_WEIGHTS,
    GENERATOR,
    Graph,
    ImageInput,
    LatentSpace,
    Task,
    Truncation,
)
from service.runtime.models.probe_inputs import probe_images, probe_masks
from service.runtime.onnx.sessions import Array, ExecutionPlan, Provider, Session
from training.export.onnx_files import graph_entry, save
from training.importers.errors import FormatMismatchError, ImportOptionError, ModelImportError
from training.importers.formats.base import (
    ConvertedModel,
    FormatInfo,
    class_names,
    image_spec,
    latent_distribution,
)
from training.importers.formats.noise.sequential import square_shape
from training.importers.onnx.checks import wrap_and_check
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
from training.importers.onnx.reference import OriginalGraph, to_levels
from training.importers.onnx.wrapping import GraphInterface
from training.importers.reading.onnx_files import disable_dropout, read_onnx

_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)
_UINT8_RANGE: Range = (0.0, 255.0)
# The multiples of height and width to try; 256 is for networks that downsample eight times.
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MIN_PROBE_SIDE = 32
# The default sides of input images in pixels, without and with upscaling.
_DEFAULT_SIDE, _DEFAULT_UPSCALE_SIDE = 256, 64


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
    distribution = latent_distribution(options.common)
    probe = _Probe(interface, distribution)

    original = OriginalGraph(model)
    if image_input is None or image_input.fixed:
        side = image_input.side if image_input else 0
        values = original.run(interface, probe.feeds(interface.batch or 1, side, side))
        interface = _with_image_layout(interface, values, options)
    else:
        interface, image_input = _measure_sizes(original, interface, image_input, probe, options)
        side = image_input.side
    pixels = to_levels(interface, original.values(interface, probe.feeds(1, side, side)))
    height, width, channels = pixels.shape[1:]
    image = image_spec(height, width, channels)
    any_size = image_input is not None and not image_input.fixed
    if image_input is not None:
        image_input = _with_factor(image_input, height, width)
    output_sides = (None, None) if any_size else (height, width)
    rows = dict(interface.rows) | {PIXELS: (*output_sides, channels)}
    interface = replace(interface, rows=rows)

    count = 32 if image.pixels <= 128**2 else 8 if image.pixels <= 256**2 else 3
    feeds = [probe.feeds(count, side, side)]
    if image_input is not None and any_size:
        step = image_input.multiple
        feeds = [
            probe.feeds(min(count, 8), side, side),
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
        ],
        notes=[*notes, *(["Dropout is off."] if has_dropout else [])],
        latent=None
        if image_input is not None
        else LatentSpace(
            dimension=interface.rows["z"][0] or 1,
            distribution=distribution,
            truncation=Truncation() if "truncation" in ports else None,
        ),
        input=image_input,
        classes=class_names(classes, options.common) if classes else (),
        onnx_graphs=WrappedGraph(wrapped),
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
        channels = channels or options.common.channels
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
        unit_latent=options.common.latent == "unit",
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
    if height is None or width is None or height != width:
        raise ModelImportError(
            f"it takes images of {interface.ports['image'].signature}; height and width must be "
            "equal or both dynamic"
        )
    image_spec(height, width, channels)
    return ImageInput(channels=channels, side=height, fixed=True, masked=masked)


@dataclass(frozen=True)
class _Probe:
    """Creates synthetic inputs for a graph."""

    interface: GraphInterface
    distribution: Distribution

    def feeds(self, count: int, height: int, width: int) -> dict[str, Array]:
        """Return `count` rows of every input; images have the size `height` × `width`."""
        rows, classes = self.interface.rows, self.interface.classes
        seeds, longest = range(count), max(height, width)
        feeds: dict[str, Array] = {}
        for name in self.interface.inputs:
            if name == "z":
                feeds[name] = latents.draw(seeds, rows["z"][0] or 1, self.distribution)
            elif name == "image":
                images = probe_images(seeds, longest, rows["image"][2] or 1)
                feeds[name] = np.ascontiguousarray(images[:, :height, :width])
            elif name == "mask":
                masks = probe_masks(seeds, longest)
                feeds[name] = np.ascontiguousarray(masks[:, :height, :width])
            elif name == "truncation":
                feeds[name] = np.linspace(0.5, 1, count, dtype=np.float32)
            elif name == CLASS_INDEX:
                feeds[name] = np.arange(count) % classes
            else:
                feeds[name] = np.zeros((count, classes), np.float32)
                feeds[name][np.arange(count), np.arange(count) % classes] = 1
        return feeds


def _with_image_layout(
    interface: GraphInterface, values: Array, options: GraphOptions
) -> GraphInterface:
    """Add the layout of the output images, determined from the example `values`.

    Raises ImportOptionError, FormatMismatchError.
    """
    port = interface.ports[PIXELS]
    if values.ndim == 2:
        side, channels = square_shape(values.shape[1], options.common)
        first = (options.layout or "nchw").lower() == "nchw"
        shape = (channels, side, side) if first else (side, side, channels)
        return replace(interface, unflattened=shape, output_channels_first=first)
    if values.ndim == 4:
        first = channels_first(values.shape, options.layout, port.name)
        return replace(interface, output_channels_first=first)
    if values.ndim != 3:
        raise FormatMismatchError(f"{port.name} has {values.ndim} axes; expected 2 to 4")
    return interface


def _measure_sizes(
    original: OriginalGraph,
    interface: GraphInterface,
    image_input: ImageInput,
    probe: _Probe,
    options: GraphOptions,
) -> tuple[GraphInterface, ImageInput]:
    """Run the graph to find the multiple of its input sides and its upscaling factor.

    Returns the interface with the layout of the output. Raises ModelImportError.
    """
    reason = "the sides of its output images are not an integer multiple of the input sides"
    for multiple in _MULTIPLES:
        # An odd number of steps, so that the sides are not also multiples of a larger step.
        steps = max(_MIN_PROBE_SIDE // multiple, 0) | 1
        height, width = (steps + 2) * multiple, steps * multiple
        try:
            values = original.run(interface, probe.feeds(interface.batch or 1, height, width))
        except ModelImportError as error:
            reason = str(error)
            continue
        interface = _with_image_layout(interface, values, options)
        shape = to_levels(interface, values).shape[1:3]
        factor = shape[0] // height
        if factor and shape == (factor * height, factor * width):
            default = _DEFAULT_SIDE if factor == 1 else _DEFAULT_UPSCALE_SIDE
            side = -(-(options.common.side or default) // multiple) * multiple
            measured = {"factor": factor, "multiple": multiple, "side": side}
            return interface, image_input.model_copy(update=measured)
    raise ModelImportError(reason)


def _with_factor(image_input: ImageInput, height: int, width: int) -> ImageInput:
    """Add the upscaling factor for images of fixed size. Raises ModelImportError."""
    side = image_input.side
    factor = max(height // side, 1)
    if (height, width) != (factor * side, factor * side):
        raise ModelImportError(
            f"it returns {width}×{height} pixels for {side}×{side}; the output sides must "
            "be an integer multiple of the input sides"
        )
    return image_input.model_copy(update={"factor": factor})


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
