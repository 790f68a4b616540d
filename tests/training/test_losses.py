import math

import pytest
import torch

from training.losses import LOSSES, minimax_generator_loss, non_saturating_generator_loss

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])


def log_d(logits):
    return torch.log(torch.sigmoid(logits))


def log_not_d(logits):
    return torch.log(1 - torch.sigmoid(logits))


def test_the_discriminator_maximises_equation_1():
    expected = -(log_d(REAL).mean() + log_not_d(FAKE).mean())
    torch.testing.assert_close(LOSSES["minimax"].discriminator(REAL, FAKE), expected)


def test_the_generators_losses_are_the_papers():
    torch.testing.assert_close(minimax_generator_loss(FAKE), log_not_d(FAKE).mean())
    torch.testing.assert_close(non_saturating_generator_loss(FAKE), -log_d(FAKE).mean())


def test_at_the_equilibrium_the_discriminator_pays_log_4():
    undecided = torch.zeros(8)
    loss = LOSSES["non_saturating"].discriminator(undecided, undecided)
    assert loss.item() == pytest.approx(math.log(4))


def test_minimax_saturates_where_the_discriminator_is_sure_and_non_saturating_does_not():
    gradients = {}
    for name, loss in LOSSES.items():
        logits = torch.full((4,), -20.0, requires_grad=True)
        loss.generator(logits).backward()
        gradients[name] = logits.grad.abs().sum().item()
    assert gradients["minimax"] < 1e-6
    assert gradients["non_saturating"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_finite_for_any_logit(name):
    extremes = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(LOSSES[name].discriminator(extremes, extremes))
    assert torch.isfinite(LOSSES[name].generator(extremes))
