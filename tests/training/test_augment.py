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


def images_of_noise(count=16, channels=3, size=32, seed=0) -> torch.Tensor:
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
def test_augments_each_image_differently(name, channels):
    same = images_of_noise(1, channels).expand(16, -1, -1, -1)
    torch.manual_seed(0)
    changed = CHANGES[name](same)
    assert changed.shape == same.shape
    assert torch.isfinite(changed).all()
    assert len(torch.unique(changed.flatten(1), dim=0)) > 8


@pytest.mark.parametrize("name", CHANGES)
def test_same_random_state_gives_same_augmentation(name):
    images = images_of_noise()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(CHANGES[name](images))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", CHANGES)
def test_gradients_reach_the_images(name):
    images = images_of_noise().requires_grad_(True)
    torch.manual_seed(0)
    CHANGES[name](images).square().sum().backward()
    assert torch.isfinite(images.grad).all()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).float().mean() > 0.9


def test_extent_of_translation_and_cutout():
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


def test_ada_changes_more_images_with_higher_probability():
    images = images_of_noise(64)
    torch.testing.assert_close(ada(images, 0.0), images, rtol=0, atol=0)
    changed = []
    for probability in (0.05, 0.3, 0.8):
        torch.manual_seed(0)
        different = (ada(images, probability) - images).abs().amax((1, 2, 3)) > 0.02
        changed.append(different.float().mean().item())
    assert changed[0] < changed[1] < changed[2]


def test_ada_keeps_gray_images_gray():
    gray = images_of_noise(16, 1).expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    changed = ada(gray, 0.9)
    torch.testing.assert_close(changed[:, 0], changed[:, 1], rtol=0, atol=1e-4)
    torch.testing.assert_close(changed[:, 0], changed[:, 2], rtol=0, atol=1e-4)


def test_ada_probability_follows_sign_of_real_logits():
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


def test_fixed_augmentation_does_not_adapt():
    for options in (None, DiffAugmentOptions(kind="diffaugment")):
        augment = build_augment(options)
        assert not augment.adapts
        augment.adapt(1.0, 10**9)
        assert augment.probability == 0.0
    images = images_of_noise()
    assert build_augment(None)(images) is images


# In the tests below, the generator returns real images, so that the discriminator can only tell
# the training images from others by memorizing them.

DIFFAUGMENT = "{kind: diffaugment}"
ADA = "{kind: ada, ramp_images: 2000}"
FEW, MANY, TURNS, BATCH = 48, 800, 900, 16


class PerfectGenerator(nn.Module):
    """A generator that returns real images, chosen by the latent."""

    def __init__(self, images: Tensor):
        super().__init__()
        self.images = images

    def forward(self, z, class_index=None):
        return self.images[(z[:, 0].abs() * 1e6).long() % len(self.images)]


class Memorization(NamedTuple):
    # Mean logit of the training images minus that of held-out images.
    gap: float
    # Mean share of pairs in which the real image scores higher, over the last 100 turns.
    separation: float
    # ADA's probability after each turn.
    probabilities: list[float]


@cache
def train_discriminator(augment: str, count: int) -> Memorization:
    """Train a discriminator on `count` digits."""
    digits = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    digits = interpolate(digits, size=16, mode="bilinear")
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    generated, held_out, real = digits[:797], digits[797:997], digits[997 : 997 + count]
    sizes = ("data.resolution=16", "generator.width=4", "discriminator.width=8")
    kind = ("discriminator.normalisation=layer", "optimizer.discriminator.learning_rate=0.002")
    recipe = load_recipe("dcgan-fashion", [*sizes, *kind, f"game.augment={augment}"])
    game = NoiseToImage(recipe, recipe.game, torch.device("cpu"), "float32", DistributedContext())
    game._networks["generator"] = PerfectGenerator(generated)
    rng, separations, probabilities = torch.Generator().manual_seed(0), [], []
    for turn in range(TURNS):
        rows = torch.randint(len(real), (BATCH,), generator=rng)
        metrics = game.discriminator_step(RealBatch(real[rows]), rng, turn)
        game._adapt(turn, BATCH)
        separations.append(metrics["separation"].item())
        probabilities.append(game.augment.probability)
    discriminator = game._networks["discriminator"].eval()
    with torch.no_grad():
        gap = discriminator(real).mean() - discriminator(held_out).mean()
    return Memorization(gap.item(), sum(separations[-100:]) / 100, probabilities)


@pytest.mark.slow
def test_diffaugment_prevents_memorization_of_few_images():
    plain, augmented = (train_discriminator(augment, FEW) for augment in ("null", DIFFAUGMENT))
    assert plain.gap > 4
    assert augmented.gap < plain.gap / 10
    # Real and generated images are augmented alike, so augmentation does not separate them.
    assert augmented.separation < 0.75 < plain.separation


@pytest.mark.slow
def test_ada_adapts_to_memorization_and_reduces_it():
    plain, augmented = (train_discriminator(augment, FEW) for augment in ("null", ADA))
    assert augmented.probabilities[0] == 0
    assert max(augmented.probabilities) > 0.05
    assert augmented.gap < plain.gap / 2


@pytest.mark.slow
def test_ada_stays_off_with_many_images():
    augmented = train_discriminator(ADA, MANY)
    assert max(augmented.probabilities) < 0.02
    assert abs(augmented.gap) < 0.5
