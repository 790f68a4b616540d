"""The game of the original GAN: a generator makes pictures of noise, a discriminator judges.

Algorithm 1 of arXiv:1406.2661: k steps of the discriminator, then one of the generator; k may be
balanced by how well the discriminator does. With classes, both are told the class
(arXiv:1411.1784): generated pictures are asked for the classes of the real ones beside them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.latent import seeds
from training.augment import Augment
from training.device import Precision
from training.distributed import DistributedContext
from training.export.folding import settle_spectral_norms
from training.export.standing_statistics import has_batch_statistics, with_standing_statistics
from training.games.balance import Balance
from training.games.players import Outcome, Players
from training.losses import adversarial_loss, separation
from training.networks.layers.growth import match_growth
from training.networks.noise.style_generator import StyleGenerator, StyleMix
from training.penalties import (
    clip_weights,
    gradient_penalty,
    layer_weights,
    orthogonal_penalty,
    path_lengths,
    zero_centered_penalty,
)
from training.recipe.schema import NoiseToImageOptions, Recipe

# Turns between two looks at whether the augmentation should be stronger, as ADA's authors have it.
ADAPT_EVERY = 4
# How fast the running mean of path lengths follows, as StyleGAN2's authors have it.
PATH_LENGTH_RATE = 0.01


class RealBatch(NamedTuple):
    """Real pictures ``[N, C, H, W]`` in [-1, 1], with their classes ``[N]`` where there are any."""

    images: Tensor
    class_index: Tensor | None = None


class StepBatch(NamedTuple):
    """What one step of a player is played with: rows ``[N, ...]`` that belong together."""

    reals: RealBatch
    z: Tensor
    # The second latents of mixed styles, and where between real and generated pictures to look.
    mix: StyleMix | None = None
    between: Tensor | None = None

    def parts(self, count: int) -> Iterator[StepBatch]:
        """Cut the rows into `count` hands of one size."""
        size = len(self.z) // count
        return (self._rows(slice(i * size, (i + 1) * size)) for i in range(count))

    def first(self, count: int) -> StepBatch:
        """Return the first `count` rows."""
        return self._rows(slice(count))

    def _rows(self, rows: slice) -> StepBatch:
        images, class_index = self.reals
        return StepBatch(
            RealBatch(images[rows], None if class_index is None else class_index[rows]),
            self.z[rows],
            None if self.mix is None else StyleMix(self.mix.z[rows], self.mix.crossover[rows]),
            None if self.between is None else self.between[rows],
        )


class NoiseToImage:
    """The players, their optimisers, and the generator's moving `average`, which is exported.

    Signs of a turn, each a scalar tensor: `loss_discriminator`, `loss_generator`, the mean scores
    `real_score` D(x) and `fake_score` D(G(z)) as the discriminator's step saw them (probabilities
    where the loss has them, else logits), `separation`, and `penalty` and `path_length` where there
    are any. Of each player there is `gradient_<player>`: the norm of all its gradients, before they
    are clipped.
    """

    def __init__(
        self, recipe: Recipe, device: torch.device, precision: Precision, share: DistributedContext
    ) -> None:
        options = recipe.game
        assert isinstance(options, NoiseToImageOptions)  # noqa: S101 - the trainer sees to it
        torch.manual_seed(recipe.train.seed)
        generator = recipe.build_generator()
        discriminator = recipe.build_discriminator()
        self.options = options
        self.z_dim = recipe.noise.z_dim
        self._distribution = recipe.noise.distribution
        self.classes = recipe.classes
        self.loss = adversarial_loss(options.loss, options.real_target)
        self._share, self._device = share, device
        self.augment = Augment(options.augment)
        self.balance = Balance(options.balance, share, device) if options.balance else None
        self._real_signs = torch.zeros((), device=device)
        self._noise = 0.0
        self._shape = recipe.shape
        growing = options.growing
        self._growth = growing.at(0, recipe.shape.height) if growing else None
        self._parts = recipe.train.accumulate
        if isinstance(generator, StyleGenerator):
            self._layers, self._layers_at = generator.layers, generator.layers_at
        self._mean_path_length = torch.zeros((), device=device)
        self._generator_steps = 0
        self._players = Players(
            recipe,
            generator,
            discriminator,
            device,
            precision,
            share,
            some_idle=growing is not None,
        )
        self._networks = self._players.networks
        self._G, self._D = self._players.wrapped.values()

    @property
    def average(self) -> nn.Module:
        """The generator's moving average, which is sampled and exported."""
        return self._players.average

    @property
    def batches_per_turn(self) -> int:
        """How many batches of real pictures one turn takes."""
        return self.options.discriminator_steps

    def turn(
        self, batches: Sequence[RealBatch], rng: torch.Generator, number: int, images_seen: int
    ) -> Mapping[str, Tensor]:
        """Play turn `number` on `batches`: this process's real pictures.

        `rng` draws for all processes; each takes its own part.
        """
        self._players.pace(images_seen)
        noise = self.options.instance_noise
        self._noise = noise.at(images_seen) if noise else 0.0
        if self.options.growing:
            self._growth = self.options.growing.at(images_seen, self._shape.height)
            if self._growth:
                batches = [
                    RealBatch(match_growth(images, self._growth), of) for images, of in batches
                ]
        signs: dict[str, Tensor] = {}
        for reals in batches:
            signs |= self._discriminator_step(reals, rng, number)
        if self.balance is None or self.balance.generators_turn(signs["separation"]):
            signs |= self._generator_step(batches[-1], rng, self._generator_steps)
            self._generator_steps += 1
        images = len(batches[-1].images) * self._share.world * len(batches)
        self._players.update_average(images, images_seen)
        if self.augment.adapts:
            self._adapt(number, images)
            signs["augment_probability"] = torch.tensor(self.augment.probability)
        if self.balance:
            signs["discriminator_steps"] = torch.tensor(self.balance.steps)
        return signs

    def _discriminator_step(
        self, reals: RealBatch, rng: torch.Generator, number: int
    ) -> dict[str, Tensor]:
        hand = self._draw_batch(reals, rng)
        signs = self._descend("discriminator", hand, lambda h: self._discriminator_loss(h, number))
        if self.options.clip_weights is not None:
            clip_weights(self._networks["discriminator"].parameters(), self.options.clip_weights)
        return signs

    def _discriminator_loss(self, hand: StepBatch, number: int) -> Outcome:
        """Return the discriminator's loss over a hand, its penalties included."""
        reals = hand.reals
        with self._players.autocast():
            with torch.no_grad():
                fake = self._made_by(self._networks["generator"], hand)
            real, fake = self._shown(reals.images), self._shown(fake)
            real_logits = self._logits(self._D, real, reals.class_index)
            fake_logits = self._logits(self._D, fake, reals.class_index)
        real_logits, fake_logits = real_logits.float(), fake_logits.float()
        loss = self.loss.discriminator(real_logits, fake_logits)
        signs = {
            "loss_discriminator": loss.detach(),
            "real_score": self._score(real_logits),
            "fake_score": self._score(fake_logits),
            "separation": separation(real_logits, fake_logits),
        }
        if self._penalised and number % self.options.penalty_every == 0:
            shown = RealBatch(real.float(), reals.class_index)
            penalty = self._penalty(shown, fake.float(), hand.between)
            signs["penalty"] = penalty.detach()
            loss = loss + penalty * self.options.penalty_every
        if self.augment.adapts:
            sign = real_logits.detach().sign().mean()
            self._real_signs = self._real_signs + sign / self._parts
        return Outcome(loss, signs)

    def _generator_step(
        self, reals: RealBatch, rng: torch.Generator, number: int
    ) -> dict[str, Tensor]:
        discriminator = self._networks["discriminator"]
        # The gradient flows through D to G, and D's own is not wanted here.
        discriminator.requires_grad_(False)
        hand = self._draw_batch(reals, rng)
        signs = self._descend("generator", hand, lambda h: self._generator_loss(h, number))
        discriminator.requires_grad_(True)
        return signs

    def _generator_loss(self, hand: StepBatch, number: int) -> Outcome:
        """Return the generator's loss over a hand, its penalties included."""
        discriminator, classes = self._networks["discriminator"], hand.reals.class_index
        with self._players.autocast():
            fake = self._shown(self._made_by(self._G, hand))
            fake_logits = self._logits(discriminator, fake, classes).float()
            real_logits = fake_logits.detach()
            if self.loss.generator_sees_real:
                real = self._shown(hand.reals.images)
                real_logits = self._logits(discriminator, real, classes).float()
        loss = self.loss.generator(real_logits, fake_logits)
        signs = {"loss_generator": loss.detach()}
        if self.options.orthogonal:
            weights = layer_weights(self._networks["generator"])
            loss = loss + self.options.orthogonal * orthogonal_penalty(weights)
        every = self.options.path_length_every
        if self.options.path_length and number % every == 0:
            penalty, signs["path_length"] = self._path_length_penalty(hand)
            loss = loss + self.options.path_length * every * penalty
        return Outcome(loss, signs)

    def _path_length_penalty(self, hand: StepBatch) -> tuple[Tensor, Tensor]:
        """Return how far path lengths are from their running mean, and their mean now.

        On half of the hand, as the paper's authors do: gradients of gradients take memory.
        """
        half = hand.first(max(len(hand.z) // 2, 1))
        # Not the wrapped network: where weights are idle its outputs are copies, and no picture is
        # made of the copy of w. Its pass before this one, for the loss, exchanges the gradients.
        images, w = self._networks["generator"](
            half.z, half.reals.class_index, half.mix, self._growth, with_styles=True
        )
        lengths = path_lengths(images, w, torch.randn_like(images))
        now = self._share.mean(lengths.detach().mean())
        self._mean_path_length = self._mean_path_length.lerp(now, PATH_LENGTH_RATE)
        return (lengths - self._mean_path_length).square().mean(), now

    def _made_by(self, generator: nn.Module, hand: StepBatch) -> Tensor:
        """Return the pictures that a hand's latents become."""
        styles: dict[str, Any] = {}
        if hand.mix is not None:
            styles["mix"] = hand.mix
        if self._growth is not None:
            styles["growth"] = self._growth
        images: Tensor = generator(hand.z, hand.reals.class_index, **styles)
        return images

    def _logits(
        self, discriminator: nn.Module, images: Tensor, class_index: Tensor | None
    ) -> Tensor:
        """Return the logits ``[N]`` of pictures."""
        growth = () if self._growth is None else (self._growth,)
        logits: Tensor = discriminator(images, class_index, *growth)
        return logits

    def _shown(self, images: Tensor) -> Tensor:
        """Return pictures as the discriminator is to see them: augmented, and with noise."""
        images = self.augment(images)
        if self._noise:
            images = images + self._noise * torch.randn_like(images)
        return images

    def _adapt(self, number: int, images: int) -> None:
        """Every few turns, hold what the discriminator says of real pictures against the target."""
        if (number + 1) % ADAPT_EVERY == 0:
            steps = ADAPT_EVERY * self.options.discriminator_steps
            sign = float(self._share.mean(self._real_signs / steps))
            self.augment.adapt(sign, images * ADAPT_EVERY)
            self._real_signs = torch.zeros_like(self._real_signs)

    @property
    def _penalised(self) -> bool:
        return bool(self.options.gradient_penalty or self.options.r1 or self.options.r2)

    def _penalty(self, reals: RealBatch, fake: Tensor, between: Tensor | None) -> Tensor:
        """Sum the weighted penalties. In float32: gradients of gradients are small."""
        options, penalty = self.options, torch.zeros((), device=self._device)

        def critic(images: Tensor) -> Tensor:
            return self._logits(self._D, images, reals.class_index)

        if between is not None:
            steepness = gradient_penalty(critic, reals.images, fake, between)
            penalty = penalty + options.gradient_penalty * steepness
        if options.r1:
            penalty = penalty + options.r1 * zero_centered_penalty(critic, reals.images)
        if options.r2:
            penalty = penalty + options.r2 * zero_centered_penalty(critic, fake)
        return penalty

    def _score(self, logits: Tensor) -> Tensor:
        logits = logits.detach()
        return (logits.sigmoid() if self.loss.probabilistic else logits).mean()

    def _descend(
        self, player: str, hand: StepBatch, loss_of: Callable[[StepBatch], Outcome]
    ) -> dict[str, Tensor]:
        """Move a player down the gradient of its loss over the hand, played in parts."""
        return self._players.descend(player, hand.parts(self._parts), loss_of)

    def _draw_batch(self, reals: RealBatch, rng: torch.Generator) -> StepBatch:
        """Draw what goes with real pictures, for all processes, and take this one's part."""
        options, count = self.options, len(reals.images) * self._share.world

        def part(whole: Tensor) -> Tensor:
            return self._share.part(whole).to(self._device, non_blocking=True)

        z = part(torch.randn(count, self.z_dim, generator=rng))
        mix = between = None
        if options.style_mixing:
            other = part(torch.randn(count, self.z_dim, generator=rng))
            crossover = torch.randint(1, self._layers_at(self._growth), (count,), generator=rng)
            mixes = torch.rand(count, generator=rng) < options.style_mixing
            mix = StyleMix(other, part(torch.where(mixes, crossover, self._layers)))
        if options.gradient_penalty:
            between = part(torch.rand(count, generator=rng))
        return StepBatch(reals, z, mix, between)

    def sample(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        """Return what the averaged generator makes of latents: ``[N, C, H, W]`` in [-1, 1]."""
        return self.sampler()(z, class_index)

    @torch.no_grad()
    def sampler(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Return the averaged generator as it is now, for latents and classes of many batches."""
        generator = self.average.eval()
        if has_batch_statistics(generator):
            # As it will be served: running averages belong to the weights that were trained, and
            # with them the pictures of averaged weights are far too bright and too dark.
            draw = partial(seeds.draw, distribution=self._distribution)
            on_cpu = copy.deepcopy(generator).cpu()
            settle_spectral_norms(on_cpu)
            fitted = with_standing_statistics(
                on_cpu, self.z_dim, self.classes, draw, truncations=(1.0,)
            )

            @torch.no_grad()
            def served(z: Tensor, class_index: Tensor | None) -> Tensor:
                images: Tensor = fitted(z, class_index, torch.ones(len(z)))
                return images

            return served
        growth = {"growth": self._growth} if self._growth else {}
        size = (self._shape.height, self._shape.width)

        @torch.no_grad()
        def averaged(z: Tensor, class_index: Tensor | None) -> Tensor:
            if class_index is not None:
                class_index = class_index.to(self._device)
            images: Tensor = generator(z.to(self._device), class_index, **growth)
            # Those of networks that are not grown yet are shown as large as they will be.
            return F.interpolate(images.float(), size, mode="nearest").cpu()

        return averaged

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""
        augment = {"probability": self.augment.probability, "real_signs": self._real_signs}
        return {
            **self._players.state_dict(),
            "augment": augment,
            "mean_path_length": self._mean_path_length,
            "generator_steps": self._generator_steps,
            "balance": self.balance.state_dict() if self.balance else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._players.load_state_dict(state)
        self.augment.probability = state["augment"]["probability"]
        self._real_signs = state["augment"]["real_signs"]
        self._mean_path_length = state["mean_path_length"]
        self._generator_steps = state["generator_steps"]
        if self.balance:
            self.balance.load_state_dict(state["balance"])
