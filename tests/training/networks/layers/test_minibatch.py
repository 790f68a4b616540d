import pytest
import torch

from training.losses import adversarial_loss, separation
from training.networks.layers.minibatch import MinibatchDiscrimination, MinibatchStandardDeviation
from training.networks.layers.shapes import ImageShape
from training.networks.noise.dcgan import DCGANDiscriminator


def test_standard_deviation_is_that_of_the_group_and_0_for_a_collapsed_batch():
    layer = MinibatchStandardDeviation(group=4)
    images = torch.randn(8, 3, 5, 5)
    joined = layer(images)
    assert joined.shape == (8, 4, 5, 5)
    # Row i shares its group with the rows at the same place of each quarter.
    group = images.reshape(4, 2, 3, 5, 5)[:, 1]
    expected = group.std(0, correction=0).mean()
    torch.testing.assert_close(joined[1, 3], expected.expand(5, 5), rtol=1e-4, atol=1e-4)
    collapsed = layer(images[:1].expand(8, -1, -1, -1))
    assert collapsed[:, 3].max() < 1e-3


def test_a_batch_that_is_no_multiple_is_one_group():
    assert MinibatchStandardDeviation(group=4)(torch.randn(6, 3, 5, 5)).shape == (6, 4, 5, 5)


def test_discrimination_says_how_many_rows_are_alike():
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(10, kernels=4, kernel_dim=3)
    different = layer(torch.randn(6, 10) * 10)[:, 10:]
    collapsed = layer(torch.randn(1, 10).expand(6, -1))[:, 10:]
    torch.testing.assert_close(collapsed, torch.full((6, 4), 5.0), rtol=1e-4, atol=1e-4)
    assert different.mean() < 1


def test_a_discriminator_that_sees_the_batch_scores_a_collapsed_one_otherwise():
    shape = ImageShape(1, 28, 28)
    images = torch.randn(8, 1, 28, 28)
    for kind, sees in {"none": False, "standard_deviation": True, "discrimination": True}.items():
        torch.manual_seed(0)
        network = DCGANDiscriminator(shape, 8, "none", minibatch=kind)
        alone = network(images[:1].expand(8, -1, -1, -1))[0]
        among_others = network(images)[0]
        assert (not torch.allclose(alone, among_others, atol=1e-6)) == sees


@pytest.mark.parametrize("kind", ["none", "standard_deviation", "discrimination"])
def test_only_a_discriminator_that_sees_the_batch_finds_out_a_collapsed_generator(kind):
    """Each generated picture is as good as a real one, but all of a batch are the same."""
    torch.manual_seed(0)
    network = DCGANDiscriminator(ImageShape(1, 16, 16), 8, "none", minibatch=kind)
    optimizer, loss = torch.optim.Adam(network.parameters(), lr=0.002), adversarial_loss("hinge")
    told = []
    for _ in range(150):
        real, picture = torch.randn(16, 1, 16, 16), torch.randn(1, 1, 16, 16)
        logits = network(real), network(picture.expand(16, -1, -1, -1))
        told.append(separation(*logits).item())
        optimizer.zero_grad()
        loss.discriminator(*logits).backward()
        optimizer.step()
    tells = sum(told[-75:]) / 75
    assert abs(tells - 0.5) < 0.15 if kind == "none" else tells > 0.9


def test_spectral_normalisation_bounds_how_steep_the_discriminator_can_be():
    shape = ImageShape(1, 28, 28)
    steepness = {}
    for kind in ("none", "spectral"):
        torch.manual_seed(0)
        network = DCGANDiscriminator(shape, 8, kind)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(50)
        for _ in range(20):  # Power iterations happen as it trains.
            network(torch.randn(4, 1, 28, 28))
        images = torch.randn(8, 1, 28, 28, requires_grad=True)
        (gradient,) = torch.autograd.grad(network(images).sum(), images)
        steepness[kind] = gradient.flatten(1).norm(dim=1).max().item()
    # Each layer's reshaped weight has norm 1; a 4×4 kernel of stride 2 covers a place four times.
    assert steepness["spectral"] < 10 < steepness["none"]
