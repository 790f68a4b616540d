"""StyleGAN3's network pickles, configurations T and R (Karras et al. 2021, arXiv:2106.12423).

The filters are tensors in the file. Other parameters, such as the sampling rate, are read from the
attributes of the pickled modules. For a file without modules, the authors' defaults are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.importers.errors import FormatMismatchError
from training.importers.formats.base import ConvertedModel, Format, class_names
from training.importers.formats.style.style_mapping import converted_style_generator, nvidia_mapping
from training.importers.options import Choices
from training.importers.reading.weights import Network
from training.networks.layers.shapes import ImageShape
from training.networks.noise.style_generator import StyleGenerator
from training.networks.noise.stylegan3 import (
    Affine,
    FilteredLayer,
    FourierFeatures,
    LastLayer,
    LayerShape,
    StyleGAN3Synthesis,
)

# The authors' defaults.
_FIRST_CUTOFF = 2.0
_MARGIN = 10
_OUTPUT_SCALE = 0.25
_CLAMP = 256.0
_CRITICAL = 2
# The number of filter taps per sample, at the lower of the two sampling rates.
_FILTER_SIZE = 6

Modules = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _LayerInfo:
    """The path of a layer's tensors, and the size in its name ``L<number>_<side>_<channels>``."""

    path: str
    side: int
    channels: int


