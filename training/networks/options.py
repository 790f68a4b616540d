"""The options of networks in a recipe, and the registration of networks by name.

A network is one module in `training/networks/noise`, `image`, `text` or `sound`. It declares its
options as a subclass of one of the classes below, with a ``network: Literal["name"]`` field, which
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
        raise ValueError(f"this game needs a noise generator; {self.network} is of another kind")

    def from_images(self) -> ImageToImageOptions:
        """Return self if this generator takes images. Raises ValueError otherwise."""
        raise ValueError(
            f"this game needs an image-to-image generator; {self.network} is of another kind"
        )

    def of_text(self) -> TextGeneratorOptions:
        """Return self if this generator generates text. Raises ValueError otherwise."""
        raise ValueError(f"this game needs a generator of text; {self.network} generates images")


class NoiseGeneratorOptions(GeneratorOptions):
    """Options of a generator that maps latents ``[N, z_dim]`` to images."""

    # True for a `StyleGenerator`, which style mixing and path length regularization require.
    has_styles: ClassVar[bool] = False

    z_dim: PositiveInt
    # The distribution of latents in the service. In training it is N(0, 1).
    distribution: Literal["normal", "truncated-normal"] = "normal"

    @abstractmethod
    def build(self, shape: ImageShape, classes: int = 0) -> nn.Module:
        """Build the network, initialized from the global random state. Raises ValueError."""

    def build_growing(self, shape: ImageShape, classes: int = 0) -> nn.Module:  # noqa: ARG002
        """Build the network with support for lower resolutions. Raises ValueError."""
        raise _cannot_grow(self.network)

    def build_for_text(self, shape: ImageShape, dimension: int) -> nn.Module:  # noqa: ARG002
        """Build the network for sentence embeddings ``[N, dimension]``. Raises ValueError."""
        raise _takes_no_text(self.network)

    def build_sound(self, samples: int, classes: int = 0) -> nn.Module:  # noqa: ARG002
        """Build the network for sounds of `samples` samples. Raises ValueError."""
        raise _no_sounds(self.network)

    def from_noise(self) -> NoiseGeneratorOptions:
        """Return self."""
        return self


class ImageToImageOptions(GeneratorOptions):
    """Options of an image-to-image generator."""

    @abstractmethod
    def build(self, shape: ImageToImageShape) -> nn.Module:
        """Build the network, initialized from the global random state. Raises ValueError."""

    @abstractmethod
    def side_multiple(self, shape: ImageToImageShape) -> int:
        """Return the required divisor of the input sides, in pixels."""

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


class TextGeneratorOptions(GeneratorOptions):
    """Options of a generator of token sequences."""

    @abstractmethod
    def build(self, vocabulary: int) -> nn.Module:
        """Build the network, initialized from the global random state."""

    def of_text(self) -> TextGeneratorOptions:
        """Return self."""
        return self


class DiscriminatorOptions(Options, ABC):
    """Options of a discriminator."""

    network: str
    # The pretrained networks that it contains, for the manifest.
    pretrained: ClassVar[tuple[str, ...]] = ()

    def of_images(self) -> ImageDiscriminatorOptions:
        """Return self if the discriminator has one logit per image. Raises ValueError otherwise."""
        raise ValueError(
            f"this game needs a discriminator of whole images; {self.network} is of another kind"
        )

    def of_patches(self) -> PatchDiscriminatorOptions:
        """Return self if the discriminator has one logit per patch. Raises ValueError otherwise."""
        raise ValueError(
            f"this game needs a discriminator of patches; {self.network} is of another kind"
        )

    def of_text(self) -> TextDiscriminatorOptions:
        """Return self if the discriminator classifies text. Raises ValueError otherwise."""
        raise ValueError(
            f"this game needs a discriminator of text; {self.network} classifies images"
        )


class ImageDiscriminatorOptions(DiscriminatorOptions):
    """Options of a discriminator of whole images, with one logit per image, or K: ``[N, K]``."""

    @abstractmethod
    def build(self, shape: ImageShape, classes: int = 0) -> nn.Module:
        """Build the network, initialized from the global random state. Raises ValueError."""

    def build_growing(self, shape: ImageShape, classes: int = 0) -> nn.Module:  # noqa: ARG002
        """Build the network with support for lower resolutions. Raises ValueError."""
        raise _cannot_grow(self.network)

    def build_for_text(self, shape: ImageShape, dimension: int) -> nn.Module:  # noqa: ARG002
        """Build the network for sentence embeddings ``[N, dimension]``. Raises ValueError."""
        raise _takes_no_text(self.network)

    def build_sound(self, samples: int, classes: int = 0) -> nn.Module:  # noqa: ARG002
        """Build the network for sounds of `samples` samples. Raises ValueError."""
        raise _no_sounds(self.network)

    def of_images(self) -> ImageDiscriminatorOptions:
        """Return self."""
        return self


class PatchDiscriminatorOptions(DiscriminatorOptions):
    """Options of a discriminator with one logit per patch of an image."""

    @abstractmethod
    def build(self, channels: int) -> nn.Module:
        """Build the network, initialized from the global random state. Raises ValueError."""

    def of_patches(self) -> PatchDiscriminatorOptions:
        """Return self."""
        return self


class TextDiscriminatorOptions(DiscriminatorOptions):
    """Options of a discriminator with one logit per sequence of tokens."""

    @abstractmethod
    def build(self, vocabulary: int, length: int) -> nn.Module:
        """Build the network, initialized from the global random state. Raises ValueError."""

    def of_text(self) -> TextDiscriminatorOptions:
        """Return self."""
        return self


def _cannot_grow(network: str) -> ValueError:
    return ValueError(f"game.growing needs networks that support growing; {network} does not")


def _takes_no_text(network: str) -> ValueError:
    return ValueError(f"this game needs networks that take texts; {network} does not")


def _no_sounds(network: str) -> ValueError:
    return ValueError(f"the game noise_to_sound needs a network for sounds; {network} has images")


Generator = Annotated[GeneratorOptions, OneOf("network")]
Discriminator = Annotated[DiscriminatorOptions, OneOf("network")]


def register_networks() -> None:
    """Import all networks, so that recipes can refer to them."""
    import_modules("training.networks.noise")
    import_modules("training.networks.image")
    import_modules("training.networks.text")
    import_modules("training.networks.sound")
    import_modules("training.networks.pretrained")
