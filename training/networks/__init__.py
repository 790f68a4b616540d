"""Networks, one family a module. They know shapes and nothing of losses.

Each family declares its options beside its modules; `GeneratorOptions` and `DiscriminatorOptions`
are the choice that a recipe has, told apart by the key ``network``.
"""

from typing import Annotated

from pydantic import Field

from training.networks.dcgan import DCGANDiscriminatorOptions, DCGANGeneratorOptions
from training.networks.mlp import MLPDiscriminatorOptions, MLPGeneratorOptions
from training.networks.r3gan import R3GANDiscriminatorOptions, R3GANGeneratorOptions

GeneratorOptions = Annotated[
    DCGANGeneratorOptions | MLPGeneratorOptions | R3GANGeneratorOptions,
    Field(discriminator="network"),
]
DiscriminatorOptions = Annotated[
    DCGANDiscriminatorOptions | MLPDiscriminatorOptions | R3GANDiscriminatorOptions,
    Field(discriminator="network"),
]

__all__ = ["DiscriminatorOptions", "GeneratorOptions"]
