"""Converts an image-to-image network of ncnn, from its ``.param`` and ``.bin`` files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import training.importers.ncnn.convolutions
import training.importers.ncnn.layers  # noqa: F401 - both register their layers
from service.runtime.errors import first_line
from service.runtime.models.parts.inputs import ImageInput
from training.importers.errors import FormatMismatchError, ImportOptionError, ModelImportError
from training.importers.formats.base import (
    ConvertedModel,
    FormatInfo,
    converted_image_to_image,
    input_side,
)
from training.importers.ncnn.param import Layer, read_layers
from training.importers.ncnn.receptive_field import receptive_field
from training.importers.ncnn.registry import BUILDERS
from training.importers.ncnn.weights import WeightReader
from training.importers.options import Choices, UserOptions, flag

_CHANNELS = (3, 1, 4)
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
# The smallest side of the images that determine the sizes, in pixels: enough to reflect.
_PROBE = 24


class NcnnFormat(FormatInfo):
    """A network in the two files of ncnn."""

    name = "ncnn"
    title = "ncnn"
    origin = "ncnn (BSD-3), Tencent"


class NcnnNetwork(nn.Module):
    """Runs the layers in their order. Maps images ``[N, C, h, w]`` to images."""

    def __init__(self, layers: Sequence[Layer], weights: WeightReader) -> None:
        """Raises ModelImportError for layers that are not supported."""
        super().__init__()
        (self.input,) = _inputs(layers)
        self.output = _output(layers)
        self.steps = [layer for layer in layers if layer.type != "Input"]
        unknown = sorted({layer.type for layer in self.steps} - BUILDERS.keys())
        if unknown:
            raise ModelImportError(
                f"its layers {', '.join(unknown)} are not supported; export the network to ONNX "
                "where its code is, and import the .onnx file"
            )
        self.layers = nn.ModuleList(BUILDERS[layer.type](layer, weights) for layer in self.steps)
        weights.assert_complete()

    def forward(self, images: Tensor) -> Tensor:
        blobs = {self.input: images}
        for step, layer in zip(self.steps, self.layers, strict=True):
            result = layer(*(blobs[name] for name in step.inputs))
            results = result if isinstance(result, tuple) else (result,)
            blobs.update(zip(step.outputs, results, strict=True))
        return blobs[self.output]


def weights_file(param: Path) -> Path:
    """Return the file with the weights of a ``.param`` file."""
    return param.with_suffix(".bin")


def describe_network(path: Path) -> list[str]:
    """Return the layers of a network, in lines. Raises ModelImportError."""
    layers = read_layers(path)
    counts: dict[str, int] = {}
    for layer in layers:
        counts[layer.type] = counts.get(layer.type, 0) + 1
    unknown = [name for name in counts if name not in BUILDERS and name != "Input"]
    lines = [f"{path.name}: ncnn, {len(layers):,} layers, weights in {weights_file(path).name}"]
    lines += [
        f"  {name} × {count}" + (" (not supported)" if name in unknown else "")
        for name, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    return lines


def convert_network(path: Path, options: UserOptions) -> ConvertedModel:
    """Convert the network of a ``.param`` file. Raises ModelImportError."""
    choices = Choices(options)
    try:
        layers = read_layers(path)
        network = NcnnNetwork(layers, WeightReader(weights_file(path))).eval()
        channels, multiple, factor, out_channels = _sizes(network, choices)
        image_input = ImageInput(
            channels=channels, side=input_side(choices, 64, multiple), multiple=multiple,
            factor=factor, reach=receptive_field(layers, network.output),
        )  # fmt: skip
        converted = converted_image_to_image(
            f"ncnn: ×{factor} upscaling" if factor > 1 else "ncnn: image to image",
            "upscale" if factor > 1 else "translate",
            network,
            image_input,
            out_channels,
            (0.0, 1.0),
            (0.0, 1.0),
            options=choices,
            details=[("factor", str(factor)), ("layers", f"{len(network.steps)}")],
        )
    except (ModelImportError, FormatMismatchError) as error:
        kind = type(error) if isinstance(error, ModelImportError) else ModelImportError
        raise kind(f"{path}: {error}") from error
    if choices.ignored:
        flags = ", ".join(flag(each).rstrip("=") for each in choices.ignored)
        raise ImportOptionError(f"{path}: {flags} has no effect on a network of ncnn")
    return replace(converted, assumptions=choices.assumptions)


def _inputs(layers: Sequence[Layer]) -> list[str]:
    """Return the blob of the input. Raises ModelImportError if there are several."""
    names = [name for layer in layers if layer.type == "Input" for name in layer.outputs]
    if len(names) != 1:
        raise ModelImportError(
            f"it has {len(names)} inputs ({', '.join(names[:5])}); expected one image"
        )
    return names


def _output(layers: Sequence[Layer]) -> str:
    """Return the blob of the output. Raises ModelImportError for a network that is no graph."""
    known: set[str] = set()
    for layer in layers:
        missing = [name for name in layer.inputs if name not in known]
        if missing:
            raise ModelImportError(f"{layer} takes {missing[0]}, which no layer before it returns")
        known.update(layer.outputs)
    used = {name for layer in layers for name in layer.inputs}
    outputs = [name for layer in layers for name in layer.outputs if name not in used]
    if len(outputs) != 1:
        raise ModelImportError(
            f"it has {len(outputs)} outputs ({', '.join(outputs[:5])}); expected one image"
        )
    return outputs[0]


def _sizes(network: NcnnNetwork, choices: Choices) -> tuple[int, int, int, int]:
    """Return input channels, the multiple of the sides, the factor, and the output channels.

    Raises ModelImportError.
    """
    given = choices.channels
    failure = "the shapes of its layers do not fit together"
    for channels in (given,) if given else _CHANNELS:
        for multiple in _MULTIPLES:
            side = -(-_PROBE // multiple) * multiple
            sides = [(side, side + multiple), (side + 2 * multiple, side)]
            try:
                with torch.no_grad():
                    shapes = [network(torch.zeros(2, channels, *each)).shape for each in sides]
            except (RuntimeError, ValueError, IndexError) as error:
                failure = first_line(error)
                continue
            factor = shapes[0][2] // sides[0][0]
            fits = all(
                tuple(shape[2:]) == (height * factor, width * factor)
                for shape, (height, width) in zip(shapes, sides, strict=True)
            )
            if fits and factor:
                return channels, multiple, factor, shapes[0][1]
            failure = (
                f"its output for {sides[0][1]}×{sides[0][0]} pixels has "
                f"{shapes[0][3]}×{shapes[0][2]}, which is no multiple; networks that crop a border "
                "are not supported"
            )
    raise ModelImportError(failure)
