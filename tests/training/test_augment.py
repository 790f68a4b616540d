from functools import cache
from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate

from training.augment import ADAOptions, DiffAugmentOptions, ada, build_augment, diff_augment
from training.distributed import DistributedContext
from training.games.noise_to_image.game import NoiseToImage, RealBatch
from training.recipe.loading import load_recipe

POLICIES = [["colour"], ["translation"], ["cutout"], ["colour", "translation", "cutout"]]


def pictures(count=16, channels=3, size=32, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


CHANGES = {
    **{
        f"diffaugment {'+'.join(policy)}": lambda x, p=policy: diff_augment(x, p)
        for policy in POLICIES
    },
    "ada": lambda x: ada(x, 0.8),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_every_picture_is_changed_in_its_own_way_and_keeps_its_shape(name, channels):
    same = pictures(1, channels).expand(16, -1, -1, -1)
    torch.manual_seed(0)
    changed = CHANGES[name](same)
    assert changed.shape == same.shape
    assert torch.isfinite(changed).all()
    assert len(torch.unique(changed.flatten(1), dim=0)) > 8


@pytest.mark.parametrize("name", CHANGES)
def test_the_same_random_state_gives_the_same_change(name):
    images = pictures()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(CHANGES[name](images))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", CHANGES)
def test_gradients_go_through(name):
    images = pictures().requires_grad_(True)
    torch.manual_seed(0)
    CHANGES[name](images).square().sum().backward()
    assert torch.isfinite(images.grad).all()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).float().mean() > 0.9


def test_translation_moves_a_picture_by_at_most_an_eighth_and_cutout_blanks_a_quarter():
    point = torch.zeros(200, 1, 32, 32)
    point[:, :, 16, 16] = 1
    torch.manual_seed(0)
    places = diff_augment(point, ["translation"])[:, 0].nonzero()[:, 1:]
    assert len(places) == 200
    assert (places - 16).abs().max() == 4
    torch.manual_seed(0)
    blank = (diff_augment(torch.ones(200, 1, 32, 32), ["cutout"]) == 0).float().mean((1, 2, 3))
    assert blank.max() <= 0.25
    assert blank.mean() > 0.15


def test_ada_with_probability_0_changes_nothing_and_changes_more_with_more():
    images = pictures(64)
    torch.testing.assert_close(ada(images, 0.0), images, rtol=0, atol=0)
    changed = []
    for probability in (0.05, 0.3, 0.8):
        torch.manual_seed(0)
        different = (ada(images, probability) - images).abs().amax((1, 2, 3)) > 0.02
        changed.append(different.float().mean().item())
    assert changed[0] < changed[1] < changed[2]


def test_colour_changes_of_ada_keep_grey_pictures_grey():
    grey = pictures(16, 1).expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    changed = ada(grey, 0.9)
    torch.testing.assert_close(changed[:, 0], changed[:, 1], rtol=0, atol=1e-4)
    torch.testing.assert_close(changed[:, 0], changed[:, 2], rtol=0, atol=1e-4)


def test_the_probability_follows_the_sign_of_the_real_logits():
    augment = build_augment(ADAOptions(kind="ada", target=0.6, ramp_images=1000, limit=0.5))
    assert augment.adapts
    for _ in range(3):
        augment.adapt(0.9, 100)
    assert augment.probability == pytest.approx(0.3)
    for _ in range(5):
        augment.adapt(0.9, 100)
    assert augment.probability == 0.5
    augment.adapt(0.1, 200)
    assert augment.probability == pytest.approx(0.3)
    for _ in range(9):
        augment.adapt(0.1, 100)
    assert augment.probability == 0.0


def test_what_does_not_adapt_stays_as_it_is():
    for options in (None, DiffAugmentOptions(kind="diffaugment")):
        augment = build_augment(options)
        assert not augment.adapts
        augment.adapt(1.0, 10**9)
        assert augment.probability == 0.0
    images = pictures()
    assert build_augment(None)(images) is images


# Below, a discriminator plays against a generator that nobody could find out: its pictures are
# real ones too. What it then knows of the pictures that it was shown, it knows by heart.

DIFFAUGMENT = "{kind: diffaugment}"
ADA = "{kind: ada, ramp_images: 2000}"
FEW, PLENTY, TURNS, BATCH = 48, 800, 900, 16


class Perfect(nn.Module):
    """A generator whose every picture is a real one, chosen by the latent."""

    def __init__(self, pictures: Tensor):
        super().__init__()
        self.pictures = pictures

    def forward(self, z, class_index=None):
        return self.pictures[(z[:, 0].abs() * 1e6).long() % len(self.pictures)]


class Learned(NamedTuple):
    # How much higher the pictures that it was shown score than others of their kind, in logits.
    gap: float
    # How often a real picture scored above a generated one, at the end.
    separation: float
    # ADA's probability, turn by turn.
    probabilities: list[float]


@cache
def learned(augment: str, shown: int) -> Learned:
    """Have a discriminator learn digits of which it is `shown` so many."""
    digits = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    digits = interpolate(digits, size=16, mode="bilinear")
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    generated, held_out, real = digits[:797], digits[797:997], digits[997 : 997 + shown]
    sizes = ("data.resolution=16", "generator.width=4", "discriminator.width=8")
    kind = ("discriminator.normalisation=layer", "optimizer.discriminator.learning_rate=0.002")
    recipe = load_recipe("dcgan-fashion", [*sizes, *kind, f"game.augment={augment}"])
    game = NoiseToImage(recipe, recipe.game, torch.device("cpu"), "float32", DistributedContext())
    game._networks["generator"] = Perfect(generated)
    rng, separations, probabilities = torch.Generator().manual_seed(0), [], []
    for turn in range(TURNS):
        which = torch.randint(len(real), (BATCH,), generator=rng)
        signs = game.discriminator_step(RealBatch(real[which]), rng, turn)
        game._adapt(turn, BATCH)
        separations.append(signs["separation"].item())
        probabilities.append(game.augment.probability)
    discriminator = game._networks["discriminator"].eval()
    with torch.no_grad():
        gap = discriminator(real).mean() - discriminator(held_out).mean()
    return Learned(gap.item(), sum(separations[-100:]) / 100, probabilities)


def test_diffaugment_keeps_the_discriminator_from_learning_few_pictures_by_heart():
    alone, augmented = (learned(augment, FEW) for augment in ("null", DIFFAUGMENT))
    assert alone.gap > 4
    assert augmented.gap < alone.gap / 10
    # Both kinds of pictures are augmented: what was done to them gives none away.
    assert augmented.separation < 0.75 < alone.separation


def test_ada_sets_in_by_itself_where_few_pictures_are_learned_by_heart_and_holds_it_back():
    alone, augmented = (learned(augment, FEW) for augment in ("null", ADA))
    assert augmented.probabilities[0] == 0
    assert max(augmented.probabilities) > 0.05
    assert augmented.gap < alone.gap / 2


def test_ada_leaves_plentiful_pictures_as_they_are():
    augmented = learned(ADA, PLENTY)
    assert max(augmented.probabilities) < 0.02
    assert abs(augmented.gap) < 0.5
