"""StyleGAN3's network pickles, configurations T and R (Karras et al. 2021, arXiv:2106.12423).

The filters are in the file. What no tensor holds, the modules say of themselves; of a file with
tensors alone the authors' defaults stand in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.importers.errors import FormatMismatchError
from training.importers.formats.base import ConvertedModel, Format, UserOptions, class_names
from training.importers.formats.noise.style_mapping import converted_style_generator, nvidia_mapping
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

# The authors' settings, where nothing else is said.
_FIRST_CUTOFF = 2.0
_MARGIN = 10
_OUTPUT_SCALE = 0.25
_CLAMP = 256.0
_CRITICAL = 2
# Taps of a filter for each sample of the lower of its two rates.
_FILTER_SIZE = 6

Modules = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Place:
    """A layer of the file: where its tensors are, and what its name says."""

    path: str
    side: int
    channels: int


class NvidiaStyleGan3(Format):
    """The network pickles of StyleGAN3, and of those who trained with its code."""

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

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the network: sides and widths are in the layers' names."""
        return self._convert(network, options)

    def _convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        tensors = {name: tensor.float() for name, tensor in network.tensors.items()}
        modules: Modules = network.config.get("modules", {})
        places = _places(tensors)
        last = places[-1]
        layers = []
        before = places[0].side
        for place in places[:-1]:
            layers.append(_layer(tensors, modules.get(place.path, {}), place, before))
            before = place.side
        if before != last.side:
            raise FormatMismatchError(f"its picture of {last.side} is made of {before} samples")
        image = LastLayer(
            _affine(tensors, last.path),
            tensors[f"{last.path}.weight"],
            tensors[f"{last.path}.bias"],
            tensors[f"{last.path}.magnitude_ema"],
            _clamp(modules.get(last.path, {})),
            float(modules.get("synthesis", {}).get("output_scale", _OUTPUT_SCALE)),
        )
        features = _features(tensors, modules, places[0].side)
        synthesis = StyleGAN3Synthesis(features, layers, image, _resolutions(places, modules))
        mapping, classes = nvidia_mapping(tensors, modules)
        radial = any(tensors[f"{place.path}.down_filter"].ndim == 2 for place in places[:-1])
        configuration = "R (translation and rotation)" if radial else "T (translation)"
        notes = []
        if "synthesis.input" not in modules:
            notes.append("The file holds tensors alone; what they do not tell is as NVIDIA has it.")
        return converted_style_generator(
            "StyleGAN3",
            StyleGenerator(mapping, synthesis, features.style.in_features),
            ImageShape(height=last.side, width=last.side, channels=last.channels),
            tensors.get("mapping.w_avg"),
            class_names(classes, options) if classes else (),
            [("configuration", configuration)],
            notes,
        )


def _places(tensors: Mapping[str, Tensor]) -> list[_Place]:
    found = {}
    for name in tensors:
        if match := re.fullmatch(r"(synthesis\.L(\d+)_(\d+)_(\d+))\.weight", name):
            path, number, side, channels = match.groups()
            found[int(number)] = _Place(path, int(side), int(channels))
    if sorted(found) != list(range(len(found))) or len(found) < 3:
        raise FormatMismatchError("its layers are not numbered from L0 on")
    return [found[number] for number in sorted(found)]


def _features(tensors: Mapping[str, Tensor], modules: Modules, side: int) -> FourierFeatures:
    options = modules.get("synthesis.input", {})
    margin = int(modules.get("synthesis", {}).get("margin_size", _MARGIN))
    rate = float(options.get("sampling_rate", side - 2 * margin))
    bandwidth = float(options.get("bandwidth", _FIRST_CUTOFF))
    if not 0 < bandwidth < rate / 2:
        raise FormatMismatchError(f"its first layer is sampled {rate:g} times a side")
    path = "synthesis.input"
    transform = tensors.get(f"{path}.transform")
    if transform is not None and not torch.equal(transform, torch.eye(3)):
        raise FormatMismatchError(
            f"its {path}.transform moves all pictures: set it to the identity"
        )
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
    tensors: Mapping[str, Tensor], options: Mapping[str, Any], place: _Place, side_in: int
) -> FilteredLayer:
    upward, downward = (tensors[f"{place.path}.{way}_filter"] for way in ("up", "down"))
    size = int(options.get("filter_size", _FILTER_SIZE))
    return FilteredLayer(
        LayerShape(
            side_in=side_in,
            side_out=place.side,
            up=int(options.get("up_factor", len(upward) // size)),
            down=int(options.get("down_factor", len(downward) // size)),
        ),
        _affine(tensors, place.path),
        tensors[f"{place.path}.weight"],
        tensors[f"{place.path}.bias"],
        tensors[f"{place.path}.magnitude_ema"],
        upward,
        downward,
        _clamp(options),
    )


def _affine(tensors: Mapping[str, Tensor], path: str) -> Affine:
    return Affine(tensors[f"{path}.affine.weight"], tensors[f"{path}.affine.bias"])


def _clamp(options: Mapping[str, Any]) -> float | None:
    """Return what values are cut at; a module that says all but that cuts nothing."""
    if (clamp := options.get("conv_clamp")) is not None:
        return float(clamp)
    return None if "conv_kernel" in options else _CLAMP


def _resolutions(places: Sequence[_Place], modules: Modules) -> list[int]:
    """Return for each style the side of a picture that holds what is below the layer's cutoff."""
    count, last = len(places) - 1, places[-1].side / 2
    first = float(modules.get("synthesis.input", {}).get("bandwidth", _FIRST_CUTOFF))
    critical = int(modules.get("synthesis", {}).get("num_critical", _CRITICAL))
    steps = max(count - critical, 1)
    # Cutoffs are a geometric progression (section 3.2), and the last layers stay at its end.
    cutoffs = [
        float(
            modules.get(place.path, {}).get(
                "out_cutoff", first * (last / first) ** min(i / steps, 1)
            )
        )
        for i, place in enumerate(places)
    ]
    return [max(round(2 * cutoff), 1) for cutoff in (first, *cutoffs)]
