import math
from typing import get_args

import pytest
import torch

from training.losses import (
    SMOOTHABLE,
    LossName,
    adversarial_loss,
    minimax_generator_loss,
    non_saturating_generator_loss,
    separation,
)

LOSSES = {name: adversarial_loss(name) for name in get_args(LossName)}

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])


def log_d(logits):
    return torch.log(torch.sigmoid(logits))


def log_not_d(logits):
    return torch.log(1 - torch.sigmoid(logits))


def test_discriminator_loss_is_equation_1():
    expected = -(log_d(REAL).mean() + log_not_d(FAKE).mean())
    torch.testing.assert_close(LOSSES["minimax"].discriminator(REAL, FAKE), expected)


def test_generator_losses_of_the_2014_paper():
    torch.testing.assert_close(minimax_generator_loss(FAKE), log_not_d(FAKE).mean())
    torch.testing.assert_close(non_saturating_generator_loss(FAKE), -log_d(FAKE).mean())


def test_discriminator_loss_at_equilibrium_is_log_4():
    undecided = torch.zeros(8)
    loss = LOSSES["non_saturating"].discriminator(undecided, undecided)
    assert loss.item() == pytest.approx(math.log(4))


def test_only_minimax_saturates_for_confident_discriminator():
    gradients = {}
    for name in ("minimax", "non_saturating"):
        logits = torch.full((4,), -20.0, requires_grad=True)
        LOSSES[name].generator(torch.zeros(4), logits).backward()
        gradients[name] = logits.grad.abs().sum().item()
    assert gradients["minimax"] < 1e-6
    assert gradients["non_saturating"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_finite_for_any_logit(name):
    extremes = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(LOSSES[name].discriminator(extremes, extremes))
    assert torch.isfinite(LOSSES[name].generator(extremes, extremes))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_push_logits_in_opposite_directions(name):
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    LOSSES[name].discriminator(real, fake).backward()
    assert (real.grad < 0).all()
    assert (fake.grad >= 0).all()
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    LOSSES[name].generator(real, fake).backward()
    assert (fake.grad < 0).all()


def test_least_squares_hinge_and_wasserstein_equations():
    loss = LOSSES["least_squares"]
    expected = 0.5 * ((REAL - 1) ** 2).mean() + 0.5 * (FAKE**2).mean()
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), expected)
    torch.testing.assert_close(loss.generator(REAL, FAKE), 0.5 * ((FAKE - 1) ** 2).mean())
    loss = LOSSES["hinge"]
    expected = (1 - REAL).clamp(min=0).mean() + (1 + FAKE).clamp(min=0).mean()
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), expected)
    torch.testing.assert_close(loss.generator(REAL, FAKE), -FAKE.mean())
    loss = LOSSES["wasserstein"]
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), FAKE.mean() - REAL.mean())


def test_relativistic_loss_compares_pairs():
    loss = LOSSES["relativistic"]
    assert loss.generator_sees_real
    expected = -log_d(REAL - FAKE).mean()
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), expected)
    torch.testing.assert_close(loss.generator(REAL, FAKE), -log_d(FAKE - REAL).mean())
    shifted = loss.discriminator(REAL + 5, FAKE + 5)
    torch.testing.assert_close(shifted, loss.discriminator(REAL, FAKE))


@pytest.mark.parametrize("name", sorted(SMOOTHABLE))
def test_one_sided_smoothing_changes_only_real_target(name):
    smooth = adversarial_loss(name, real_target=0.9)
    target = 0.9 if name == "least_squares" else math.log(0.9 / 0.1)
    real, fake = torch.full((4,), target, requires_grad=True), torch.zeros(4, requires_grad=True)
    smooth.discriminator(real, fake).backward()
    torch.testing.assert_close(real.grad, torch.zeros(4), rtol=0, atol=1e-6)
    plain = torch.zeros(4, requires_grad=True)
    LOSSES[name].discriminator(torch.zeros(4), plain).backward()
    torch.testing.assert_close(fake.grad, plain.grad)


@pytest.mark.parametrize("target", [1.0, 0.9])
@pytest.mark.parametrize("name", LOSSES)
def test_bounds_are_losses_of_perfect_and_blind_discriminator(name, target):
    loss = adversarial_loss(name, target if name in SMOOTHABLE else 1.0)
    logits = torch.linspace(-30, 30, 6001)
    if loss.bounds is None:
        assert loss.discriminator(logits[-1:], logits[:1]) < -50
        return
    never = min(float(loss.discriminator(logit, logit)) for logit in logits.split(1))
    lowest = logits[:1]
    always = min(float(loss.discriminator(logit, lowest)) for logit in logits.split(1))
    if name == "least_squares":
        always = min(float(loss.discriminator(x, torch.zeros(1))) for x in logits.split(1))
    assert loss.bounds == pytest.approx((always, never), abs=1e-4)


def test_separation_is_share_of_correctly_ordered_pairs():
    assert separation(torch.tensor([3.0, 2.0]), torch.tensor([1.0, -5.0])) == 1
    assert separation(torch.tensor([3.0, 0.0]), torch.tensor([1.0, -5.0])) == 0.75
    assert separation(torch.zeros(4), torch.zeros(4)) == 0.5
