"""What makes pictures small and poor."""

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


def pictures(count=3, side=32, channels=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    # Soft, as pictures are.
    coarse = torch.rand(count, channels, 6, 6, generator=rng) * 255
    return resize(coarse, side, side, "cubic").clamp(0, 255).round().byte()


@pytest.mark.parametrize("factor", [2, 4])
def test_small_again_of_an_enlargement_is_what_it_was(factor):
    small = pictures(side=16)
    again = downscale(upscale(small, factor), factor)
    assert again.shape == small.shape
    assert (again.int() - small.int()).abs().float().mean() < 1.5
    means = small.float().mean((2, 3)), again.float().mean((2, 3))
    torch.testing.assert_close(*means, atol=0.7, rtol=0)


def test_resizing_is_pillows():
    picture = pictures(1, side=30)
    as_image = Image.fromarray(picture[0].permute(1, 2, 0).numpy())
    kinds = {"cubic": Image.Resampling.BICUBIC, "linear": Image.Resampling.BILINEAR}
    for kind, theirs in kinds.items():
        for height, width in ((15, 10), (61, 47), (30, 30), (1, 2)):
            ours = resize(picture.float(), height, width, kind).round().clamp(0, 255)[0]
            expected = np.asarray(as_image.resize((width, height), theirs)).astype(np.float32)
            apart = np.abs(ours.permute(1, 2, 0).numpy() - expected)
            # Pillow rounds between its two passes.
            assert apart.max() <= 2
            assert apart.mean() < 0.25


def test_a_poor_picture_is_a_function_of_the_picture_and_the_generator():
    whole = pictures()
    one, other = (degrade(whole, 4, np.random.default_rng(3)) for _ in range(2))
    assert one.shape == (3, 3, 8, 8)
    torch.testing.assert_close(one, other)
    assert (degrade(whole, 4, np.random.default_rng(4)) != one).any()
    # It is that picture still.
    clean = downscale(whole, 4).float()
    assert (one.float() - clean).abs().mean() < 12
    assert (one.float() - clean).abs().mean() > 0.5


def test_a_blur_keeps_the_mean_and_goes_along_its_axis():
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 100
    soft = gaussian_blur(point, 3.0, 0.5, 0.0)
    assert float(soft.sum()) == pytest.approx(100, rel=1e-3)
    across, down = soft[0, 0, 10], soft[0, 0, :, 10]
    assert across[14] > 10 * down[14]


def test_noise_has_no_mean_and_is_now_and_then_grey():
    flat = torch.full((1, 3, 64, 64), 128.0)
    greys, means = 0, []
    for seed in range(40):
        noise = add_noise(flat, np.random.default_rng(seed)) - flat
        greys += bool((noise[:, 0] == noise[:, 1]).all())
        means.append(float(noise.mean()))
    assert 8 < greys < 32
    assert abs(np.mean(means)) < 0.05


def test_jpeg_is_jpeg_and_leaves_transparency_alone():
    colour = pictures(2)
    errors = [
        float((jpeg_round_trip(colour, quality).int() - colour.int()).abs().float().mean())
        for quality in (10, 40, 95)
    ]
    assert 20 > errors[0] > errors[1] > errors[2] > 0
    assert jpeg_round_trip(colour, 40).shape == colour.shape
    grey = pictures(2, channels=1)
    assert jpeg_round_trip(grey, 90).shape == grey.shape
    clear = pictures(1, channels=4)
    torch.testing.assert_close(jpeg_round_trip(clear, 10), clear)
