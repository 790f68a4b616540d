"""L*a*b* conversion with a given luminance."""

import pytest
import torch

from training.data.color import (
    CHROMA,
    chroma,
    gray_level,
    lightness,
    linear_to_srgb,
    srgb_to_linear,
    to_rgb,
)

# L*a*b* of sRGB colors under D65, from Bruce Lindbloom's calculator, rounded to 0.1.
KNOWN_COLORS = {
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 0, 0): (53.2, 80.1, 67.2),
    (0, 255, 0): (87.7, -86.2, 83.2),
    (0, 0, 255): (32.3, 79.2, -107.9),
    (128, 128, 128): (53.6, 0.0, 0.0),
}


def images(*colors):
    return torch.tensor(colors).float().reshape(-1, 3, 1, 1) / 127.5 - 1


@pytest.mark.parametrize("color", KNOWN_COLORS)
def test_matches_known_colors(color):
    light, a, b = KNOWN_COLORS[color]
    image = images(color)
    # The lightness is rounded to the nearest gray level.
    assert float((lightness(gray_level(image)) + 1) * 50) == pytest.approx(light, abs=0.25)
    ab = chroma(image).flatten() * CHROMA
    assert ab.tolist() == pytest.approx([a, b], abs=0.3)


def test_gray_level_of_gray_image():
    grays = torch.arange(256).float().reshape(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    torch.testing.assert_close(gray_level(grays / 127.5 - 1), grays[:, :1])


def test_lab_round_trip():
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 64, 64), generator=rng).float() / 127.5 - 1
    restored = to_rgb(gray_level(image), chroma(image))
    # Not exact: the luminance is rounded to a gray level.
    assert float((restored - image).abs().mean()) * 127.5 < 2


def test_preserves_luminance_for_any_chroma():
    rng = torch.Generator().manual_seed(1)
    level = torch.randint(0, 256, (4, 1, 64, 64), generator=rng).float()
    # The range includes chroma far outside of sRGB.
    ab = torch.rand(4, 2, 64, 64, generator=rng) * 4 - 2
    rgb = to_rgb(level, ab)
    assert float(rgb.min()) >= -1
    assert float(rgb.max()) <= 1
    shown = ((rgb + 1) * 127.5).round() / 127.5 - 1
    light = srgb_to_linear((shown + 1) / 2)
    luminance = 0.2126 * light[:, 0] + 0.7152 * light[:, 1] + 0.0722 * light[:, 2]
    assert float((linear_to_srgb(luminance[:, None]) * 255 - level).abs().max()) < 0.6
    difference = (gray_level(shown) - level).abs()
    assert float(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 1e-3
    # The result is still colored: not everything was desaturated.
    assert float((rgb.amax(1) - rgb.amin(1)).mean()) > 0.2
