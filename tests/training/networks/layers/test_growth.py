from itertools import pairwise

import pytest
import torch

from training.games.noise_to_image.options import GrowingOptions
from training.networks.layers.growth import Growth, match_growth
from training.networks.layers.resampling import downsample_average, upsample_nearest
from training.networks.layers.shapes import ImageShape
from training.networks.noise.stylegan import StyleGANDiscriminatorOptions, StyleGANGeneratorOptions
from training.networks.noise.stylegan2 import (
    StyleGAN2DiscriminatorOptions,
    StyleGAN2GeneratorOptions,
)
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe

SMALL = {"width": 8, "most": 16}
GENERATORS = {"stylegan": StyleGANGeneratorOptions, "stylegan2": StyleGAN2GeneratorOptions}
DISCRIMINATORS = {
    "stylegan": StyleGANDiscriminatorOptions,
    "stylegan2": StyleGAN2DiscriminatorOptions,
}
FAMILIES = pytest.mark.parametrize("family", GENERATORS)


def generator(family, grows=True):
    torch.manual_seed(0)
    options = GENERATORS[family](
        network=family, **SMALL, z_dim=10, w_dim=12, mapping_layers=2, class_width=4
    )
    return options.build(ImageShape(3, 32, 32), grows=grows).eval()


def discriminator(family, grows=True):
    torch.manual_seed(0)
    options = DISCRIMINATORS[family](network=family, **SMALL)
    return options.build(ImageShape(3, 32, 32), grows=grows)


def latents():
    return torch.randn(4, 10, generator=torch.Generator().manual_seed(1))


@FAMILIES
@pytest.mark.parametrize("side", [4, 8, 16, 32])
def test_shapes_at_each_resolution(family, side):
    growth = Growth(side, 1.0)
    images = generator(family)(latents(), growth=growth)
    assert images.shape == (4, 3, side, side)
    assert discriminator(family)(images, growth=growth).shape == (4,)


@FAMILIES
def test_fully_grown_networks_equal_full_networks(family):
    full_size = Growth(32, 1.0)
    G, D = generator(family), discriminator(family)
    images = G(latents())
    torch.testing.assert_close(G(latents(), growth=full_size), images)
    torch.testing.assert_close(D(images, growth=full_size), D(images))


@FAMILIES
@pytest.mark.parametrize("side", [8, 16, 32])
def test_new_resolution_starts_as_upsampled_previous_one(family, side):
    G, D = generator(family), discriminator(family)
    start, before = Growth(side, 0.0), Growth(side // 2, 1.0)
    images, small = G(latents(), growth=start), G(latents(), growth=before)
    torch.testing.assert_close(images, upsample_nearest(small))
    # The discriminator's logits are equal too, for these and for other images.
    torch.testing.assert_close(D(images, growth=start), D(small, growth=before))
    others = torch.randn_like(images)
    torch.testing.assert_close(
        D(others, growth=start), D(downsample_average(others), growth=before)
    )


@FAMILIES
def test_fading_is_gradual(family):
    G, D = generator(family), discriminator(family)
    steps = [Growth(8, 1.0), *(Growth(16, i / 50) for i in range(51))]
    with torch.no_grad():
        images_by_step = [G(latents(), growth=growth) for growth in steps]
        logits = [
            D(images, growth=growth) for images, growth in zip(images_by_step, steps, strict=True)
        ]
    images_by_step[0] = upsample_nearest(images_by_step[0])
    for series in (images_by_step, logits):
        changes = torch.stack([(b - a).abs().mean() for a, b in pairwise(series)])
        assert changes.sum() > 0.01
        assert changes.max() < 0.1 * changes.sum()
        # Switching to the next resolution does not change the output.
        assert changes[0] < 1e-6


@FAMILIES
def test_partially_grown_networks_equal_smaller_networks(family):
    growth, shape, widths = Growth(16, 1.0), ImageShape(3, 16, 16), {"width": 16, "most": 16}
    G, D = generator(family), discriminator(family)
    small = GENERATORS[family](network=family, **widths, z_dim=10, w_dim=12, mapping_layers=2)
    small_G = small.build(shape, grows=True).eval()
    small_D = DISCRIMINATORS[family](network=family, **widths).build(shape, grows=True)
    for large, little in ((G, small_G), (D, small_D)):
        weights = large.state_dict()
        little.load_state_dict({key: weights[key] for key in little.state_dict()})
    images = small_G(latents())
    torch.testing.assert_close(G(latents(), growth=growth), images)
    torch.testing.assert_close(D(images, growth=growth), small_D(images))


@FAMILIES
@pytest.mark.parametrize(("growth", "resolutions"), [(Growth(8, 1.0), 2), (Growth(16, 0.3), 3)])
def test_unused_layers_have_no_gradient(family, growth, resolutions):
    G, D = generator(family), discriminator(family)
    D(G(latents(), growth=growth), growth=growth).sum().backward()

    def have_gradients(layers):
        return [any(p.grad is not None for p in layer.parameters()) for layer in layers]

    # The first resolution, 4 pixels, has no block.
    assert have_gradients(list(D.blocks.values())[::-1]) == [i < resolutions - 1 for i in range(3)]
    blocks = G.synthesis.blocks.values() if family == "stylegan" else G.synthesis.grow
    assert have_gradients(blocks) == [i < resolutions - 1 for i in range(3)]
    fading = growth.alpha < 1
    assert sum(have_gradients(D.from_image.values())) == 1 + fading


def test_real_images_fade_like_generated_ones():
    images = torch.rand(2, 3, 32, 32)
    small = match_growth(images, Growth(8, 1.0))
    torch.testing.assert_close(small, downsample_average(downsample_average(images)))
    torch.testing.assert_close(match_growth(images, Growth(16, 0.0)), upsample_nearest(small))
    half = (match_growth(images, Growth(16, 0.0)) + match_growth(images, Growth(16, 1.0))) / 2
    torch.testing.assert_close(match_growth(images, Growth(16, 0.5)), half)


def test_schedule_alternates_fading_and_stable_stages():
    growing = GrowingOptions(start=8, stage_images=100, fade_images=50)
    expected = {
        0: (8, 1.0),
        99: (8, 1.0),
        100: (16, 0.0),
        125: (16, 0.5),
        150: (16, 1.0),
        249: (16, 1.0),
        250: (32, 0.0),
        275: (32, 0.5),
    }
    for images, growth in expected.items():
        assert growing.at(images, 32) == growth
    assert growing.images(32) == 300
    assert growing.at(300, 32) is None
    assert growing.at(10_000, 32) is None


@FAMILIES
def test_every_weight_is_used_without_growing(family):
    G, D = generator(family, grows=False).train(), discriminator(family, grows=False)
    D(G(latents())).sum().backward()
    for network in (G, D):
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("dcgan-fashion", "game.growing={}", "dcgan does not"),
        ("stylegan-tiles", "game.growing.start=32", "not below 32"),
        ("stylegan-tiles", "game.growing.start=12", "game.growing.start"),
        ("stylegan-tiles", "train.images=100000", "fully grown after"),
    ],
)
def test_rejects_impossible_growing(name, override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(name, [override])
