import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from training.distributed import DistributedContext
from training.games.noise_to_image.game import NoiseToImage, RealBatch
from training.penalties import layer_weights, orthogonal_penalty, path_lengths
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe


def make(*overrides, name="gan-mnist") -> NoiseToImage:
    small = {"gan-mnist": "generator.widths=[16]", "dcgan-fashion": "generator.width=4"}[name]
    recipe = load_recipe(name, [small, *overrides])
    return NoiseToImage(recipe, recipe.game, torch.device("cpu"), "float32", DistributedContext())


def reals(count=1, classes=0) -> list[RealBatch]:
    torch.manual_seed(1)
    labels = torch.arange(8) % classes if classes else None
    return [RealBatch(torch.rand(8, 1, 28, 28) * 2 - 1, labels) for _ in range(count)]


def play(game, turns=1, count=1):
    for turn in range(turns):
        rng = torch.Generator().manual_seed(turn)
        signs = game.turn(reals(count, game.classes), rng, turn, images_seen=turn * 8)
    return signs


SMALL_DIGITS = ("data.resolution=8", "generator.z_dim=8", "generator.widths=[64]")
SMALL_JUDGE = ("discriminator.widths=[32]", "discriminator.dropout=0")


def rates(generator, discriminator) -> tuple[str, str]:
    return (
        f"optimizer.generator.learning_rate={generator}",
        f"optimizer.discriminator.learning_rate={discriminator}",
    )


def late(told) -> dict[str, float]:
    """Return the means of the signs over the last 50 turns."""
    last = told[-50:]
    names = {name for signs in last for name in signs}
    values = {name: [signs[name] for signs in last if name in signs] for name in names}
    return {name: torch.stack(of).float().mean().item() for name, of in values.items()}


def play_digits(game, turns, first=0, batch=32) -> dict[str, float]:
    """Play on real digits of 8 pixels, and return the means of the signs over the last 50 turns."""
    digits = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    told = []
    for turn in range(first, first + turns):
        rng = torch.Generator().manual_seed(turn)
        which = torch.randint(len(digits), (game.batches_per_turn, batch), generator=rng)
        batches = [RealBatch(digits[rows]) for rows in which]
        told.append(game.turn(batches, rng, turn, images_seen=turn * batch))
    return late(told)


BRIGHT, DARK = (torch.full((1, 1, 8, 8), value) for value in (0.1, -0.1))


