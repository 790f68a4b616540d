import pytest
import torch
from torch import nn

from training.fine_tuning.freezing import freeze_lowest, layers_from_image
from training.games.unpaired.game import TwoDiscriminators
from training.networks.image.patchgan import PatchGANOptions
from training.networks.layers.shapes import ImageShape
from training.networks.noise.biggan import BigGANDiscriminatorOptions
from training.networks.noise.dcgan import DCGANDiscriminatorOptions
from training.networks.noise.mlp import MLPDiscriminatorOptions
from training.networks.noise.r3gan import R3GANDiscriminatorOptions
from training.networks.noise.stylegan import StyleGANDiscriminatorOptions
from training.networks.noise.stylegan2 import StyleGAN2DiscriminatorOptions
from training.networks.options import DiscriminatorOptions
from training.networks.pretrained.projected import ProjectedDiscriminatorOptions
from training.recipe.choices import kinds
from training.recipe.errors import RecipeError

OPTIONS = {
    "mlp": MLPDiscriminatorOptions(network="mlp", widths=(8, 8), maxout_pieces=2),
    "dcgan": DCGANDiscriminatorOptions(network="dcgan", width=4),
    "biggan": BigGANDiscriminatorOptions(network="biggan", width=4, attention=16),
    "r3gan": R3GANDiscriminatorOptions(network="r3gan", width=16, most=32),
    "stylegan": StyleGANDiscriminatorOptions(network="stylegan", width=4, most=8),
    "stylegan2": StyleGAN2DiscriminatorOptions(network="stylegan2", width=4, most=8),
    "patchgan": PatchGANOptions(network="patchgan", width=4, layers=2),
    "projected": ProjectedDiscriminatorOptions(network="projected", width=4, most=8),
}


def build(name):
    if name == "patchgan":
        return OPTIONS[name].build(3)
    return OPTIONS[name].build(ImageShape(3, 32, 32), 5)


def test_every_discriminator_is_tested():
    # They judge no images.
    others = {"wavegan", "text_cnn"}
    assert OPTIONS.keys() == kinds(DiscriminatorOptions, "network").keys() - others


@pytest.mark.parametrize("name", OPTIONS)
def test_layers_are_in_the_order_of_the_forward_pass(name):
    network, order = build(name), []
    layers = layers_from_image(network)
    for number, layer in enumerate(layers):
        for module in layer:
            module.register_forward_pre_hook(lambda *_, number=number: order.append(number))
    images = torch.zeros(4, 3, 32, 32)
    network(images) if name == "patchgan" else network(images, torch.zeros(4, dtype=torch.int64))
    assert len(layers) >= 3
    assert order == sorted(order)
    assert set(order) == set(range(len(layers)))


@pytest.mark.parametrize("name", OPTIONS)
def test_all_trained_weights_but_embeddings_belong_to_a_layer(name):
    network = build(name)
    layers = layers_from_image(network)
    counted = {id(w) for layer in layers for module in layer for w in module.parameters()}
    trained = {key: w for key, w in network.named_parameters() if w.requires_grad}
    rest = {key for key, weight in trained.items() if id(weight) not in counted}
    assert all(
        key.endswith(("embed.weight", "embed.parametrizations.weight.original")) for key in rest
    )


def test_freezes_the_layers_nearest_to_the_image():
    network = build("stylegan2")
    freeze_lowest(network, 2)
    frozen = {key for key, weight in network.named_parameters() if not weight.requires_grad}
    assert {".".join(key.split(".")[:2]) for key in frozen} == {"from_image.32", "blocks.32"}


def test_both_discriminators_of_a_cycle_are_frozen_alike():
    both = TwoDiscriminators(build("patchgan"), build("patchgan"))
    freeze_lowest(both, 1)
    frozen = {key for key, weight in both.named_parameters() if not weight.requires_grad}
    assert frozen == {
        f"{side}.layers.0.{w}" for side in ("of_source", "of_target") for w in ("weight", "bias")
    }


def test_normalization_belongs_to_the_layer_before_it():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))
    assert [len(layer) for layer in layers_from_image(network)] == [2, 1]


def test_a_recipe_cannot_freeze_every_layer(small_recipe):
    with pytest.raises(RecipeError, match=r"freeze_discriminator is 6, but .* has 6 layers"):
        small_recipe("from=somewhere", "fine_tune.freeze_discriminator=6")
