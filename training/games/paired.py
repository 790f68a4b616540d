"""The game of pix2pix: a generator makes of a picture the one that belongs to it.

Isola et al. 2017, arXiv:1611.07004. The discriminator sees what was given beside what was made of
it, and the generator also descends how far it is from the true picture: equation 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.device import Precision
from training.distributed import DistributedContext
from training.games.options import PairedOptions
from training.games.players import Outcome, Players
from training.games.tasks.task import Given
from training.losses import adversarial_loss, separation
from training.networks.perceptual import PerceptualFeatures, feature_distance
from training.penalties import zero_centered_penalty
from training.recipe.schema import Recipe


class Pairs(NamedTuple):
    """What goes in, and the pictures ``[N, C, H, W]`` in [-1, 1] that should come out.

    `given` is in [-1, 1] too, and `mask` ``[N, 1, h, w]`` 1 where it is to be filled, 0 elsewhere.
    """

    given: Tensor
    wanted: Tensor
    mask: Tensor | None = None

    @classmethod
    def of(cls, given: Given, wanted: Tensor) -> Pairs:
        """Turn bytes into numbers."""
        image, mask = given_numbers(given)
        return cls(image, numbers(wanted), mask)

    def parts(self, count: int) -> Iterator[Pairs]:
        """Cut the rows into `count` pieces of one size."""
        size = len(self.given) // count
        for start in range(0, size * count, size):
            rows = slice(start, start + size)
            yield Pairs(
                self.given[rows],
                self.wanted[rows],
                None if self.mask is None else self.mask[rows],
            )


class Paired:
    """The players, and the generator's moving `average`, which is exported.

    Signs of a turn, each a scalar tensor: those of `NoiseToImage`, where `loss_generator` is the
    adversarial part of what the generator descends, and `l1`. While the generator plays alone
    there are none of the discriminator.
    """

    batches_per_turn = 1

    def __init__(
        self, recipe: Recipe, device: torch.device, precision: Precision, share: DistributedContext
    ) -> None:
        assert isinstance(recipe.game, PairedOptions)  # noqa: S101 - the trainer sees to it
        torch.manual_seed(recipe.train.seed)
        generator, discriminator = recipe.build_generator(), recipe.build_discriminator()
        self.options = recipe.game
        self.task = recipe.game.task
        self.loss = adversarial_loss(recipe.game.loss, recipe.game.real_target)
        self._device, self._share, self._parts = device, share, recipe.train.accumulate
        self._players = Players(recipe, generator, discriminator, device, precision, share)
        self._G, self._D = self._players.wrapped.values()
        self._features = PerceptualFeatures().to(device) if recipe.game.features else None

    @property
    def average(self) -> nn.Module:
        """The generator's moving average, which is exported."""
        return self._players.average

    def turn(
        self,
        batches: Sequence[Pairs],
        rng: torch.Generator,  # noqa: ARG002 - nothing is drawn here
        number: int,  # noqa: ARG002
        images_seen: int,
    ) -> Mapping[str, Tensor]:
        """Play a turn on this process's pairs."""
        self._players.pace(images_seen)
        (pairs,) = batches
        signs: dict[str, Tensor] = {}
        alone = images_seen < self.options.alone_images
        if not alone:
            signs |= self._players.descend(
                "discriminator", pairs.parts(self._parts), self._discriminator_loss
            )
        discriminator = self._players.networks["discriminator"].requires_grad_(False)
        signs |= self._players.descend(
            "generator",
            pairs.parts(self._parts),
            lambda part: self._make(part, alone=alone),
        )
        discriminator.requires_grad_(True)
        self._players.update_average(len(pairs.given) * self._share.world, images_seen)
        return signs

    def _discriminator_loss(self, pairs: Pairs) -> Outcome:
        """Return the discriminator's loss."""
        with self._players.autocast():
            seen = self.task.see(pairs.given, pairs.mask)
            with torch.no_grad():
                answer = self._players.networks["generator"](seen)
                answer = self._settled(answer, pairs)
            real = self._shown(self.task.answer(pairs.wanted), seen)
            fake = self._shown(answer, seen)
            real_logits, fake_logits = self._D(real).float(), self._D(fake).float()
        loss = self.loss.discriminator(real_logits, fake_logits)
        signs = {
            "loss_discriminator": loss.detach(),
            "real_score": self._score(real_logits),
            "fake_score": self._score(fake_logits),
            "separation": separation(_of_pictures(real_logits), _of_pictures(fake_logits)),
        }
        if self.options.r1:
            penalty = zero_centered_penalty(
                lambda images: self._D(images).sum((1, 2, 3)), real.float()
            )
            signs["penalty"] = penalty.detach()
            loss = loss + self.options.r1 * penalty
        return Outcome(loss, signs)

    def _make(self, pairs: Pairs, *, alone: bool) -> Outcome:
        """Return the generator's loss."""
        options = self.options
        with self._players.autocast():
            seen = self.task.see(pairs.given, pairs.mask)
            answer = self._settled(self._G(seen), pairs).float()
        wanted = self.task.answer(pairs.wanted)
        l1 = F.l1_loss(answer, wanted)
        loss, signs = options.l1 * l1, {"l1": l1.detach()}
        if not alone:
            discriminator = self._players.networks["discriminator"]
            with self._players.autocast():
                fake_logits = discriminator(self._shown(answer, seen)).float()
                real_logits = fake_logits.detach()
                if self.loss.generator_sees_real:
                    with torch.no_grad():
                        real_logits = discriminator(self._shown(wanted, seen)).float()
            adversarial = self.loss.generator(real_logits, fake_logits)
            signs["loss_generator"] = adversarial.detach()
            loss = loss + options.adversarial * adversarial
        if self._features is not None and not alone:
            made = self.task.finish(answer, pairs.given, pairs.mask)
            with self._players.autocast():
                apart = feature_distance(self._features, made, pairs.wanted)
            signs["features"] = apart.detach()
            loss = loss + options.features * apart
        return Outcome(loss, signs)

    def _settled(self, answer: Tensor, pairs: Pairs) -> Tensor:
        """Return an answer without what the task knows better."""
        return self.task.settle(answer, pairs.given, pairs.mask)

    def _shown(self, answer: Tensor, seen: Tensor) -> Tensor:
        """Return what the discriminator sees."""
        return torch.cat([seen, answer], 1) if self.options.conditional else answer

    def _score(self, logits: Tensor) -> Tensor:
        logits = logits.detach()
        return (logits.sigmoid() if self.loss.probabilistic else logits).mean()

    @torch.no_grad()
    def made_of(self, given: Tensor, mask: Tensor | None) -> Tensor:
        """Return the pictures ``[N, C, H, W]`` that the averaged generator makes."""
        average = self.average.eval()
        answer = average(self.task.see(given, mask).to(self._device)).cpu()
        return self.task.finish(answer, given, mask)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""
        return self._players.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._players.load_state_dict(state)


def numbers(pixels: Tensor) -> Tensor:
    """Turn ``[N, C, H, W] uint8`` into numbers in [-1, 1]."""
    images = pixels.float().div_(127.5).sub_(1)
    return images.contiguous(memory_format=torch.channels_last)


def given_numbers(given: Given) -> tuple[Tensor, Tensor | None]:
    """Turn the bytes of what goes in into numbers: pictures in [-1, 1], masks of 0 and 1."""
    mask = None if given.mask is None else (given.mask > 127).float()
    return numbers(given.image), mask


def _of_pictures(logits: Tensor) -> Tensor:
    """Return the mean logit of each picture's patches."""
    return logits.detach().mean((1, 2, 3))
