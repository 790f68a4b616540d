"""Measures which image sizes a graph takes and returns, and frees or tiles a fixed size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from service.runtime.models.parts.inputs import ImageInput
from service.runtime.models.probe_inputs import probe_images
from service.runtime.onnx.sessions import Array
from training.importers.errors import FormatMismatchError, ModelImportError
from training.importers.formats.noise.sequential import square_shape
from training.importers.onnx.free_size import SplitRule, with_free_size
from training.importers.onnx.ports import PIXELS, GraphOptions, channels_first
from training.importers.onnx.probes import Probe
from training.importers.onnx.reference import Feeds, OriginalGraph, to_levels
from training.importers.onnx.wrapping import GraphInterface
from training.importers.reading.onnx_files import opset_of

_Levels = NDArray[np.float64]

# The multiples of height and width to try; 256 is for networks that downsample eight times.
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MIN_PROBE_SIDE = 32
# The default sides of input images in pixels, without and with upscaling.
_DEFAULT_SIDE, _DEFAULT_UPSCALE_SIDE = 256, 64
# A margin for images with a slightly larger receptive field than the measured images.
_MARGIN = 1.25


@dataclass(frozen=True)
class SizedGraph:
    """A graph that an upscaler of fixed size becomes: with any size, or to be run in tiles."""

    model: ModelProto
    interface: GraphInterface
    image_input: ImageInput
    # What was done, for the user and the card.
    description: str


def free_or_tile(
    model: ModelProto,
    original: OriginalGraph,
    interface: GraphInterface,
    image_input: ImageInput,
    options: GraphOptions,
    probe: Probe,
) -> SizedGraph:
    """Make height and width of an upscaler dynamic, or else measure the overlap of its tiles.

    `interface` and `image_input` describe the graph of fixed size. The size is made dynamic only
    if a larger image then gives the same output as the exported graph gives for its parts.
    """
    height, width = image_input.size
    size = f"{width}×{height}"
    freed = _freed(model, original, interface, image_input, options, probe)
    if freed is not None:
        return replace(
            freed,
            description=f"any; the graph was exported for {size} and was made dynamic; larger "
            "images give the same values as their parts give in the exported graph",
        )
    measured = _measure_tiles(original, interface, image_input)
    if measured is None:
        text = f"tiles of {size}, blended over half of their size: seams may remain"
        return SizedGraph(model, interface, image_input, text)
    image_input = image_input.model_copy(update=measured)
    text = f"tiles of {size}, the only size that the graph takes"
    return SizedGraph(model, interface, image_input, text)


def _freed(
    model: ModelProto,
    original: OriginalGraph,
    interface: GraphInterface,
    image_input: ImageInput,
    options: GraphOptions,
    probe: Probe,
) -> SizedGraph | None:
    """Return the graph with dynamic height and width, or None if it differs from the original."""
    height, width = image_input.size
    # Two rows, to tell the batch axis from axes of length 1.
    inputs = original.inputs(interface, probe.feeds(interface.batch or 2, height, width))
    ports = dict(interface.ports)
    axes = {}
    for name in ("image", "mask"):
        if name in ports:
            shape = list(ports[name].shape)
            first = len(shape) - 2 if len(shape) == 3 or interface.input_channels_first else 1
            axes[ports[name].name] = (first, first + 1)
            shape[first] = shape[first + 1] = None
            ports[name] = replace(ports[name], shape=tuple(shape))
    any_size = {"image": (None, None, image_input.channels), "mask": (None, None)}
    interface = replace(interface, ports=ports, rows=dict(interface.rows) | any_size)
    for rule in get_args(SplitRule):
        try:
            freed = with_free_size(model, inputs, axes, opset_of(model), rule)
            graph = OriginalGraph(freed)
            start = image_input.model_copy(update={"fixed": False, "width": None})
            sized, measured = measure_sizes(graph, interface, start, probe, options)
            if measured.factor != image_input.factor:
                continue
            reach = _compared_reach(graph, original, sized, image_input, measured.multiple)
        except ModelImportError:
            continue
        if reach is not None:
            measured = measured.model_copy(update={"reach": reach})
            return SizedGraph(freed, sized, measured, "")
    return None


def _compared_reach(
    freed: OriginalGraph,
    original: OriginalGraph,
    interface: GraphInterface,
    image_input: ImageInput,
    multiple: int,
) -> int | None:
    """Compare a large image in one run with its corners in the exported graph.

    Returns the distance from an inner edge, in pixels, from which on they are equal, plus a margin.
    Returns None if they are not equal in the middle of a corner.
    """
    height, width = image_input.size
    if height % multiple or width % multiple:
        return None
    down, right = (_round_up(max(side // 2, 1), multiple) for side in (height, width))
    image = _textured(height + down, width + right, image_input.channels)
    large = _levels(freed, interface, image)
    factor = image_input.factor
    distances = []
    for top, left, edges in ((0, 0, (False, True)), (down, right, (True, False))):
        part = _levels(original, interface, image[:, top : top + height, left : left + width])
        y, x = top * factor, left * factor
        same = large[y : y + height * factor, x : x + width * factor]
        distances.append(_changed_distance(part, same, *edges))
    return _reach(max(distances), factor, min(height, width))


def _measure_tiles(
    original: OriginalGraph, interface: GraphInterface, image_input: ImageInput
) -> dict[str, int] | None:
    """Measure the receptive field and the grid of a graph of fixed size, from overlapping tiles.

    Returns `reach` and `multiple` for the manifest, or None if tiles nowhere agree.
    """
    height, width = image_input.size
    factor = image_input.factor
    for multiple in _MULTIPLES:
        if height % multiple or width % multiple or min(height, width) < 4 * multiple:
            break
        for part in (2, 4):
            # An odd number of steps, so that the offset is not also a multiple of a larger step.
            down, right = (
                ((side // part // multiple - 1) | 1) * multiple for side in (height, width)
            )
            image = _textured(height + down, width + right, image_input.channels)
            first = _levels(original, interface, image[:, :height, :width])
            second = _levels(original, interface, image[:, down:, right:])
            shared = (height - down, width - right)
            distance = _changed_distance(
                first[down * factor :, right * factor :],
                second[: shared[0] * factor, : shared[1] * factor],
                True,
                True,
            )
            reach = _reach(distance, factor, min(shared))
            if reach is not None:
                return {"reach": reach, "multiple": multiple}
    return None


def _changed_distance(one: _Levels, other: _Levels, upper_left: bool, lower_right: bool) -> int:
    """Return the largest distance of a changed value from the nearest edge that is compared.

    The images are ``[h, w, C]``. A value is changed if it differs by more than one level.
    """
    height, width = one.shape[:2]
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    edges = []
    if upper_left:
        edges += [rows + 0 * columns, columns + 0 * rows]
    if lower_right:
        edges += [height - 1 - rows + 0 * columns, width - 1 - columns + 0 * rows]
    distance = np.minimum.reduce(edges) + 1
    changed = (np.abs(one - other) > 1).any(axis=2)
    return int(distance[changed].max()) if changed.any() else 0


def _reach(distance: int, factor: int, side: int) -> int | None:
    """Return the radius in input pixels with a margin, or None from half of `side` on."""
    radius = max(int(np.ceil(distance / factor * _MARGIN)), 1)
    return radius if radius < side / 2 else None


def _textured(height: int, width: int, channels: int) -> Array:
    """Return one image ``[1, height, width, channels] uint8`` with gradients and noise."""
    smooth = probe_images([0], (height, width), channels).astype(np.uint16)
    noise = np.random.RandomState(0).randint(0, 256, smooth.shape)
    return ((smooth + noise) // 2).astype(np.uint8)


def _levels(graph: OriginalGraph, interface: GraphInterface, image: Array) -> _Levels:
    """Return the output levels ``[h, w, C]`` for one image ``[1, H, W, C]``."""
    feeds: Feeds = {"image": image}
    if "mask" in interface.ports:
        feeds = {"image": image, "mask": np.full(image.shape[:3], 255, np.uint8)}
    levels: _Levels = to_levels(interface, graph.values(interface, feeds))[0]
    return levels


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def with_image_layout(
    interface: GraphInterface, values: Array, options: GraphOptions
) -> GraphInterface:
    """Add the layout of the output images, determined from the example `values`.

    Raises ImportOptionError, FormatMismatchError.
    """
    port = interface.ports[PIXELS]
    if values.ndim == 2:
        side, channels = square_shape(values.shape[1], options.choices)
        first = (options.layout or "nchw").lower() == "nchw"
        shape = (channels, side, side) if first else (side, side, channels)
        return replace(interface, unflattened=shape, output_channels_first=first)
    if values.ndim == 4:
        first = channels_first(values.shape, options.layout, port.name)
        return replace(interface, output_channels_first=first)
    if values.ndim != 3:
        raise FormatMismatchError(f"{port.name} has {values.ndim} axes; expected 2 to 4")
    return interface


def measure_sizes(
    original: OriginalGraph,
    interface: GraphInterface,
    image_input: ImageInput,
    probe: Probe,
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
        interface = with_image_layout(interface, values, options)
        shape = to_levels(interface, values).shape[1:3]
        factor = shape[0] // height
        if factor and shape == (factor * height, factor * width):
            default = _DEFAULT_SIDE if factor == 1 else _DEFAULT_UPSCALE_SIDE
            side = -(-(options.choices.side or default) // multiple) * multiple
            measured = {"factor": factor, "multiple": multiple, "side": side}
            return interface, image_input.model_copy(update=measured)
    raise ModelImportError(reason)


def with_factor(image_input: ImageInput, height: int, width: int) -> ImageInput:
    """Add the upscaling factor for images of fixed size. Raises ModelImportError."""
    input_height, input_width = image_input.size
    factor = max(height // input_height, 1)
    if (height, width) != (factor * input_height, factor * input_width):
        raise ModelImportError(
            f"it returns {width}×{height} pixels for {input_width}×{input_height}; the output "
            "sides must be an integer multiple of the input sides"
        )
    return image_input.model_copy(update={"factor": factor})
