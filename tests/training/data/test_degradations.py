"""Degradations for super-resolution."""

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.degradations import (
    add_noise,
    degrade,
    downscale,
    gaussian_blur,
    jpeg_round_trip,
    upscale,
)
from training.networks.layers.resizing import resize


def smooth_images(count=3, side=32, channels=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 6, 6, generator=rng) * 255
    return resize(coarse, side, side, "cubic").clamp(0, 255).round().byte()


@pytest.mark.parametrize("factor", [2, 4])
def test_downscale_inverts_upscale(factor):
    small = smooth_images(side=16)
    restored = downscale(upscale(small, factor), factor)
    assert restored.shape == small.shape
    assert (restored.int() - small.int()).abs().float().mean() < 1.5
    means = small.float().mean((2, 3)), restored.float().mean((2, 3))
    torch.testing.assert_close(*means, atol=0.7, rtol=0)


def test_resize_matches_pillow():
    image = smooth_images(1, side=30)
    as_image = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    kinds = {"cubic": Image.Resampling.BICUBIC, "linear": Image.Resampling.BILINEAR}
    for kind, pillow_filter in kinds.items():
        for height, width in ((15, 10), (61, 47), (30, 30), (1, 2)):
            resized = resize(image.float(), height, width, kind).round().clamp(0, 255)[0]
            expected = np.asarray(as_image.resize((width, height), pillow_filter)).astype(
                np.float32
            )
            difference = np.abs(resized.permute(1, 2, 0).numpy() - expected)
            # Pillow rounds between its horizontal and vertical pass.
            assert difference.max() <= 2
            assert difference.mean() < 0.25


def test_degradation_is_deterministic():
    images = smooth_images()
    first, second = (degrade(images, 4, np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (3, 3, 8, 8)
    torch.testing.assert_close(first, second)
    assert (degrade(images, 4, np.random.default_rng(4)) != first).any()
    # The degraded image still resembles the downscaled one.
    clean = downscale(images, 4).float()
    assert (first.float() - clean).abs().mean() < 12
    assert (first.float() - clean).abs().mean() > 0.5


def test_blur_keeps_mean_and_direction():
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 100
    soft = gaussian_blur(point, 3.0, 0.5, 0.0)
    assert float(soft.sum()) == pytest.approx(100, rel=1e-3)
    row, column = soft[0, 0, 10], soft[0, 0, :, 10]
    assert row[14] > 10 * column[14]


def test_noise_has_zero_mean_and_is_sometimes_gray():
    flat = torch.full((1, 3, 64, 64), 128.0)
    gray_count, means = 0, []
    for seed in range(40):
        noise = add_noise(flat, np.random.default_rng(seed)) - flat
        gray_count += bool((noise[:, 0] == noise[:, 1]).all())
        means.append(float(noise.mean()))
    assert 8 < gray_count < 32
    assert abs(np.mean(means)) < 0.05


def test_jpeg_round_trip_skips_images_with_alpha():
    rgb = smooth_images(2)
    errors = [
        float((jpeg_round_trip(rgb, quality).int() - rgb.int()).abs().float().mean())
        for quality in (10, 40, 95)
    ]
    assert 20 > errors[0] > errors[1] > errors[2] > 0
    assert jpeg_round_trip(rgb, 40).shape == rgb.shape
    gray = smooth_images(2, channels=1)
    assert jpeg_round_trip(gray, 90).shape == gray.shape
    clear = smooth_images(1, channels=4)
    torch.testing.assert_close(jpeg_round_trip(clear, 10), clear)
