import pytest
import torch
from torch import nn

from training.networks.layers.shapes import ImageShape
from training.networks.noise.dcgan import DCGANDiscriminator, DCGANGenerator, doublings


@pytest.mark.parametrize(
    ("size", "expected"), [(28, (7, 2)), (32, (4, 3)), (64, (4, 4)), (96, (6, 4))]
)
def test_splits_side_into_base_and_doublings(size, expected):
    assert doublings(size) == expected


@pytest.mark.parametrize("size", [7, 6, 2, 4])
def test_rejects_unsupported_sides(size):
    with pytest.raises(ValueError, match=str(size)):
        doublings(size)


@pytest.mark.parametrize("size", [16, 28, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_of_images_and_logits(size, channels):
    shape = ImageShape(channels, size, size)
    images = DCGANGenerator(10, shape, width=8)(torch.randn(3, 10))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    assert DCGANDiscriminator(shape, width=8)(images).shape == (3,)


def test_follows_guidelines_of_the_paper():
    shape = ImageShape(3, 64, 64)
    generator, discriminator = DCGANGenerator(100, shape, 64), DCGANDiscriminator(shape, 64)
    for player in (generator, discriminator):
        kinds = {type(module) for module in player.modules()}
        assert nn.BatchNorm2d in kinds
        assert not kinds & {nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Linear}
    assert not any(isinstance(m, nn.LeakyReLU) for m in generator.modules())
    assert {m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)} == {
        0.2
    }
    assert not isinstance(list(discriminator.layers)[1], nn.BatchNorm2d)
    assert not isinstance(list(generator.layers)[-2], nn.BatchNorm2d)
    weights = torch.cat(
        [m.weight.flatten() for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    )
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)


def test_64_pixel_generator_has_published_number_of_weights():
    generator = DCGANGenerator(100, ImageShape(3, 64, 64), 64)
    # The PyTorch example has 3,576,704; here the last layer has 3 biases in addition.
    assert sum(p.numel() for p in generator.parameters()) == 3_576_707
