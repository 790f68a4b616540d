import copy

import pytest
import torch

from training.distributed import Share
from training.games.noise_to_image import NoiseToImage
from training.recipe import load_recipe


def make(*overrides, name="gan-mnist") -> NoiseToImage:
    small = {"gan-mnist": "generator.widths=[16]", "dcgan-fashion": "generator.width=4"}[name]
    recipe = load_recipe(name, [small, *overrides])
    return NoiseToImage(recipe, torch.device("cpu"), "float32", Share())


def reals(count=1) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.rand(8, 1, 28, 28) * 2 - 1 for _ in range(count)]


def play(game, turns=1, count=1):
    for turn in range(turns):
        rng = torch.Generator().manual_seed(turn)
        signs = game.turn(reals(count), rng, images_seen=turn * 8)
    return signs


def weights(game, player):
    return copy.deepcopy(game.state_dict()["networks"][player])


def moved(before, after) -> bool:
    return any(not torch.equal(before[key], after[key]) for key in before)


def test_a_turn_moves_both_players_and_tells_the_signs():
    game = make()
    before = {player: weights(game, player) for player in ("generator", "discriminator")}
    signs = play(game)
    for player, old in before.items():
        assert moved(old, weights(game, player))
    assert set(signs) == {"loss_discriminator", "loss_generator", "real_score", "fake_score"}
    assert all(value.ndim == 0 and torch.isfinite(value) for value in signs.values())


def test_k_steps_of_the_discriminator_go_before_one_of_the_generator():
    game = make("game.discriminator_steps=3")
    assert game.batches_per_turn == 3
    play(game, turns=2, count=3)
    optimizers = game.state_dict()["optimizers"]
    assert optimizers["discriminator"]["state"][0]["step"] == 6
    assert optimizers["generator"]["state"][0]["step"] == 2


def test_the_generators_step_leaves_no_gradient_in_the_discriminator():
    game = make()
    play(game)
    gradient = [p.grad.clone() for p in game._networks["discriminator"].parameters()]
    game._generator_step(torch.randn(8, game.z_dim))
    for before, parameter in zip(
        gradient, game._networks["discriminator"].parameters(), strict=True
    ):
        torch.testing.assert_close(parameter.grad, before, rtol=0, atol=0)
        assert parameter.requires_grad


@pytest.mark.parametrize("loss", ["minimax", "non_saturating"])
def test_the_discriminator_learns_to_tell_a_constant_from_noise(loss):
    game = make(f"game.loss={loss}", "optimizer.generator.learning_rate=1e-9")
    signs = play(game, turns=60)
    assert signs["real_score"] > 0.8
    assert signs["fake_score"] < 0.2


def test_the_average_follows_the_generator_with_the_half_life_asked_for():
    game = make("ema.half_life_images=8", "ema.ramp_up=1")
    play(game)
    old = copy.deepcopy(game.average.state_dict())
    rng = torch.Generator().manual_seed(9)
    game.turn(reals(), rng, images_seen=10_000)
    latest = weights(game, "generator")
    for key, averaged in game.average.state_dict().items():
        torch.testing.assert_close(averaged, (old[key] + latest[key]) / 2)


def test_the_average_holds_the_running_statistics_too():
    game = make(name="dcgan-fashion")
    play(game, turns=3)
    means = [v for k, v in game.average.state_dict().items() if k.endswith("running_mean")]
    assert means
    assert all(mean.abs().sum() > 0 for mean in means)


def test_a_loaded_game_goes_on_bit_for_bit():
    one = make()
    play(one, turns=2)
    other = make("train.seed=5")
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for game in (one, other):
        torch.manual_seed(7)
        game.turn(reals(), torch.Generator().manual_seed(7), images_seen=16)
    for player in ("generator", "discriminator"):
        assert not moved(weights(one, player), weights(other, player))
    assert not moved(one.average.state_dict(), other.average.state_dict())
