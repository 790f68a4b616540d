"""ADA's color transforms against the homogeneous matrices of the paper's appendix B."""

import math

import pytest
import torch

from training.augmentation.colors import apply_colors, transform_colors

AXIS = torch.ones(3) / math.sqrt(3)


def images_of(channels, count=6, side=5):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, side, side, generator=generator) * 2 - 1


def matrix_of(brightness, contrast, luma_flip, hue, saturation) -> torch.Tensor:
    """Return the product of the 4×4 matrices, applied from the first to the last."""
    along = torch.outer(AXIS, AXIS)
    x, y, z = AXIS
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = torch.matrix_exp(hue * cross)
    linear = [
        contrast * torch.eye(3),
        torch.eye(3) - 2 * luma_flip * along,
        rotation,
        along + saturation * (torch.eye(3) - along),
    ]
    matrix = torch.eye(4)
    matrix[:3, 3] = brightness
    for step in linear:
        homogeneous = torch.eye(4)
        homogeneous[:3, :3] = step
        matrix = homogeneous @ matrix
    return matrix


@pytest.mark.parametrize(
    "values",
    [
        (0.2, 1, 0, 0, 1),
        (0, 1.4, 0, 0, 1),
        (0, 1, 1, 0, 1),
        (0, 1, 0, 1.1, 1),
        (0, 1, 0, 0, 0.3),
        (-0.3, 0.8, 1, -2.5, 1.9),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_matrices_of_the_paper(values, channels):
    names = ("brightness", "contrast", "luma_flip", "hue", "saturation")
    images = images_of(channels)
    arguments = {
        name: torch.full((6, 1, 1, 1), float(value))
        for name, value in zip(names, values, strict=True)
    }
    matrix = matrix_of(*map(float, values))
    colors = images.expand(-1, 3, -1, -1)
    expected = torch.einsum("ij,njhw->nihw", matrix[:3, :3], colors) + matrix[:3, 3, None, None]
    if channels == 1:
        expected = expected.mean(1, keepdim=True)
    torch.testing.assert_close(apply_colors(images, **arguments), expected, atol=1e-5, rtol=0)


def test_each_transform_has_the_probability():
    """A gray image is changed by brightness, contrast and luma flip alone."""
    images = torch.full((4000, 1, 2, 2), 0.5)
    torch.manual_seed(0)
    changed = (transform_colors(images, 0.3) - images).abs().amax((1, 2, 3)) > 1e-6
    # A luma flip is one only half of the time.
    expected = 1 - 0.7 * 0.7 * (1 - 0.3 / 2)
    assert changed.float().mean().item() == pytest.approx(expected, abs=0.03)
