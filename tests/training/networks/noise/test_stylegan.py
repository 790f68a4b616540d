import pytest
import torch
from torch import nn
from torch.nn import functional as F

from training.export.onnx_export import export_generator
from training.networks.layers.equalized import leaky_relu
from training.networks.layers.resampling import Downsample, Upsample
from training.networks.layers.shapes import ImageShape
from training.networks.noise.stylegan import (
    AdaptiveInstanceNorm,
    DoublingConv2d,
    Epilogue,
    PlainDown,
    StyleGANDiscriminatorOptions,
    StyleGANGeneratorOptions,
)

SMALL = {"network": "stylegan", "width": 8, "most": 16}


def generator(size=16, channels=3, classes=0):
    options = StyleGANGeneratorOptions(**SMALL, z_dim=10, w_dim=12, mapping_layers=2, class_width=4)
    return options.build(ImageShape(channels, size, size), classes)


def discriminator(size=16, channels=3, classes=0):
    return StyleGANDiscriminatorOptions(**SMALL).build(ImageShape(channels, size, size), classes)


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256, 512, 1024])
@pytest.mark.parametrize("classes", [0, 5])
def test_shapes_of_images_and_logits(size, classes):
    with torch.device("meta"):
        labels = torch.arange(4) if classes else None
        images = generator(size, classes=classes)(torch.randn(4, 10), labels)
        assert images.shape == (4, 3, size, size)
        assert discriminator(size, classes=classes)(images, labels).shape == (4,)


def test_published_generator_has_published_size():
    with torch.device("meta"):
        largest = StyleGANGeneratorOptions(network="stylegan", width=16).build(
            ImageShape(3, 1024, 1024)
        )
    assert largest.layers == 18
    assert largest.layer_resolutions[:4] == [4, 4, 8, 8]
    # Table 1 of the paper gives 26.2 M.
    assert sum(p.numel() for p in largest.parameters()) == pytest.approx(26.2e6, rel=0.01)


def test_adain_sets_mean_and_deviation():
    torch.manual_seed(0)
    adapt = AdaptiveInstanceNorm(6, 12)
    x, w = torch.randn(4, 6, 16, 16) * 7 + 3, torch.randn(4, 12)
    scale, mean = adapt.style(w).chunk(2, dim=1)
    adapted = adapt(x, w)
    torch.testing.assert_close(adapted.mean((2, 3)), mean, rtol=1e-3, atol=1e-4)
    deviation = adapted.std((2, 3), correction=0)
    torch.testing.assert_close(deviation, (1 + scale).abs(), rtol=1e-3, atol=1e-4)


def test_fused_resampling_equals_separate_steps_inside_border():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16, 16)
    double = DoublingConv2d(5, 7)
    expected = F.conv2d(Upsample()(x), double.weight * double.scale, padding=1)
    assert double(x).shape == expected.shape == (2, 7, 32, 32)
    torch.testing.assert_close(double(x)[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3])

    halve = PlainDown(5, 7)
    kept = leaky_relu(halve.keep(x))
    widened = F.conv2d(kept, halve.widen.weight * halve.widen.scale, halve.widen.bias, padding=1)
    expected = leaky_relu(Downsample()(widened))
    assert halve(x).shape == expected.shape == (2, 7, 8, 8)
    torch.testing.assert_close(halve(x)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_noise_is_random_in_training_and_constant_in_eval():
    torch.manual_seed(0)
    layer = Epilogue(4, 8, 12)
    nn.init.ones_(layer.noise_strength)
    x, w = torch.randn(2, 4, 8, 8), torch.randn(2, 12)
    assert not torch.equal(layer.train()(x, w), layer(x, w))
    served = layer.eval()(x, w)
    assert torch.equal(served, layer(x, w))


def test_style_affects_only_its_layer_and_later_ones():
    torch.manual_seed(0)
    network = generator(16).eval()
    outputs = {}
    for name, module in network.synthesis.named_modules():
        if isinstance(module, Epilogue):
            module.register_forward_hook(lambda _, __, out, name=name: outputs.update({name: out}))
    w = torch.randn(1, network.layers, 12)
    image, before = network.synthesis(w), dict(outputs)
    assert len(before) == network.layers
    for layer in range(network.layers):
        other = w.clone()
        other[:, layer] = torch.randn(12)
        assert (network.synthesis(other) - image).abs().mean() > 1e-4
        same = [torch.equal(outputs[name], before[name]) for name in before]
        assert same == [i < layer for i in range(network.layers)]


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 5])
def test_exports_mapping_and_synthesis(tmp_path, classes):
    torch.manual_seed(0)
    graphs = export_generator(generator(classes=classes).eval(), 10, tmp_path, classes)
    expected = {"z", "truncation"} | ({"class_weights"} if classes else set())
    assert set(graphs["mapping"].inputs) == expected
    assert graphs["synthesis"].inputs == ("w",)
