"""L*a*b*, and colours of a given luminance."""

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

# sRGB to L*a*b* under D65, by the tables of Bruce Lindbloom's calculator, to a tenth.
KNOWN = {
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 0, 0): (53.2, 80.1, 67.2),
    (0, 255, 0): (87.7, -86.2, 83.2),
    (0, 0, 255): (32.3, 79.2, -107.9),
    (128, 128, 128): (53.6, 0.0, 0.0),
}


def images(*colours):
    return torch.tensor(colours).float().reshape(-1, 3, 1, 1) / 127.5 - 1


@pytest.mark.parametrize("colour", KNOWN)
def test_known_colours(colour):
    light, a, b = KNOWN[colour]
    image = images(colour)
    # The lightness is that of the nearest whole grey.
    assert float((lightness(gray_level(image)) + 1) * 50) == pytest.approx(light, abs=0.25)
    ab = chroma(image).flatten() * CHROMA
    assert ab.tolist() == pytest.approx([a, b], abs=0.3)


def test_a_grey_picture_is_its_own_grey_level():
    greys = torch.arange(256).float().reshape(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    torch.testing.assert_close(gray_level(greys / 127.5 - 1), greys[:, :1])


def test_colours_come_back_from_their_lightness_and_chroma():
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 64, 64), generator=rng).float() / 127.5 - 1
    again = to_rgb(gray_level(image), chroma(image))
    # But for the rounding of the luminance to a grey level.
    assert float((again - image).abs().mean()) * 127.5 < 2


def test_the_luminance_stays_whatever_the_colours_are():
    rng = torch.Generator().manual_seed(1)
    level = torch.randint(0, 256, (4, 1, 64, 64), generator=rng).float()
    # Far beyond what sRGB can show, too.
    ab = torch.rand(4, 2, 64, 64, generator=rng) * 4 - 2
    made = to_rgb(level, ab)
    assert float(made.min()) >= -1
    assert float(made.max()) <= 1
    shown = ((made + 1) * 127.5).round() / 127.5 - 1
    light = srgb_to_linear((shown + 1) / 2)
    luminance = 0.2126 * light[:, 0] + 0.7152 * light[:, 1] + 0.0722 * light[:, 2]
    assert float((linear_to_srgb(luminance[:, None]) * 255 - level).abs().max()) < 0.6
    apart = (gray_level(shown) - level).abs()
    assert float(apart.max()) <= 1
    assert float((apart > 0).float().mean()) < 1e-3
    # And they are colours: not all were drawn to grey.
    assert float((made.amax(1) - made.amin(1)).mean()) > 0.2
