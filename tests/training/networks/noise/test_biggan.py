import pytest
import torch
from torch.nn.utils.parametrize import is_parametrized

from training.export.folding import without_parametrizations
from training.export.onnx_export import export_generator
from training.networks.layers.batch_norm import ConditionalBatchNorm2d
from training.networks.layers.shapes import ImageShape
from training.networks.noise.biggan import BigGANDiscriminatorOptions, BigGANGeneratorOptions
from training.networks.noise.biggan_layers import SelfAttention


def generator(size=32, classes=5, attention=16, width=4):
    chunks = {32: 4, 64: 5, 128: 6, 256: 7}[size]
    options = BigGANGeneratorOptions(
        network="biggan", width=width, attention=attention, z_dim=4 * chunks, class_width=6
    )
    return options.build(ImageShape(3, size, size), classes)


def discriminator(size=32, classes=5, attention=16):
    options = BigGANDiscriminatorOptions(network="biggan", width=4, attention=attention)
    return options.build(ImageShape(3, size, size), classes)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("classes", [0, 5])
def test_shapes_of_images_and_logits(size, classes):
    labels = torch.arange(2) if classes else None
    network = generator(size, classes)
    z = torch.randn(2, network.chunk * (len(network.blocks) + 1))
    images = network(z, labels)
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    assert discriminator(size, classes)(images, labels).shape == (2,)


def test_rejects_unsupported_sizes():
    with pytest.raises(ValueError, match="needs a side of 32, 64, 128, 256; got 28"):
        BigGANGeneratorOptions(network="biggan").build(ImageShape(3, 28, 28))
    with pytest.raises(ValueError, match="splits z into 4 chunks; z_dim 10"):
        BigGANGeneratorOptions(network="biggan", z_dim=10).build(ImageShape(3, 32, 32))


def test_published_networks_have_published_number_of_weights():
    with torch.device("meta"):
        D = BigGANDiscriminatorOptions(network="biggan", width=96).build(
            ImageShape(3, 128, 128), classes=1000
        )
        paper = BigGANGeneratorOptions(network="biggan", width=96, z_dim=120).build(
            ImageShape(3, 128, 128), classes=1000
        )
    # The paper: 70.4 M and 88.0 M for 96 channels and 1000 classes.
    weights = sum(p.numel() for p in paper.parameters())
    assert weights == pytest.approx(70.43e6, rel=0.01)
    assert sum(p.numel() for p in D.parameters()) == pytest.approx(88.0e6, abs=0.05e6)


def test_images_depend_on_every_chunk_and_the_class():
    torch.manual_seed(0)
    network = generator().eval()
    z, label = torch.randn(1, 16), torch.tensor([0])
    before = network(z, label)
    for chunk in range(4):
        other = z.clone()
        other[:, 4 * chunk : 4 * chunk + 4] = torch.randn(4)
        assert not torch.allclose(network(other, label), before)
    assert not torch.allclose(network(z, torch.tensor([1])), before)
    D = discriminator().eval()
    images = torch.randn(1, 3, 32, 32).expand(5, -1, -1, -1)
    assert len(torch.unique(D(images, torch.arange(5)))) == 5


def test_conditional_batch_norm_uses_running_statistics_in_eval():
    torch.manual_seed(0)
    layer = ConditionalBatchNorm2d(6, 3)
    for _ in range(200):
        layer(torch.randn(64, 6, 4, 4) * 3 + 1, torch.randn(64, 3))
    x, condition = torch.randn(4, 6, 4, 4) * 3 + 1, torch.randn(4, 3)
    layer.eval()
    normalized = (x - layer.norm.running_mean[:, None, None]) / (
        layer.norm.running_var[:, None, None] + layer.norm.eps
    ).sqrt()
    gain = (1 + layer.gain(condition))[:, :, None, None]
    expected = normalized * gain + layer.bias(condition)[:, :, None, None]
    torch.testing.assert_close(layer(x, condition), expected, rtol=1e-4, atol=1e-5)
    rows = torch.cat([layer(x[i : i + 1], condition[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(layer(x, condition), rows)


def test_attention_starts_as_identity_and_is_global():
    torch.manual_seed(0)
    layer = SelfAttention(16).eval()
    x = torch.randn(1, 16, 8, 8)
    torch.testing.assert_close(layer(x), x)
    torch.nn.init.ones_(layer.strength)
    changed = x.clone()
    changed[..., 0, 0] += 5
    assert (layer(changed) - layer(x))[..., 7, 7].abs().max() > 1e-6


def test_attention_at_selected_resolution():
    for attention, count in {16: 1, 8: 1, 1024: 0}.items():
        for network in (generator(attention=attention), discriminator(attention=attention)):
            assert sum(isinstance(m, SelfAttention) for m in network.modules()) == count


def test_weights_are_spectrally_normalized():
    for network in (generator(), discriminator()):
        weights = [m for m in network.modules() if is_parametrized(m)]
        assert len(weights) > 8
        network.train()
        for module in weights[:4]:
            for _ in range(30):
                weight = module.weight
            largest = torch.linalg.matrix_norm(weight.flatten(1), 2)
            assert largest.item() == pytest.approx(1, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 5])
def test_exports_without_parametrizations(tmp_path, classes):
    torch.manual_seed(0)
    network = generator(classes=classes)
    labels = torch.arange(8) % classes if classes else None
    for _ in range(3):  # Update running statistics and power iterations.
        network(torch.randn(8, 16), labels)
    graph = export_generator(network.eval(), 16, tmp_path, classes)["generator"]
    assert set(graph.inputs) == {"z", "truncation", *(["class_weights"] if classes else [])}
    bare = without_parametrizations(network)
    assert not any(is_parametrized(module) for module in bare.modules())
    assert any(is_parametrized(module) for module in network.modules())
