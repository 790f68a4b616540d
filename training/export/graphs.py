"""The graphs of an exported generator, including the pre- and postprocessing of serving.

A network with styles has two graphs: mapping and synthesis. Other networks have one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, singledispatch
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.latent import seeds
from service.runtime.latent.seeds import Distribution
from service.runtime.models.parts.graphs import GENERATOR, MAPPING, SYNTHESIS, TRANSFORM
from service.runtime.models.parts.inputs import ImageInput
from service.runtime.models.parts.latent import StyleLayer, StyleSpace
from service.runtime.models.probe_inputs import probe_images, probe_masks
from training.data.sounds.decoding import FULL_SCALE
from training.export.standing_statistics import has_batch_statistics, with_standing_statistics
from training.games.tasks.task import ImageTask
from training.networks.image.cycle import CycleGenerators
from training.networks.layers.conditioning import select_class_rows
from training.networks.noise.style_generator import StyleGenerator

CHECKED_LATENTS = 64
CHECKED_IMAGES = 8
# Maximum number of weights times pixels of an image that an imported graph is checked with.
_MAX_CHECKED_WORK = 2**33
# The number of latents per class whose styles are averaged to the center of a style space.
CENTER_LATENTS = 10_000


@dataclass(frozen=True)
class GraphSpec:
    """A module that is exported as one graph.

    `module` takes the tensors of `feeds` as keyword arguments. It returns the `outputs`, followed
    by the `checked_outputs`. The latter are compared with PyTorch and then removed from the graph.
    The batch axis is always dynamic. `dynamic_axes` names other dynamic axes of the inputs.
    `extra_feeds` are more inputs to check, with different sizes along these axes. `row_tolerance`
    is how much outputs may differ between batch sizes, relative to the largest value if it exceeds
    1; by default they are equal.
    """

    role: str
    module: nn.Module
    feeds: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    checked_outputs: tuple[str, ...] = ()
    dynamic_axes: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    extra_feeds: Sequence[Mapping[str, Tensor]] = ()
    row_tolerance: float = 0.0


class ServedGenerator(nn.Module):
    """Maps ``z`` [N, z_dim] to ``pixels`` [N, H, W, C] uint8.

    The second output is the images before rounding, [N, C, H, W] in [-1, 1].
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self, z: Tensor, class_weights: Tensor | None = None, truncation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if truncation is None:
            return served_pixels(self.generator(z, class_weights))
        return served_pixels(self.generator(z, class_weights, truncation))


