"""What of a generator becomes which graph, with the last steps of serving inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.latent import seeds
from service.runtime.latent.seeds import Distribution
from service.runtime.models.manifest import (
    GENERATOR,
    MAPPING,
    SYNTHESIS,
    TRANSFORM,
    ImageInput,
    StyleLayer,
    StyleSpace,
)
from service.runtime.models.probe_inputs import probe_images, probe_masks
from training.export.standing_statistics import has_batch_statistics, with_standing_statistics
from training.games.tasks.task import ImageTask
from training.networks.layers.conditioning import select_class_rows
from training.networks.noise.style_generator import StyleGenerator

CHECKED_LATENTS = 64
CHECKED_IMAGES = 8
# Latents whose w are averaged for the middle of a style space, of each class.
CENTER_LATENTS = 10_000


@dataclass(frozen=True)
class GraphSpec:
    """A part of a generator that is served as one graph.

    `module` takes the `feeds` by name, and returns the `outputs` and then those that are `checked`
    and not served. Beside the batch, axes in `varies` may have any length that the module takes;
    `other_feeds` are some such lengths to check.
    """

    role: str
    module: nn.Module
    feeds: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    checked_outputs: tuple[str, ...] = ()
    dynamic_axes: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    extra_feeds: Sequence[Mapping[str, Tensor]] = ()


class ServedGenerator(nn.Module):
    """A generator with the last steps of serving: ``z`` to ``pixels`` [N, H, W, C] uint8.

    Its second output are the pictures before the cast, [N, C, H, W] in [-1, 1], for checking.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self, z: Tensor, class_weights: Tensor | None = None, truncation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if truncation is None:
            return _pixels(self.generator(z, class_weights))
        return _pixels(self.generator(z, class_weights, truncation))


