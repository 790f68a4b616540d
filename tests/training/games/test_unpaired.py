"""The game of CycleGAN: its losses, its history of images, and that it learns without pairs."""

import copy

import pytest
import torch

from training.distributed import DistributedContext
from training.games.unpaired.game import History, Sides, Unpaired
from training.recipe.loading import load_recipe

SMALL = [
    *("generator.width=4", "generator.blocks=1", "data.resolution=16", "source.resolution=16"),
    *("discriminator.width=4", "discriminator.layers=1", "device.precision=float32"),
]


def make(*overrides):
    recipe = load_recipe("cyclegan-emoji", [*SMALL, *overrides])
    return Unpaired(recipe, recipe.game, torch.device("cpu"), "float32", DistributedContext())


def sides(count=4, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return Sides(*(torch.rand(count, 3, 16, 16, generator=rng) * 2 - 1 for _ in range(2)))


def play(game, turns=1, start=0, batch=None):
    for turn in range(start, start + turns):
        rng = torch.Generator().manual_seed(turn)
        metrics = game.turn([batch or sides(seed=turn)], rng, turn, turn * 4)
    return metrics


def networks(game):
    return game._players.networks["generator"], game._players.networks["discriminator"]


def test_losses_equal_equations_of_cyclegan():
    game = make("game.cycle=5", "game.identity=2.5")
    generator, discriminators = (copy.deepcopy(network) for network in networks(game))
    forward, backward = generator.values()
    a, b = batch = sides()
    metrics = play(game, batch=batch)
    with torch.no_grad():
        adversarial = (discriminators.of_target(forward(a)) - 1).square().mean()
        adversarial = adversarial + (discriminators.of_source(backward(b)) - 1).square().mean()
        cycle = (backward(forward(a)) - a).abs().mean() + (forward(backward(b)) - b).abs().mean()
        identity = (forward(b) - b).abs().mean() + (backward(a) - a).abs().mean()
        # The history is empty, so the discriminators see the latest images.
        of_target = (discriminators.of_target(b) - 1).square().mean()
        of_target = of_target + discriminators.of_target(forward(a)).square().mean()
        of_source = (discriminators.of_source(a) - 1).square().mean()
        of_source = of_source + discriminators.of_source(backward(b)).square().mean()
    # Metrics are means of both sides, and the discriminator loss is half of the paper's.
    torch.testing.assert_close(metrics["loss_generator"], adversarial / 4)
    torch.testing.assert_close(metrics["cycle"], cycle / 2)
    torch.testing.assert_close(metrics["identity"], identity / 2)
    torch.testing.assert_close(metrics["loss_discriminator"], (of_target + of_source) / 4)


def test_turn_updates_all_four_networks():
    game = make()
    before = [copy.deepcopy(network.state_dict()) for network in networks(game)]
    play(game)
    for old, network in zip(before, networks(game), strict=True):
        changed = {
            key.split(".")[0]
            for key, value in network.state_dict().items()
            if not torch.equal(old[key], value)
        }
        assert len(changed) == 2


def test_identity_loss_of_weight_0_is_not_computed():
    assert "identity" not in play(make("game.identity=0"))


def test_history_returns_older_images_half_of_the_time():
    history, rng = History(50), torch.Generator().manual_seed(0)
    first = torch.arange(50).float().reshape(50, 1, 1, 1)
    assert torch.equal(history.exchange(first, rng), first)
    older = total = 0
    for step in range(40):
        images = torch.full((5, 1, 1, 1), 1000.0 + step)
        shown = history.exchange(images, rng)
        older += int((shown != images).sum())
        total += 5
    assert 0.4 < older / total < 0.6
    assert len(history.images) == 50
    # The history has kept the images that it exchanged.
    assert max(float(image) for image in history.images) > 1030


def test_resumed_game_continues_identically():
    overrides = ["game.history=6"]
    uninterrupted, first = make(*overrides), make(*overrides)
    play(uninterrupted, 6)
    play(first, 3)
    second = make(*overrides, "train.seed=9")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    play(second, 3, start=3)
    for one, other in zip(networks(uninterrupted), networks(second), strict=True):
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key])


@pytest.mark.slow
def test_learns_to_translate_between_disjoint_sets():
    """One set contains dark images, the other one bright images."""
    rates = [f"optimizer.{player}.learning_rate=0.003" for player in ("generator", "discriminator")]
    game = make(*rates, "game.identity=0", "ema.half_life_images=20")
    rng = torch.Generator().manual_seed(0)
    for turn in range(150):
        dark = torch.rand(4, 3, 16, 16, generator=rng) * 0.4 - 0.9
        light = torch.rand(4, 3, 16, 16, generator=rng) * 0.4 + 0.5
        play(game, start=turn, batch=Sides(dark, light))
    outputs = game.translate_both(Sides(dark, light))
    assert float(outputs.target.mean()) > 0.3
    assert float(outputs.source.mean()) < -0.3