class NvidiaStyleGan3(Format):
    """Network pickles written by stylegan3."""

    name = "stylegan3"
    title = "StyleGAN3"
    origin = "NVIDIA's stylegan3 (NVIDIA Source Code License, non-commercial)"
    required_keys = (
        r"mapping\.fc0\.weight",
        r"synthesis\.input\.freqs",
        r"synthesis\.input\.phases",
        r"synthesis\.input\.affine\.weight",
        r"synthesis\.L0_\d+_\d+\.affine\.weight",
        r"synthesis\.L0_\d+_\d+\.up_filter",
        r"synthesis\.L0_\d+_\d+\.magnitude_ema",
    )
    published = "LeakyReLU(0.2), z from a normal distribution, images from -1 to 1"

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network. The layer names determine sides and widths."""
        return self._convert(network, options)

    def _convert(self, network: Network, options: Choices) -> ConvertedModel:
        tensors = network.tensors.floats()
        modules: Modules = network.config.get("modules", {})
        infos = _layer_infos(tensors)
        last = infos[-1]
        layers = []
        side_in = infos[0].side
        for info in infos[:-1]:
            layers.append(_layer(tensors, modules.get(info.path, {}), info, side_in))
            side_in = info.side
        if side_in != last.side:
            raise FormatMismatchError(
                f"its last layer has {last.side} samples per side, but takes {side_in}"
            )
        image = LastLayer(
            _affine(tensors, last.path),
            tensors[f"{last.path}.weight"],
            tensors[f"{last.path}.bias"],
            tensors[f"{last.path}.magnitude_ema"],
            _clamp(modules.get(last.path, {})),
            float(modules.get("synthesis", {}).get("output_scale", _OUTPUT_SCALE)),
        )
        features = _features(tensors, modules, infos[0].side)
        synthesis = StyleGAN3Synthesis(features, layers, image, _resolutions(infos, modules))
        mapping, classes = nvidia_mapping(tensors, modules)
        radial = any(tensors[f"{info.path}.down_filter"].ndim == 2 for info in infos[:-1])
        configuration = "R (translation and rotation)" if radial else "T (translation)"
        notes = []
        if "synthesis.input" not in modules:
            notes.append("The file has tensors only; other parameters are NVIDIA's defaults.")
        return converted_style_generator(
            "StyleGAN3",
            StyleGenerator(mapping, synthesis, features.style.in_features),
            ImageShape(height=last.side, width=last.side, channels=last.channels),
            tensors.get("mapping.w_avg"),
            class_names(classes, options) if classes else (),
            [("configuration", configuration)],
            notes,
        )


def _layer_infos(tensors: Mapping[str, Tensor]) -> list[_LayerInfo]:
    infos = {}
    for name in tensors:
        if match := re.fullmatch(r"(synthesis\.L(\d+)_(\d+)_(\d+))\.weight", name):
            path, number, side, channels = match.groups()
            infos[int(number)] = _LayerInfo(path, int(side), int(channels))
    if sorted(infos) != list(range(len(infos))) or len(infos) < 3:
        raise FormatMismatchError("its layers are not numbered consecutively from L0")
    return [infos[number] for number in sorted(infos)]


def _features(tensors: Mapping[str, Tensor], modules: Modules, side: int) -> FourierFeatures:
    options = modules.get("synthesis.input", {})
    margin = int(modules.get("synthesis", {}).get("margin_size", _MARGIN))
    rate = float(options.get("sampling_rate", side - 2 * margin))
    bandwidth = float(options.get("bandwidth", _FIRST_CUTOFF))
    if not 0 < bandwidth < rate / 2:
        raise FormatMismatchError(
            f"its input has a bandwidth of {bandwidth:g}; expected a positive number below half of "
            f"the sampling rate {rate:g}"
        )
    path = "synthesis.input"
    transform = tensors.get(f"{path}.transform")
    if transform is not None and not torch.equal(transform, torch.eye(3)):
        raise FormatMismatchError(f"its {path}.transform moves all images; set it to the identity")
    return FourierFeatures(
        _affine(tensors, path),
        tensors[f"{path}.freqs"],
        tensors[f"{path}.phases"],
        tensors[f"{path}.weight"],
        side,
        rate,
        bandwidth,
    )


def _layer(
    tensors: Mapping[str, Tensor], options: Mapping[str, Any], info: _LayerInfo, side_in: int
) -> FilteredLayer:
    upward, downward = (tensors[f"{info.path}.{direction}_filter"] for direction in ("up", "down"))
    size = int(options.get("filter_size", _FILTER_SIZE))
    return FilteredLayer(
        LayerShape(
            side_in=side_in,
            side_out=info.side,
            up=int(options.get("up_factor", len(upward) // size)),
            down=int(options.get("down_factor", len(downward) // size)),
        ),
        _affine(tensors, info.path),
        tensors[f"{info.path}.weight"],
        tensors[f"{info.path}.bias"],
        tensors[f"{info.path}.magnitude_ema"],
        upward,
        downward,
        _clamp(options),
    )


def _affine(tensors: Mapping[str, Tensor], path: str) -> Affine:
    return Affine(tensors[f"{path}.affine.weight"], tensors[f"{path}.affine.bias"])


def _clamp(options: Mapping[str, Any]) -> float | None:
    """Return the absolute value at which activations are clamped, or None.

    A pickled module without `conv_clamp` does not clamp. For a file without modules, the default is
    used.
    """
    if (clamp := options.get("conv_clamp")) is not None:
        return float(clamp)
    return None if "conv_kernel" in options else _CLAMP


def _resolutions(infos: Sequence[_LayerInfo], modules: Modules) -> list[int]:
    """Return, for each style, the smallest image side that can represent its layer's cutoff."""
    count, last = len(infos) - 1, infos[-1].side / 2
    first = float(modules.get("synthesis.input", {}).get("bandwidth", _FIRST_CUTOFF))
    critical = int(modules.get("synthesis", {}).get("num_critical", _CRITICAL))
    steps = max(count - critical, 1)
    # Cutoffs grow geometrically (section 3.2), and are constant in the last (critical) layers.
    cutoffs = [
        float(
            modules.get(info.path, {}).get(
                "out_cutoff", first * (last / first) ** min(i / steps, 1)
            )
        )
        for i, info in enumerate(infos)
    ]
    return [max(round(2 * cutoff), 1) for cutoff in (first, *cutoffs)]
