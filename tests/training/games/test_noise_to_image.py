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
        metrics = game.turn(reals(count, game.classes), rng, turn, images_seen=turn * 8)
    return metrics


SMALL_DIGITS = ("data.resolution=8", "generator.z_dim=8", "generator.widths=[64]")
SMALL_DISCRIMINATOR = ("discriminator.widths=[32]", "discriminator.dropout=0")


def rates(generator, discriminator) -> tuple[str, str]:
    return (
        f"optimizer.generator.learning_rate={generator}",
        f"optimizer.discriminator.learning_rate={discriminator}",
    )


def last_means(history) -> dict[str, float]:
    """Return the means of the metrics over the last 50 turns."""
    last = history[-50:]
    names = {name for metrics in last for name in metrics}
    values = {name: [metrics[name] for metrics in last if name in metrics] for name in names}
    return {name: torch.stack(of).float().mean().item() for name, of in values.items()}


def play_digits(game, turns, first=0, batch=32) -> dict[str, float]:
    """Train on real digits of 8 pixels and return mean metrics over the last 50 turns."""
    digits = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    history = []
    for turn in range(first, first + turns):
        rng = torch.Generator().manual_seed(turn)
        indices = torch.randint(len(digits), (game.batches_per_turn, batch), generator=rng)
        batches = [RealBatch(digits[rows]) for rows in indices]
        history.append(game.turn(batches, rng, turn, images_seen=turn * batch))
    return last_means(history)


BRIGHT, DARK = (torch.full((1, 1, 8, 8), value) for value in (0.1, -0.1))


