import pytest
import torch
from torch import nn

from training.export.onnx_export import export_generator
from training.networks.layers.shapes import ImageShape
from training.networks.noise.r3gan import (
    R3GANBlock,
    R3GANDiscriminatorOptions,
    R3GANGeneratorOptions,
    resolutions,
)

SMALL = {"network": "r3gan", "width": 8, "most": 16, "blocks": 1, "group_width": 4}


def generator(size=16, channels=3, classes=0):
    shape = ImageShape(channels, size, size)
    return R3GANGeneratorOptions(**SMALL, z_dim=10, class_width=4).build(shape, classes)


def discriminator(size=16, channels=3, classes=0):
    return R3GANDiscriminatorOptions(**SMALL).build(ImageShape(channels, size, size), classes)


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("classes", [0, 5])
def test_shapes_of_images_and_logits(size, classes):
    labels = torch.arange(3) if classes else None
    images = generator(size, classes=classes)(torch.randn(3, 10), labels)
    assert images.shape == (3, 3, size, size)
    assert discriminator(size, classes=classes)(images, labels).shape == (3,)


@pytest.mark.parametrize("size", [4, 28, 48])
def test_rejects_unsupported_sides(size):
    with pytest.raises(ValueError, match=str(size)):
        resolutions(size)


def test_has_no_normalization():
    for network in (generator(), discriminator()):
        names = {type(module).__name__ for module in network.modules()}
        assert not {name for name in names if "Norm" in name}


def test_block_starts_as_identity_and_learns():
    block = R3GANBlock(8, 4, blocks=10)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(block(x), x)
    block(x).square().sum().backward()
    assert block.reduce.weight.grad.abs().sum() > 0


def test_channels_double_up_to_the_limit():
    options = R3GANGeneratorOptions(network="r3gan", width=32, most=100)
    assert options.widths(ImageShape(3, 32, 32)) == [100, 100, 64, 32]


def test_both_networks_depend_on_the_class():
    z = torch.randn(1, 10).expand(5, -1)
    images = generator(classes=5)(z, torch.arange(5))
    assert len(torch.unique(images.flatten(1), dim=0)) == 5
    logits = discriminator(classes=5)(images[:1].expand(5, -1, -1, -1), torch.arange(5))
    assert len(torch.unique(logits)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 5])
def test_generator_exports(tmp_path, classes):
    torch.manual_seed(0)
    network = generator(classes=classes)
    for parameter in network.parameters():  # Initially, the residual branches are 0.
        nn.init.normal_(parameter, 0, 0.2)
    graph = export_generator(network.eval(), 10, tmp_path, classes)["generator"]
    assert set(graph.inputs) == ({"z", "class_weights"} if classes else {"z"})
