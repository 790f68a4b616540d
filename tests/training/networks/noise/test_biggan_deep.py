import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from service.runtime.latent import seeds
from training.export.exporter import export_run
from training.export.onnx_export import export_generator
from training.export.standing_statistics import with_standing_statistics
from training.networks.layers.shapes import ImageShape
from training.networks.noise.biggan import BigGANDiscriminatorOptions, BigGANGeneratorOptions
from training.networks.noise.biggan_deep import BottleneckDown, BottleneckUp
from training.networks.noise.biggan_layers import SelfAttention
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train


def generator(size=32, classes=5, **options):
    options = {"width": 8, "attention": 16, "z_dim": 10, "class_width": 6, **options}
    chosen = BigGANGeneratorOptions(network="biggan", deep=True, **options)
    return chosen.build(ImageShape(3, size, size), classes)


def discriminator(size=32, classes=5, **options):
    options = {"width": 8, "attention": 16, **options}
    chosen = BigGANDiscriminatorOptions(network="biggan", deep=True, **options)
    return chosen.build(ImageShape(3, size, size), classes)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("classes", [0, 5])
def test_shapes_of_images_and_logits(size, classes):
    with torch.device("meta"):
        labels = torch.zeros(2, dtype=torch.int64) if classes else None
        images = generator(size, classes)(torch.randn(2, 10), labels)
        assert images.shape == (2, 3, size, size)
        assert discriminator(size, classes)(images, labels).shape == (2,)


@pytest.mark.parametrize(
    ("size", "generator_weights", "discriminator_weights"),
    [(128, 50.4e6, 34.6e6), (256, 55.9e6, None)],
)
def test_published_networks_have_published_number_of_weights(
    size, generator_weights, discriminator_weights
):
    with torch.device("meta"):
        paper = {"width": 128, "attention": 64}
        G = generator(size, 1000, **paper, z_dim=128, class_width=128)
        D = discriminator(size, 1000, **paper)
    # The last layer of the published generators has `width` channels, of which three are used.
    unused = 9 * 128 * (128 - 3) + (128 - 3)
    weights = sum(p.numel() for p in G.parameters()) + unused
    assert weights == pytest.approx(generator_weights, abs=0.05e6)
    if discriminator_weights:
        weights = sum(p.numel() for p in D.parameters())
        assert weights == pytest.approx(discriminator_weights, abs=0.05e6)


def test_two_bottleneck_blocks_per_resolution():
    blocks = [m for m in generator(64).modules() if isinstance(m, BottleneckUp)]
    # Channels in units of 8: 16, 16, 8, 4, 2 from 4×4 to 64×64.
    assert [b.doubles for b in blocks].count(True) == len(blocks) / 2 == 4
    assert sorted((b.grow.in_channels, b.fan_out) for b in blocks if b.doubles) == [
        (8, 16),
        (16, 32),
        (32, 64),
        (32, 128),
    ]
    blocks = [m for m in discriminator(64).modules() if isinstance(m, BottleneckDown)]
    assert [b.halves for b in blocks] == [True, False] * 4
    assert [b.look.in_channels * 4 for b in blocks] == [32, 32, 64, 64, 128, 128, 128, 128]


def without_branch(block):
    """Zero the block's branch so that only its skip connection remains."""
    remove_parametrizations(block.widen, "weight")
    torch.nn.init.zeros_(block.widen.weight)
    torch.nn.init.zeros_(block.widen.bias)
    return block.eval()


def test_generator_skip_drops_last_channels():
    torch.manual_seed(0)
    block = without_branch(BottleneckUp(8, 4, 3, doubles=True))
    x, condition = torch.randn(2, 8, 4, 4), torch.randn(2, 3)
    torch.testing.assert_close(block(x, condition), F.interpolate(x[:, :4], scale_factor=2))


def test_discriminator_skip_adds_channels():
    torch.manual_seed(0)
    block, x = without_branch(BottleneckDown(4, 8, halves=True)), torch.randn(2, 4, 8, 8)
    out, pooled = block(x), F.avg_pool2d(x, 2)
    torch.testing.assert_close(out[:, :4], pooled)
    torch.testing.assert_close(out[:, 4:], block.more(pooled))


def test_every_block_depends_on_latent_and_class():
    torch.manual_seed(0)
    network = generator().eval()
    z, label = torch.randn(1, 10), torch.tensor([0])
    before = network(z, label)
    for value in range(10):
        other = z.clone()
        other[:, value] += 1
        assert not torch.allclose(network(other, label), before)
    assert not torch.allclose(network(z, torch.tensor([1])), before)
    for block in (m for m in network.modules() if isinstance(m, BottleneckUp)):
        for norm in (block.norm_in, block.norm_grow, block.norm_refine, block.norm_out):
            assert norm.gain.in_features == 10 + 6


def test_every_weight_has_a_gradient():
    torch.manual_seed(0)
    G, D = generator(), discriminator()
    for network in (G, D):
        for module in network.modules():
            if isinstance(module, SelfAttention):
                # An initial strength of 0 blocks gradients to the layers of the attention.
                torch.nn.init.ones_(module.strength)
    labels = torch.arange(20) % 5
    D(G(torch.randn(20, 10), labels), labels).sum().backward()
    for network in (G, D):
        for name, weight in network.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.abs().max() > 0, name


def test_every_weight_is_spectrally_normalized():
    for network in (generator(), discriminator()):
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                assert is_parametrized(module, "weight"), name


def test_attention_at_selected_resolution():
    for attention, count in {16: 1, 8: 1, 1024: 0}.items():
        for network in (generator(attention=attention), discriminator(attention=attention)):
            assert sum(isinstance(m, SelfAttention) for m in network.modules()) == count


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 5])
def test_generator_exports(tmp_path, classes):
    torch.manual_seed(0)
    network = generator(classes=classes)
    for _ in range(3):
        network(torch.randn(8, 10), torch.arange(8) % classes if classes else None)
    graph = export_generator(network.eval(), 10, tmp_path, classes)["generator"]
    assert set(graph.inputs) == {"z", "truncation", *(["class_weights"] if classes else [])}


def test_supports_standing_statistics():
    fitted = with_standing_statistics(generator(), 10, 5, seeds.draw, batches=1)
    z, labels = torch.randn(4, 10), torch.arange(4)
    with torch.no_grad():
        images = fitted(z, labels, torch.tensor([0, 0.3, 0.7, 1]))
    assert images.isfinite().all()
    assert images.shape == (4, 3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("deep", [False, True])
def test_biggan_and_biggan_deep_train_and_export(tmp_path, digits, deep):
    players = [
        f"{player}={{network: biggan, deep: {str(deep).lower()}, width: 4, attention: 16}}"
        for player in ("generator", "discriminator")
    ]
    overrides = [
        *players,
        *("data.resolution=32", "train.batch=16", "train.images=48", f"data.path={digits}"),
    ]
    run = Run(tmp_path / "run")
    assert train(load_recipe("cgan-fashion", overrides), run).images == 48
    assert (export_run(run, "x", tmp_path / "models") / "generator.onnx").exists()