class ServedImageToImage(nn.Module):
    """``image`` [N, H, W, C] uint8, and a ``mask`` [N, H, W] uint8 where the task has one, to
    ``pixels`` [N, H, W, C] uint8; and the pictures before the cast.
    """

    def __init__(self, generator: nn.Module, task: ImageTask) -> None:
        super().__init__()
        self.generator = generator
        self.task = task

    def forward(self, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        given = image.permute(0, 3, 1, 2).float() / 127.5 - 1
        holes = None if mask is None else (mask[:, None] > 127).float()
        answer = self.generator(self.task.see(given, holes))
        return _pixels(self.task.finish(answer, given, holes))


class ServedMapping(nn.Module):
    """``z`` to ``w`` [N, layers, w_dim], drawn to the middle of the class by ``truncation`` [N].

    Truncation in W: Karras et al. 2018, arXiv:1812.04948, appendix B. A class has a middle of its
    own, since the middle of all is a picture of none.
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
    """``w`` [N, layers, w_dim], and a ``transform`` [N, 3, 3] where the network takes one, to
    ``pixels`` [N, H, W, C] uint8; and the pictures before the cast.
    """

    def __init__(self, generator: StyleGenerator) -> None:
        super().__init__()
        self.synthesis = generator.synthesis

    def forward(self, w: Tensor, transform: Tensor | None = None) -> tuple[Tensor, Tensor]:
        given = {} if transform is None else {TRANSFORM: transform}
        return _pixels(self.synthesis(w, **given))


def generator_graph_specs(
    generator: nn.Module,
    z_dim: int,
    classes: int = 0,
    distribution: Distribution = "normal",
    *,
    rows: int = CHECKED_LATENTS,
    center: Tensor | None = None,
    truncates: bool = False,
) -> list[GraphSpec]:
    """Return what is to be exported of a generator in evaluation, with so many `rows` to check.

    `centre` is the middle of a style space ``[classes or 1, w_dim]``, where it is known. One that
    `truncates` takes truncations ``[N]`` after z and class weights.
    """
    z = seeds.draw(range(rows), z_dim, distribution)
    feeds = {"z": torch.from_numpy(z)}
    if classes:
        feeds["class_weights"] = _class_weights(rows, classes)
    truncated = feeds | {"truncation": torch.linspace(0, 1, rows)}
    if not isinstance(generator, StyleGenerator):
        if has_batch_statistics(generator):
            draw = partial(seeds.draw, distribution=distribution)
            generator = with_standing_statistics(generator, z_dim, classes, draw)
            truncates = True
        feeds = truncated if truncates else feeds
        served = ServedGenerator(generator).eval()
        return [GraphSpec(GENERATOR, served, feeds, ("pixels",), ("images",))]

    if center is None:
        center = style_center(generator, z_dim, classes)
    mapping = ServedMapping(generator, center).eval()
    with torch.no_grad():
        (w,) = mapping(**truncated)
    # Other styles in the later layers, so that a graph that took one for all would not pass.
    mixed = torch.cat([w[:, : generator.layers // 2], w.roll(1, 0)[:, generator.layers // 2 :]], 1)
    given = {"w": mixed}
    if generator.takes_transform:
        given[TRANSFORM] = _transforms(rows)
    return [
        GraphSpec(MAPPING, mapping, truncated, ("w",)),
        GraphSpec(SYNTHESIS, ServedSynthesis(generator).eval(), given, ("pixels",), ("images",)),
    ]


def image_to_image_graph_spec(
    role: str, generator: nn.Module, task: ImageTask, given: ImageInput
) -> GraphSpec:
    """Return what is to be exported of a generator from pictures to pictures, in evaluation.

    The sides of its pictures vary in steps of `given.multiple`.
    """
    served = ServedImageToImage(generator, task).eval()
    side, step = given.side, given.multiple

    def feeds(height: int, width: int, count: int) -> dict[str, Tensor]:
        longest = max(height, width)
        image = probe_images(range(count), longest, given.channels)[:, :height, :width]
        drawn = {"image": torch.from_numpy(image.copy())}
        if given.masked:
            mask = probe_masks(range(count), longest)[:, :height, :width]
            drawn["mask"] = torch.from_numpy(mask.copy())
        return drawn

    sizes = [torch.export.Dim(name, min=1, max=2**14) for name in ("h", "w")]
    axes = {1 + i: step * size if step > 1 else size for i, size in enumerate(sizes)}
    least = given.least or step
    smaller = max(side // 2 // step * step, least)
    return GraphSpec(
        role,
        served,
        feeds(side, side, CHECKED_IMAGES),
        ("pixels",),
        ("images",),
        dynamic_axes={} if given.fixed else dict.fromkeys(feeds(step, step, 1), axes),
        extra_feeds=[]
        if given.fixed
        else [feeds(side + step, 2 * side, 7), feeds(smaller, side, 7), feeds(least, least, 7)],
    )


def _class_weights(count: int, classes: int) -> Tensor:
    """Return weights ``[count, classes]``: of one class in the first half, of two in the second."""
    one = F.one_hot(torch.arange(count) % classes, classes).float()
    share = torch.linspace(1, 0, count // 2)[:, None]
    half = one[: count // 2]
    return torch.cat([half, share * half + (1 - share) * half.roll(1, dims=1)])


def _transforms(count: int) -> Tensor:
    """Return transforms ``[count, 3, 3]``, the first of which is none: the others turn and move."""
    turn = torch.arange(count) * 0.4
    made = torch.eye(3).repeat(count, 1, 1)
    made[:, 0, 0] = made[:, 1, 1] = turn.cos()
    made[:, 1, 0] = turn.sin()
    made[:, 0, 1] = -turn.sin()
    made[:, 0, 2], made[:, 1, 2] = turn.sin() * 0.2, turn * -0.1
    return made


@torch.no_grad()
def style_center(generator: StyleGenerator, z_dim: int, classes: int) -> Tensor:
    """Return the mean w ``[classes or 1, w_dim]`` of each class, over the same latents."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(CENTER_LATENTS, z_dim, generator=rng)
    if not classes:
        return torch.stack([generator.mapping(z).mean(0)])
    of_each = [torch.full((CENTER_LATENTS,), index) for index in range(classes)]
    return torch.stack([generator.mapping(z, class_index).mean(0) for class_index in of_each])


def style_space(generator: nn.Module) -> StyleSpace | None:
    """Return what the manifest says of a generator's styles; None where it has none.

    Coarse, middle and fine are those of arXiv:1812.04948, section 3.1 (4 to 8, 16 to 32, and 64
    pixels up), moved down for pictures that have no 64.
    """
    if not isinstance(generator, StyleGenerator):
        return None
    sides = generator.layer_resolutions
    coarse, middle = min(8, sides[-1] // 4), min(32, sides[-1] // 2)
    layers = tuple(
        StyleLayer(
            resolution=side,
            group="coarse" if side <= coarse else "middle" if side <= middle else "fine",
        )
        for side in sides
    )
    return StyleSpace(dimension=generator.w_dim, layers=layers)


def _pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    scaled = ((images + 1) * 127.5).round().clamp(0, 255)
    return scaled.permute(0, 2, 3, 1).to(torch.uint8), images
