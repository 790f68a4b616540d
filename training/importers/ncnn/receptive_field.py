"""An upper bound of the receptive field of an ncnn network, from the parameters of its layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.importers.ncnn.param import Layer

# Pixels on each side that resizing reads: nearest, bilinear, bicubic.
_RESIZING = {1: 1, 2: 1, 3: 2}


@dataclass(frozen=True)
class _Field:
    """The receptive field of a blob: its pixels per input pixel, and the radius in input pixels."""

    scale: float = 1.0
    radius: float = 0.0

    def grown(self, pixels: float, factor: float = 1.0) -> _Field:
        """Return the field after reading `pixels` on each side, and resizing by `factor`."""
        scale = min(self.scale, self.scale * factor)
        return _Field(self.scale * factor, self.radius + pixels / scale)


def receptive_field(layers: Sequence[Layer], output: str) -> int | None:
    """Return the radius of the receptive field of a blob, in input pixels.

    None if an output pixel depends on the whole image.
    """
    fields: dict[str, _Field | None] = {}
    for layer in layers:
        inputs = [fields[name] for name in layer.inputs]
        known = [each for each in inputs if each is not None]
        field = None
        if len(known) == len(inputs):
            widest = max((each.radius for each in known), default=0.0)
            scale = min((each.scale for each in known), default=1.0)
            field = _after(layer, _Field(scale, widest))
        fields.update(dict.fromkeys(layer.outputs, field))
    found = fields[output]
    return None if found is None else math.ceil(found.radius)


def _after(layer: Layer, field: _Field) -> _Field | None:
    match layer.type:
        case "Convolution" | "ConvolutionDepthWise":
            kernel = max(layer.integer(1, 1), layer.integer(11, 1))
            dilation = max(layer.integer(2, 1), layer.integer(12, 1))
            return field.grown((kernel - 1) * dilation, 1 / layer.integer(3, 1))
        case "Deconvolution" | "DeconvolutionDepthWise":
            kernel, stride = max(layer.integer(1, 1), layer.integer(11, 1)), layer.integer(3, 1)
            dilation = max(layer.integer(2, 1), layer.integer(12, 1))
            return field.grown(math.ceil(kernel * dilation / stride), stride)
        case "Pooling" if not layer.integer(4, 0):
            return field.grown(layer.integer(1, 1), 1 / layer.integer(2, 1))
        case "Pooling" | "InnerProduct" | "InstanceNorm":
            return None
        case "Concat" if layer.integer(0, 0) % 3:  # Along the height or the width.
            return None
        case "Slice" if layer.integer(1, 0) % 3:
            return None
        case "Interp":
            return field.grown(_RESIZING.get(layer.integer(0, 0), 2), layer.number(1, 1.0))
        case "PixelShuffle":
            return field.grown(1, layer.integer(0, 1))
        case "Reorg":
            return field.grown(1, 1 / layer.integer(0, 1))
        case "Padding":
            return field.grown(max(layer.integer(key, 0) for key in range(4)))
        case "Crop":
            return field.grown(max(layer.integer(key, 0) for key in (0, 1, 6, 7)))
        case _:
            return field
