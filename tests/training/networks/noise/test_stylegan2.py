import pytest
import torch
from torch.nn import functional as F

from training.export.onnx_export import export_generator
from training.networks.layers.resampling import Blur
from training.networks.layers.shapes import ImageShape
from training.networks.noise.stylegan2 import (
    ModulatedConv2d,
    StyledLayer,
    StyleGAN2DiscriminatorOptions,
    StyleGAN2GeneratorOptions,
)

SMALL = {"network": "stylegan2", "width": 8, "most": 16}


def generator(size=16, channels=3, classes=0):
    options = StyleGAN2GeneratorOptions(
        **SMALL, z_dim=10, w_dim=12, mapping_layers=2, class_width=4
    )
    return options.build(ImageShape(channels, size, size), classes)


def discriminator(size=16, channels=3, classes=0):
    return StyleGAN2DiscriminatorOptions(**SMALL).build(ImageShape(channels, size, size), classes)


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("classes", [0, 5])
def test_shapes_of_images_and_logits(size, classes):
    labels = torch.arange(4) if classes else None
    images = generator(size, classes=classes)(torch.randn(4, 10), labels)
    assert images.shape == (4, 3, size, size)
    assert discriminator(size, classes=classes)(images, labels).shape == (4,)


@pytest.mark.parametrize("size", [8, 28, 2048])
def test_rejects_unsupported_sides(size):
    with pytest.raises(ValueError, match=str(size)):
        generator(size)


def test_published_generator_has_published_size():
    with torch.device("meta"):
        largest = StyleGAN2GeneratorOptions(network="stylegan2", width=32).build(
            ImageShape(3, 1024, 1024)
        )
    assert largest.layers == 18
    assert largest.synthesis.layer_resolutions[:5] == [4, 8, 8, 16, 16]
    # NVIDIA's network has 30.37 M, including a mapping network of 8 layers of 512.
    weights = sum(p.numel() for p in largest.parameters())
    assert weights == pytest.approx(30.37e6, rel=0.002)


@pytest.mark.parametrize("doubles", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_equals_grouped_form(doubles, demodulate):
    torch.manual_seed(0)
    layer = ModulatedConv2d(5, 7, 3, 12, demodulate=demodulate, doubles=doubles)
    x, w = torch.randn(4, 5, 8, 8), torch.randn(4, 12)
    # Equations 1 and 3: each row has its own weights, computed as a grouped convolution.
    weight = layer.weight * layer.scale * layer.style(w)[:, None, :, None, None]
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    grouped = x.reshape(1, 20, 8, 8)
    if doubles:
        weight = weight.transpose(1, 2).reshape(20, 7, 3, 3)
        expected = F.conv_transpose2d(grouped, weight, stride=2, groups=4)
        expected = Blur(pad=1, gain=4.0)(expected.reshape(4, 7, 17, 17))
    else:
        expected = F.conv2d(grouped, weight.reshape(28, 5, 3, 3), padding=1, groups=4)
    expected = expected.reshape(4, 7, *expected.shape[2:])
    torch.testing.assert_close(layer(x, w), expected, rtol=1e-4, atol=1e-5)


def test_demodulation_gives_unit_variance():
    torch.manual_seed(0)
    layer = ModulatedConv2d(64, 32, 3, 12)
    x = torch.randn(8, 64, 32, 32)
    for strength in (0.1, 10.0):
        deviation = layer(x, torch.randn(8, 12) * strength)[..., 1:-1, 1:-1].std((2, 3))
        assert 0.8 < deviation.mean() < 1.2


def test_noise_is_random_in_training_and_constant_in_eval():
    layer = StyledLayer(4, 4, 8, 12)
    torch.nn.init.ones_(layer.noise_strength)
    x, w = torch.zeros(2, 4, 8, 8), torch.randn(2, 12)
    assert not torch.equal(layer.train()(x, w), layer(x, w))
    served = layer.eval()(x, w)
    assert torch.equal(served, layer(x, w))
    torch.testing.assert_close(served[0], served[1])


def test_each_style_changes_the_image():
    torch.manual_seed(0)
    synthesis = generator(32).synthesis.eval()
    layers = len(synthesis.layer_resolutions)
    w = torch.randn(1, layers, 12)
    before = synthesis(w)
    changes = []
    for layer in range(layers):
        other = w.clone()
        other[:, layer] = torch.randn(12)
        changes.append((synthesis(other) - before).abs().mean().item())
    assert all(change > 1e-4 for change in changes)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 5])
def test_exports_mapping_and_synthesis(tmp_path, classes):
    torch.manual_seed(0)
    network = generator(classes=classes).eval()
    graphs = export_generator(network, 10, tmp_path, classes)
    expected = {"z", "truncation"} | ({"class_weights"} if classes else set())
    assert set(graphs["mapping"].inputs) == expected
    assert graphs["synthesis"].inputs == ("w",)


def test_both_networks_depend_on_the_class():
    network = generator(classes=5).eval()
    images = network(torch.randn(1, 10).expand(5, -1), torch.arange(5))
    assert len(torch.unique(images.flatten(1), dim=0)) == 5
    logits = discriminator(classes=5)(images[:1].expand(5, -1, -1, -1), torch.arange(5))
    assert len(torch.unique(logits)) == 5
