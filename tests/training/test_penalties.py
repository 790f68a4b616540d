import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from training.losses import adversarial_loss
from training.penalties import (
    clip_weights,
    gradient_penalty,
    layer_weights,
    matching_aware_penalty,
    orthogonal_penalty,
    path_lengths,
    zero_centered_penalty,
)

SHAPE = (5, 1, 3, 3)


def linear_critic(slope):
    """Return a linear critic with the gradient `slope`."""
    return lambda images: (images * slope).flatten(1).sum(1)


def slope(norm):
    return torch.full((1, 3, 3), norm / 3.0)


@pytest.mark.parametrize("norm", [0.5, 1.0, 3.0])
def test_gradient_penalty_is_squared_distance_of_norm_from_1(norm):
    real, fake, mix = torch.randn(SHAPE), torch.randn(SHAPE), torch.rand(5)
    penalty = gradient_penalty(linear_critic(slope(norm)), real, fake, mix)
    torch.testing.assert_close(penalty, torch.tensor((norm - 1) ** 2))


def test_gradient_penalty_is_measured_at_interpolated_images():
    inputs = []

    def critic(images):
        inputs.append(images.detach())
        return images.flatten(1).sum(1)

    real, fake = torch.ones(SHAPE), torch.zeros(SHAPE)
    mix = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    gradient_penalty(critic, real, fake, mix)
    torch.testing.assert_close(inputs[0], mix.reshape(-1, 1, 1, 1).expand(SHAPE))


def test_zero_centered_penalty_is_half_the_squared_norm():
    penalty = zero_centered_penalty(linear_critic(slope(3.0)), torch.randn(SHAPE))
    torch.testing.assert_close(penalty, torch.tensor(4.5))


def dirac_gan(r1=0.0, r2=0.0, turns=500) -> list[float]:
    """Train a Dirac-GAN and return its distance from the equilibrium after each turn.

    Section 2 of arXiv:1801.04406: real images are 0, generated images are θ, the discriminator is
    ψx, and the equilibrium is θ = ψ = 0.
    """
    theta, psi = (torch.ones(1, 1, 1, 1, requires_grad=True) for _ in range(2))
    real, loss, distances = torch.zeros(1, 1, 1, 1), adversarial_loss("wasserstein"), []

    def critic(images):
        return (images * psi).flatten(1).sum(1)

    def descend(weight, value):
        (gradient,) = torch.autograd.grad(value, weight)
        with torch.no_grad():
            weight -= 0.1 * gradient

    for _ in range(turns):
        fake = theta.detach()
        penalty = r1 * zero_centered_penalty(critic, real) + r2 * zero_centered_penalty(
            critic, fake
        )
        descend(psi, loss.discriminator(critic(real), critic(fake)) + penalty)
        descend(theta, loss.generator(critic(real), critic(theta)))
        distances.append(float(torch.hypot(theta, psi).detach()))
    return distances


@pytest.mark.parametrize("penalty", ["r1", "r2"])
def test_zero_centered_penalty_makes_dirac_gan_converge(penalty):
    assert min(dirac_gan()[250:]) > 0.5
    assert max(dirac_gan(**{penalty: 1.0})[250:]) < 0.01


def test_gradients_of_penalties_reach_the_weights():
    critic = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.Softplus(), nn.Linear(8, 1))
    images = torch.randn(SHAPE)
    for penalty in (
        zero_centered_penalty(critic, images),
        gradient_penalty(critic, images, images, torch.rand(5)),
    ):
        critic.zero_grad()
        penalty.backward()
        assert critic[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("power", [2.0, 6.0])
def test_matching_aware_penalty_adds_the_norms_of_images_and_texts(power):
    def critic(images, text):
        return linear_critic(slope(0.5))(images) + (text * torch.tensor([0.3, 0.4])).sum(1)

    penalty = matching_aware_penalty(critic, torch.randn(SHAPE), torch.randn(5, 2), power)
    torch.testing.assert_close(penalty, torch.tensor(1.0))


def test_clips_only_weights_beyond_the_bound():
    weight = torch.tensor([-2.0, -0.005, 0.0, 0.01, 5.0])
    clip_weights([weight], 0.01)
    torch.testing.assert_close(weight, torch.tensor([-0.01, -0.005, 0.0, 0.01, 0.01]))


def test_orthogonal_penalty_ignores_lengths_of_rows():
    orthogonal = torch.diag(torch.tensor([1.0, 5.0, 0.1]))
    skewed = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert orthogonal_penalty([orthogonal]) == 0
    # The product of the rows contains the dot product of both rows twice.
    assert orthogonal_penalty([orthogonal, skewed]) == 2


def test_minimizing_orthogonal_penalty_makes_filters_orthogonal():
    torch.manual_seed(0)
    layer = spectral_norm(nn.Conv2d(3, 8, 3))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    before = orthogonal_penalty(layer_weights(layer)).item()
    for _ in range(200):
        optimizer.zero_grad()
        orthogonal_penalty(layer_weights(layer)).backward()
        optimizer.step()
    assert orthogonal_penalty(layer_weights(layer)) < 0.001 * before


def test_layer_weights_exclude_embeddings_and_normalization():
    network = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 5), nn.BatchNorm1d(5))
    assert [weight.shape for weight in layer_weights(network)] == [(5, 4)]


def test_path_length_is_norm_of_jacobian_product():
    matrix = torch.randn(4, 12)
    w = torch.randn(5, 3, 4, requires_grad=True)
    # Images are linear in the first layer's style, so the Jacobian is the matrix.
    images = (w[:, 0] @ matrix).reshape(5, 3, 2, 2)
    noise = torch.randn(5, 3, 2, 2)
    expected = (noise.flatten(1) @ matrix.t()).norm(dim=1) / (4 * 3) ** 0.5
    torch.testing.assert_close(path_lengths(images, w, noise), expected)
