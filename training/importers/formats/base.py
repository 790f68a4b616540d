"""The interface of a checkpoint format, and functions that converters share.

A format declares the keys that a checkpoint must have, and a converter that rebuilds the network
from the shapes of its tensors.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from service.runtime.latent.seeds import Distribution
from service.runtime.models.parts.graphs import GENERATOR, Graph
from service.runtime.models.parts.inputs import ImageInput
from service.runtime.models.parts.latent import LatentSpace, StyleSpace, Truncation
from service.runtime.models.parts.outputs import ImageSpec
from service.runtime.models.parts.tasks import Task
from service.runtime.models.probe_inputs import probe_images
from training.export.graphs import (
    CHECKED_LATENTS,
    GraphSpec,
    generator_graph_specs,
    side_to_check,
)
from training.export.onnx_export import export_graphs
from training.importers.errors import FormatMismatchError, ImportOptionError
from training.importers.options import Assumption, Choices, Source
from training.importers.reading.weights import Network

# The largest height or width of an input or output image, in pixels.
_MAX_SIDE = 2**14
# The subject of the assumption about z.
LATENT = "distribution of z"


class GraphWriter(Protocol):
    """Writes graphs that were imported as ONNX and have been checked."""

    def write(self, folder: Path) -> dict[str, Graph]:
        """Write the graphs into a model folder and return them by role."""
        ...


@dataclass(frozen=True)
class ConvertedModel:
    """A generator that is ready to be exported, with its part of the manifest.

    The network is in `graph_specs`, or in `onnx_graphs` if the file is an ONNX graph.
    """

    summary: str
    task: Task
    graph_specs: Sequence[GraphSpec]
    image: ImageSpec
    # What was inferred from the file, as (name, value), shown to the user and on the model card.
    details: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    latent: LatentSpace | None = None
    input: ImageInput | None = None
    classes: tuple[str, ...] = ()
    styles: StyleSpace | None = None
    onnx_graphs: GraphWriter | None = None
    # What the file does not determine, and what of the file is not in the model.
    assumptions: Sequence[Assumption] = ()
    left_out: Sequence[str] = ()

    def write_graphs(self, folder: Path) -> dict[str, Graph]:
        """Write the graphs into a folder and return their manifest entries. Raises ExportError."""
        if self.onnx_graphs is not None:
            return self.onnx_graphs.write(folder)
        return export_graphs(self.graph_specs, folder)


@dataclass(frozen=True)
class FormatMatch:
    """The result of matching a network against a format: present and missing keys."""

    present: tuple[str, ...]
    missing: tuple[str, ...]
    # Why the network does not match although all required keys are present.
    reason: str | None = None
    # True if the network has the structure of the format, apart from `reason`.
    near: bool = False

    @property
    def matches(self) -> bool:
        """True if the network is of this format."""
        return not self.missing and self.reason is None

    @property
    def score(self) -> float:
        """The fraction of required keys that are present."""
        return len(self.present) / (len(self.present) + len(self.missing))


class FormatInfo:
    """The name and origin of a format, for the manifest and the model card."""

    name: ClassVar[str]
    title: ClassVar[str]
    # The project that defines the layout, and the license of its code or weights.
    origin: ClassVar[str]


def readable_key(key: str) -> str:
    """Return a required key as a tensor name, without the syntax of a regular expression.

    Numbers become N and other variable parts NAME; of several names the first is shown.
    """
    key = re.sub(r"\((?:[^()]|\([^()]*\))*\)\?", "", key)
    key = re.sub(r"\(([^()|]*)[^()]*\)", r"\1", key)
    key = re.sub(r"\[(\w)\w*\]", r"\1", key)
    return key.replace(r"\d+", "N").replace(r"\d", "N").replace(r"\w+", "NAME").replace("\\.", ".")


class Format(FormatInfo, ABC):
    """A published checkpoint layout of a generator."""

    # Regular expressions. Each must match at least one tensor name in full.
    required_keys: ClassVar[tuple[str, ...]]
    # Regular expressions. None may match a tensor name in full.
    excluded_keys: ClassVar[tuple[str, ...]] = ()
    # True if only the order of the layers identifies the format, so that parts of other networks
    # can be mistaken for it.
    by_layer_order: ClassVar[bool] = False
    # What the converter takes from the published network because no tensor contains it.
    published: ClassVar[str] = ""
    # Regular expressions of tensors that the network does not need, with the reason.
    unneeded: ClassVar[Mapping[str, str]] = {}

    def unneeded_reason(self, name: str) -> str | None:
        """Return why a tensor is not needed; None if the network may need it."""
        return next((r for key, r in self.unneeded.items() if re.fullmatch(key, name)), None)

    def match(self, network: Network) -> FormatMatch:
        """Compare the tensor names with the declared keys."""
        names = list(network.tensors)
        has_key = {
            key: any(re.fullmatch(key, name) for name in names) for key in self.required_keys
        }
        match = FormatMatch(
            present=tuple(key for key, present in has_key.items() if present),
            missing=tuple(key for key, present in has_key.items() if not present),
        )
        for key in self.excluded_keys:
            for name in names:
                if re.fullmatch(key, name):
                    reason = f"unexpected tensor {name}"
                    return replace(match, reason=reason)
        return match

    @abstractmethod
    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network from the shapes of its tensors, and load them.

        Raises FormatMismatchError if the tensors have the names of this format but do not fit it,
        and ImportOptionError if an option is missing or invalid.
        """


