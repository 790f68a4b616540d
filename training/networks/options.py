"""The options of networks in a recipe, and how networks are found by name.

A network is one module in `training/networks/noise` or `training/networks/image`. It declares its
options as a subclass of one of the classes below, with a ``network: Literal["name"]`` field; that
makes the name available to recipes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import PositiveInt
from torch import nn

from training.networks.layers.shapes import ImageShape, ImageToImageShape
from training.recipe.choices import OneOf, import_modules
from training.recipe.options import Options


class GeneratorOptions(Options, ABC):
    """Options of a generator."""

    network: str

    def from_noise(self) -> NoiseGeneratorOptions:
        """Return self if this generator takes noise. Raises ValueError otherwise."""
        raise ValueError(
            f"this game needs a generator from noise; {self.network} is an image-to-image generator"
        )

    def from_images(self) -> ImageToImageOptions:
        """Return self if this generator takes images. Raises ValueError otherwise."""
        raise ValueError(
            f"this game needs an image-to-image generator; {self.network} generates from noise"
        )


class NoiseGeneratorOptions(GeneratorOptions):
    """A generator from latents ``[N, z_dim]`` to images."""

    # Whether the network is a `StyleGenerator`: style mixing and path lengths need one.
    has_styles: ClassVar[bool] = False

    z_dim: PositiveInt
    # How latents are drawn when the generator is served; in training they are N(0, 1).
    distribution: Literal["normal", "truncated-normal"] = "normal"

    @abstractmethod
    def build(self, shape: ImageShape, classes: int = 0) -> nn.Module:
        """Build the network, initialized from the global random state. Raises ValueError."""

    def build_growing(self, shape: ImageShape, classes: int = 0) -> nn.Module:  # noqa: ARG002
        """Build the network so that it can also work at lower resolutions. Raises ValueError."""
        raise _cannot_grow(self.network)

    def from_noise(self) -> NoiseGeneratorOptions:
        """Return self."""
        return self


class ImageToImageOptions(GeneratorOptions):
    """An image-to-image generator."""

    @abstractmethod
    def build(self, shape: ImageToImageShape) -> nn.Module:
        """Build the network, initialized from the global random state. Raises ValueError."""

    @abstractmethod
    def side_multiple(self, shape: ImageToImageShape) -> int:
        """Return the number of pixels that input sides must be a multiple of."""

    def min_side(self, shape: ImageToImageShape) -> int:
        """Return the minimum input side in pixels."""
        return self.side_multiple(shape)

    @abstractmethod
    def receptive_field(self, shape: ImageToImageShape) -> int | None:
        """Return the radius of an output pixel's receptive field, in input pixels.

        None if it is the whole image, as with instance normalization.
        """

    def from_images(self) -> ImageToImageOptions:
        """Return self."""
        return self


class DiscriminatorOptions(Options, ABC):
    """Options of a discriminator."""

    network: str

    def of_images(self) -> ImageDiscriminatorOptions:
        """Return self if this discriminator judges whole images. Raises ValueError otherwise."""
        raise ValueError(
            f"this game needs a discriminator of whole images; {self.network} judges patches"
        )

    def of_patches(self) -> PatchDiscriminatorOptions:
        """Return self if this discriminator judges patches. Raises ValueError otherwise."""
        raise ValueError(
            f"this game needs a discriminator of patches; {self.network} judges whole images"
        )


class ImageDiscriminatorOptions(DiscriminatorOptions):
    """A discriminator with one logit for each image."""

    @abstractmethod
    def build(self, shape: ImageShape, classes: int = 0) -> nn.Module:
        """Build the network, initialized from the global random state. Raises ValueError."""

    def build_growing(self, shape: ImageShape, classes: int = 0) -> nn.Module:  # noqa: ARG002
        """Build the network so that it can also work at lower resolutions. Raises ValueError."""
        raise _cannot_grow(self.network)

    def of_images(self) -> ImageDiscriminatorOptions:
        """Return self."""
        return self


class PatchDiscriminatorOptions(DiscriminatorOptions):
    """A discriminator with one logit for each patch of an image."""

    @abstractmethod
    def build(self, channels: int) -> nn.Module:
        """Build the network, initialized from the global random state. Raises ValueError."""

    def of_patches(self) -> PatchDiscriminatorOptions:
        """Return self."""
        return self


def _cannot_grow(network: str) -> ValueError:
    return ValueError(f"game.growing needs networks that grow; {network} does not")


Generator = Annotated[GeneratorOptions, OneOf("network")]
Discriminator = Annotated[DiscriminatorOptions, OneOf("network")]


def register_networks() -> None:
    """Import all networks, so that recipes can refer to them."""
    import_modules("training.networks.noise")
    import_modules("training.networks.image")
