"""CycleGAN's game: its equation, its history, and what it learns without pairs."""

import copy

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
        signs = game.turn([batch or sides(seed=turn)], rng, turn, turn * 4)
    return signs


def networks(game):
    return game._players.networks["generator"], game._players.networks["discriminator"]


def test_the_losses_are_those_of_the_paper():
    game = make("game.cycle=5", "game.identity=2.5")
    generator, judges = (copy.deepcopy(network) for network in networks(game))
    there, back = generator.values()
    a, b = batch = sides()
    signs = play(game, batch=batch)
    with torch.no_grad():
        adversarial = (judges.of_target(there(a)) - 1).square().mean()
        adversarial = adversarial + (judges.of_source(back(b)) - 1).square().mean()
        cycle = (back(there(a)) - a).abs().mean() + (there(back(b)) - b).abs().mean()
        identity = (there(b) - b).abs().mean() + (back(a) - a).abs().mean()
        # The history is empty: the discriminators see what was made just now.
        of_target = (judges.of_target(b) - 1).square().mean()
        of_target = of_target + judges.of_target(there(a)).square().mean()
        of_source = (judges.of_source(a) - 1).square().mean()
        of_source = of_source + judges.of_source(back(b)).square().mean()
    # Signs are means of both sides, and this loss is half of the paper's.
    torch.testing.assert_close(signs["loss_generator"], adversarial / 4)
    torch.testing.assert_close(signs["cycle"], cycle / 2)
    torch.testing.assert_close(signs["identity"], identity / 2)
    torch.testing.assert_close(signs["loss_discriminator"], (of_target + of_source) / 4)


def test_all_four_networks_move():
    game = make()
    before = [copy.deepcopy(network.state_dict()) for network in networks(game)]
    play(game)
    for old, network in zip(before, networks(game), strict=True):
        moved = {
            key.split(".")[0]
            for key, value in network.state_dict().items()
            if not torch.equal(old[key], value)
        }
        assert len(moved) == 2


def test_without_identity_it_is_not_computed():
    assert "identity" not in play(make("game.identity=0"))


def test_the_history_shows_half_of_what_was_made_before():
    history, rng = History(50), torch.Generator().manual_seed(0)
    first = torch.arange(50).float().reshape(50, 1, 1, 1)
    assert torch.equal(history.exchange(first, rng), first)
    older = total = 0
    for step in range(40):
        made = torch.full((5, 1, 1, 1), 1000.0 + step)
        shown = history.exchange(made, rng)
        older += int((shown != made).sum())
        total += 5
    assert 0.4 < older / total < 0.6
    assert len(history.images) == 50
    # It keeps what it is given in exchange.
    assert max(float(picture) for picture in history.images) > 1030


def test_a_game_that_goes_on_is_the_same_game():
    overrides = ["game.history=6"]
    whole, first = make(*overrides), make(*overrides)
    play(whole, 6)
    play(first, 3)
    second = make(*overrides, "train.seed=9")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    play(second, 3, start=3)
    for one, other in zip(networks(whole), networks(second), strict=True):
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key])


def test_it_learns_the_way_between_two_sets_that_share_nothing():
    """Dark pictures on the one side, light ones on the other."""
    rates = [f"optimizer.{player}.learning_rate=0.003" for player in ("generator", "discriminator")]
    game = make(*rates, "game.identity=0", "ema.half_life_images=20")
    rng = torch.Generator().manual_seed(0)
    for turn in range(150):
        dark = torch.rand(4, 3, 16, 16, generator=rng) * 0.4 - 0.9
        light = torch.rand(4, 3, 16, 16, generator=rng) * 0.4 + 0.5
        play(game, start=turn, batch=Sides(dark, light))
    made = game.translate_both(Sides(dark, light))
    assert float(made.target.mean()) > 0.3
    assert float(made.source.mean()) < -0.3
