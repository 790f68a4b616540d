import pytest
import torch

from training.networks.layers.resampling import Blur, Downsample, Upsample


@pytest.mark.parametrize("size", [4, 7, 16])
def test_doubles_and_halves_sizes(size):
    x = torch.randn(2, 3, size, size)
    assert Upsample()(x).shape == (2, 3, 2 * size, 2 * size)
    assert Downsample()(Upsample()(x)).shape == x.shape
    assert Blur(pad=2)(x).shape == (2, 3, size + 1, size + 1)


def test_keeps_constant_images_inside_border():
    flat = torch.full((1, 2, 16, 16), 3.0)
    for layer in (Upsample(), Downsample()):
        inside = layer(flat)[:, :, 2:-2, 2:-2]
        torch.testing.assert_close(inside, torch.full_like(inside, 3.0))


def test_upsampling_is_bilinear_inside_border():
    x = torch.randn(1, 1, 8, 8)
    expected = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(Upsample()(x)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_downsampling_removes_high_frequencies():
    stripes = torch.zeros(1, 1, 16, 16)
    stripes[..., ::2] = 1
    halved = Downsample()(stripes)[..., 1:-1, 1:-1]
    torch.testing.assert_close(halved, torch.full_like(halved, 0.5))
