"""The game of pix2pix: its losses, its order of updates, and that it learns."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.distributed import DistributedContext
from training.games.paired.game import PairBatch, Paired
from training.recipe.loading import load_recipe

SMALL = [
    *("generator.width=4", "generator.most=4", "generator.levels=2", "generator.dropout=0"),
    *("generator.normalisation=none", "discriminator.normalisation=none"),
    *("discriminator.width=4", "discriminator.layers=1", "data.resolution=16"),
    *("source.resolution=16", "device.precision=float32"),
]


def make(*overrides):
    recipe = load_recipe("pix2pix-emoji", [*SMALL, *overrides])
    return Paired(recipe, recipe.game, torch.device("cpu"), "float32", DistributedContext())


def pairs(count=8, seed=1):
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, 3, 16, 16, generator=rng) * 2 - 1
    return PairBatch(inputs, -inputs)


def play(game, turns=1, start=0, batch=None):
    for turn in range(start, start + turns):
        rng = torch.Generator().manual_seed(turn)
        metrics = game.turn([batch or pairs(seed=turn)], rng, turn, turn * 8)
    return metrics


def networks(game):
    return game._players.networks["generator"], game._players.networks["discriminator"]


def test_losses_equal_equations_of_pix2pix():
    game = make("game.l1=100")
    generator, discriminator = (copy.deepcopy(network) for network in networks(game))
    batch = pairs()
    metrics = play(game, batch=batch)
    outputs = generator(batch.inputs)
    real = discriminator(torch.cat([batch.inputs, batch.targets], 1))
    fake = discriminator(torch.cat([batch.inputs, outputs], 1))
    # Equation 1 as the mean over patches, and equation 3.
    expected = F.softplus(-real).mean() + F.softplus(fake).mean()
    torch.testing.assert_close(metrics["loss_discriminator"], expected.detach())
    torch.testing.assert_close(metrics["l1"], (outputs - batch.targets).abs().mean().detach())
    # The generator's loss uses the updated discriminator.
    updated = networks(game)[1]
    with torch.no_grad():
        expected = F.softplus(-updated(torch.cat([batch.inputs, outputs], 1))).mean()
    torch.testing.assert_close(metrics["loss_generator"], expected)


def test_generator_trains_alone_at_first():
    game = make("game.alone_images=16")
    before = copy.deepcopy(networks(game)[1].state_dict())
    metrics = play(game, 2)
    assert set(metrics) == {"l1", "gradient_generator"}
    assert all(
        torch.equal(before[key], value) for key, value in networks(game)[1].state_dict().items()
    )
    assert "loss_discriminator" in play(game, 1, start=2)


def test_learns_to_invert_images():
    game = make("optimizer.generator.learning_rate=0.01", "game.adversarial=0.1")
    # Each image has a single color, because a U-Net this small cannot reproduce noise.
    inputs = pairs(16).inputs[:, :, :1, :1].expand(-1, -1, 16, 16)
    batch = PairBatch(inputs, -inputs)
    first = play(game, batch=batch)["l1"]
    for turn in range(1, 80):
        metrics = play(game, start=turn, batch=batch)
    assert metrics["l1"] < first / 3


def test_resumed_game_continues_identically():
    uninterrupted, first = make(), make()
    play(uninterrupted, 6)
    play(first, 3)
    second = make("train.seed=9")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    play(second, 3, start=3)
    for one, other in zip(networks(uninterrupted), networks(second), strict=True):
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key])
    torch.testing.assert_close(uninterrupted.average.state_dict(), second.average.state_dict())


def test_accumulated_batch_equals_whole_batch():
    single, parts = make("train.batch=8"), make("train.batch=8", "train.accumulate=4")
    batch = pairs()
    play(single, 1, batch=batch)
    play(parts, 1, batch=batch)
    for one, other in zip(networks(single), networks(parts), strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), atol=1e-5, rtol=1e-4)


def test_learning_rates_decay_to_the_end():
    game = make("optimizer.decay_from=0.5", "train.images=80")
    rates = []
    for turn in range(10):
        play(game, 1, start=turn)
        rates.append(game._players.optimizers["generator"].param_groups[0]["lr"])
    assert rates[:6] == [rates[0]] * 6
    assert rates[-1] == pytest.approx(rates[0] * 0.2)


def test_inpainting_keeps_known_pixels():
    small = ["generator.width=4", "generator.dilations=[1]", "game.features=0"]
    recipe = load_recipe("inpaint-flowers", [*small, "discriminator.width=4"])
    game = Paired(recipe, recipe.game, torch.device("cpu"), "float32", DistributedContext())
    rng = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 256, (3, 3, 64, 64), generator=rng).byte()
    inputs = recipe.game.task.derive_inputs(targets, np.random.default_rng(0), None)
    batch = PairBatch.of(inputs, targets)
    outputs = game.translate(batch.inputs, batch.mask)
    known = (batch.mask == 0).expand_as(outputs)
    assert torch.equal(outputs[known], batch.targets[known])
    assert (outputs[~known] != batch.targets[~known]).any()