def bright_from_dark(*overrides, turns=300, scale=1.0) -> tuple[NoiseToImage, dict[str, float]]:
    """Let a discriminator learn two pictures: a bright one which is real, and a generator's dark
    one. Its weights begin `scale` times as large as usual.
    """
    game = make(*SMALL_DIGITS, *SMALL_JUDGE, *rates(1e-12, 0.003), *overrides)
    *_, last = (m for m in game._networks["generator"].modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(DARK.flatten().atanh())
        for weight in game._networks["discriminator"].parameters():
            weight.mul_(scale)
    real = RealBatch(BRIGHT.expand(32, -1, -1, -1))
    told = [
        game.turn([real], torch.Generator().manual_seed(turn), turn, images_seen=turn * 32)
        for turn in range(turns)
    ]
    return game, late(told)


def weights(game, player):
    return copy.deepcopy(game.state_dict()["networks"][player])


def moved(before, after) -> bool:
    return any(not torch.equal(before[key], after[key]) for key in before)


def test_samples_of_batch_normalised_networks_do_not_depend_on_the_averages_of_training():
    """BigGAN's averaged weights have statistics of their own, which are fitted when they serve."""
    small = ["generator.width=2", "discriminator.width=2"]
    recipe = load_recipe("biggan-flowers", small)
    game = NoiseToImage(recipe, recipe.game, torch.device("cpu"), "float32", DistributedContext())
    z = torch.randn(5, 80, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    before = game.sample(z, torch.arange(5))
    for name, buffer in game.average.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(1e-4)
    assert torch.equal(game.sample(z, torch.arange(5)), before)
    assert 0.01 < before.std() < 0.9


def test_a_turn_moves_both_players_and_tells_the_signs():
    game = make()
    before = {player: weights(game, player) for player in ("generator", "discriminator")}
    signs = play(game)
    for player, old in before.items():
        assert moved(old, weights(game, player))
    assert set(signs) == {
        *("loss_discriminator", "loss_generator", "real_score", "fake_score", "separation"),
        *("gradient_discriminator", "gradient_generator"),
    }
    assert all(value.ndim == 0 and torch.isfinite(value) for value in signs.values())


def test_the_sign_of_a_gradient_is_its_norm_before_it_is_clipped():
    free, clipped = make(), make("game.clip_gradients=0.001")
    signs = play(free), play(clipped)
    torch.testing.assert_close(
        signs[0]["gradient_discriminator"], signs[1]["gradient_discriminator"]
    )
    for player in ("generator", "discriminator"):
        assert signs[0][f"gradient_{player}"] > 0.01
        gradients = [p.grad.flatten() for p in clipped._networks[player].parameters()]
        assert torch.cat(gradients).norm() == pytest.approx(0.001, rel=1e-2)


def test_balanced_players_take_steps_by_how_well_the_discriminator_does():
    game = make("game.balance.target=0.99", "game.balance.most=3")
    assert game.batches_per_turn == 1
    for turn in range(40):
        rng = torch.Generator().manual_seed(turn)
        # Real pictures that are noise too, so that they are hard to tell.
        noise = torch.rand(8, 1, 28, 28, generator=rng) * 2 - 1
        signs = game.turn([RealBatch(noise)], rng, turn, images_seen=turn * 8)
    optimizers = game.state_dict()["optimizers"]
    assert optimizers["discriminator"]["state"][0]["step"] == 40
    assert optimizers["generator"]["state"][0]["step"] < 40
    assert 1 <= signs["discriminator_steps"] <= 3


def test_k_steps_of_the_discriminator_go_before_one_of_the_generator():
    game = make("game.discriminator_steps=3")
    assert game.batches_per_turn == 3
    play(game, turns=2, count=3)
    optimizers = game.state_dict()["optimizers"]
    assert optimizers["discriminator"]["state"][0]["step"] == 6
    assert optimizers["generator"]["state"][0]["step"] == 2


def test_more_steps_bring_the_discriminator_nearer_to_its_best():
    """What algorithm 1 wants of k steps: that D stays near its optimum while G changes slowly."""
    loss = {}
    for k in (1, 5):
        steps = f"game.discriminator_steps={k}"
        game = make(*SMALL_DIGITS, *SMALL_JUDGE, *rates(0.002, 0.002), steps)
        loss[k] = play_digits(game, 150)["loss_discriminator"]
    assert loss[5] < 0.7 * loss[1]


def test_balanced_steps_bring_a_slow_discriminator_to_the_target():
    separation = {}
    for name, overrides in {"fixed": (), "balanced": ("game.balance.target=0.8",)}.items():
        game = make(*SMALL_DIGITS, *SMALL_JUDGE, *rates(0.004, 0.001), *overrides)
        separation[name] = play_digits(game, 300)["separation"]
    assert separation["fixed"] < 0.65
    assert separation["balanced"] == pytest.approx(0.8, abs=0.1)


def test_each_players_first_step_is_as_long_as_its_own_learning_rate():
    """Adam's first step is the learning rate in every weight, whatever its gradient."""
    own = {"generator": 0.001, "discriminator": 0.004}
    game = make(*rates(*own.values()))
    before = {player: weights(game, player) for player in own}
    play(game)
    for player, rate in own.items():
        after = weights(game, player)
        longest = max((after[key] - old).abs().max() for key, old in before[player].items())
        assert longest.item() == pytest.approx(rate, rel=0.01)


def test_a_faster_discriminator_stays_nearer_to_its_best_than_a_faster_generator_lets_it():
    """What two learning rates are for: the discriminator keeps up (theorem 1 of 1706.08500)."""
    behind = {}
    for generator, discriminator in ((0.0005, 0.008), (0.008, 0.0005)):
        game = make(*SMALL_DIGITS, *SMALL_JUDGE, *rates(generator, discriminator))
        loss = play_digits(game, 200)["loss_discriminator"]
        # Its best against this generator is what it comes to when that one waits.
        for player, rate in {"generator": 0.0, "discriminator": 0.002}.items():
            for group in game._players.optimizers[player].param_groups:
                group["lr"] = rate
        best = play_digits(game, 200, first=200)["loss_discriminator"]
        behind[discriminator] = loss - best
    assert behind[0.008] < behind[0.0005] / 2


def test_the_generators_step_leaves_no_gradient_in_the_discriminator():
    game = make()
    play(game)
    gradient = [p.grad.clone() for p in game._networks["discriminator"].parameters()]
    game.generator_step(reals()[0], torch.Generator(), 0)
    for before, parameter in zip(
        gradient, game._networks["discriminator"].parameters(), strict=True
    ):
        torch.testing.assert_close(parameter.grad, before, rtol=0, atol=0)
        assert parameter.requires_grad


@pytest.mark.parametrize(
    "loss", ["minimax", "non_saturating", "least_squares", "hinge", "wasserstein", "relativistic"]
)
def test_the_discriminator_learns_to_score_real_pictures_higher(loss):
    game = make(f"game.loss={loss}", "optimizer.generator.learning_rate=1e-9")
    signs = play(game, turns=60)
    assert signs["real_score"] > signs["fake_score"] + 0.5


def test_clipped_weights_stay_within_the_bound():
    game = make("game.loss=wasserstein", "game.clip_weights=0.01")
    play(game, turns=3)
    largest = max(w.abs().max() for w in weights(game, "discriminator").values())
    assert largest <= 0.01
    assert max(w.abs().max() for w in weights(game, "generator").values()) > 0.01


@pytest.mark.parametrize("penalty", ["gradient_penalty", "r1", "r2"])
def test_a_penalty_makes_the_discriminators_gradients_smaller(penalty):
    steepness = {}
    for weight in (0, 30):
        rate = "optimizer.discriminator.learning_rate=0.002"
        game = make(f"game.{penalty}={weight}", "game.loss=wasserstein", rate)
        play(game, turns=40)
        images = reals()[0].images.requires_grad_(True)
        (gradient,) = torch.autograd.grad(game._D(images).sum(), images)
        steepness[weight] = gradient.flatten(1).norm(dim=1).mean().item()
    assert steepness[30] < steepness[0] / 2


@pytest.mark.parametrize("scale", [0.2, 4])
def test_the_gradient_penalty_makes_the_slope_between_pictures_one(scale):
    """As for the best critic of the Wasserstein distance: proposition 1 of arXiv:1704.00028."""
    game, _ = bright_from_dark("game.loss=wasserstein", "game.gradient_penalty=10", scale=scale)
    between = torch.lerp(DARK, BRIGHT, torch.linspace(0, 1, 9)[:, None, None, None])
    between.requires_grad_(True)
    (gradient,) = torch.autograd.grad(game._D(between).sum(), between)
    assert gradient.flatten(1).norm(dim=1).tolist() == pytest.approx([1] * 9, abs=0.2)


def test_orthogonal_regularisation_keeps_the_generators_rows_at_right_angles():
    left = {}
    for weight in (0, 0.1):
        game = make(*SMALL_DIGITS, f"game.orthogonal={weight}", *rates(0.002, 0.002))
        play_digits(game, 100)
        left[weight] = orthogonal_penalty(layer_weights(game._networks["generator"])).item()
    assert left[0.1] < left[0] / 10


def test_a_lazy_penalty_comes_at_every_so_many_turns():
    game = make("game.r1=1", "game.penalty_every=4")
    batch = reals()
    with_penalty = [
        turn
        for turn in range(9)
        if "penalty" in game.turn(batch, torch.Generator().manual_seed(turn), turn, turn)
    ]
    assert with_penalty == [0, 4, 8]


def test_instance_noise_falls_to_nothing():
    game = make("game.instance_noise={sigma: 0.5, until_images: 100}")
    images = torch.zeros(8, 1, 28, 28)
    noise = []
    for seen in (0, 50, 100, 500):
        game.turn(reals(), torch.Generator().manual_seed(0), 0, images_seen=seen)
        noise.append(game._shown(images).std().item())
    assert noise == [pytest.approx(0.5, rel=0.05), pytest.approx(0.25, rel=0.05), 0, 0]


def test_instance_noise_leaves_a_discriminator_of_two_pictures_in_doubt():
    """Where the supports are apart a discriminator is sure, and the saturating loss is flat; where
    the noise makes them overlap, the best there is has doubts: section 2 of arXiv:1610.04490.
    """
    _, sure = bright_from_dark("game.loss=minimax")
    assert sure["loss_discriminator"] < 0.02
    # The pictures are one standard deviation of the noise apart.
    noise = "game.instance_noise={sigma: 1.6, until_images: 1000000000}"
    _, unsure = bright_from_dark("game.loss=minimax", noise)
    assert unsure["loss_discriminator"] > 1
    assert 0.3 < unsure["fake_score"] < 0.5 < unsure["real_score"] < 0.7
    assert unsure["separation"] > 0.65
    assert unsure["gradient_generator"] > 20 * sure["gradient_generator"]


def test_one_sided_smoothing_keeps_the_discriminator_from_being_sure_of_real_pictures():
    _, plain = bright_from_dark()
    _, smooth = bright_from_dark("game.real_target=0.9")
    assert plain["real_score"] > 0.99
    assert smooth["real_score"] == pytest.approx(0.9, abs=0.02)
    assert smooth["fake_score"] < 0.02


def test_one_wild_batch_does_not_stop_players_whose_gradients_are_clipped():
    """Adam divides by the gradients that it has seen: after a huge one its steps are tiny."""
    learned = {}
    for clip in ("null", "1"):
        game = make(*SMALL_DIGITS, *SMALL_JUDGE, f"game.clip_gradients={clip}")
        play_digits(game, 20)
        wild = RealBatch(torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 1e4)
        game.turn([wild], torch.Generator().manual_seed(0), 20, 640)
        play_digits(game, 10, first=21)  # By then its momentum has faded.
        before = weights(game, "discriminator")
        play_digits(game, 20, first=31)
        after = weights(game, "discriminator")
        learned[clip] = sum((after[key] - old).abs().sum().item() for key, old in before.items())
    assert learned["1"] > 2 * learned["null"]


def test_clipped_gradients_have_at_most_the_norm():
    game = make("game.clip_gradients=0.001")
    play(game)
    for network in game._networks.values():
        norm = torch.stack([p.grad.norm() for p in network.parameters()]).norm()
        assert norm <= 0.001 * 1.001


@pytest.mark.parametrize("kind", ["diffaugment", "ada"])
def test_the_discriminator_sees_augmented_pictures_and_the_generator_learns_through_them(kind):
    start = ", start: 0.8" if kind == "ada" else ""
    game = make(f"game.augment={{kind: {kind}{start}}}", "game.r1=1", name="dcgan-fashion")
    before = weights(game, "generator")
    signs = play(game)
    assert all(torch.isfinite(value) for value in signs.values())
    assert moved(before, weights(game, "generator"))
    images = reals()[0].images
    assert not torch.equal(game._shown(images), images)


def test_ada_grows_where_the_discriminator_is_sure_of_real_pictures_and_is_resumed():
    augment = "game.augment={kind: ada, ramp_images: 1000, target: 0.5}"
    game = make(augment, "optimizer.generator.learning_rate=1e-9")
    signs = play(game, turns=60)
    assert signs["augment_probability"] > 0.1
    other = make(augment)
    other.load_state_dict(copy.deepcopy(game.state_dict()))
    assert other.augment.probability == game.augment.probability


@pytest.mark.parametrize("minibatch", ["standard_deviation", "discrimination"])
@pytest.mark.parametrize("normalisation", ["batch", "layer", "spectral", "none"])
def test_every_kind_of_dcgan_discriminator_plays(normalisation, minibatch):
    kind = [f"discriminator.normalisation={normalisation}", f"discriminator.minibatch={minibatch}"]
    signs = play(make(*kind, "discriminator.width=4", name="dcgan-fashion"), turns=2)
    assert all(torch.isfinite(value) for value in signs.values())


@pytest.mark.parametrize("name", ["gan-mnist", "dcgan-fashion"])
def test_with_classes_both_players_listen_to_them(name):
    game = make("classes=4", name=name)
    play(game, turns=2)
    z = torch.randn(1, game.z_dim).expand(4, -1)
    pictures = game.sample(z, torch.arange(4))
    assert len(torch.unique(pictures.flatten(1), dim=0)) == 4
    discriminator = game._networks["discriminator"].eval()
    same = torch.zeros(4, 1, 28, 28)
    assert len(torch.unique(discriminator(same, torch.arange(4)))) == 4
    with pytest.raises(ValueError, match="needs class_index"):
        game.sample(z)


def test_the_average_follows_the_generator_with_the_half_life_asked_for():
    game = make("ema.half_life_images=8", "ema.ramp_up=1")
    play(game)
    old = copy.deepcopy(game.average.state_dict())
    rng = torch.Generator().manual_seed(9)
    game.turn(reals(), rng, 1, images_seen=10_000)
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
        game.turn(reals(), torch.Generator().manual_seed(7), 2, images_seen=16)
    for player in ("generator", "discriminator"):
        assert not moved(weights(one, player), weights(other, player))
    assert not moved(one.average.state_dict(), other.average.state_dict())


SMALL_STYLES = (
    "generator.z_dim=8",
    "generator.w_dim=8",
    "generator.mapping_layers=1",
    "generator.width=4",
    "generator.most=4",
    "discriminator.width=4",
    "discriminator.most=4",
    "game.augment=null",
)


def styled(*overrides) -> NoiseToImage:
    recipe = load_recipe("stylegan2-tiles", [*SMALL_STYLES, *overrides])
    return NoiseToImage(recipe, recipe.game, torch.device("cpu"), "float32", DistributedContext())


def tiles(count=8) -> RealBatch:
    torch.manual_seed(1)
    return RealBatch(torch.rand(count, 3, 32, 32) * 2 - 1)


@pytest.mark.parametrize("penalty", ["gradient_penalty=10", "r1=1"])
@pytest.mark.parametrize("loss", ["non_saturating", "relativistic"])
def test_a_batch_played_in_parts_moves_the_players_as_the_whole_batch_does(loss, penalty):
    # Without what looks across a batch or draws for each part: dropout, normalisation.
    overrides = (f"game.loss={loss}", f"game.{penalty}", "discriminator.dropout=0")
    game, in_parts = make(*overrides), make(*overrides, "train.accumulate=4")
    for turn in range(3):
        signs, signs_in_parts = (
            g.turn(reals(), torch.Generator().manual_seed(turn), turn, turn * 8)
            for g in (game, in_parts)
        )
        for name, value in signs.items():
            torch.testing.assert_close(signs_in_parts[name], value, rtol=1e-4, atol=1e-5)
    for player in ("generator", "discriminator"):
        for name, weight in weights(game, player).items():
            torch.testing.assert_close(weights(in_parts, player)[name], weight, rtol=0, atol=1e-5)


def test_mixed_styles_take_the_second_latents_from_the_crossover_on():
    game = styled("game.style_mixing=0.5")
    hand = game.draw_batch(tiles(400), torch.Generator().manual_seed(0))
    layers = game._networks["generator"].layers
    crossovers = hand.mix.crossover
    assert (crossovers < layers).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert set(crossovers.tolist()) == set(range(1, layers + 1))
    generator = game._networks["generator"]
    w, other = generator.styles(hand.z), generator.styles(hand.mix.z)
    for row, mixed in enumerate(generator.styles(hand.z, None, hand.mix)[:20]):
        at = crossovers[row]
        assert torch.equal(mixed[:at], w[row, :at])
        assert torch.equal(mixed[at:], other[row, at:])


def test_path_length_regularisation_makes_lengths_alike():
    game = styled("game.path_length=2")
    generator = game._networks["generator"]

    def spread():
        z = torch.randn(64, 8, generator=torch.Generator().manual_seed(5))
        images, w = generator(z, with_styles=True)
        rng = torch.Generator().manual_seed(6)
        # Of several directions each, else their chance would be most of what differs.
        lengths = torch.stack(
            [
                path_lengths(images, w, torch.randn(images.shape, generator=rng)).detach()
                for _ in range(16)
            ]
        ).mean(0)
        return (lengths.std() / lengths.mean()).item()

    before = spread()
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.01)
    for turn in range(100):
        hand = game.draw_batch(tiles(16), torch.Generator().manual_seed(turn))
        penalty, _ = game.path_length_penalty(hand)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert spread() < 0.6 * before


def test_the_mean_path_length_is_resumed():
    game = styled("game.path_length=2")
    signs = game.turn([tiles()], torch.Generator().manual_seed(0), 0, 0)
    assert signs["path_length"] > 0
    assert "path_length" not in game.turn([tiles()], torch.Generator().manual_seed(1), 1, 8)
    other = styled("game.path_length=2")
    other.load_state_dict(copy.deepcopy(game.state_dict()))
    assert other._mean_path_length == game._mean_path_length > 0


@pytest.mark.parametrize("key", ["style_mixing=0.9", "path_length=2"])
def test_what_needs_styles_is_refused_without_them(key):
    with pytest.raises(RecipeError, match="dcgan has none"):
        load_recipe("dcgan-fashion", [f"game.{key}"])


GROWING = "game.growing={start: 8, stage_images: 16, fade_images: 16}"


def grow(game, turns, first=0):
    for turn in range(first, first + turns):
        torch.manual_seed(turn)
        signs = game.turn([tiles()], torch.Generator().manual_seed(turn), turn, turn * 8)
        assert all(torch.isfinite(value) for value in signs.values())


@pytest.mark.parametrize("network", ["stylegan", "stylegan2"])
def test_players_grow_with_all_that_a_game_can_have(network):
    game = styled(
        *(GROWING, "game.growing.start=4"),
        *(f"generator.network={network}", f"discriminator.network={network}"),
        *("game.augment={kind: ada, start: 0.5}", "game.gradient_penalty=1", "game.r1=1"),
        *("game.loss=relativistic", "game.path_length=2", "game.path_length_every=1"),
        *("game.penalty_every=1", "game.style_mixing=0.9", "train.accumulate=2"),
    )
    begun = {player: weights(game, player) for player in ("generator", "discriminator")}
    grow(game, 5)
    # At 8 pixels neither player has used its layers for 16 and 32.
    names = {"stylegan": ("synthesis.blocks.8.", "synthesis.blocks.16.")}
    small, large = names.get(network, ("synthesis.grow.0.", "synthesis.grow.1."))
    after = weights(game, "generator")
    assert moved(*(part(state, small) for state in (begun["generator"], after)))
    assert not moved(*(part(state, large) for state in (begun["generator"], after)))
    after = weights(game, "discriminator")
    assert moved(*(part(state, "blocks.8.") for state in (begun["discriminator"], after)))
    assert not moved(*(part(state, "blocks.16.") for state in (begun["discriminator"], after)))
    assert game.sample(torch.randn(2, 8)).shape == (2, 3, 32, 32)
    # Then all resolutions come, and every weight learns.
    grow(game, 12, first=5)
    for player, old in begun.items():
        new = weights(game, player)
        still = [key for key in old if key.endswith("weight") and torch.equal(old[key], new[key])]
        assert not still


def part(state, prefix):
    found = {key: value for key, value in state.items() if key.startswith(prefix)}
    assert found
    return found


@pytest.mark.parametrize("network", ["stylegan", "stylegan2"])
def test_players_grow_in_bfloat16(network):
    kind = (f"generator.network={network}", f"discriminator.network={network}")
    recipe = load_recipe("stylegan2-tiles", [*SMALL_STYLES, *kind, GROWING, "game.path_length=2"])
    grow(
        NoiseToImage(recipe, recipe.game, torch.device("cpu"), "bfloat16", DistributedContext()), 9
    )


def test_styles_are_mixed_among_the_layers_that_have_grown():
    game = styled(GROWING, "game.style_mixing=1")
    for seen, layers in ((0, 3), (24, 5), (80, 8)):
        game._growth = game.options.growing.at(seen, 32)
        crossovers = game.draw_batch(tiles(200), torch.Generator()).mix.crossover
        assert set(crossovers.tolist()) == set(range(1, layers))


@pytest.mark.parametrize("turns", [1, 3, 5, 7])
def test_a_game_loaded_while_it_grows_goes_on_bit_for_bit(turns):
    one, other = styled(GROWING), styled(GROWING, "train.seed=5")
    grow(one, turns)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for game in (one, other):
        grow(game, 3, first=turns)
    for player in ("generator", "discriminator"):
        assert not moved(weights(one, player), weights(other, player))
    assert not moved(one.average.state_dict(), other.average.state_dict())