def bright_from_dark(*overrides, turns=300, scale=1.0) -> tuple[NoiseToImage, dict[str, float]]:
    """Train a discriminator to separate one bright real image from one dark generated image.

    Its initial weights are multiplied by `scale`.
    """
    game = make(*SMALL_DIGITS, *SMALL_DISCRIMINATOR, *rates(1e-12, 0.003), *overrides)
    *_, last = (m for m in game._networks["generator"].modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(DARK.flatten().atanh())
        for weight in game._networks["discriminator"].parameters():
            weight.mul_(scale)
    real = RealBatch(BRIGHT.expand(32, -1, -1, -1))
    history = [
        game.turn([real], torch.Generator().manual_seed(turn), turn, images_seen=turn * 32)
        for turn in range(turns)
    ]
    return game, last_means(history)


def weights(game, player):
    return copy.deepcopy(game.state_dict()["networks"][player])


def moved(before, after) -> bool:
    return any(not torch.equal(before[key], after[key]) for key in before)


def test_samples_do_not_depend_on_running_averages():
    """BigGAN's averaged generator uses standing statistics instead of running averages."""
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


def test_turn_updates_both_networks_and_returns_metrics():
    game = make()
    before = {player: weights(game, player) for player in ("generator", "discriminator")}
    metrics = play(game)
    for player, old in before.items():
        assert moved(old, weights(game, player))
    assert set(metrics) == {
        *("loss_discriminator", "loss_generator", "real_score", "fake_score", "separation"),
        *("gradient_discriminator", "gradient_generator"),
    }
    assert all(value.ndim == 0 and torch.isfinite(value) for value in metrics.values())


def test_gradient_metric_is_norm_before_clipping():
    free, clipped = make(), make("game.clip_gradients=0.001")
    metrics = play(free), play(clipped)
    torch.testing.assert_close(
        metrics[0]["gradient_discriminator"], metrics[1]["gradient_discriminator"]
    )
    for player in ("generator", "discriminator"):
        assert metrics[0][f"gradient_{player}"] > 0.01
        gradients = [p.grad.flatten() for p in clipped._networks[player].parameters()]
        assert torch.cat(gradients).norm() == pytest.approx(0.001, rel=1e-2)


def test_balance_adapts_discriminator_steps():
    game = make("game.balance.target=0.99", "game.balance.most=3")
    assert game.batches_per_turn == 1
    for turn in range(40):
        rng = torch.Generator().manual_seed(turn)
        # Real images are noise too, so that they are hard to separate.
        noise = torch.rand(8, 1, 28, 28, generator=rng) * 2 - 1
        metrics = game.turn([RealBatch(noise)], rng, turn, images_seen=turn * 8)
    optimizers = game.state_dict()["optimizers"]
    assert optimizers["discriminator"]["state"][0]["step"] == 40
    assert optimizers["generator"]["state"][0]["step"] < 40
    assert 1 <= metrics["discriminator_steps"] <= 3


def test_k_discriminator_steps_per_generator_step():
    game = make("game.discriminator_steps=3")
    assert game.batches_per_turn == 3
    play(game, turns=2, count=3)
    optimizers = game.state_dict()["optimizers"]
    assert optimizers["discriminator"]["state"][0]["step"] == 6
    assert optimizers["generator"]["state"][0]["step"] == 2


def test_more_steps_bring_discriminator_closer_to_optimum():
    """Algorithm 1 uses k steps to keep D near its optimum while G changes slowly."""
    loss = {}
    for k in (1, 5):
        steps = f"game.discriminator_steps={k}"
        game = make(*SMALL_DIGITS, *SMALL_DISCRIMINATOR, *rates(0.002, 0.002), steps)
        loss[k] = play_digits(game, 150)["loss_discriminator"]
    assert loss[5] < 0.7 * loss[1]


@pytest.mark.slow
def test_balance_brings_slow_discriminator_to_target():
    separation = {}
    for name, overrides in {"fixed": (), "balanced": ("game.balance.target=0.8",)}.items():
        game = make(*SMALL_DIGITS, *SMALL_DISCRIMINATOR, *rates(0.004, 0.001), *overrides)
        separation[name] = play_digits(game, 300)["separation"]
    assert separation["fixed"] < 0.65
    assert separation["balanced"] == pytest.approx(0.8, abs=0.1)


def test_each_network_has_its_own_learning_rate():
    """Adam's first step equals the learning rate for every gradient."""
    own = {"generator": 0.001, "discriminator": 0.004}
    game = make(*rates(*own.values()))
    before = {player: weights(game, player) for player in own}
    play(game)
    for player, rate in own.items():
        after = weights(game, player)
        largest_step = max((after[key] - old).abs().max() for key, old in before[player].items())
        assert largest_step.item() == pytest.approx(rate, rel=0.01)


@pytest.mark.slow
def test_faster_discriminator_stays_closer_to_optimum():
    """Two time scales: a fast discriminator keeps up (theorem 1 of arXiv:1706.08500)."""
    excess = {}
    for generator, discriminator in ((0.0005, 0.008), (0.008, 0.0005)):
        game = make(*SMALL_DIGITS, *SMALL_DISCRIMINATOR, *rates(generator, discriminator))
        loss = play_digits(game, 200)["loss_discriminator"]
        # Its optimum for this generator is reached by training it alone.
        for player, rate in {"generator": 0.0, "discriminator": 0.002}.items():
            for group in game._players.optimizers[player].param_groups:
                group["lr"] = rate
        best = play_digits(game, 200, first=200)["loss_discriminator"]
        excess[discriminator] = loss - best
    assert excess[0.008] < excess[0.0005] / 2


def test_generator_step_leaves_discriminator_gradients_unchanged():
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
def test_discriminator_learns_to_score_real_images_higher(loss):
    game = make(f"game.loss={loss}", "optimizer.generator.learning_rate=1e-9")
    metrics = play(game, turns=60)
    assert metrics["real_score"] > metrics["fake_score"] + 0.5


def test_clips_discriminator_weights():
    game = make("game.loss=wasserstein", "game.clip_weights=0.01")
    play(game, turns=3)
    largest = max(w.abs().max() for w in weights(game, "discriminator").values())
    assert largest <= 0.01
    assert max(w.abs().max() for w in weights(game, "generator").values()) > 0.01


@pytest.mark.parametrize("penalty", ["gradient_penalty", "r1", "r2"])
def test_penalty_reduces_discriminator_gradients(penalty):
    gradient_norms = {}
    for weight in (0, 30):
        rate = "optimizer.discriminator.learning_rate=0.002"
        game = make(f"game.{penalty}={weight}", "game.loss=wasserstein", rate)
        play(game, turns=40)
        images = reals()[0].images.requires_grad_(True)
        (gradient,) = torch.autograd.grad(game._D(images).sum(), images)
        gradient_norms[weight] = gradient.flatten(1).norm(dim=1).mean().item()
    assert gradient_norms[30] < gradient_norms[0] / 2


@pytest.mark.parametrize("scale", [0.2, 4])
def test_gradient_penalty_brings_gradient_norm_to_1(scale):
    """Proposition 1 of arXiv:1704.00028: the optimal critic has gradient norm 1 between images."""
    game, _ = bright_from_dark("game.loss=wasserstein", "game.gradient_penalty=10", scale=scale)
    between = torch.lerp(DARK, BRIGHT, torch.linspace(0, 1, 9)[:, None, None, None])
    between.requires_grad_(True)
    (gradient,) = torch.autograd.grad(game._D(between).sum(), between)
    assert gradient.flatten(1).norm(dim=1).tolist() == pytest.approx([1] * 9, abs=0.2)


def test_orthogonal_regularization_keeps_generator_weights_orthogonal():
    penalties = {}
    for weight in (0, 0.1):
        game = make(*SMALL_DIGITS, f"game.orthogonal={weight}", *rates(0.002, 0.002))
        play_digits(game, 100)
        penalties[weight] = orthogonal_penalty(layer_weights(game._networks["generator"])).item()
    assert penalties[0.1] < penalties[0] / 10


def test_lazy_penalty_is_applied_every_4_turns():
    game = make("game.r1=1", "game.penalty_every=4")
    batch = reals()
    with_penalty = [
        turn
        for turn in range(9)
        if "penalty" in game.turn(batch, torch.Generator().manual_seed(turn), turn, turn)
    ]
    assert with_penalty == [0, 4, 8]


def steps_of(game, player) -> int:
    """Return the largest number of steps of a weight. Penalties have no gradient for some."""
    return max(int(state["step"]) for state in game._players.optimizers[player].state.values())


def test_lazy_penalties_have_steps_of_their_own_and_lower_rates():
    game = make("game.r1=1", "game.penalty_every=4", "game.loss=non_saturating")
    play(game, turns=8)
    assert (steps_of(game, "discriminator"), steps_of(game, "generator")) == (10, 8)
    (lazy,) = game._players.optimizers["discriminator"].param_groups
    (plain,) = make("game.r1=1")._players.optimizers["discriminator"].param_groups
    assert lazy["lr"] == pytest.approx(plain["lr"] * 4 / 5)
    assert lazy["betas"] == pytest.approx([beta ** (4 / 5) for beta in plain["betas"]])


def test_penalties_of_every_turn_belong_to_its_step():
    game = make("game.r1=1", "game.r2=1")
    play(game, turns=3)
    assert steps_of(game, "discriminator") == 3


def test_r1_is_the_gradient_at_images_before_augmentation():
    game = make("game.r1=1", "game.augment={kind: ada, start: 0.9, limit: 1}")
    batch = reals()[0]
    torch.manual_seed(3)
    penalty = game._penalty(batch, batch.images, None)
    torch.manual_seed(3)
    images = batch.images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(game._D(game.augment(images)).sum(), images)
    expected = gradient.square().sum((1, 2, 3)).mean() / 2
    torch.testing.assert_close(penalty, expected)
    # It differs from the gradient at the augmented images.
    torch.manual_seed(3)
    augmented = game.augment(batch.images).requires_grad_(True)
    (gradient,) = torch.autograd.grad(game._D(augmented).sum(), augmented)
    other = gradient.square().sum((1, 2, 3)).mean() / 2
    assert (penalty - other).abs() > 0.01 * other


def test_instance_noise_decays_to_0():
    game = make("game.instance_noise={sigma: 0.5, until_images: 100}")
    images = torch.zeros(8, 1, 28, 28)
    noise = []
    for seen in (0, 50, 100, 500):
        game.turn(reals(), torch.Generator().manual_seed(0), 0, images_seen=seen)
        noise.append(game._discriminator_input(images).std().item())
    assert noise == [pytest.approx(0.5, rel=0.05), pytest.approx(0.25, rel=0.05), 0, 0]


def test_instance_noise_keeps_discriminator_uncertain():
    """Section 2 of arXiv:1610.04490: noise makes disjoint supports overlap.

    Without noise, the optimal discriminator is certain and the saturating loss is flat.
    """
    _, certain = bright_from_dark("game.loss=minimax")
    assert certain["loss_discriminator"] < 0.02
    # The images are one standard deviation of the noise apart.
    noise = "game.instance_noise={sigma: 1.6, until_images: 1000000000}"
    _, noisy = bright_from_dark("game.loss=minimax", noise)
    assert noisy["loss_discriminator"] > 1
    assert 0.3 < noisy["fake_score"] < 0.5 < noisy["real_score"] < 0.7
    assert noisy["separation"] > 0.65
    assert noisy["gradient_generator"] > 20 * certain["gradient_generator"]


def test_one_sided_smoothing_limits_real_scores():
    _, plain = bright_from_dark()
    _, smooth = bright_from_dark("game.real_target=0.9")
    assert plain["real_score"] > 0.99
    assert smooth["real_score"] == pytest.approx(0.9, abs=0.02)
    assert smooth["fake_score"] < 0.02


def test_gradient_clipping_recovers_from_outlier_batch():
    """Adam divides by past gradients, so its steps are tiny after a huge one."""
    changes = {}
    for clip in ("null", "1"):
        game = make(*SMALL_DIGITS, *SMALL_DISCRIMINATOR, f"game.clip_gradients={clip}")
        play_digits(game, 20)
        outlier = RealBatch(
            torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 1e4
        )
        game.turn([outlier], torch.Generator().manual_seed(0), 20, 640)
        play_digits(game, 10, first=21)  # Let the momentum decay.
        before = weights(game, "discriminator")
        play_digits(game, 20, first=31)
        after = weights(game, "discriminator")
        changes[clip] = sum((after[key] - old).abs().sum().item() for key, old in before.items())
    assert changes["1"] > 2 * changes["null"]


def test_clips_gradient_norm():
    game = make("game.clip_gradients=0.001")
    play(game)
    for network in game._networks.values():
        norm = torch.stack([p.grad.norm() for p in network.parameters()]).norm()
        assert norm <= 0.001 * 1.001


@pytest.mark.parametrize("kind", ["diffaugment", "ada"])
def test_generator_learns_through_augmentation(kind):
    start = ", start: 0.8" if kind == "ada" else ""
    game = make(f"game.augment={{kind: {kind}{start}}}", "game.r1=1", name="dcgan-fashion")
    before = weights(game, "generator")
    metrics = play(game)
    assert all(torch.isfinite(value) for value in metrics.values())
    assert moved(before, weights(game, "generator"))
    images = reals()[0].images
    assert not torch.equal(game._discriminator_input(images), images)


def test_ada_probability_grows_and_is_resumed():
    augment = "game.augment={kind: ada, ramp_images: 1000, target: 0.5}"
    game = make(augment, "optimizer.generator.learning_rate=1e-9")
    metrics = play(game, turns=60)
    assert metrics["augment_probability"] > 0.1
    other = make(augment)
    other.load_state_dict(copy.deepcopy(game.state_dict()))
    assert other.augment.probability == game.augment.probability


@pytest.mark.parametrize("minibatch", ["standard_deviation", "discrimination"])
@pytest.mark.parametrize("normalisation", ["batch", "layer", "spectral", "none"])
def test_every_kind_of_dcgan_discriminator_trains(normalisation, minibatch):
    kind = [f"discriminator.normalisation={normalisation}", f"discriminator.minibatch={minibatch}"]
    metrics = play(make(*kind, "discriminator.width=4", name="dcgan-fashion"), turns=2)
    assert all(torch.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("name", ["gan-mnist", "dcgan-fashion"])
def test_both_networks_depend_on_the_class(name):
    game = make("classes=4", name=name)
    play(game, turns=2)
    z = torch.randn(1, game.z_dim).expand(4, -1)
    images = game.sample(z, torch.arange(4))
    assert len(torch.unique(images.flatten(1), dim=0)) == 4
    discriminator = game._networks["discriminator"].eval()
    same = torch.zeros(4, 1, 28, 28)
    assert len(torch.unique(discriminator(same, torch.arange(4)))) == 4
    with pytest.raises(ValueError, match="needs class_index"):
        game.sample(z)


def test_average_follows_generator_with_half_life():
    game = make("ema.half_life_images=8", "ema.ramp_up=1")
    play(game)
    old = copy.deepcopy(game.average.state_dict())
    rng = torch.Generator().manual_seed(9)
    game.turn(reals(), rng, 1, images_seen=10_000)
    latest = weights(game, "generator")
    for key, averaged in game.average.state_dict().items():
        torch.testing.assert_close(averaged, (old[key] + latest[key]) / 2)


def test_average_includes_running_statistics():
    game = make(name="dcgan-fashion")
    play(game, turns=3)
    means = [v for k, v in game.average.state_dict().items() if k.endswith("running_mean")]
    assert means
    assert all(mean.abs().sum() > 0 for mean in means)


def test_resumed_game_continues_identically():
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
def test_accumulated_batch_equals_whole_batch(loss, penalty):
    # Without dropout and batch normalization, which depend on the division into parts.
    overrides = (f"game.loss={loss}", f"game.{penalty}", "discriminator.dropout=0")
    game, accumulating = make(*overrides), make(*overrides, "train.accumulate=4")
    for turn in range(3):
        metrics, accumulated_metrics = (
            g.turn(reals(), torch.Generator().manual_seed(turn), turn, turn * 8)
            for g in (game, accumulating)
        )
        for name, value in metrics.items():
            torch.testing.assert_close(accumulated_metrics[name], value, rtol=1e-4, atol=1e-5)
    for player in ("generator", "discriminator"):
        for name, weight in weights(game, player).items():
            torch.testing.assert_close(
                weights(accumulating, player)[name], weight, rtol=0, atol=1e-5
            )


def test_style_mixing_uses_second_latent_after_crossover():
    game = styled("game.style_mixing=0.5")
    batch = game.draw_batch(tiles(400), torch.Generator().manual_seed(0))
    layers = game._networks["generator"].layers
    crossovers = batch.mix.crossover
    assert (crossovers < layers).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert set(crossovers.tolist()) == set(range(1, layers + 1))
    generator = game._networks["generator"]
    w, other = generator.styles(batch.z), generator.styles(batch.mix.z)
    for row, mixed in enumerate(generator.styles(batch.z, None, batch.mix)[:20]):
        at = crossovers[row]
        assert torch.equal(mixed[:at], w[row, :at])
        assert torch.equal(mixed[at:], other[row, at:])


@pytest.mark.slow
def test_path_length_regularization_reduces_spread():
    game = styled("game.path_length=2")
    generator = game._networks["generator"]

    def spread():
        z = torch.randn(64, 8, generator=torch.Generator().manual_seed(5))
        images, w = generator(z, with_styles=True)
        rng = torch.Generator().manual_seed(6)
        # Averaged over several random directions to reduce their variance.
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
        batch = game.draw_batch(tiles(16), torch.Generator().manual_seed(turn))
        penalty, _ = game.path_length_penalty(batch)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert spread() < 0.6 * before


def test_path_length_has_steps_of_its_own():
    game = styled("game.path_length=2", "game.path_length_every=2")
    for turn in range(4):
        game.turn([tiles()], torch.Generator().manual_seed(turn), turn, turn * 8)
    assert steps_of(game, "generator") == 6
    (group,) = game._players.optimizers["generator"].param_groups
    (plain,) = styled("game.path_length=0")._players.optimizers["generator"].param_groups
    assert group["lr"] == pytest.approx(plain["lr"] * 2 / 3)


def test_resumes_mean_path_length():
    game = styled("game.path_length=2")
    metrics = game.turn([tiles()], torch.Generator().manual_seed(0), 0, 0)
    assert metrics["path_length"] > 0
    assert "path_length" not in game.turn([tiles()], torch.Generator().manual_seed(1), 1, 8)
    other = styled("game.path_length=2")
    other.load_state_dict(copy.deepcopy(game.state_dict()))
    assert other._mean_path_length == game._mean_path_length > 0


@pytest.mark.parametrize("key", ["style_mixing=0.9", "path_length=2"])
def test_rejects_style_options_without_styles(key):
    with pytest.raises(RecipeError, match="dcgan has none"):
        load_recipe("dcgan-fashion", [f"game.{key}"])


GROWING = "game.growing={start: 8, stage_images: 16, fade_images: 16}"


def grow(game, turns, first=0):
    for turn in range(first, first + turns):
        torch.manual_seed(turn)
        metrics = game.turn([tiles()], torch.Generator().manual_seed(turn), turn, turn * 8)
        assert all(torch.isfinite(value) for value in metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["stylegan", "stylegan2"])
def test_networks_grow_with_all_options(network):
    game = styled(
        *(GROWING, "game.growing.start=4"),
        *(f"generator.network={network}", f"discriminator.network={network}"),
        *("game.augment={kind: ada, start: 0.5}", "game.gradient_penalty=1", "game.r1=1"),
        *("game.loss=relativistic", "game.path_length=2", "game.path_length_every=1"),
        *("game.penalty_every=1", "game.style_mixing=0.9", "train.accumulate=2"),
    )
    initial = {player: weights(game, player) for player in ("generator", "discriminator")}
    grow(game, 5)
    # At 8 pixels, the layers for 16 and 32 pixels have not been trained.
    names = {"stylegan": ("synthesis.blocks.8.", "synthesis.blocks.16.")}
    small, large = names.get(network, ("synthesis.grow.0.", "synthesis.grow.1."))
    after = weights(game, "generator")
    assert moved(*(part(state, small) for state in (initial["generator"], after)))
    assert not moved(*(part(state, large) for state in (initial["generator"], after)))
    after = weights(game, "discriminator")
    assert moved(*(part(state, "blocks.8.") for state in (initial["discriminator"], after)))
    assert not moved(*(part(state, "blocks.16.") for state in (initial["discriminator"], after)))
    assert game.sample(torch.randn(2, 8)).shape == (2, 3, 32, 32)
    # After all resolutions have been reached, every weight has changed.
    grow(game, 12, first=5)
    for player, old in initial.items():
        new = weights(game, player)
        unchanged = [
            key for key in old if key.endswith("weight") and torch.equal(old[key], new[key])
        ]
        assert not unchanged


def part(state, prefix):
    selected = {key: value for key, value in state.items() if key.startswith(prefix)}
    assert selected
    return selected


@pytest.mark.parametrize("network", ["stylegan", "stylegan2"])
def test_networks_grow_in_bfloat16(network):
    kind = (f"generator.network={network}", f"discriminator.network={network}")
    recipe = load_recipe("stylegan2-tiles", [*SMALL_STYLES, *kind, GROWING, "game.path_length=2"])
    grow(
        NoiseToImage(recipe, recipe.game, torch.device("cpu"), "bfloat16", DistributedContext()), 9
    )


def test_style_mixing_uses_only_grown_layers():
    game = styled(GROWING, "game.style_mixing=1")
    for seen, layers in ((0, 3), (24, 5), (80, 8)):
        game._growth = game.options.growing.at(seen, 32)
        crossovers = game.draw_batch(tiles(200), torch.Generator()).mix.crossover
        assert set(crossovers.tolist()) == set(range(1, layers))


@pytest.mark.parametrize("turns", [1, 3, 5, 7])
def test_resumed_growing_game_continues_identically(turns):
    one, other = styled(GROWING), styled(GROWING, "train.seed=5")
    grow(one, turns)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for game in (one, other):
        grow(game, 3, first=turns)
    for player in ("generator", "discriminator"):
        assert not moved(weights(one, player), weights(other, player))
    assert not moved(one.average.state_dict(), other.average.state_dict())
