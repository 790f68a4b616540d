"""Image-to-image networks: shapes, receptive fields and patches."""

import pytest
import torch
from torch import nn

from training.networks.image.gated import GatedOptions
from training.networks.image.patchgan import PatchGANOptions
from training.networks.image.resnet import ResNetOptions
from training.networks.image.rrdb import RRDBOptions
from training.networks.image.srresnet import SRResNetOptions
from training.networks.image.unet import UNetOptions
from training.networks.layers.shapes import ImageToImageShape

NETWORKS = {
    "unet": (UNetOptions(network="unet", width=4, most=8, levels=2), 1),
    "unet, instance": (
        UNetOptions(network="unet", width=4, most=8, levels=2, normalisation="instance"),
        1,
    ),
    "resnet": (ResNetOptions(network="resnet", width=4, blocks=2), 1),
    "resnet, batch": (
        ResNetOptions(network="resnet", width=4, blocks=2, normalisation="batch"),
        1,
    ),
    "rrdb 4": (RRDBOptions(network="rrdb", width=6, growth=4, blocks=1), 4),
    "rrdb 2": (RRDBOptions(network="rrdb", width=6, growth=4, blocks=1), 2),
    "srresnet 4": (SRResNetOptions(network="srresnet", width=6, blocks=1), 4),
    "srresnet 2": (SRResNetOptions(network="srresnet", width=6, blocks=2), 2),
    "gated": (GatedOptions(network="gated", width=4, dilations=(1, 2)), 1),
}


def build(name, side=16):
    options, factor = NETWORKS[name]
    shape = ImageToImageShape(3, 3, side, factor)
    torch.manual_seed(0)
    return options, shape, options.build(shape).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_output_size_for_multiples_of_side_multiple(name):
    options, shape, network = build(name)
    step = options.side_multiple(shape)
    for height, width in ((16, 16), (2 * step + 16, 3 * step + 16)):
        outputs = network(torch.rand(2, 3, height, width) * 2 - 1)
        assert outputs.shape == (2, 3, height * shape.factor, width * shape.factor)


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_field_is_bounded_and_tight(name):
    options, shape, network = build(name)
    receptive_field = options.receptive_field(shape)
    # Several adjacent pixels, because strides treat them differently.
    side = 2 * ((receptive_field or 24) + 12)
    side -= side % options.side_multiple(shape)
    distance = 0
    for place in range(side // 2, side // 2 + 4):
        images = torch.rand(1, 3, side, side) * 2 - 1
        images.requires_grad_()
        outputs = network(images)
        # Changing one input pixel shows which output pixels depend on it.
        with torch.no_grad():
            other = images.clone()
            other[..., place, place] += 5
            apart = (network(other) - outputs).abs().amax((0, 1))
        affected = torch.nonzero(apart > 0)
        distances = ((affected + 0.5) / shape.factor - place - 0.5).abs().amax(1)
        distance = max(distance, float(distances.max()))
    if receptive_field is None:
        # The output depends on the whole image.
        assert distance >= side // 2 - 1
    else:
        assert distance <= receptive_field
        assert distance >= receptive_field / 4


def test_unet_depth_follows_the_side():
    options = UNetOptions(network="unet", width=2, most=2)
    assert options.side_multiple(ImageToImageShape(1, 3, 64)) == 64
    network = options.build(ImageToImageShape(1, 3, 64))
    assert len(network.down) == 6
    for side, levels in ((48, 5), (2, 1)):
        with pytest.raises(ValueError, match="needs a side"):
            UNetOptions(network="unet", levels=levels).build(ImageToImageShape(3, 3, side))
    with pytest.raises(ValueError, match="use rrdb"):
        options.build(ImageToImageShape(3, 3, 64, 4))


def test_published_pix2pix_generator_has_54_million_parameters():
    # The U-Net for 256 pixels in the paper's code has 54.4 million.
    with torch.device("meta"):
        network = UNetOptions(network="unet").build(ImageToImageShape(3, 3, 256))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(54.4e6, rel=0.002)


def test_published_cyclegan_generator_has_11_million_parameters():
    with torch.device("meta"):
        options = ResNetOptions(network="resnet", blocks=9)
        network = options.build(ImageToImageShape(3, 3, 256))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(11.38e6, rel=0.002)


def test_published_esrgan_generator_has_16_7_million_parameters():
    with torch.device("meta"):
        network = RRDBOptions(network="rrdb").build(ImageToImageShape(3, 3, 32, 4))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(16.70e6, rel=0.002)


def test_published_srgan_generator_has_1_5_million_parameters():
    with torch.device("meta"):
        options = SRResNetOptions(network="srresnet")
        network = options.build(ImageToImageShape(3, 3, 24, 4))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1.55e6, rel=0.005)
    with pytest.raises(ValueError, match="a power of 2"):
        options.build(ImageToImageShape(3, 3, 24, 3))


@pytest.mark.parametrize("name", ["rrdb 4", "srresnet 4"])
def test_untrained_upscaler_is_bicubic_interpolation(name):
    _, _, network = build(name)
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    nn.init.zeros_(last.weight)
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    smooth = nn.functional.interpolate(images, scale_factor=4.0, mode="bicubic")
    torch.testing.assert_close(network(images), smooth)


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_patch_sizes_of_the_paper(layers, patch):
    options = PatchGANOptions(network="patchgan", width=4, layers=layers, normalisation="none")
    network = options.build(3)
    images = torch.rand(1, 3, 128, 128, requires_grad=True)
    logits = network(images)
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    visible = images.grad.abs().amax((0, 1)) > 0
    assert int(visible.any(0).sum()) == patch
    assert int(visible.any(1).sum()) == patch