def load_weights(module: nn.Module, network: Network) -> nn.Module:
    """Load the tensors of `network` into `module`, and return the module in eval mode.

    Unexpected tensors remain unread. Raises FormatMismatchError if a tensor is missing or has the
    wrong shape.
    """
    weights = {
        name: network.tensors[name].float()
        for name in module.state_dict()
        if name in network.tensors and not name.endswith("num_batches_tracked")
    }
    try:
        result = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise FormatMismatchError(lines[-1].strip()[:200]) from error
    missing = [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
    if missing:
        raise FormatMismatchError(f"the tensor {missing[0]} is missing")
    return module.eval()


def converted_generator(
    summary: str,
    generator: nn.Module,
    z_dim: int,
    image: ImageSpec,
    classes: tuple[str, ...] = (),
    distribution: Distribution = "normal",
    details: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    *,
    truncates: bool = False,
) -> ConvertedModel:
    """Return the converted model of a generator that takes noise.

    `generator` maps ``(z, class_weights)`` to images ``[N, C, H, W]`` in [-1, 1]. With `truncates`
    it takes truncations ``[N]`` as a third argument.
    """
    graph_specs = generator_graph_specs(
        generator.eval(),
        z_dim,
        len(classes),
        distribution,
        rows=rows_to_check(image.width),
        truncates=truncates,
    )
    truncates = "truncation" in graph_specs[0].feeds
    sizes = [("z", str(z_dim)), ("images", f"{image.width}×{image.height}×{image.channels}")]
    return ConvertedModel(
        summary=summary,
        task="generate",
        graph_specs=graph_specs,
        image=image,
        details=[*sizes, *([("classes", str(len(classes)))] if classes else []), *details],
        notes=notes,
        latent=LatentSpace(
            dimension=z_dim,
            distribution=distribution,
            truncation=Truncation() if truncates else None,
        ),
        classes=classes,
    )


def rows_to_check(side: int) -> int:
    """Return the number of rows to check a graph with. Large images get fewer rows."""
    return CHECKED_LATENTS if side <= 64 else 32 if side <= 128 else 8 if side <= 256 else 3


def verify_shapes(converted: ConvertedModel) -> ConvertedModel:
    """Run one row through the model and return it.

    Use it for networks that are built layer by layer, because the shapes of consecutive layers have
    not been compared yet. Raises RuntimeError if the shapes do not fit together.
    """
    with torch.no_grad():
        for spec in converted.graph_specs:
            spec.module(**{name: feed[:1] for name, feed in spec.feeds.items()})
    return converted


class ConvertedImageToImage(nn.Module):
    """Wraps an image-to-image network for export, and converts its value ranges.

    Maps ``image`` [N, H, W, C] uint8 to ``pixels`` [N, H', W', C'] uint8. The second output is the
    images before rounding, [N, C', H', W'] in [-1, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        input_range: tuple[float, float],
        output_range: tuple[float, float],
    ) -> None:
        super().__init__()
        self.network = network
        self.low, self.scale = input_range[0], (input_range[1] - input_range[0]) / 255
        self.out_low, self.out_scale = output_range[0], 2 / (output_range[1] - output_range[0])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = image.permute(0, 3, 1, 2).float() * self.scale + self.low
        images = (self.network(x) - self.out_low) * self.out_scale - 1
        # Rounded to the nearest of 255 levels, as Pillow and torchvision's save_image do.
        levels = ((images + 1) * 127.5).round().clamp(0, 255)
        return levels.permute(0, 2, 3, 1).to(torch.uint8), images


def converted_image_to_image(
    summary: str,
    task: Task,
    network: nn.Module,
    image_input: ImageInput,
    channels: int,
    input_range: tuple[float, float] = (-1.0, 1.0),
    output_range: tuple[float, float] = (-1.0, 1.0),
    *,
    options: Choices,
    details: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> ConvertedModel:
    """Return the converted model of an image-to-image network.

    `network` maps images ``[N, C, h, w]`` in `input_range` to images in `output_range`, which have
    `channels` channels and `image_input.factor` times the height and width. The user's ranges
    replace both. Raises ImportOptionError.
    """
    input_range = options.value_range("input_range", "black and white of the input", input_range)
    output_range = options.value_range("range", "black and white of the output", output_range)
    side = image_input.side * image_input.factor
    module = ConvertedImageToImage(network.eval(), input_range, output_range).eval()
    return ConvertedModel(
        summary=summary,
        task=task,
        graph_specs=[_image_to_image_graph_spec(module, image_input)],
        image=image_spec(side, side, channels),
        details=details,
        notes=notes,
        input=image_input,
    )


def _image_to_image_graph_spec(module: nn.Module, image_input: ImageInput) -> GraphSpec:
    multiple, side = image_input.multiple, image_input.side

    def feeds(height: int, width: int, count: int) -> dict[str, Tensor]:
        image = probe_images(range(count), max(height, width), image_input.channels)
        return {"image": torch.from_numpy(image[:, :height, :width].copy())}

    dimensions = [torch.export.Dim(name, min=1, max=2**14) for name in ("h", "w")]
    axes = {1 + i: multiple * dim if multiple > 1 else dim for i, dim in enumerate(dimensions)}
    smallest = image_input.least or multiple
    if not image_input.fixed:
        weights = sum(parameter.numel() for parameter in module.parameters())
        side = side_to_check(weights, side, smallest, multiple)
    # At least two steps, because torch.export treats an axis of one step as constant.
    small = max(side // 2 // multiple * multiple, smallest, 2 * multiple)
    return GraphSpec(
        GENERATOR,
        module,
        feeds(side, side, 3),
        ("pixels",),
        ("images",),
        dynamic_axes={} if image_input.fixed else {"image": axes},
        extra_feeds=[]
        if image_input.fixed
        else [feeds(small + multiple, small, 3), feeds(smallest, smallest, 3)],
    )


def input_side(options: Choices, default: int, multiple: int = 1) -> int:
    """Return the side of the input images in pixels: `--side`, or the default.

    The default is rounded up to a multiple of `multiple`. Raises ImportOptionError if `--side` is
    not a multiple of `multiple` or exceeds the maximum side, and FormatMismatchError if `multiple`
    exceeds the maximum side.
    """
    if multiple > _MAX_SIDE:
        raise FormatMismatchError(
            f"its image sides would be multiples of {multiple:,} pixels; at most {_MAX_SIDE:,} "
            "pixels are supported",
            near=True,
        )
    given = options.side
    side = -(-default // multiple) * multiple if given is None else given
    if side % multiple or side > _MAX_SIDE:
        raise ImportOptionError(
            f"--side {side}: expected a multiple of {multiple}, at most {_MAX_SIDE}"
        )
    source: Source = "assumed" if given is None else "option"
    options.note(Assumption("side", "side of the training images", str(side), source))
    return side


def input_channels(channels: int) -> int:
    """Return the channels of the input images. Raises FormatMismatchError if unsupported."""
    if channels not in (1, 3, 4):
        raise FormatMismatchError(
            f"its input images would have {channels} channels; 1, 3 or 4 are supported",
            near=True,
        )
    return channels


def image_spec(height: int, width: int, channels: int) -> ImageSpec:
    """Return the manifest's description of an image. Raises FormatMismatchError.

    Call it before allocating memory for images, because a few small tensors can imply any size.
    """
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise FormatMismatchError(
            f"its images would have {width:,}×{height:,} pixels; at most "
            f"{_MAX_SIDE:,}×{_MAX_SIDE:,} are supported",
            near=True,
        )
    if channels not in (1, 3, 4):
        raise FormatMismatchError(
            f"its images would have {channels} channels; 1, 3 or 4 are supported",
            near=True,
        )
    return ImageSpec(height=height, width=width, channels=channels)


def square_image(side: int, channels: int) -> ImageSpec:
    """Return the manifest's description of a square image. Raises FormatMismatchError."""
    return image_spec(side, side, channels)


def latent_distribution(options: Choices, default: str = "normal") -> Distribution:
    """Return the distribution of z in the service. Raises ImportOptionError."""
    known = ("normal", "uniform", "unit")
    name = options.one_of("latent", LATENT, default, known)
    return "normal" if name == "normal" else "uniform"


def adapt_latent(generator: nn.Module, options: Choices) -> nn.Module:
    """Wrap a generator that was trained on z in [0, 1]: the service draws z from [-1, 1]."""
    return UnitLatent(generator) if options.options.given("latent") == "unit" else generator


class UnitLatent(nn.Module):
    """Maps z from [-1, 1] to the [0, 1] that the generator was trained on."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, class_weights: Tensor | None = None) -> Tensor:
        images: Tensor = self.generator((z + 1) / 2, class_weights)
        return images


def class_names(count: int, options: Choices) -> tuple[str, ...]:
    """Return the class names from `--class-names`, or the class numbers by default.

    Raises ImportOptionError if the number of names is not `count`.
    """
    names = options.class_names
    if names:
        if len(names) != count:
            raise ImportOptionError(
                f"--class-names has {len(names)} names, but the model has {count} classes"
            )
        return names
    return tuple(str(index) for index in range(count))
