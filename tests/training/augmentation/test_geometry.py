"""ADA's geometric transforms: their filter, their resampling, and how they are distributed."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.augmentation.ada import ada
from training.augmentation.geometry import SYM6, draw_maps, resample, transform_geometry


def noise(count=8, channels=3, side=32, width=None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, side, width or side, generator=generator)


def matrix(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def repeated(one: torch.Tensor, count: int) -> torch.Tensor:
    return one.expand(count, 3, 3)


def test_filter_is_the_orthogonal_one_with_6_vanishing_moments():
    taps, index = np.array(SYM6), np.arange(12.0)
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-10)
    for shift in range(6):
        product = np.dot(taps[2 * shift :], taps[: 12 - 2 * shift])
        assert product == pytest.approx(float(shift == 0), abs=1e-10)
    for moment in range(6):
        assert ((-1) ** index * index**moment * taps).sum() == pytest.approx(0, abs=1e-7)
    # Of the filters with these properties, it is one of the least asymmetric: the phase is almost
    # linear in the pass band. Daubechies' own deviates by 0.31.
    frequency = np.linspace(0, math.pi / 2, 200)
    phase = np.unwrap(np.angle(np.exp(-1j * np.outer(frequency, index)) @ taps))
    line = np.polyval(np.polyfit(frequency, phase, 1), frequency)
    assert np.abs(phase - line).max() < 0.1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("side", "width"), [(32, 32), (8, 8), (4, 4), (20, 36)])
def test_without_transforms_images_stay_as_they_are(channels, side, width):
    images = noise(channels=channels, side=side, width=width)
    same = resample(images, repeated(torch.eye(3), len(images)))
    torch.testing.assert_close(same, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turns_of_90_degrees(turns):
    """Not exact, because the filter is not symmetric."""
    images = F.interpolate(noise(side=8), scale_factor=4, mode="bicubic")
    sin, cos = [(1, 0), (0, -1), (-1, 0)][turns - 1]
    turned = resample(images, repeated(matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]), 8))
    # Rows count downwards, so that a positive angle turns clockwise.
    expected = images.rot90(-turns, (2, 3))
    assert F.cosine_similarity(turned.flatten(), expected.flatten(), dim=0) > 0.99


def test_shifts_reflect_the_border_and_do_not_blur():
    images = noise()
    shifted = resample(images, repeated(matrix([[1, 0, 3], [0, 1, -2], [0, 0, 1]]), 8))
    torch.testing.assert_close(shifted[:, :, :30, 3:], images[:, :, 2:, :29], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        shifted[:, :, :30, :3], images[:, :, 2:, 1:4].flip(3), atol=1e-4, rtol=0
    )


def test_one_far_image_does_not_change_the_others():
    images = noise(2)
    matrices = torch.stack([torch.eye(3), matrix([[0.3, 0, 9], [0, 2.5, -20], [0, 0, 1]])])
    alone = resample(images[:1], matrices[:1])
    torch.testing.assert_close(resample(images, matrices)[:1], alone, atol=1e-4, rtol=0)


def test_fractions_of_a_pixel_keep_smooth_images():
    """A wave of 4 cycles, moved by a fraction, is the wave of another phase."""
    position = torch.arange(32.0)
    wave = torch.sin(2 * math.pi * 4 / 32 * position).expand(1, 1, 32, 32)
    moved = resample(wave, matrix([[[1, 0, 0.4], [0, 1, 0], [0, 0, 1]]]))
    expected = torch.sin(2 * math.pi * 4 / 32 * (position - 0.4)).expand(1, 1, 32, 32)
    assert (moved - expected)[..., 8:24].abs().max() < 0.02


def kept_power(probability: float) -> list[float]:
    """Return the share of the power of noise at 8 to 12 and 12 to 16 cycles that geometry keeps."""
    before = after = torch.zeros(32, 32)
    for seed in range(8):
        torch.manual_seed(seed)
        images = torch.randn(512, 1, 32, 32)
        changed = transform_geometry(images, probability, blitting=False)
        before = before + torch.fft.fft2(images).abs().square().sum((0, 1))
        after = after + torch.fft.fft2(changed).abs().square().sum((0, 1))
    cycles = torch.fft.fftfreq(32) * 32
    radius = (cycles[:, None].square() + cycles.square()).sqrt()
    bands = [(radius >= low) & (radius < low + 4) for low in (8, 12)]
    return [(after[band].mean() / before[band].mean()).item() for band in bands]


@pytest.mark.parametrize(
    ("probability", "expected"),
    # What the official implementation keeps of the noise of 8,192 images.
    [(0.1, (0.932, 0.845)), (0.3, (0.851, 0.651)), (0.6, (0.802, 0.536))],
)
def test_keeps_the_power_that_the_official_implementation_keeps(probability, expected):
    assert kept_power(probability) == pytest.approx(expected, abs=0.01)


def test_blitting_moves_whole_pixels_only():
    torch.manual_seed(0)
    maps = draw_maps(2000, 32, 48, 1.0, torch.device("cpu"), geometry=False)
    assert (maps - maps.round()).abs().max() < 1e-5
    maps = maps.round()
    assert set(maps[:, 0, 2].tolist()) == set(range(-6, 7))
    assert set(maps[:, 1, 2].tolist()) == set(range(-4, 5))
    # 4 turns, each of the image and of its mirror image.
    assert len(torch.unique(maps[:, :2, :2].flatten(1), dim=0)) == 8


def test_maps_are_drawn_with_the_probability():
    torch.manual_seed(0)
    for probability in (0.1, 0.6):
        maps = draw_maps(4000, 32, 32, probability, torch.device("cpu"), blitting=False)
        scales = torch.linalg.det(maps[:, :2, :2])
        # A stretch keeps the area.
        scaled = ((scales - 1).abs() > 1e-4).float().mean().item()
        assert scaled == pytest.approx(probability, abs=0.03)
        moved = (maps[:, :2, 2].abs().amax(1) > 0).float().mean().item()
        assert moved == pytest.approx(probability, abs=0.03)
        largest, smallest = torch.linalg.svdvals(maps[:, :2, :2]).unbind(1)
        stretched = (largest / smallest > 1.001).float().mean().item()
        assert stretched == pytest.approx(probability, abs=0.03)
        # Without a stretch and a scale, the rest is a rotation.
        rigid = (largest - 1).abs().maximum((smallest - 1).abs()) < 1e-4
        rotated = ((maps[rigid, 0, 0] - 1).abs() > 1e-6).float().mean().item()
        assert rotated == pytest.approx(probability, abs=0.05)


def test_stretches_lie_along_any_axis():
    torch.manual_seed(0)
    maps = draw_maps(4000, 32, 32, 1.0, torch.device("cpu"), blitting=False)
    (axes, *_) = torch.linalg.svd(maps[:, :2, :2])
    angles = torch.atan2(axes[:, 1, 0], axes[:, 0, 0]).remainder(math.pi)
    counts = torch.histc(angles, 8, 0, math.pi)
    assert counts.min() > 0.8 * 4000 / 8


def test_gradients_of_gradients_pass_through():
    """R1 is taken at the images before augmentation."""
    images = noise(4, side=16).requires_grad_(True)
    weight = torch.ones((), requires_grad=True)
    torch.manual_seed(0)
    score = (ada(images, 0.8) * weight).square().sum()
    (gradient,) = torch.autograd.grad(score, images, create_graph=True)
    gradient.square().sum().backward()
    assert weight.grad is not None
    assert weight.grad > 0
