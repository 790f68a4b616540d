import pytest
import torch

from training.networks.layers.shapes import ImageShape
from training.networks.noise.mlp import Maxout, MLPDiscriminator, MLPGenerator

SHAPE = ImageShape(1, 28, 28)


def test_shape_and_range_of_images():
    images = MLPGenerator(10, SHAPE, (32, 16))(torch.randn(5, 10))
    assert images.shape == (5, 1, 28, 28)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("pieces", [1, 5])
def test_one_independent_logit_per_image(pieces):
    discriminator = MLPDiscriminator(SHAPE, (32, 16), pieces, dropout=0.5).eval()
    images = torch.randn(5, 1, 28, 28)
    logits = discriminator(images)
    assert logits.shape == (5,)
    torch.testing.assert_close(discriminator(images[2:3]), logits[2:3])


def test_maxout_is_maximum_of_affine_maps():
    layer = Maxout(4, 3, pieces=2)
    x = torch.randn(6, 4)
    weight, bias = layer.linear.weight.reshape(3, 2, 4), layer.linear.bias.reshape(3, 2)
    maps = torch.einsum("opi,ni->nop", weight, x) + bias
    torch.testing.assert_close(layer(x), maps.amax(-1))
