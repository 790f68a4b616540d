"""Networks, one family a module. They know shapes and nothing of losses.

Each family declares its options beside its modules; `GeneratorOptions` and `DiscriminatorOptions`
are the choice that a recipe has, told apart by the key ``network``.
"""

from typing import Annotated

from pydantic import Field

from training.networks.image.gated import GatedOptions
from training.networks.image.patchgan import PatchDiscriminatorOptions
from training.networks.image.resnet import ResNetOptions
from training.networks.image.rrdb import RRDBOptions
from training.networks.image.srresnet import SRResNetOptions
from training.networks.image.unet import UNetOptions
from training.networks.noise.biggan import BigGANDiscriminatorOptions, BigGANGeneratorOptions
from training.networks.noise.dcgan import DCGANDiscriminatorOptions, DCGANGeneratorOptions
from training.networks.noise.mlp import MLPDiscriminatorOptions, MLPGeneratorOptions
from training.networks.noise.r3gan import R3GANDiscriminatorOptions, R3GANGeneratorOptions
from training.networks.noise.stylegan import StyleGANDiscriminatorOptions, StyleGANGeneratorOptions
from training.networks.noise.stylegan2 import (
    StyleGAN2DiscriminatorOptions,
    StyleGAN2GeneratorOptions,
)

NoiseGeneratorOptions = (
    BigGANGeneratorOptions
    | DCGANGeneratorOptions
    | MLPGeneratorOptions
    | R3GANGeneratorOptions
    | StyleGANGeneratorOptions
    | StyleGAN2GeneratorOptions
)
# From images to images.
ImageToImageOptions = GatedOptions | ResNetOptions | RRDBOptions | SRResNetOptions | UNetOptions
GeneratorOptions = Annotated[
    NoiseGeneratorOptions | ImageToImageOptions, Field(discriminator="network")
]

ImageDiscriminatorOptions = (
    BigGANDiscriminatorOptions
    | DCGANDiscriminatorOptions
    | MLPDiscriminatorOptions
    | R3GANDiscriminatorOptions
    | StyleGANDiscriminatorOptions
    | StyleGAN2DiscriminatorOptions
)
DiscriminatorOptions = Annotated[
    ImageDiscriminatorOptions | PatchDiscriminatorOptions, Field(discriminator="network")
]

__all__ = [
    "DiscriminatorOptions",
    "GeneratorOptions",
    "ImageDiscriminatorOptions",
    "ImageToImageOptions",
    "NoiseGeneratorOptions",
    "PatchDiscriminatorOptions",
]
