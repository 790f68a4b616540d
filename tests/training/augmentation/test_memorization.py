"""What augmentation is for: a discriminator that does not memorize a small data set.

The generator returns real images, so that the discriminator can only tell the training images from
others by memorizing them.
"""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate

from training.distributed import DistributedContext
from training.games.noise_to_image.game import NoiseToImage, RealBatch
from training.recipe.loading import load_recipe

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
