import pytest
import torch

from training.losses import adversarial_loss, separation
from training.networks.layers.minibatch import MinibatchDiscrimination, MinibatchStandardDeviation
from training.networks.layers.shapes import ImageShape
from training.networks.noise.dcgan import DCGANDiscriminator


def test_standard_deviation_of_groups():
    layer = MinibatchStandardDeviation(group=4)
    images = torch.randn(8, 3, 5, 5)
    joined = layer(images)
    assert joined.shape == (8, 4, 5, 5)
    # The group of row i contains the rows with the same index in each quarter.
    group = images.reshape(4, 2, 3, 5, 5)[:, 1]
    expected = group.std(0, correction=0).mean()
    torch.testing.assert_close(joined[1, 3], expected.expand(5, 5), rtol=1e-4, atol=1e-4)
    collapsed = layer(images[:1].expand(8, -1, -1, -1))
    assert collapsed[:, 3].max() < 1e-3


def test_indivisible_batch_is_one_group():
    assert MinibatchStandardDeviation(group=4)(torch.randn(6, 3, 5, 5)).shape == (6, 4, 5, 5)


def test_discrimination_counts_similar_rows():
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(10, kernels=4, kernel_dim=3)
    different = layer(torch.randn(6, 10) * 10)[:, 10:]
    collapsed = layer(torch.randn(1, 10).expand(6, -1))[:, 10:]
    torch.testing.assert_close(collapsed, torch.full((6, 4), 5.0), rtol=1e-4, atol=1e-4)
    assert different.mean() < 1


def test_minibatch_layers_make_logits_depend_on_the_batch():
    shape = ImageShape(1, 28, 28)
    images = torch.randn(8, 1, 28, 28)
    for kind, sees in {"none": False, "standard_deviation": True, "discrimination": True}.items():
        torch.manual_seed(0)
        network = DCGANDiscriminator(shape, 8, "none", minibatch=kind)
        alone = network(images[:1].expand(8, -1, -1, -1))[0]
        among_others = network(images)[0]
        assert (not torch.allclose(alone, among_others, atol=1e-6)) == sees


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "standard_deviation", "discrimination"])
def test_only_minibatch_layers_detect_a_collapsed_generator(kind):
    """Generated images have the distribution of real ones but are identical within a batch."""
    torch.manual_seed(0)
    network = DCGANDiscriminator(ImageShape(1, 16, 16), 8, "none", minibatch=kind)
    optimizer, loss = torch.optim.Adam(network.parameters(), lr=0.002), adversarial_loss("hinge")
    separations = []
    for _ in range(150):
        real, image = torch.randn(16, 1, 16, 16), torch.randn(1, 1, 16, 16)
        logits = network(real), network(image.expand(16, -1, -1, -1))
        separations.append(separation(*logits).item())
        optimizer.zero_grad()
        loss.discriminator(*logits).backward()
        optimizer.step()
    mean_separation = sum(separations[-75:]) / 75
    assert abs(mean_separation - 0.5) < 0.15 if kind == "none" else mean_separation > 0.9


def test_spectral_normalization_bounds_gradients():
    shape = ImageShape(1, 28, 28)
    gradient_norms = {}
    for kind in ("none", "spectral"):
        torch.manual_seed(0)
        network = DCGANDiscriminator(shape, 8, kind)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(50)
        for _ in range(20):  # Power iterations run in training mode.
            network(torch.randn(4, 1, 28, 28))
        images = torch.randn(8, 1, 28, 28, requires_grad=True)
        (gradient,) = torch.autograd.grad(network(images).sum(), images)
        gradient_norms[kind] = gradient.flatten(1).norm(dim=1).max().item()
    # Each reshaped weight has norm 1, and a 4×4 kernel of stride 2 covers each pixel four times.
    assert gradient_norms["spectral"] < 10 < gradient_norms["none"]
