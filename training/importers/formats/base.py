"""What a format is: the keys that have to be there, and how a network is rebuilt from them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from service.runtime.latent.seeds import Distribution
from service.runtime.models.manifest import (
    GENERATOR,
    Graph,
    ImageInput,
    ImageSpec,
    LatentSpace,
    StyleSpace,
    Task,
    Truncation,
)
from service.runtime.models.probe_inputs import probe_images
from training.export.graphs import CHECKED_LATENTS, Piece, pieces
from training.importers.errors import Unsaid, Unsuitable
from training.importers.reading.weights import Network

# Of pictures that go in or come out, in pixels.
_LONGEST_SIDE = 2**14


@dataclass(frozen=True)
class UserOptions:
    """What the flags say, of what no tensor tells; None where nothing was said."""

    classes: int | None = None
    class_names: tuple[str, ...] = ()
    side: int | None = None
    channels: int | None = None
    activation: str | None = None
    output: str | None = None
    statistics: str | None = None
    latent: str | None = None
    # What a configuration beside the checkpoint says, in its author's words.
    config: Mapping[str, Any] = field(default_factory=dict)


class Wrapped(Protocol):
    """A generator that is a graph already, checked, and needs to be written only."""

    def write(self, folder: Path) -> dict[str, Graph]:
        """Write its graphs into a model folder, and return them by their roles."""
        ...


@dataclass(frozen=True)
class Rebuilt:
    """A generator that is ready to be exported, and what the manifest says of it.

    It is in `pieces`, or `wrapped` where it was ONNX already.
    """

    summary: str
    task: Task
    pieces: Sequence[Piece]
    image: ImageSpec
    # What was inferred, for the person who imports.
    told: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    latent: LatentSpace | None = None
    input: ImageInput | None = None
    classes: tuple[str, ...] = ()
    styles: StyleSpace | None = None
    wrapped: Wrapped | None = None


@dataclass(frozen=True)
class Fit:
    """How well a network fits a format: the declared keys that are there, and those missing."""

    there: tuple[str, ...]
    missing: tuple[str, ...]
    # Why it is none, though all keys are there.
    reason: str | None = None

    @property
    def fits(self) -> bool:
        """Whether it is of the format."""
        return not self.missing and self.reason is None

    @property
    def share(self) -> float:
        """How much of what is declared is there."""
        return len(self.there) / (len(self.there) + len(self.missing))


class Origin:
    """What a model card says of where a generator comes from."""

    name: ClassVar[str]
    title: ClassVar[str]
    # Whose layout it is, and under which licence the authors gave their code or weights.
    origin: ClassVar[str]


def shown(key: str) -> str:
    """Return a declared key as people write names."""
    return key.replace("\\.", ".")


class Format(Origin, ABC):
    """A published layout of a generator."""

    # Regular expressions, each of which one name at least has to match in full.
    keys: ClassVar[tuple[str, ...]]
    # Whether the order of the layers alone tells it, so that parts of other networks may seem it.
    by_order: ClassVar[bool] = False
    # The same of names that must not be there.
    others: ClassVar[tuple[str, ...]] = ()

    def fit(self, network: Network) -> Fit:
        """Compare the names of the tensors with what is declared."""
        found = {key: any(re.fullmatch(key, name) for name in network.tensors) for key in self.keys}
        other = next(
            (n for key in self.others for n in network.tensors if re.fullmatch(key, n)), None
        )
        fit = Fit(
            tuple(key for key, there in found.items() if there),
            tuple(key for key, there in found.items() if not there),
        )
        return replace(fit, reason=f"it has {other}, which the format has not") if other else fit

    @abstractmethod
    def rebuild(self, network: Network, said: UserOptions) -> Rebuilt:
        """Build the network from the shapes of its tensors, with its weights.

        Raises Unsuitable when they are not of this format after all, Unsaid where a flag is needed.
        """


def load(module: nn.Module, network: Network) -> nn.Module:
    """Put the tensors into a module built for them; every one has its place. Raises Unsuitable."""
    counted = {n: t for n, t in network.tensors.items() if not n.endswith("num_batches_tracked")}
    weights = {name: tensor.float() for name, tensor in counted.items()}
    try:
        done = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise Unsuitable(lines[-1].strip()[:200]) from error
    missing = [name for name in done.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or done.unexpected_keys:
        name = (missing or done.unexpected_keys)[0]
        raise Unsuitable(f"{name} is {'missing' if missing else 'left over'}")
    return module.eval()


def generating(
    summary: str,
    generator: nn.Module,
    z_dim: int,
    image: ImageSpec,
    classes: tuple[str, ...] = (),
    distribution: Distribution = "normal",
    told: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    *,
    truncates: bool = False,
) -> Rebuilt:
    """Return a generator ``(z, class_weights)`` to pictures ``[N, C, H, W]`` in [-1, 1].

    One that `truncates` takes a truncation for each row as well.
    """
    parts = pieces(
        generator.eval(),
        z_dim,
        len(classes),
        distribution,
        rows=checked_rows(image.width),
        truncates=truncates,
    )
    truncates = "truncation" in parts[0].feeds
    sizes = [("z", str(z_dim)), ("pictures", f"{image.width}×{image.height}×{image.channels}")]
    return Rebuilt(
        summary=summary,
        task="generate",
        pieces=parts,
        image=image,
        told=[*sizes, *([("classes", str(len(classes)))] if classes else []), *told],
        notes=notes,
        latent=LatentSpace(
            dimension=z_dim,
            distribution=distribution,
            truncation=Truncation() if truncates else None,
        ),
        classes=classes,
    )


def checked_rows(side: int) -> int:
    """Return of how many pictures a graph is checked: of fewer where they are large."""
    return CHECKED_LATENTS if side <= 64 else 32 if side <= 128 else 8 if side <= 256 else 3


def runs(rebuilt: Rebuilt) -> Rebuilt:
    """Return what was rebuilt, after a row has gone through it.

    Layers that are filled one by one are held against each other by nothing else. Raises
    RuntimeError where tensors do not fit together.
    """
    with torch.no_grad():
        for piece in rebuilt.pieces:
            piece.module(**{name: feed[:1] for name, feed in piece.feeds.items()})
    return rebuilt


class ServedImages(nn.Module):
    """``image`` [N, H, W, C] uint8 to ``pixels`` [N, H', W', C'] uint8 by a network that has ranges
    of its own; and the pictures before the cast, in [-1, 1].
    """

    def __init__(
        self, network: nn.Module, goes_in: tuple[float, float], comes_out: tuple[float, float]
    ) -> None:
        super().__init__()
        self.network = network
        self.low, self.scale = goes_in[0], (goes_in[1] - goes_in[0]) / 255
        self.out_low, self.out_scale = comes_out[0], 2 / (comes_out[1] - comes_out[0])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        seen = image.permute(0, 3, 1, 2).float() * self.scale + self.low
        made = (self.network(seen) - self.out_low) * self.out_scale - 1
        # To the nearest level of 255, as Pillow and torchvision's save_image have it.
        levels = ((made + 1) * 127.5).round().clamp(0, 255)
        return levels.permute(0, 2, 3, 1).to(torch.uint8), made


def translating(
    summary: str,
    task: Task,
    network: nn.Module,
    given: ImageInput,
    channels: int,
    goes_in: tuple[float, float] = (-1.0, 1.0),
    comes_out: tuple[float, float] = (-1.0, 1.0),
    told: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Rebuilt:
    """Return a network from pictures ``[N, C, h, w]`` to pictures, with the ranges of both."""
    side = given.side * given.factor
    image = image_spec(side, side, channels)
    served = ServedImages(network.eval(), goes_in, comes_out).eval()
    return Rebuilt(
        summary=summary,
        task=task,
        pieces=[_picture_piece(served, given)],
        image=image,
        told=told,
        notes=notes,
        input=given,
    )


def _picture_piece(served: nn.Module, given: ImageInput) -> Piece:
    step, side = given.multiple, given.side

    def feeds(height: int, width: int, count: int) -> dict[str, Tensor]:
        image = probe_images(range(count), max(height, width), given.channels)
        return {"image": torch.from_numpy(image[:, :height, :width].copy())}

    sizes = [torch.export.Dim(name, min=1, max=2**14) for name in ("h", "w")]
    axes = {1 + i: step * size if step > 1 else size for i, size in enumerate(sizes)}
    least = given.least or step
    # Two steps at least, since the exporter takes an axis of one for a constant.
    small = max(side // 2 // step * step, least, 2 * step)
    return Piece(
        GENERATOR,
        served,
        feeds(side, side, 3),
        ("pixels",),
        ("images",),
        varies={} if given.fixed else {"image": axes},
        other_feeds=[] if given.fixed else [feeds(small + step, small, 3), feeds(least, least, 3)],
    )


def side_of(said: UserOptions, usual: int, multiple: int = 1) -> int:
    """Return the side of the pictures that go in: what was said, else near the usual one.

    Raises Unsaid for one that the network cannot take, Unsuitable where that is beyond serving.
    """
    if multiple > _LONGEST_SIDE:
        raise Unsuitable(f"it takes pictures in steps of {multiple:,} pixels")
    if said.side is None:
        return -(-usual // multiple) * multiple
    if said.side % multiple or said.side > _LONGEST_SIDE:
        raise Unsaid(f"--side {said.side}: it is a multiple of {multiple}, up to {_LONGEST_SIDE}")
    return said.side


def image_spec(height: int, width: int, channels: int) -> ImageSpec:
    """Return the manifest's words for pictures. Raises Unsuitable.

    To be asked before anything of that size is made: a few small layers can say any size.
    """
    if not (0 < height <= _LONGEST_SIDE and 0 < width <= _LONGEST_SIDE):
        raise Unsuitable(f"pictures of {width:,}×{height:,} are not served")
    if channels not in (1, 3, 4):
        raise Unsuitable(f"pictures of {channels} channels are not served")
    return ImageSpec(height=height, width=width, channels=channels)


def square(side: int, channels: int) -> ImageSpec:
    """Return the manifest's words for square pictures. Raises Unsuitable."""
    return image_spec(side, side, channels)


def latent(said: UserOptions) -> Distribution:
    """Return how z is drawn for a generator that was trained on what was said. Raises Unsaid."""
    if said.latent not in (None, "normal", "uniform", "unit"):
        raise Unsaid(f"--latent {said.latent}: it is normal, uniform (-1 to 1) or unit (0 to 1)")
    return "normal" if said.latent in (None, "normal") else "uniform"


def with_latent(generator: nn.Module, said: UserOptions) -> nn.Module:
    """Return a generator that takes z as the service draws it, in place of from 0 to 1."""
    return UnitLatent(generator) if said.latent == "unit" else generator


class UnitLatent(nn.Module):
    """A generator that was trained on z from 0 to 1, for z from -1 to 1."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, class_weights: Tensor | None = None) -> Tensor:
        made: Tensor = self.generator((z + 1) / 2, class_weights)
        return made


def class_names(count: int, said: UserOptions) -> tuple[str, ...]:
    """Return the names of the classes: those that were said, else their numbers. Raises Unsaid."""
    if said.class_names:
        if len(said.class_names) != count:
            raise Unsaid(
                f"--class-names names {len(said.class_names)} classes, and there are {count}"
            )
        return said.class_names
    return tuple(str(index) for index in range(count))