class ServedSoundGenerator(nn.Module):
    """Maps ``z`` [N, z_dim] to ``samples`` [N, T] int16.

    The second output is the waveforms before rounding, [N, T] in [-1, 1].
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, class_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        waveforms = self.generator(z, class_weights).squeeze(1)
        levels = (waveforms * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1)
        return levels.to(torch.int16), waveforms


class ServedImageToImage(nn.Module):
    """Maps ``image`` [N, H, W, C] uint8 to ``pixels`` [N, H, W, C] uint8.

    Masked tasks also take ``mask`` [N, H, W] uint8. The second output is the images before
    rounding, [N, C, H, W] in [-1, 1].
    """

    def __init__(self, generator: nn.Module, task: ImageTask) -> None:
        super().__init__()
        self.generator = generator
        self.task = task

    def forward(self, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        images = image.permute(0, 3, 1, 2).float() / 127.5 - 1
        holes = None if mask is None else (mask[:, None] > 127).float()
        outputs = self.generator(self.task.network_input(images, holes))
        return served_pixels(self.task.to_image(outputs, images, holes))


class ServedMapping(nn.Module):
    """Maps ``z`` [N, z_dim] and ``truncation`` [N] to styles ``w`` [N, layers, w_dim].

    Truncation moves w toward a center (Karras et al. 2018, arXiv:1812.04948, appendix B). Each
    class has its own center, because the mean over all classes resembles no class.
    """

    center: Tensor

    def __init__(self, generator: StyleGenerator, center: Tensor) -> None:
        super().__init__()
        self.mapping = generator.mapping
        self.layers = generator.layers
        self.register_buffer("center", center)

    def forward(
        self, z: Tensor, class_weights: Tensor | None = None, truncation: Tensor | None = None
    ) -> tuple[Tensor]:
        w = self.mapping(z, class_weights)
        if truncation is not None:
            center = self.center
            if class_weights is not None:
                center = select_class_rows(center, class_weights)
            w = center + truncation[:, None] * (w - center)
        return (w[:, None].expand(-1, self.layers, -1),)


class ServedSynthesis(nn.Module):
    """Maps styles ``w`` [N, layers, w_dim] to ``pixels`` [N, H, W, C] uint8.

    StyleGAN3 also takes ``transform`` [N, 3, 3]. The second output is the images before rounding,
    [N, C, H, W] in [-1, 1].
    """

    def __init__(self, generator: StyleGenerator) -> None:
        super().__init__()
        self.synthesis = generator.synthesis

    def forward(self, w: Tensor, transform: Tensor | None = None) -> tuple[Tensor, Tensor]:
        options = {} if transform is None else {TRANSFORM: transform}
        return served_pixels(self.synthesis(w, **options))


@singledispatch
def generator_graph_specs(
    generator: nn.Module,
    z_dim: int,
    classes: int = 0,
    distribution: Distribution = "normal",
    *,
    rows: int = CHECKED_LATENTS,
    center: Tensor | None = None,  # noqa: ARG001 - for generators with styles
    truncates: bool = False,
) -> list[GraphSpec]:
    """Return the graphs of a noise generator in eval mode, with `rows` latents to check them.

    `center` is the center of a style space, ``[classes or 1, w_dim]``; default: estimated. If
    `truncates` is True, the generator takes truncations ``[N]`` after z and class weights.
    """
    if has_batch_statistics(generator):
        draw = partial(seeds.draw, distribution=distribution)
        generator = with_standing_statistics(generator, z_dim, classes, draw)
        truncates = True
    feeds = _latent_feeds(z_dim, classes, distribution, rows)
    if not truncates:
        del feeds["truncation"]
    return [
        GraphSpec(GENERATOR, ServedGenerator(generator).eval(), feeds, ("pixels",), ("images",))
    ]


@generator_graph_specs.register
def _style_graph_specs(
    generator: StyleGenerator,
    z_dim: int,
    classes: int = 0,
    distribution: Distribution = "normal",
    *,
    rows: int = CHECKED_LATENTS,
    center: Tensor | None = None,
    truncates: bool = True,  # noqa: ARG001 - the mapping always does
) -> list[GraphSpec]:
    """Return the two graphs of a generator with styles."""
    if center is None:
        center = style_center(generator, z_dim, classes)
    mapping = ServedMapping(generator, center).eval()
    feeds = _latent_feeds(z_dim, classes, distribution, rows)
    with torch.no_grad():
        (w,) = mapping(**feeds)
    # Each layer gets a different style, so that the check detects a graph that uses only one.
    half = generator.layers // 2
    mixed = torch.cat([w[:, :half], w.roll(1, 0)[:, half:]], 1)
    synthesis_feeds = {"w": mixed}
    if generator.takes_transform:
        synthesis_feeds[TRANSFORM] = _transforms(rows)
    synthesis = ServedSynthesis(generator).eval()
    return [
        GraphSpec(MAPPING, mapping, feeds, ("w",)),
        GraphSpec(SYNTHESIS, synthesis, synthesis_feeds, ("pixels",), ("images",)),
    ]


def sound_graph_specs(
    generator: nn.Module, z_dim: int, classes: int = 0, distribution: Distribution = "normal"
) -> list[GraphSpec]:
    """Return the graph of a generator of sounds in eval mode. It has no truncation."""
    feeds = _latent_feeds(z_dim, classes, distribution, CHECKED_LATENTS)
    del feeds["truncation"]
    module = ServedSoundGenerator(generator).eval()
    return [GraphSpec(GENERATOR, module, feeds, ("samples",), ("waveforms",))]


@singledispatch
def networks_by_role(generator: nn.Module) -> dict[str, nn.Module]:
    """Return the networks of an image-to-image generator, by the role of their graph."""
    return {GENERATOR: generator}


@networks_by_role.register
def _networks_by_direction(generator: CycleGenerators) -> dict[str, nn.Module]:
    return dict(generator.items())


def image_to_image_graph_spec(
    role: str, generator: nn.Module, task: ImageTask, image_input: ImageInput
) -> GraphSpec:
    """Return the graph of an image-to-image network in eval mode.

    Height and width are dynamic multiples of `image_input.multiple`, unless the size is fixed.
    """
    module = ServedImageToImage(generator, task).eval()
    side, multiple = image_input.side, image_input.multiple

    def feeds(height: int, width: int, count: int) -> dict[str, Tensor]:
        longest = max(height, width)
        image = probe_images(range(count), longest, image_input.channels)[:, :height, :width]
        tensors = {"image": torch.from_numpy(image.copy())}
        if image_input.masked:
            mask = probe_masks(range(count), longest)[:, :height, :width]
            tensors["mask"] = torch.from_numpy(mask.copy())
        return tensors

    dimensions = [torch.export.Dim(name, min=1, max=2**14) for name in ("h", "w")]
    axes = {1 + i: multiple * dim if multiple > 1 else dim for i, dim in enumerate(dimensions)}
    smallest = image_input.least or multiple
    small = max(side // 2 // multiple * multiple, smallest)
    return GraphSpec(
        role,
        module,
        feeds(side, side, CHECKED_IMAGES),
        ("pixels",),
        ("images",),
        dynamic_axes={} if image_input.fixed else dict.fromkeys(feeds(multiple, multiple, 1), axes),
        extra_feeds=[]
        if image_input.fixed
        else [
            feeds(side + multiple, 2 * side, 7),
            feeds(small, side, 7),
            feeds(smallest, smallest, 7),
        ],
    )


def side_to_check(weights: int, side: int, smallest: int, multiple: int) -> int:
    """Return the side of the images to check a graph with: `side`, or less for many weights.

    The side is at least `smallest`, and a multiple of `multiple`. A convolution multiplies every
    weight with every pixel, so that a large network takes minutes for a few images of 64 pixels.
    """
    affordable = math.isqrt(_MAX_CHECKED_WORK // max(weights, 1)) // multiple * multiple
    return min(side, max(affordable, smallest, 2 * multiple))


def _latent_feeds(
    z_dim: int, classes: int, distribution: Distribution, rows: int
) -> dict[str, Tensor]:
    """Return latents, class weights if there are classes, and truncations from 0 to 1."""
    feeds = {"z": torch.from_numpy(seeds.draw(range(rows), z_dim, distribution))}
    if classes:
        feeds["class_weights"] = class_weights(rows, classes)
    return feeds | {"truncation": torch.linspace(0, 1, rows)}


def class_weights(count: int, classes: int) -> Tensor:
    """Return weights ``[count, classes]``: single classes in the first half, then blends."""
    one_hot = F.one_hot(torch.arange(count) % classes, classes).float()
    weight = torch.linspace(1, 0, count // 2)[:, None]
    half = one_hot[: count // 2]
    return torch.cat([half, weight * half + (1 - weight) * half.roll(1, dims=1)])


def _transforms(count: int) -> Tensor:
    """Return transforms ``[count, 3, 3]``: the identity, then rotations and translations."""
    angle = torch.arange(count) * 0.4
    transforms = torch.eye(3).repeat(count, 1, 1)
    transforms[:, 0, 0] = transforms[:, 1, 1] = angle.cos()
    transforms[:, 1, 0] = angle.sin()
    transforms[:, 0, 1] = -angle.sin()
    transforms[:, 0, 2], transforms[:, 1, 2] = angle.sin() * 0.2, angle * -0.1
    return transforms


@torch.no_grad()
def style_center(generator: StyleGenerator, z_dim: int, classes: int) -> Tensor:
    """Return the mean w of each class over the same latents, ``[classes or 1, w_dim]``."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(CENTER_LATENTS, z_dim, generator=rng)
    if not classes:
        return torch.stack([generator.mapping(z).mean(0)])
    class_indices = [torch.full((CENTER_LATENTS,), index) for index in range(classes)]
    return torch.stack([generator.mapping(z, class_index).mean(0) for class_index in class_indices])


@singledispatch
def style_space(generator: nn.Module) -> StyleSpace | None:  # noqa: ARG001 - dispatched on
    """Return the manifest's description of a generator's styles; None without styles."""
    return None


@style_space.register
def _style_space(generator: StyleGenerator) -> StyleSpace:
    """Group the layers of the synthesis network into coarse, middle and fine.

    The limits follow arXiv:1812.04948, section 3.1: 4 to 8, 16 to 32, and 64 or more pixels. They
    are lower for images smaller than 64 pixels.
    """
    resolutions = generator.layer_resolutions
    coarse, middle = min(8, resolutions[-1] // 4), min(32, resolutions[-1] // 2)

    def group(resolution: int) -> Literal["coarse", "middle", "fine"]:
        if resolution <= coarse:
            return "coarse"
        return "middle" if resolution <= middle else "fine"

    layers = tuple(StyleLayer(resolution=side, group=group(side)) for side in resolutions)
    return StyleSpace(dimension=generator.w_dim, layers=layers)


def served_pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return images ``[N, C, H, W]`` as ``[N, H, W, C] uint8``, and unchanged."""
    levels = ((images + 1) * 127.5).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).to(torch.uint8), images
