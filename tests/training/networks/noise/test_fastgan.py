import pytest
import torch
from torch.nn import functional as F

from training.export.onnx_export import export_generator
from training.networks.layers.shapes import ImageShape
from training.networks.noise.fastgan import FastGANGeneratorOptions, gated_linear_unit


def generator(size=64, classes=0, channels=3):
    torch.manual_seed(0)
    options = FastGANGeneratorOptions(network="fastgan", width=2, z_dim=10, class_width=4)
    return options.build(ImageShape(channels, size, size), classes)


@pytest.mark.parametrize("size", [8, 32, 64, 128, 256])
@pytest.mark.parametrize("classes", [0, 5])
def test_shapes_and_range_of_images(size, classes):
    images = generator(size, classes)(torch.randn(3, 10), torch.arange(3) if classes else None)
    assert images.shape == (3, 3, size, size)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("size", [4, 28, 512])
def test_rejects_unsupported_sides(size):
    with pytest.raises(ValueError, match=f"got {size}"):
        generator(size)


def test_channels_are_multiples_of_the_width():
    channels = [block[0].convolution.weight.shape[0] // 2 for block in generator(256).blocks]
    assert channels == [16, 8, 4, 4, 2, 1]


def test_gated_linear_unit_equals_that_of_pytorch():
    x = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(gated_linear_unit(x), F.glu(x, dim=1))


@pytest.mark.parametrize(("side", "source"), [(64, 4), (128, 8)])
def test_low_resolution_gates_the_channels_of_a_high_one(side, source):
    """The gates see features with 1/16 of the side and scale all pixels of a channel alike."""
    network, seen = generator(128), []
    gates = network.gates[str(side)]
    gates.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out)))
    network(torch.randn(2, 10))
    ((features, gated),) = seen
    assert features.shape[-1] == source
    assert gated.shape[2:] == (1, 1)
    assert ((gated > 0) & (gated < 1)).all()


def test_images_depend_on_latent_and_class():
    network = generator(classes=5).eval()
    images = network(torch.randn(1, 10).expand(5, -1), torch.arange(5))
    assert len(torch.unique(images.flatten(1), dim=0)) == 5
    images = network(torch.randn(5, 10), torch.zeros(5, dtype=torch.int64))
    assert len(torch.unique(images.flatten(1), dim=0)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 5])
def test_generator_exports(tmp_path, classes):
    network = generator(classes=classes)
    for _ in range(10):  # Statistics of batch normalization that fit.
        network(torch.randn(16, 10), torch.arange(16) % 5 if classes else None)
    graph = export_generator(network.eval(), 10, tmp_path, classes)["generator"]
    assert set(graph.inputs) >= ({"z", "class_weights"} if classes else {"z"})
